"""Versions of the registered model, and which of them is champion.

A version is made in steps, each of which a later call finds done: the model is logged (MLflow marks it READY when all its files have
arrived), then the version is made with all its tags at once, then it is decided (`decision`), whose last word is the tag
`reelnest.decision`. A process that is killed in between leaves the rest to the next call; no version ever has half a model or half its
tags.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import numpy as np
from mlflow.entities import LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion as ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import AnyType

import reelnest
from reelnest.encoder.manifest import CARD_FILE
from reelnest.encoder.saved_settings import SETTINGS_FILE
from reelnest.errors import RegistryError
from reelnest.evaluation.metrics import logged_name
from reelnest.records.content_hash import value_hash
from reelnest.records.formats import TEXT_FIELDS
from reelnest.registry.candidate import MODEL_HASH_TAG, Candidate, candidate_run
from reelnest.registry.connection import connect, error_type
from reelnest.registry.promotion.aliases import DECISION_TAG, REASON_TAG, TAKEN_BACK
from reelnest.registry.promotion.decision import CODE_TAG, CONDITIONS_TAG, DIFFERENCES_TAG, WAITS, Answer, Evidence, decide
from reelnest.registry.promotion.evaluation_log import DATA_HASH_TAG, gate_folder
from reelnest.registry.promotion.gate import Condition, Difference
from reelnest.settings import Params

DECIDED_ON_TAG = "reelnest.decided_on"
"""A hash of the evidence that the decision was made on: a model that was evaluated again on other is decided again."""
MOST_MEASUREMENTS = 3
"""So often the champion may change while the one before it is measured."""

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
    """`promoted`, `not promoted`, or `waits for approval`."""
    reason: str
    conditions: tuple[Condition, ...]
    """In their order, as far as they were looked at; empty of what was promoted by hand."""
    differences: tuple[Difference, ...]
    """Challenger minus champion by dim; empty where there was nothing to compare with."""
    run_id: str | None
    is_new: bool
    """Whether this call made the version or finished it; False where there was nothing left to do."""


@dataclass(frozen=True)
class Documents:
    """What is kept with a version beside the model itself."""

    lineage: Path
    """A folder: `artifacts/lineage/`."""
    card: str
    """The model card: `README.md` in the version's copy of the model. The candidate itself is DVC's, and stays as training left it."""


class CannotMeasureError(Exception):
    """Why a champion cannot be evaluated again."""


def register_candidate(
    params: Params,
    candidate: Candidate,
    metrics: Mapping[str, float],
    evidence: Evidence,
    tags: Mapping[str, str],
    measure: Callable[[ModelVersion, Path], None],
    answer: Answer | None = None,
    documents: Documents | None = None,
) -> Registration:
    """Makes the candidate a version, `challenger`, and `champion` where it fulfils all conditions (`decision.judge`).

    `metrics` are those of all queries of the test split at the full width. `measure` evaluates a version on the present test data and
    writes its figures by query into a folder; it is called where the champion's are not known, and raises CannotMeasureError where it
    cannot. `documents` go into the version's files. Raises RegistryError if MLflow cannot be reached or refuses.
    """
    experiment_id = connect(params)
    name = params.registration.name
    decided_on = value_hash([evidence.data_hash, evidence.code_hash, evidence.behaviour, evidence.validation_passed])
    client = mlflow.MlflowClient()
    try:
        found = _version_of(name, candidate)
        if found is not None and _is_decided(found, decided_on, answer):
            return _registration(found, is_new=False)
        own = {**_figures(metrics), DATA_HASH_TAG: evidence.data_hash, CODE_TAG: evidence.code_hash, DECIDED_ON_TAG: decided_on}
        if found is None:
            found = _make_version(params, candidate, experiment_id, evidence, {**tags, **own}, documents)
        elif DECISION_TAG in found.tags and found.tags.get(DECIDED_ON_TAG) != decided_on:
            # First: of a decision that is cut off nothing is left to be taken for one.
            client.delete_model_version_tag(name, found.version, DECISION_TAG)
            client.log_artifact(str(found.run_id), str(evidence.queries), gate_folder(evidence.data_hash))
            for tag, value in own.items():
                client.set_model_version_tag(name, found.version, tag, value)
        unmeasured: dict[str, str] = {}
        for _ in range(MOST_MEASUREMENTS):
            champion = decide(found, evidence, params.registration, answer, unmeasured)
            if champion is None:
                return _registration(found, is_new=True)
            try:
                _measure(champion, evidence, measure)
            except CannotMeasureError as error:
                unmeasured[champion.version] = str(error)
        raise RegistryError(f"The champion of '{name}' changes faster than it can be evaluated. Run `reelnest register` again.")
    except (MlflowException, OSError) as error:  # requests' errors are OSErrors
        raise error_type(error)(
            f"MLflow's registry refused model '{name}': {error}. Run `reelnest register` again: it goes on from here."
        ) from error


def _is_decided(version: ModelVersion, decided_on: str, answer: Answer | None) -> bool:
    """Whether nothing is left to do. What a person took back stays so, and what waits is decided anew when there is an answer."""
    decision = version.tags.get(DECISION_TAG)
    if decision is None or (decision == WAITS and answer is not None):
        return False
    by_hand = version.tags.get(REASON_TAG, "").startswith(TAKEN_BACK)
    return by_hand or version.tags.get(DECIDED_ON_TAG) == decided_on


def _measure(champion: ModelVersion, evidence: Evidence, measure: Callable[[ModelVersion, Path], None]) -> None:
    """Evaluates the champion on the present data and keeps its figures with its run, so that it is done once."""
    log.info("version %s, the champion, was evaluated on other data or by other code: evaluating it again", champion.version)
    client = mlflow.MlflowClient()
    where = f"the champion (version {champion.version}) was evaluated on other data or by other code, and"
    person = "whether this model may take its place, a person has to say (`reelnest promote`)"
    try:
        kept = client.get_run(str(champion.run_id)).info.lifecycle_stage == "active"
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        kept = False
    if not kept:
        raise CannotMeasureError(f"{where} its run, which keeps figures, is gone: {person}")
    with TemporaryDirectory(prefix="reelnest-") as folder:
        try:
            measure(champion, Path(folder))
        except CannotMeasureError as error:
            raise CannotMeasureError(f"{where} {error}: {person}") from error
        client.log_artifact(str(champion.run_id), str(Path(folder) / evidence.queries.name), gate_folder(evidence.data_hash))


def saved_model_of(version: ModelVersion, folder: Path) -> Path:
    """Downloads the saved model of a version into `folder`, and gives where it stands there. Raises CannotMeasureError where it is gone."""
    try:
        held = mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{version.name}/{version.version}", dst_path=str(folder))
    except (MlflowException, OSError) as error:
        if isinstance(error, MlflowException) and error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        held = str(folder)
    found = next(Path(held).glob(f"artifacts/*/{SETTINGS_FILE}"), None)
    if found is None:
        raise CannotMeasureError("its files are gone from MLflow's storage")
    return found.parent


def _version_of(name: str, candidate: Candidate) -> ModelVersion | None:
    found = mlflow.MlflowClient().search_model_versions(f"name = '{name}' and tags.`{MODEL_HASH_TAG}` = '{candidate.hash}'")
    return min(found, key=lambda version: int(version.version), default=None)


def _make_version(
    params: Params, candidate: Candidate, experiment_id: str, evidence: Evidence, tags: Mapping[str, str], documents: Documents | None
) -> ModelVersion:
    run_id = candidate_run(candidate, experiment_id)
    client = mlflow.MlflowClient()
    # What later challengers are compared with; an evaluation on other data does not write over it.
    client.log_artifact(run_id, str(evidence.queries), gate_folder(evidence.data_hash))
    model_id = _logged_model(candidate, experiment_id) or _log_model(params, candidate, run_id, documents)
    name = params.registration.name
    try:
        client.create_registered_model(name, description="Nested (Matryoshka) vectors of texts and videos, by reelnest.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = client.create_model_version(
        name, source=f"models:/{model_id}", run_id=run_id, model_id=model_id, tags={**tags, MODEL_HASH_TAG: candidate.hash}
    )
    first = _version_of(name, candidate)
    if first is None or first.version == made.version:
        return made
    # Another run registered the same model since we looked: its version stands, and is decided once more if its maker is not there yet.
    client.delete_model_version(name, made.version)
    if first.source != made.source:
        client.delete_logged_model(model_id)
    return first


def _figures(metrics: Mapping[str, float]) -> dict[str, str]:
    return {logged_name(metric): repr(value) for metric, value in metrics.items()}


def _logged_model(candidate: Candidate, experiment_id: str) -> str | None:
    """The candidate's logged model, if an earlier call logged it whole."""
    found = mlflow.MlflowClient().search_logged_models([experiment_id], f"tags.`{MODEL_HASH_TAG}` = '{candidate.hash}'")
    whole = [model.model_id for model in found if model.status == LoggedModelStatus.READY]
    return whole[0] if whole else None


def _log_model(params: Params, candidate: Candidate, run_id: str, documents: Documents | None) -> str:
    limits = params.validation
    config = {
        "rows": MOST_ROWS,
        "text_characters": limits.max_text_characters,
        "video_megabytes": min(MOST_MEGABYTES, limits.max_video_megabytes),
        "video_frames": limits.max_video_frames,
        "video_seconds": limits.max_video_seconds,
        "video_timeout_seconds": limits.decode_timeout_seconds,
    }
    with mlflow.start_run(run_id=run_id), _documented(candidate.folder, documents) as artifacts:
        info = mlflow.pyfunc.log_model(
            name=LOGGED_MODEL_NAME,
            python_model=str(SERVED_MODEL),
            artifacts=artifacts,
            code_paths=[str(Path(reelnest.__file__).parent)],
            pip_requirements=pinned_requirements(),
            signature=signature(),
            input_example=([{"text": "a red circle moves to the left"}], {"dim": params.model.dims[0], "role": "query"}),
            model_config=config,
            tags={MODEL_HASH_TAG: candidate.hash},
        )
    return str(info.model_id)


@contextmanager
def _documented(model: Path, documents: Documents | None) -> Iterator[dict[str, str]]:
    """What MLflow copies into the version's files, by the name that the served model knows it by."""
    if documents is None:
        yield {"model": str(model)}
        return
    with TemporaryDirectory(prefix=".reelnest-", dir=documents.lineage.parent) as scratch:
        # Links, where the file system has them: weights may have gigabytes, and MLflow copies them anyway.
        folder = shutil.copytree(model, Path(scratch) / model.name, copy_function=_link)
        card = folder / CARD_FILE
        card.unlink(missing_ok=True)  # a link: writing into it would change the candidate
        card.write_text(documents.card, encoding="utf-8")
        yield {"model": str(folder), documents.lineage.name: str(documents.lineage)}


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def signature() -> ModelSignature:
    """Optional columns, so that a request holds texts, videos or both."""
    # `video` is of any type and not binary: MLflow can't decode a binary column in which some rows are empty.
    columns: list[ColSpec | TensorSpec] = [ColSpec(AnyType(), "video", required=False)]
    columns += [ColSpec(DataType.string, name, required=False) for name in TEXT_FIELDS]
    return ModelSignature(
        inputs=Schema(columns),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, -1))]),
        params=ParamSchema(
            [
                ParamSpec("dim", DataType.long, 0),
                ParamSpec("role", DataType.string, "query"),
                ParamSpec("storage", DataType.string, "float32"),
            ]
        ),
    )


def pinned_requirements() -> list[str]:
    """The installed versions. A local suffix (`2.13.0+cpu`) is cut off: no index that pip asks by itself knows it."""
    return [f"{name}=={installed_version(name).partition('+')[0]}" for name in SERVING_REQUIREMENTS]


def _registration(version: ModelVersion, *, is_new: bool) -> Registration:
    client = mlflow.MlflowClient()
    now: Any = client.get_model_version(version.name, version.version)
    return Registration(
        name=now.name,
        version=int(now.version),
        aliases=tuple(sorted(now.aliases)),
        decision=now.tags[DECISION_TAG],
        reason=now.tags[REASON_TAG],
        conditions=tuple(Condition(**one) for one in json.loads(now.tags.get(CONDITIONS_TAG, "[]"))),
        differences=tuple(Difference(**one) for one in json.loads(now.tags.get(DIFFERENCES_TAG, "[]"))),
        run_id=now.run_id,
        is_new=is_new,
    )
