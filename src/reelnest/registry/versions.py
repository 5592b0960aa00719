"""Versions of the registered model, and which of them is champion.

A version is made in steps, each of which a later call finds done: the model is logged (MLflow marks it READY when all its files have
arrived), then the version is made with all its tags at once, then the aliases are set, and last the tag `reelnest.decision`. A process that
is killed in between leaves the rest to the next call; no version ever has half a model or half its tags.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version as installed_version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.entities import LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import AnyType

import reelnest
from reelnest.config import Params, Register
from reelnest.data.formats import TEXT_FIELDS
from reelnest.errors import RegistryError
from reelnest.registry.aliases import CHALLENGER, DECISION_TAG, REASON_TAG, champion_of, set_champion
from reelnest.registry.candidate import MODEL_HASH_TAG, Candidate, candidate_run
from reelnest.registry.connection import connect
from reelnest.registry.deciding import deciding
from reelnest.registry.evaluation_log import mlflow_name
from reelnest.registry.gate import Difference, Verdict, judge

DATA_HASH_TAG = "reelnest.evaluation_data_hash"
DIFFERENCES_TAG = "reelnest.differences"

SERVED_MODEL = Path(__file__).with_name("served_model.py")
LOGGED_MODEL_NAME = "model"
# What a server needs to load and answer; the rest of our dependencies train and orchestrate.
SERVING_REQUIREMENTS = (
    "accelerate", "decord2", "mlflow", "numpy", "pandas", "peft", "pillow", "pyarrow", "pydantic", "PyYAML", "safetensors",
    "tokenizers", "torch", "tqdm", "transformers",
)  # fmt: skip
MOST_ROWS = 256
MOST_MEGABYTES = 64
"""Of a video in a request, which stands in memory as text and as bytes; `validate.max_video_megabytes` where that is less."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Registration:
    """What became of a candidate."""

    name: str
    version: int
    aliases: tuple[str, ...]
    decision: str
    """`promoted` or `not promoted`."""
    reason: str
    differences: tuple[Difference, ...]
    """Challenger minus champion by dim; empty where there was nothing to compare with."""
    run_id: str | None
    is_new: bool
    """Whether this call made the version or finished it; False where there was nothing left to do."""


def register_candidate(
    params: Params, candidate: Candidate, metrics: Mapping[str, float], queries: Path, data_hash: str, tags: Mapping[str, str]
) -> Registration:
    """Makes the candidate a version, `challenger`, and `champion` where it is the first or passes the gate (`gate.judge`).

    `metrics` are those of all queries of the test split at the full width, `queries` holds those of each query at each dim, `data_hash`
    names the data that they were measured on: figures of other data are not compared. Raises RegistryError if MLflow cannot be reached or
    refuses.
    """
    experiment_id = connect(params)
    name = params.registration.name
    try:
        found = _version_of(name, candidate)
        if found is not None and DECISION_TAG in found.tags:
            return _registration(found, is_new=False)
        if found is None:
            found = _make_version(params, candidate, experiment_id, metrics, queries, data_hash, tags)
        _decide(found, queries, params.registration)
        return _registration(found, is_new=True)
    except (MlflowException, OSError) as error:  # requests' errors are OSErrors
        raise RegistryError(
            f"MLflow's registry refused model '{name}': {error}. Run `reelnest register` again: it goes on from here."
        ) from error


def _version_of(name: str, candidate: Candidate) -> ModelVersion | None:
    found = mlflow.MlflowClient().search_model_versions(f"name = '{name}' and tags.`{MODEL_HASH_TAG}` = '{candidate.hash}'")
    return min(found, key=lambda version: int(version.version), default=None)


def _make_version(
    params: Params,
    candidate: Candidate,
    experiment_id: str,
    metrics: Mapping[str, float],
    queries: Path,
    data_hash: str,
    tags: Mapping[str, str],
) -> ModelVersion:
    run_id = candidate_run(candidate, experiment_id)
    client = mlflow.MlflowClient()
    # What later challengers are compared with; an evaluation on other data does not write over it.
    client.log_artifact(run_id, str(queries), _gate_folder(data_hash))
    model_id = _logged_model(candidate, experiment_id) or _log_model(params, candidate, run_id)
    name = params.registration.name
    try:
        client.create_registered_model(name, description="Nested (Matryoshka) vectors of texts and videos, by reelnest.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    figures = {mlflow_name(metric): repr(value) for metric, value in metrics.items()}
    return client.create_model_version(
        name,
        source=f"models:/{model_id}",
        run_id=run_id,
        model_id=model_id,
        tags={**tags, **figures, MODEL_HASH_TAG: candidate.hash, DATA_HASH_TAG: data_hash},
    )


def _logged_model(candidate: Candidate, experiment_id: str) -> str | None:
    """The candidate's logged model, if an earlier call logged it whole."""
    found = mlflow.MlflowClient().search_logged_models([experiment_id], f"tags.`{MODEL_HASH_TAG}` = '{candidate.hash}'")
    whole = [model.model_id for model in found if model.status == LoggedModelStatus.READY]
    return whole[0] if whole else None


def _log_model(params: Params, candidate: Candidate, run_id: str) -> str:
    limits = params.validation
    config = {
        "rows": MOST_ROWS,
        "text_characters": limits.max_text_characters,
        "video_megabytes": min(MOST_MEGABYTES, limits.max_video_megabytes),
        "video_frames": limits.max_video_frames,
        "video_seconds": limits.max_video_seconds,
        "video_timeout_seconds": limits.decode_timeout_seconds,
    }
    with mlflow.start_run(run_id=run_id):
        info = mlflow.pyfunc.log_model(
            name=LOGGED_MODEL_NAME,
            python_model=str(SERVED_MODEL),
            artifacts={"model": str(candidate.folder)},
            code_paths=[str(Path(reelnest.__file__).parent)],
            pip_requirements=pinned_requirements(),
            signature=signature(),
            input_example=([{"text": "a red circle moves to the left"}], {"dim": params.model.dims[0], "role": "query"}),
            model_config=config,
            tags={MODEL_HASH_TAG: candidate.hash},
        )
    return str(info.model_id)


def signature() -> ModelSignature:
    """Optional columns, so that a request holds texts, videos or both."""
    # `video` is of any type and not binary: MLflow can't decode a binary column in which some rows are empty.
    columns: list[ColSpec | TensorSpec] = [ColSpec(AnyType(), "video", required=False)]
    columns += [ColSpec(DataType.string, name, required=False) for name in TEXT_FIELDS]
    return ModelSignature(
        inputs=Schema(columns),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, -1))]),
        params=ParamSchema([ParamSpec("dim", DataType.long, 0), ParamSpec("role", DataType.string, "query")]),
    )


def pinned_requirements() -> list[str]:
    """The installed versions. A local suffix (`2.13.0+cpu`) is cut off: no index that pip asks by itself knows it."""
    return [f"{name}=={installed_version(name).partition('+')[0]}" for name in SERVING_REQUIREMENTS]


def _gate_folder(data_hash: str) -> str:
    return f"gate/{data_hash[:16]}"


def _decide(version: ModelVersion, queries: Path, settings: Register) -> None:
    """Sets the aliases, then the tags that say why. Repeating it changes nothing."""
    client = mlflow.MlflowClient()
    client.set_registered_model_alias(version.name, CHALLENGER, version.version)
    # Of two that are decided at the same moment, the second one is compared with the first.
    with deciding(version.name):
        champion = champion_of(version.name)
        verdict = _judge(version, queries, champion, settings)
        if verdict.differences:
            differences = json.dumps([asdict(one) for one in verdict.differences])
            client.set_model_version_tag(version.name, version.version, DIFFERENCES_TAG, differences)
        if verdict.promoted:
            set_champion(version, champion, verdict.reason)
            return
    client.set_model_version_tag(version.name, version.version, REASON_TAG, verdict.reason)
    client.set_model_version_tag(version.name, version.version, DECISION_TAG, "not promoted")


def _judge(challenger: ModelVersion, queries: Path, champion: ModelVersion | None, settings: Register) -> Verdict:
    if champion is None:
        return Verdict(True, "the first champion: there was none")
    if champion.version == challenger.version:
        return Verdict(True, "it is champion already")
    where = f"champion (version {champion.version})"
    data_hash = challenger.tags[DATA_HASH_TAG]
    if champion.tags.get(DATA_HASH_TAG) != data_hash:
        reason = f"not comparable: the {where} was evaluated on other test data; evaluate it on this data, or use `reelnest promote`"
        return Verdict(False, reason)
    theirs = _query_metrics(champion.run_id, f"{_gate_folder(data_hash)}/{queries.name}")
    if theirs is None:
        return Verdict(False, f"not comparable: the run of the {where} does not hold its figures by query; use `reelnest promote`")
    verdict = judge(pd.read_parquet(queries), theirs, settings.metric, settings.margin, settings.confidence)
    return replace(verdict, reason=f"against the {where}: {verdict.reason}")


def _query_metrics(run_id: str | None, path: str) -> pd.DataFrame | None:
    """None where the run, or the file, is gone."""
    if run_id is None:
        return None
    try:
        held = mlflow.MlflowClient().list_artifacts(run_id, str(Path(path).parent))
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    if path not in [file.path for file in held]:
        return None
    with TemporaryDirectory(prefix="reelnest-") as folder:
        return pd.read_parquet(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=path, dst_path=folder))


def _registration(version: ModelVersion, *, is_new: bool) -> Registration:
    client = mlflow.MlflowClient()
    now: Any = client.get_model_version(version.name, version.version)
    return Registration(
        name=now.name,
        version=int(now.version),
        aliases=tuple(sorted(now.aliases)),
        decision=now.tags[DECISION_TAG],
        reason=now.tags[REASON_TAG],
        differences=tuple(Difference(**one) for one in json.loads(now.tags.get(DIFFERENCES_TAG, "[]"))),
        run_id=now.run_id,
        is_new=is_new,
    )
