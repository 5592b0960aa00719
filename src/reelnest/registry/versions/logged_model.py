"""The candidate as a logged model of MLflow, with the code that serves it and the requirements of a server."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import numpy as np
from mlflow.entities import LoggedModelStatus
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import AnyType

import reelnest
from reelnest.encoder.saved_settings import CARD_FILE
from reelnest.progress import Activity
from reelnest.records.formats import TEXT_FIELDS
from reelnest.registry.candidate import Candidate
from reelnest.registry.known_versions import MODEL_HASH_TAG
from reelnest.settings import Params

SERVED_MODEL = Path(__file__).with_name("served_model.py")
LOGGED_MODEL_NAME = "model"
# The packages that a server needs. The other dependencies are for training and orchestration.
SERVING_REQUIREMENTS = (
    "accelerate", "av", "decord2", "mlflow", "numpy", "pandas", "peft", "pillow", "pyarrow", "pydantic", "PyYAML", "safetensors",
    "tokenizers", "torch", "tqdm", "transformers",
)  # fmt: skip
MOST_ROWS = 256
MOST_MEGABYTES = 64
"""Limit for a video in a request, which is in memory as text and as bytes. A smaller `validate.max_video_megabytes` takes precedence."""


@dataclass(frozen=True)
class Documents:
    """The documents in a version's files."""

    lineage: Path
    """The folder that becomes `artifacts/lineage/`."""
    card: str
    """The model card, which becomes `README.md` in the version's copy of the model. The candidate, an output of DVC, is not changed."""


def logged_model(candidate: Candidate, experiment_id: str) -> str | None:
    """Returns the id of the candidate's logged model, if an earlier call logged it completely."""
    models = mlflow.MlflowClient().search_logged_models([experiment_id], f"tags.`{MODEL_HASH_TAG}` = '{candidate.hash}'")
    ready = [model.model_id for model in models if model.status == LoggedModelStatus.READY]
    return ready[0] if ready else None


def log_model(params: Params, candidate: Candidate, run_id: str, documents: Documents | None) -> str:
    """Logs the candidate into its run, and returns the logged model's id."""
    limits = params.validation
    config = {
        "rows": MOST_ROWS,
        "text_characters": limits.max_text_characters,
        "video_megabytes": min(MOST_MEGABYTES, limits.max_video_megabytes),
        "video_frames": limits.max_video_frames,
        "video_seconds": limits.max_video_seconds,
        "video_timeout_seconds": limits.decode_timeout_seconds,
    }
    # MLflow logs each step of this, which is of no use to the person who waits for it.
    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
    activity = Activity("saving the model in MLflow")
    folder = candidate.folder if documents is None else documents.lineage
    with (
        activity,
        _temporary_files_in(folder.parent),
        mlflow.start_run(run_id=run_id),
        _documented(candidate.folder, documents) as artifacts,
    ):
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
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Has this process write its temporary files there: MLflow copies the model to one, and `/tmp` is often small or in memory."""
    with TemporaryDirectory(prefix=".reelnest-", dir=folder) as scratch:
        before, tempfile.tempdir = tempfile.tempdir, scratch
        try:
            yield
        finally:
            tempfile.tempdir = before


@contextmanager
def _documented(model: Path, documents: Documents | None) -> Iterator[dict[str, str]]:
    """The files and folders that MLflow copies into the version, by the names that the served model uses."""
    if documents is None:
        yield {"model": str(model)}
        return
    with TemporaryDirectory(prefix=".reelnest-", dir=documents.lineage.parent) as scratch:
        # Hard links if possible: weights may have gigabytes, and MLflow copies them anyway.
        folder = shutil.copytree(model, Path(scratch) / model.name, copy_function=_link)
        card = folder / CARD_FILE
        card.unlink(missing_ok=True)  # it is a link, and writing to it would change the candidate
        card.write_text(documents.card, encoding="utf-8")
        yield {"model": str(folder), documents.lineage.name: str(documents.lineage)}


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def signature() -> ModelSignature:
    """Returns the signature of the served model. All columns are optional, so that a request may have texts, videos or both."""
    # `video` has any type instead of binary, because MLflow cannot decode a binary column with empty rows.
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
    """Returns the installed versions. Local suffixes (`2.13.0+cpu`) are removed, because PyPI does not have such versions."""
    return [f"{name}=={installed_version(name).partition('+')[0]}" for name in SERVING_REQUIREMENTS]
