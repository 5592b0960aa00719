"""Compares a revision's data with the champion's training data, and evaluates the champion on it.

Usage: `reelnest drift`, which runs `python -m tasks.workspaces.drift_run` in the checkout, or the deployment `reelnest-drift/champion`. It
runs `reelnest.commands.drift` in a new worktree at the revision. The champion's lineage names its training data, which comes from DVC's
cache.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from reelnest.atomic_files import atomic_write
from reelnest.errors import NothingTracked, ReelnestError, RunError
from reelnest.launch.command import prepare_process
from reelnest.records.changes import table
from reelnest.records.formats import file_names, read_videos
from reelnest.registry.known_versions import CHAMPION, NoVersionError, known_version
from reelnest.settings import Params, load_params
from reelnest.stages.workspace import Workspace
from tasks.process import dvc
from tasks.process.locks import waiting_lock
from tasks.process.runner import CommandError, quieten
from tasks.workspaces.cached_data import RECORDS, CachedData, data_hash, dvc_file
from tasks.workspaces.revisions import commit_of, params_at
from tasks.workspaces.run_workspace import run_workspace

STAGE = (sys.executable, "-m", "reelnest.commands.drift")
FILES = ("drift.json", "drift.html")
NO_CHAMPION = (
    "There is no champion to compare the data with. Train and register one (`dvc repro`, then `reelnest register`), or make a registered"
    " version champion (`reelnest promote`)."
)
BEFORE = Path("work/drift")
"""Folder in the run's worktree with the needed files of the champion's training data."""


@dataclass(frozen=True)
class Measured:
    """The result of a measurement."""

    message: str
    report: Mapping[str, Any] | None = None
    """The content of `reports/drift.json`; None if there was nothing to do."""
    compared: bool = True
    """False if there is no champion to compare with."""


@dataclass(frozen=True)
class _Champion:
    version: str
    dvc_file: str
    """The text of the `data.dvc` of its training data."""

    @property
    def data(self) -> str:
        """The hash of its training data."""
        return data_hash(self.dvc_file, f"version {self.version}, the champion,")


def measure(
    checkout: Path, revision: str, name: str, *, quality_alone: bool, on_line: Callable[[str], None], keep: Path | None = None
) -> Measured:
    """Measures in a worktree at `revision`, unless the champion was trained on the same data. Copies the reports to `keep`.

    Raises ReelnestError, CommandError or dvc.StageError if the data is not available or invalid, or MLflow is unreachable.
    """
    commit = commit_of(checkout, revision)
    champion = _champion(_params(checkout, commit))
    if champion is None:
        return Measured(NO_CHAMPION, compared=False)
    after = data_hash(dvc_file(checkout, commit), revision)
    if after == champion.data:
        return Measured(f"Nothing to do: version {champion.version}, the champion, was trained on the data of {revision}.")
    with run_workspace(checkout, str(uuid4()), name, commit, {}) as workspace:
        here = Workspace(workspace.folder)
        before = [] if quality_alone else ["--before", str(_lay_out(checkout, champion, here))]
        for stage in ("validate", "preprocess"):
            with waiting_lock(dvc.stage_lock(stage, here), lambda: on_line("waiting for another run of this stage")):
                dvc.reproduce(stage, here.root, on_line=on_line)
        dvc.run_stage("drift", [*STAGE, champion.version, after, *before], here.root, on_line=on_line)
        workspace.check()
        report: dict[str, Any] = json.loads((here.reports / FILES[0]).read_text(encoding="utf-8"))
        if keep is not None:
            keep.mkdir(exist_ok=True)
            for file in FILES:
                with atomic_write(keep / file) as aside:
                    aside.write((here.reports / file).read_bytes())
    return Measured(report["headline"], report)


def as_text(report: Mapping[str, Any]) -> str:
    """Returns the report as text for a terminal."""
    rows: list[Sequence[object]] = [("measure", "", "effect", "margin", "p")]
    for measure in report["measures"]:
        verdict = "drifted" if measure["drifted"] else "no drift shown"
        rows.append((measure["measure"], verdict, f"{measure['effect']:.3f}", f"{measure['margin']:g}", f"{measure['adjusted']:.3g}"))
    champion = report["champion"]
    missing = [f"Not measured: {name} ({why})." for name, why in report["not_measured"].items()]
    return "\n".join([f"{report['headline']} (against {champion['name']} version {champion['version']})", "", table(rows), *missing])


def _params(checkout: Path, commit: str) -> Params:
    """Returns the settings that name the registry; the other sections may be those of another version."""
    params = params_at(checkout, commit).params
    return Params.model_validate({name: params[name] for name in ("register", "tracking") if name in params})


def _champion(params: Params) -> _Champion | None:
    try:
        known_version(params, CHAMPION, params.registration.name)  # found without MLflow, which takes seconds to import
    except (NothingTracked, NoVersionError):
        return None
    from reelnest.registry.drift_log import champion
    from reelnest.registry.lineage.dvc_lock import DATA_FILE
    from reelnest.registry.lineage.lineage import find_origin

    version = champion(params)
    if version is None:
        return None
    with TemporaryDirectory(prefix="reelnest-") as folder:
        file = find_origin(params, str(version.version), Path(folder)).folder / DATA_FILE
        if not file.is_file():
            raise RunError(
                f"Version {version.version}, the champion, was registered without lineage or data.dvc, so its training data is unknown."
                " Commit data.dvc and train again."
            )
        return _Champion(str(version.version), file.read_text(encoding="utf-8"))


def _lay_out(checkout: Path, champion: _Champion, workspace: Workspace) -> Path:
    """Writes the records of the champion's data, and the files of their sample, to a folder."""
    from dvc.repo import Repo

    from reelnest.drift.measures import sampled  # imports SciPy, which takes a second

    folder = workspace.root / BEFORE
    folder.mkdir(parents=True)
    most = load_params(workspace.params).drift.sample
    try:
        with Repo(str(checkout)) as repo:
            data = CachedData(repo, champion.dvc_file, f"version {champion.version}, the champion,")
            data.put(RECORDS, folder)
            videos = {video.video_id: video for video in read_videos(folder)[0]}
            data.put([name for chosen in sampled(list(videos), most) for name in file_names(videos[chosen])], folder)
    except RunError as error:
        raise RunError(f"{error} Or measure only the champion's retrieval: reelnest drift --quality-alone") from error
    return folder


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="reelnest drift", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--revision", default="HEAD")
    parser.add_argument("--quality-alone", action="store_true")
    arguments = parser.parse_args()
    prepare_process()
    quieten()
    checkout = Path.cwd()
    reports = Workspace(checkout).reports

    def on_line(line: str) -> None:
        sys.stderr.write(f"{line}\n")

    try:
        measured = measure(checkout, arguments.revision, "drift", quality_alone=arguments.quality_alone, on_line=on_line, keep=reports)
    except ReelnestError as error:
        sys.stderr.write(f"reelnest: error: {error}\n")
        return error.exit_status
    except (CommandError, dvc.StageError) as error:
        sys.stderr.write(f"reelnest: error: {error}\n")
        return 1
    if not measured.compared:
        sys.stderr.write(f"reelnest: error: {measured.message}\n")
        return 1
    if measured.report is None:
        sys.stdout.write(f"{measured.message}\n")
    else:
        sys.stdout.write(f"{as_text(measured.report)}\n\nThe page: {(reports / FILES[1]).relative_to(checkout)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
