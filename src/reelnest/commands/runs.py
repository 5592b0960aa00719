"""Saved runs: each is a commit under `refs/reelnest/runs/<id>`, read with git alone.

The commit's parent is the revision of the run. It contains the run's `params.yaml`, its `dvc.lock` (which has the hash of every output) and
`run.json`, this module's record. After a checkout of it, `dvc repro` has nothing to do. No branch points to it, so it is in nobody's
history, and `git gc` keeps it as long as the ref exists.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from reelnest.artifacts.registration_report import RegistrationReport
from reelnest.atomic_files import write_json
from reelnest.errors import ArtifactError, RunError
from reelnest.git import git
from reelnest.launch.usage import Usage, total

REFS = "refs/reelnest/runs/"
RECORD = "run.json"


@dataclass(frozen=True)
class Run:
    """The record of a run. Times are UTC in ISO 8601."""

    id: str
    name: str
    """The flow run's name in Prefect."""
    revision: str
    """The revision that the deployment named; `base` is its commit."""
    base: str
    settings: dict[str, Any]
    """Changes to `params.yaml`, by dotted key."""
    started: str
    ended: str
    done: str
    """What each stage did: ran, restored or unchanged."""
    data: str
    """git's hash of `data.dvc`, which names the data."""
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    """The content of `reports/metrics.json`, by metric and dim."""
    validation: dict[str, float] = field(default_factory=dict)
    """Metrics of the best weights on the validation split."""
    registration: RegistrationReport | None = None
    """None if the run did not register."""
    mlflow_run: str | None = None
    usage: list[Usage] = field(default_factory=list)
    """What its launches used, by stage. Empty if nothing was launched."""
    flow_run: str = ""
    """The full id of the flow run; `id` is derived from it. Empty in records of versions that gave several runs the same `id`."""
    commit: str = ""
    """The run's commit. It is not in the record, because the commit contains the record."""

    @property
    def ref(self) -> str:
        """The git ref of the run."""
        return f"{REFS}{self.id}"

    def write(self, folder: Path) -> None:
        """Writes the record into the folder that will be committed."""
        registration = None if self.registration is None else self.registration.content()
        record = {**asdict(replace(self, registration=None)), "registration": registration}
        del record["commit"]
        write_json(folder / RECORD, record)


def saved_runs(folder: Path) -> list[Run]:
    """Returns all runs of the repository of `folder`, newest first, with three git commands in total.

    Raises RunError outside of a git repository, and if a ref has no record.
    """
    # Not splitlines, here and below: it also splits at characters that a name or a setting may have, such as U+2028.
    listed = git(folder, "for-each-ref", "--format=%(objectname) %(refname)", REFS).split("\n")[:-1]
    if not listed:
        return []
    refs = [line.split(" ", 1) for line in listed]
    names = git(folder, "cat-file", "--batch-check=%(objectname)", text="".join(f"{commit}:{RECORD}\n" for commit, _ in refs))
    blobs = names.splitlines()
    for (commit, ref), blob in zip(refs, blobs, strict=True):
        if blob.endswith(" missing"):
            raise RunError(f"{ref} (commit {commit[:12]}) has no {RECORD}, so no run wrote it. Remove it: git update-ref -d {ref}")
    contents = git(folder, "cat-file", "--batch=%(objectname)", text="".join(f"{blob}\n" for blob in blobs))
    runs = [_run(ref, commit, content) for (commit, ref), content in zip(refs, _split(contents, blobs), strict=True)]
    return sorted(runs, key=lambda run: (run.ended, run.id), reverse=True)


def latest_registration(runs: list[Run]) -> RegistrationReport | None:
    """Returns the report of the newest run that registered a model."""
    return next((run.registration for run in runs if run.registration is not None), None)


def table(runs: list[Run]) -> str:
    """Returns the runs as text for a terminal."""
    if not runs:
        return "No saved runs. A deployment's run is saved when it completes: start `make up`, then press Run or wait for the schedule."
    rows = [("run", "ended", "at", "settings", "done", "queued", "GPU hours", "cost", "version")]
    rows += [(run.id, run.ended[:16], _at(run), _settings(run), _done(run), *_usage(run), _version(run)) for run in runs]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", f"To check one out: git switch --detach {REFS}RUN && dvc checkout. `dvc repro` then has nothing to do."])


def _run(ref: str, commit: str, content: str) -> Run:
    try:
        record = json.loads(content)
        if record["registration"] is not None:
            record["registration"] = RegistrationReport.from_content(record["registration"], Path(RECORD))
        record["usage"] = [Usage(**stage) for stage in record.get("usage", [])]
        return Run(**record, commit=commit)
    except (ValueError, TypeError, KeyError, ArtifactError) as error:
        raise RunError(f"{ref}: this version of reelnest cannot read its {RECORD}: {error}. Remove it: git update-ref -d {ref}") from error


def _split(contents: str, blobs: list[str]) -> list[str]:
    """Splits the output of `git cat-file --batch` into objects; each follows a line with its name."""
    contents_by_blob: list[list[str]] = []
    names = iter(blobs)
    expected = next(names, None)
    for line in contents.removesuffix("\n").split("\n"):
        if line == expected:
            contents_by_blob.append([])
            expected = next(names, None)
        else:
            contents_by_blob[-1].append(line)
    return ["\n".join(lines) for lines in contents_by_blob]


def _at(run: Run) -> str:
    return f"{run.revision} ({run.base[:8]})" if not run.base.startswith(run.revision) else run.base[:8]


def _settings(run: Run) -> str:
    return " ".join(f"{key}={json.dumps(value)}" for key, value in run.settings.items()) or "-"


def _done(run: Run) -> str:
    ran = [stage.removesuffix(" ran") for stage in run.done.split(", ") if stage.endswith(" ran")]
    return f"ran {', '.join(ran)}" if ran else "nothing new"


def _usage(run: Run) -> tuple[str, str, str]:
    """Returns the time in the queue, the GPU hours and the cost of all launches."""
    used = total(run.usage)
    queued = f"{used.queued_seconds / 60:.0f} min" if used.queued_seconds >= 1 else "-"
    return queued, f"{used.gpu_hours:.2f}" if used.gpu_hours else "-", "-" if used.cost is None else f"{used.cost:.2f}"


def _version(run: Run) -> str:
    registration = run.registration
    return f"{registration.version} ({', '.join(registration.aliases) or registration.decision})" if registration else "-"
