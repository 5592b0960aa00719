"""`reelnest lineage`: where a version comes from."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from reelnest.errors import RegistryError
from reelnest.messages import some_of
from reelnest.registry.known_versions import MODEL_HASH_TAG
from reelnest.registry.lineage.lineage import DATA_TAG, Lineage, Origin, find_origin, versions_from
from reelnest.registry.lineage.rebuilding import compare_rebuilt, rebuild_commands
from reelnest.registry.lineage.run_tags import COMMIT_TAG, FLOW_RUN_TAG
from reelnest.registry.promotion.aliases import DECISION_TAG, REASON_TAG
from reelnest.settings import Params, tracking_uri
from reelnest.stages.workspace import Workspace

RESULTS = {True: "same", False: "DIFFERENT", None: "unknown"}
WITHOUT_LINEAGE = (
    "# This version was registered without lineage, or its files are missing from MLflow's storage. There are no commands to rebuild it."
)


def show(params: Params, which: str, *, as_json: bool) -> str:
    """Returns a version's lineage and the commands that rebuild it. Raises RegistryError if there is no such version."""
    with TemporaryDirectory(prefix="reelnest-") as folder:
        origin = find_origin(params, which, Path(folder))
    steps = _commands(params, origin)
    if as_json:
        return json.dumps({**_facts(origin), "rebuild": steps}, indent=2, sort_keys=True)
    facts = _lines(origin)
    width = max(len(name) for name, _ in facts)
    lines = [f"{name:<{width}}  {text}" for name, text in facts]
    return "\n".join([*lines, "", "To rebuild it:", "", *(f"  {step}" for step in steps)])


def commands(params: Params, which: str) -> str:
    """Returns only the commands, as a shell script."""
    with TemporaryDirectory(prefix="reelnest-") as folder:
        origin = find_origin(params, which, Path(folder))
    return "\n".join(["set -e", *_commands(params, origin)])


def check(workspace: Workspace, params: Params, which: str) -> tuple[str, bool]:
    """Compares the outputs of this project with a version. Returns the comparison, and whether the metrics are the same.

    Raises RegistryError if there is no such version, it has no lineage, or this project has no outputs.
    """
    with TemporaryDirectory(prefix="reelnest-") as folder:
        origin = find_origin(params, which, Path(folder))
        if origin.lineage is None:
            raise RegistryError(f"{_name(origin)}: {WITHOUT_LINEAGE.removeprefix('# ')}")
        comparisons = compare_rebuilt(workspace.root, origin.folder, origin.lineage.model_hash)
    lines = [f"{comparison.what:<8} {RESULTS[comparison.same]}: {comparison.detail}" for comparison in comparisons]
    return "\n".join([f"This project's model, compared with {_name(origin)}:", *lines]), comparisons[-1].same is True


def versions(params: Params, text: str) -> str:
    """Lists the versions that come from a data hash, commit, run, flow run or model hash. Raises RegistryError if there is none."""
    matching = versions_from(params, text)
    if not matching:
        raise RegistryError(f"No version of '{params.registration.name}' comes from '{text}'. See `reelnest models`.")
    named = {"commit": COMMIT_TAG, "data": DATA_TAG, "flow run": FLOW_RUN_TAG, "model": MODEL_HASH_TAG}
    lines = []
    for version in matching:
        facts = {"run": version.run_id} | {name: version.tags.get(tag) for name, tag in named.items()}
        short = [f"{name} {value if value.startswith(text) else value[:12]}" for name, value in facts.items() if value]
        lines.append(f"models:/{version.name}/{version.version}  {', '.join(short)}")
    return "\n".join(lines)


def _name(origin: Origin) -> str:
    return f"models:/{origin.version.name}/{origin.version.version}"


def _commands(params: Params, origin: Origin) -> list[str]:
    if origin.lineage is None:
        return [WITHOUT_LINEAGE]
    return rebuild_commands(origin.lineage, origin.version.name, str(origin.version.version), tracking_uri(params))


def _lines(origin: Origin) -> list[tuple[str, str]]:
    version, tags = origin.version, origin.version.tags
    created = datetime.fromtimestamp(int(version.creation_timestamp) / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    decided = f"{tags[DECISION_TAG]}: {tags.get(REASON_TAG, '')}" if DECISION_TAG in tags else "none yet; run `reelnest register`"
    lines = [("version", f"{_name(origin)}, registered {created}"), ("decision", decided), ("run", _run(origin))]
    if origin.lineage is not None:
        return [*lines, *_recorded(origin.lineage)]
    lines += [("model", tags.get(MODEL_HASH_TAG, "not recorded")), ("commit", tags.get(COMMIT_TAG, "not recorded"))]
    return [*lines, ("lineage", "none: registered without it, or its files are missing from MLflow's storage")]


def _run(origin: Origin) -> str:
    run_id, run = origin.version.run_id, origin.run
    if not run_id:
        return "none"
    if run is None:
        return f"{run_id}, which was deleted from MLflow"
    began = [f"{what} {run.data.tags[tag]}" for what, tag in (("commit", COMMIT_TAG), ("flow run", FLOW_RUN_TAG)) if tag in run.data.tags]
    return ", ".join([f"{run_id} ({run.info.run_name})", *began])


def _recorded(lineage: Lineage) -> Iterator[tuple[str, str]]:
    commit, data, flow, environment = lineage.commit, lineage.data, lineage.flow_run, lineage.environment
    yield "model", lineage.model_hash
    if commit is None:
        yield "commit", "none: not trained in a git repository"
    else:
        state = "clean" if commit.clean else "with saved changes" if commit.changes_saved else "with changes that were too large to save"
        yield "commit", f"{commit.hash}, {state}"
        yield "", f"of {commit.repository}" + ("" if commit.published else " (on that machine; `origin` had no such commit)")
    if data is None:
        yield "data", "unknown: there was no data.dvc"
    else:
        size = f", {data.files} files, {data.bytes / 1e6:.1f} MB" if data.files and data.bytes else ""
        sample = f", the sample of seed {data.sample_seed}" if data.sample_seed is not None else ""
        yield "data", f"{data.hash}{size}{sample}"
    yield "validation", _validation(lineage)
    yield "evaluation", f"queries and relevant items {lineage.evaluation_data[:12]}"
    yield "dvc.lock", "saved" if lineage.dvc_lock else "none: DVC did not run the stages, so their inputs are unknown"
    if lineage.stale:
        yield (
            "CHANGED",
            f"after the stages ran, so the saved files may differ from the inputs of the model: {some_of(lineage.stale)}",
        )
    if flow is None:
        yield "flow run", "none: registered from a terminal"
    else:
        yield "flow run", flow.id + (f", {flow.url}" if flow.url else "")
    lock = f"requirements.lock {environment.lock_hash[:12]}" if environment.lock_hash else "no requirements.lock"
    differing = f", except {some_of(environment.differing)}" if environment.differing else ""
    yield "environment", f"Python {environment.python}, {environment.platform}, {environment.packages} packages, {lock}{differing}"


def _validation(lineage: Lineage) -> str:
    data = lineage.validation
    if data is None:
        return "none"
    counts = [f"{table.good} of {table.lines} {name} good" for name, table in (("videos", data.videos), ("pairs", data.pairs))]
    return ", ".join(["passed" if data.passed else "NOT passed", *counts])


def _facts(origin: Origin) -> dict[str, Any]:
    version, run = origin.version, origin.run
    return {
        "name": version.name,
        "version": int(version.version),
        "created": int(version.creation_timestamp),
        "tags": dict(version.tags),
        "run_id": version.run_id,
        "run": None if run is None else {"name": run.info.run_name, "tags": {k: v for k, v in run.data.tags.items() if "reelnest" in k}},
        "lineage": None if origin.lineage is None else origin.lineage.model_dump(mode="json"),
    }
