"""Shows the progress of a training in Prefect's UI."""

import json
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException

KEY = "training-progress"


class LiveProgress:
    """A progress artifact that follows `work/progress.json`, which training replaces about once a second."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last_text: str | None = _text(path)  # of an earlier training, which is not shown
        self._artifact: UUID | None = None

    def __call__(self) -> None:
        """Updates the artifact if the file has changed. Errors are logged, so that they never fail a training."""
        text = _text(self._path)
        if text is None or text == self._last_text:
            return
        self._last_text = text
        try:
            progress = json.loads(text)
            percent = 100.0 * progress["step"] / max(1, progress["steps"])
            if self._artifact is None:
                self._artifact = cast("UUID", create_progress_artifact(percent, key=KEY, description=_description(progress)))
            else:
                update_progress_artifact(self._artifact, percent, description=_description(progress))
        except (httpx.HTTPError, PrefectException, ValueError, KeyError, TypeError) as error:
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
