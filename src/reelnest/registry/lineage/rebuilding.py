"""How a registered version is made again, and whether what was made is the same."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reelnest.artifacts.evaluation_report import EvaluationReport
from reelnest.registry.candidate import Candidate
from reelnest.registry.connection import without_credentials
from reelnest.registry.lineage.dvc_lock import DATA_FILE, LOCK_FILE, differing_inputs, read_yaml
from reelnest.registry.lineage.lineage import CHANGES_FILE, LINEAGE_FOLDER, REQUIREMENTS_FILE, Lineage
from reelnest.registry.local_store import SQLITE

TOLERANCE = 1e-6
"""Between figures that count as the same: means over queries of what ranks give; only the order of summing may differ."""
SHOWN = 5


@dataclass(frozen=True)
class Compared:
    """One thing in which the rebuilt project could differ from the registered version."""

    what: str
    same: bool
    detail: str


def rebuild_commands(lineage: Lineage, name: str, version: str, tracking_uri: str) -> list[str]:
    """Shell lines that make the version again in a folder of its own; `#` begins what cannot be done by command."""
    uri = without_credentials(tracking_uri)
    if uri.startswith(SQLITE):
        uri = f"{SQLITE}{Path(uri.removeprefix(SQLITE)).absolute()}"
    mlflow_at = f"MLFLOW_TRACKING_URI={shlex.quote(uri)}"
    folder = f"{name}-{version}"
    commit, lines = lineage.commit, []
    if commit is None:
        lines.append("# It was made outside of a git repository: its code is not known. In a checkout that is like it:")
    else:
        if not commit.published:
            lines.append("# The commit is in no branch of `origin` that was known there: it is taken from the machine that made the model.")
        lines += [
            shlex.join(["git", "clone", "--quiet", "--no-checkout", commit.repository, folder]),
            shlex.join(["cd", folder]),
            shlex.join(["git", "fetch", "--quiet", "origin", commit.hash]),
            shlex.join(["git", "checkout", "--quiet", "--detach", commit.hash]),
        ]
        if commit.folder:
            lines.append(shlex.join(["cd", commit.folder]))
    lines += ["make install", "source .venv/bin/activate"]
    if lineage.environment.differing:
        lines.append(f"# Other versions were installed than {len(lineage.environment.differing)} lines of requirements.lock say.")
    if commit is None or not commit.clean or lineage.environment.differing:
        place = shlex.quote(f"models:/{name}/{version}/artifacts/{LINEAGE_FOLDER}")
        lines.append(f"{mlflow_at} mlflow artifacts download --artifact-uri {place} --dst-path work")
    kept = f"work/artifacts/{LINEAGE_FOLDER}"  # MLflow keeps the path below the version
    if lineage.environment.differing:
        lines.append(f"pip install --quiet --requirement {kept}/{REQUIREMENTS_FILE}")
    if commit is not None and not commit.clean and commit.changes_saved:
        lines.append(f'git -C "$(git rev-parse --show-toplevel)" apply --whitespace=nowarn "$PWD/{kept}/{CHANGES_FILE}"')
    elif commit is None or not commit.clean:
        if commit is not None:
            lines.append("# Its files differed from the commit by more than is kept: its code cannot be put back, settings and data can.")
        lines.append(f"cp {kept}/params.yaml ." + (f" && cp {kept}/{DATA_FILE} ." if lineage.data else ""))
    lines += [*_data_commands(lineage), "dvc repro", f"{mlflow_at} reelnest lineage {shlex.quote(f'models:/{name}/{version}')} --check"]
    return lines


def _data_commands(lineage: Lineage) -> Iterator[str]:
    data = lineage.data
    if data is None:
        yield f"# There was no {DATA_FILE}: which data it was made from is not known. Put it into data/."
    elif data.sample_seed is not None:
        yield "reelnest sample" + (f" --seed {data.sample_seed}" if data.sample_seed else "")
    elif data.remote is not None:
        yield f"dvc pull {DATA_FILE}"
    else:
        yield "# No DVC remote was set: the data is taken from the cache of the machine that made the model."
        yield shlex.join(["dvc", "remote", "add", "--quiet", "--local", "--force", "original", data.cache])
        yield f"dvc pull --remote original {DATA_FILE}"


def compare_rebuilt(root: Path, kept: Path, model_hash: str) -> list[Compared]:
    """The project at `root`, whose stages have run, against what is kept of a version. The last line, of the metrics, is what decides."""
    return [_inputs(root, kept), _model(root, model_hash), _metrics(root, kept)]


def _inputs(root: Path, kept: Path) -> Compared:
    before, after = read_yaml(kept / LOCK_FILE), read_yaml(root / LOCK_FILE)
    if before is None or after is None:
        missing = "with the version" if before is None else "here; run `dvc repro`"
        return Compared("inputs", False, f"cannot be compared: there is no {LOCK_FILE} {missing}")
    differing = differing_inputs(before, after)
    if not differing:
        return Compared("inputs", True, "data, code and settings of every stage")
    more = f" and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
    return Compared("inputs", False, f"{', '.join(differing[:SHOWN])}{more}")


def _model(root: Path, model_hash: str) -> Compared:
    found = Candidate.of(root / "models" / "candidate").hash
    if found == model_hash:
        return Compared("model", True, f"byte for byte ({found[:12]})")
    return Compared("model", False, f"{found[:12]} here, {model_hash[:12]} there; another machine's arithmetic is enough for that")


def _metrics(root: Path, kept: Path) -> Compared:
    before, after = (EvaluationReport.read_if_there(folder) for folder in (kept, root / "reports"))
    if before is None or after is None:
        missing = "with the version" if before is None else "in reports/; run `dvc repro`"
        return Compared("metrics", False, f"cannot be compared: there is no evaluation.json {missing}")
    if before.data.hash != after.data.hash:
        return Compared("metrics", False, "cannot be compared: they were measured on other queries or relevant items")
    there, here = _figures(before), _figures(after)
    if there.keys() != here.keys():
        return Compared("metrics", False, "other dims, pair kinds or metrics were measured")
    apart = {key: abs(there[key] - here[key]) for key in there}
    most = max(apart, key=lambda key: apart[key])
    if apart[most] <= TOLERANCE:
        return Compared("metrics", True, f"all {len(there)} figures (largest difference {apart[most]:g})")
    differ = sum(value > TOLERANCE for value in apart.values())
    detail = f"{differ} of {len(there)} figures; most: {' '.join(most)}, {here[most]:.4f} here, {there[most]:.4f} there"
    return Compared("metrics", False, detail)


def _figures(evaluation: EvaluationReport) -> dict[tuple[str, ...], float]:
    """Every metric that ranks give, by what it was measured for. Speeds are left out: they differ between two runs of one model."""
    figures: dict[tuple[str, ...], float] = {}
    for result in evaluation.results:
        key = (result.pair_kind, f"dim {result.dim}", result.storage)
        figures |= {(*key, metric): value for metric, value in result.metrics.items()}
    for configuration in evaluation.configurations:
        figures |= {("configuration", configuration.name, metric): value for metric, value in configuration.metrics.items()}
    return figures
