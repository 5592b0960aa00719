"""The runs that are saved: each a commit under `refs/reelnest/runs/<id>`, read with git alone.

The commit stands on the revision that the run worked at. It holds the run's `params.yaml`, its `dvc.lock` (which names every output by its
bytes) and `run.json`, this module's record. Checked out, `dvc repro` finds nothing to do. No branch points to it, so nobody's history
shows it, and `git gc` keeps it for as long as the ref stands.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from reelnest.artifacts.registration_report import RegistrationReport
from reelnest.atomic_files import write_json
from reelnest.errors import ArtifactError, RunError
from reelnest.git import git

REFS = "refs/reelnest/runs/"
RECORD = "run.json"


@dataclass(frozen=True)
class Run:
    """What is known of a run without its outputs. Times are UTC in ISO 8601."""

    id: str
    name: str
    """The flow run's, as Prefect shows it."""
    revision: str
    """As the deployment named it; `base` is the commit that it stood for."""
    base: str
    settings: dict[str, Any]
    """What was changed in `params.yaml`, by dotted key."""
    started: str
    ended: str
    done: str
    """What each stage did: ran, restored or unchanged."""
    data: str
    """git's hash of `data.dvc`, which names the data."""
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    """`reports/metrics.json`: by metric and dim."""
    validation: dict[str, float] = field(default_factory=dict)
    """The validation split's metrics, of the weights that training chose."""
    registration: RegistrationReport | None = None
    """None where the run did not register."""
    mlflow_run: str | None = None
    flow_run: str = ""
    """The whole id of the flow run; `id` is made from it. Empty in records of versions that gave several runs the same `id`."""
    commit: str = ""
    """The run's own; not in the record, which is part of it."""

    @property
    def ref(self) -> str:
        """Where git keeps it."""
        return f"{REFS}{self.id}"

    def write(self, folder: Path) -> None:
        """Writes the record into the folder that is about to be committed."""
        registration = None if self.registration is None else self.registration.content()
        record = {**asdict(replace(self, registration=None)), "registration": registration}
        del record["commit"]
        write_json(folder / RECORD, record)


def saved_runs(folder: Path) -> list[Run]:
    """All runs of the repository that `folder` belongs to, the newest first. Three git commands, however many there are.

    Raises RunError outside of a git repository, and where a ref holds no record.
    """
    listed = git(folder, "for-each-ref", "--format=%(objectname) %(refname)", REFS).splitlines()
    if not listed:
        return []
    refs = [line.split(" ", 1) for line in listed]
    names = git(folder, "cat-file", "--batch-check=%(objectname)", text="".join(f"{commit}:{RECORD}\n" for commit, _ in refs))
    blobs = names.splitlines()
    for (commit, ref), blob in zip(refs, blobs, strict=True):
        if blob.endswith(" missing"):
            raise RunError(f"{ref} (commit {commit[:12]}) has no {RECORD}: it was not written by a run. Remove it: git update-ref -d {ref}")
    contents = git(folder, "cat-file", "--batch=%(objectname)", text="".join(f"{blob}\n" for blob in blobs))
    runs = [_run(ref, commit, content) for (commit, ref), content in zip(refs, _split(contents, blobs), strict=True)]
    return sorted(runs, key=lambda run: (run.ended, run.id), reverse=True)


def latest_registration(runs: list[Run]) -> RegistrationReport | None:
    """The report of the newest run that registered a model."""
    return next((run.registration for run in runs if run.registration is not None), None)


def table(runs: list[Run]) -> str:
    """The runs as text for a terminal."""
    if not runs:
        return (
            "No run is saved yet. A deployment's run is saved when it completes: start `make up`, then press Run or wait for the schedule."
        )
    rows = [("run", "ended", "at", "settings", "done", "version")]
    rows += [(run.id, run.ended[:16], _at(run), _settings(run), _done(run), _version(run)) for run in runs]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", f"To look at one: git switch --detach {REFS}RUN && dvc checkout. `dvc repro` then has nothing to do."])


def _run(ref: str, commit: str, content: str) -> Run:
    try:
        record = json.loads(content)
        if record["registration"] is not None:
            record["registration"] = RegistrationReport.from_content(record["registration"], Path(RECORD))
        return Run(**record, commit=commit)
    except (ValueError, TypeError, KeyError, ArtifactError) as error:
        raise RunError(f"{ref}: its {RECORD} is none of this version of reelnest: {error}. Remove it: git update-ref -d {ref}") from error


def _split(contents: str, blobs: list[str]) -> list[str]:
    """What `git cat-file --batch` printed, object by object: each after a line with its name."""
    contents_by_blob: list[list[str]] = []
    names = iter(blobs)
    expected = next(names, None)
    for line in contents.splitlines():
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
    ran = [part.removesuffix(" ran") for part in run.done.split(", ") if part.endswith(" ran")]
    return f"ran {', '.join(ran)}" if ran else "nothing new"


def _version(run: Run) -> str:
    registration = run.registration
    return f"{registration.version} ({', '.join(registration.aliases) or registration.decision})" if registration else "-"
