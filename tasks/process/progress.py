"""Shows a training's progress in Prefect's UI while it runs."""

import json
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

KEY = "training-progress"


class LiveProgress:
    """One progress artifact, kept up to date from the file that training replaces about once a second (`work/progress.json`)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._shown: str | None = _text(path)  # an earlier training's: not ours to show
        self._artifact: UUID | None = None

    def __call__(self) -> None:
        """Looks at the file, and updates the artifact where it changed. Never fails a training: a server that does not answer is logged."""
        text = _text(self._path)
        if text is None or text == self._shown:
            return
        self._shown = text
        try:
            progress = json.loads(text)
            percent = 100.0 * progress["step"] / max(1, progress["steps"])
            if self._artifact is None:
                self._artifact = cast("UUID", create_progress_artifact(percent, key=KEY, description=_description(progress)))
            else:
                update_progress_artifact(self._artifact, percent, description=_description(progress))
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            get_run_logger().warning("progress was not shown: %s: %s", type(error).__name__, error)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _description(progress: dict[str, Any]) -> str:
    loss = "" if progress.get("loss") is None else f", loss {float(progress['loss']):.4f}"
    speed = float(progress.get("pairs_per_second") or 0)
    where = f"Epoch {int(progress['epoch'])} of {int(progress['epochs'])}, step {int(progress['step'])} of {int(progress['steps'])}"
    return f"{where}{loss}, {speed:.0f} pairs/s"
