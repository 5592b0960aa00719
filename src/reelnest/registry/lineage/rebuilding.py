"""The commands that rebuild a registered version, and the comparison of the result with the version."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reelnest.addresses import without_credentials
from reelnest.artifacts.evaluation_report import EvaluationReport
from reelnest.messages import some_of
from reelnest.registry.candidate import Candidate
from reelnest.registry.lineage.dvc_lock import DATA_FILE, LOCK_FILE, differing_inputs, read_yaml
from reelnest.registry.lineage.lineage import CHANGES_FILE, LINEAGE_FOLDER, REQUIREMENTS_FILE, Lineage
from reelnest.registry.local_store import SQLITE

TOLERANCE = 1e-6
"""The largest difference of equal metrics. They are means of rank-based values, and only the summation order may differ."""


@dataclass(frozen=True)
class Comparison:
    """The comparison of one aspect of the rebuilt project with the registered version."""

    what: str
    same: bool | None
    """None if it cannot be compared."""
    detail: str


def rebuild_commands(lineage: Lineage, name: str, version: str, tracking_uri: str) -> list[str]:
    """Returns shell lines that rebuild the version in a new folder. Comments explain what no command can do."""
    uri = without_credentials(tracking_uri)
    if uri.startswith(SQLITE):
        uri = f"{SQLITE}{Path(uri.removeprefix(SQLITE)).absolute()}"
    mlflow_at = f"MLFLOW_TRACKING_URI={shlex.quote(uri)}"
    folder = f"{name}-{version}"
    commit, lines = lineage.commit, []
    if commit is None:
        lines.append("# It was trained outside a git repository, so its code is unknown. In a checkout with similar code:")
    else:
        if not commit.published:
            lines.append("# No known branch of `origin` has the commit. It is fetched from the machine that trained the model.")
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
        lines.append(f"# The installed versions of {len(lineage.environment.differing)} packages differed from requirements.lock.")
    if commit is None or not commit.clean or lineage.environment.differing:
        place = shlex.quote(f"models:/{name}/{version}/artifacts/{LINEAGE_FOLDER}")
        lines.append(f"{mlflow_at} mlflow artifacts download --artifact-uri {place} --dst-path work")
    files = f"work/artifacts/{LINEAGE_FOLDER}"  # MLflow preserves the path in the version
    if lineage.environment.differing:
        lines.append(f"pip install --quiet --requirement {files}/{REQUIREMENTS_FILE}")
    if commit is not None and not commit.clean and commit.changes_saved:
        lines.append(f'git -C "$(git rev-parse --show-toplevel)" apply --whitespace=nowarn "$PWD/{files}/{CHANGES_FILE}"')
    elif commit is None or not commit.clean:
        if commit is not None:
            lines.append("# Its uncommitted changes were too large to save. The code cannot be restored; settings and data can.")
        lines.append(f"cp {files}/params.yaml ." + (f" && cp {files}/{DATA_FILE} ." if lineage.data else ""))
    lines += [*_data_commands(lineage), "dvc repro", f"{mlflow_at} reelnest lineage {shlex.quote(f'models:/{name}/{version}')} --check"]
    return lines


def _data_commands(lineage: Lineage) -> Iterator[str]:
    data = lineage.data
    if data is None:
        yield f"# There was no {DATA_FILE}, so the version of the data is unknown. Put the data into data/."
    elif data.sample_seed is not None:
        yield "reelnest sample" + (f" --seed {data.sample_seed}" if data.sample_seed else "")
    elif data.remote is not None:
        yield f"dvc pull {DATA_FILE}"
    else:
        yield "# No DVC remote was set. The data is fetched from the cache of the machine that trained the model."
        yield shlex.join(["dvc", "remote", "add", "--quiet", "--local", "--force", "original", data.cache])
        yield f"dvc pull --remote original {DATA_FILE}"


def compare_rebuilt(root: Path, lineage_folder: Path, model_hash: str) -> list[Comparison]:
    """Compares the rebuilt project at `root` with the lineage files of a version. The last comparison, of the metrics, is decisive."""
    return [_inputs(root, lineage_folder), _model(root, model_hash), _metrics(root, lineage_folder)]


def _inputs(root: Path, lineage_folder: Path) -> Comparison:
    before, after = read_yaml(lineage_folder / LOCK_FILE), read_yaml(root / LOCK_FILE)
    if before is None or after is None:
        missing = "with the version" if before is None else "here; run `dvc repro`"
        return Comparison("inputs", None, f"cannot be compared: there is no {LOCK_FILE} {missing}")
    differing = differing_inputs(before, after)
    if not differing:
        return Comparison("inputs", True, "data, code and settings of every stage")
    return Comparison("inputs", False, some_of(differing))


def _model(root: Path, model_hash: str) -> Comparison:
    rebuilt = Candidate.of(root / "models" / "candidate").hash
    if rebuilt == model_hash:
        return Comparison("model", True, f"byte for byte ({rebuilt[:12]})")
    return Comparison(
        "model", False, f"{rebuilt[:12]} here, {model_hash[:12]} there; different arithmetic of another machine can cause this"
    )


def _metrics(root: Path, lineage_folder: Path) -> Comparison:
    before, after = (EvaluationReport.read_if_there(folder) for folder in (lineage_folder, root / "reports"))
    if before is None or after is None:
        missing = "with the version" if before is None else "in reports/; run `dvc repro`"
        return Comparison("metrics", None, f"cannot be compared: there is no evaluation.json {missing}")
    if before.data.hash != after.data.hash:
        return Comparison("metrics", None, "cannot be compared: they were measured on other queries or relevant items")
    there, here = _values(before), _values(after)
    if there.keys() != here.keys():
        return Comparison("metrics", False, "other dims, pair kinds or metrics were measured")
    differences = {key: abs(there[key] - here[key]) for key in there}
    largest = max(differences, key=lambda key: differences[key])
    if differences[largest] <= TOLERANCE:
        return Comparison("metrics", True, f"all {len(there)} values (largest difference {differences[largest]:g})")
    differ = sum(value > TOLERANCE for value in differences.values())
    detail = f"{differ} of {len(there)} values; largest: {' '.join(largest)}, {here[largest]:.4f} here, {there[largest]:.4f} there"
    return Comparison("metrics", False, detail)


def _values(evaluation: EvaluationReport) -> dict[tuple[str, ...], float]:
    """Returns all rank-based metrics by what they measure. Speeds are left out, because they differ between runs of the same model."""
    values: dict[tuple[str, ...], float] = {}
    for result in evaluation.results:
        key = (result.pair_kind, f"dim {result.dim}", result.storage)
        values |= {(*key, metric): value for metric, value in result.metrics.items()}
    for configuration in evaluation.configurations:
        values |= {("configuration", configuration.name, metric): value for metric, value in configuration.metrics.items()}
    return values
