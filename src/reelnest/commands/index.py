"""An index of the videos of a data folder, and opening it again with the model that made it.

Not DVC stages: an index is made where it is served, of whatever model is in use there.
"""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from reelnest.encoder.manifest import ABOUT_THE_MODEL
from reelnest.encoder.saved import load
from reelnest.encoder.saved_settings import SETTINGS_FILE
from reelnest.engines.engine import ENGINES, Engine, IndexStorage
from reelnest.errors import DataError, ModelError
from reelnest.records.content_hash import folder_hash
from reelnest.serving.indexing import Indexed, IndexOptions, ModelSource, build_index
from reelnest.serving.searcher import OpenModel, Searcher
from reelnest.settings import Params
from reelnest.stages.workspace import Workspace
from reelnest.store.frame_store import FrameStore
from reelnest.store.prepared import STORE_FOLDER
from reelnest.video.decoder import Limits

log = logging.getLogger(__name__)

REGISTRY = "models:/"
UPLOAD_MEGABYTES, UPLOAD_SECONDS = 64.0, 30.0
"""Of a video that somebody searches with, and of the time to decode it; `validate`'s limits where these are less."""


def run(
    workspace: Workspace, params: Params, model: str, data: Path, out: Path, *, storage: IndexStorage = "float32", graph: bool | None = None
) -> Indexed:
    """Writes the index of `data` to `out`. `model` is a folder, or `models:/name@alias` of the registry."""
    if not data.is_dir():
        raise DataError(f"{data}: no such folder. Give the folder that holds videos.jsonl (--data).")
    model_folder, name, model_hash = _find(workspace, params, model)
    limits = Limits.of(params.validation)
    opened = load(model_folder, limits=limits)
    # Seen from the index, so that the two may move together.
    name = name if name.startswith(REGISTRY) else os.path.relpath(model_folder.resolve(), out.resolve())
    source = ModelSource(opened, name, model_hash, _base(model_folder))
    options = IndexOptions(limits, storage, graph, params.evaluate.batch_size, _store(workspace))
    indexed = build_index(source, data, open_engine(out), out, workspace.work / "index", options)
    opened.close()
    return indexed


def open_searchers(workspace: Workspace, params: Params, folders: Sequence[Path], model: str | None = None) -> list[Searcher]:
    """An index and its model each; indexes of one model share it. `model` opens them in place of the one that each names.

    Raises DataError for what is no index, ModelError where its model is gone or another one.
    """
    limits = Limits.of(params.validation)
    limits = Limits(min(limits.megabytes, UPLOAD_MEGABYTES), limits.frames, limits.seconds, min(limits.timeout_seconds, UPLOAD_SECONDS))
    models: dict[str, OpenModel] = {}
    searchers = []
    for folder in folders:
        engine = open_engine(folder)
        name = model or engine.manifest.model
        if model is None and not name.startswith(REGISTRY):
            name = os.path.normpath(folder.resolve() / name)
        if name not in models:
            model_folder, _, model_hash = _find(workspace, params, name)
            # Two names may lead to one model.
            same = next((opened for opened in models.values() if opened.hash == model_hash), None)
            models[name] = same or OpenModel(load(model_folder, limits=limits), model_hash, limits)
        characters = params.validation.max_text_characters
        searchers.append(Searcher(engine, folder, models[name], shortlist=params.evaluate.shortlist, most_characters=characters))
    return searchers


def open_engine(folder: Path) -> Engine:
    """What stores and searches the index in this place."""
    return ENGINES["folder"](str(folder))


def _find(workspace: Workspace, params: Params, name: str) -> tuple[Path, str, str]:
    """The folder of a model, its lasting name and its hash."""
    if name.startswith(REGISTRY):
        # Only here: MLflow takes seconds to import, and whoever searches with a folder's model needs none of it.
        from reelnest.registry.versions.fetched_model import fetch_model

        fetched = fetch_model(params, name, workspace.work / "models")
        return fetched.folder, fetched.name, fetched.hash
    folder = Path(name)
    if not (folder / SETTINGS_FILE).is_file():
        raise ModelError(f"{folder}: no saved model. Give a folder that training saved, or models:/name@champion (--model).")
    return folder, name, folder_hash(folder, without=ABOUT_THE_MODEL)


def _base(folder: Path) -> str:
    return str(json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))["model"]["name_or_path"])


def _store(workspace: Workspace) -> FrameStore | None:
    """What preprocessing decoded, if it is there: frames of the same bytes and settings need not be decoded again."""
    try:
        return FrameStore.open(workspace.prepared / STORE_FOLDER)
    except DataError:
        return None
