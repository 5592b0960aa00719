"""Builds an index of the videos of a data folder, and opens an index with the model that made it.

These are not DVC stages, because an index is built where it is served, with the model in use there.
"""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from reelnest.commands.search_inputs import check_model, check_videos, stored_model
from reelnest.encoder.saved import load
from reelnest.encoder.saved_settings import ABOUT_THE_MODEL, SETTINGS_FILE
from reelnest.engines.engine import base_folder, check_engine, open_engine
from reelnest.errors import DataError
from reelnest.records.content_hash import folder_hash
from reelnest.registry.known_versions import REGISTRY
from reelnest.serving.indexing import Indexed, IndexForm, IndexOptions, ModelSource, build_index
from reelnest.serving.searcher import OpenModel, Searcher
from reelnest.settings import Params
from reelnest.stages.workspace import Workspace
from reelnest.store.frame_store import FrameStore
from reelnest.store.prepared import STORE_FOLDER
from reelnest.video.decoder import Limits

log = logging.getLogger(__name__)

UPLOAD_MEGABYTES, UPLOAD_SECONDS = 64.0, 30.0
"""Limits of an uploaded query video and of its decoding time. The limits of `validate` apply too."""


def run(workspace: Workspace, params: Params, model: str, data: Path, to: str, form: IndexForm | None = None) -> Indexed:
    """Writes the index of `data` to the location `to`. `model` is a folder, or a registered model such as `models:/name@alias`."""
    check_videos(data)
    check_engine(to)  # before hours of encoding
    model_folder, name, model_hash = _find(workspace, params, model)
    limits = Limits.of(params.validation)
    opened = load(model_folder, limits=limits, precision=params.evaluate.precision)
    # Relative to the index, so that both can be moved together.
    name = name if name.startswith(REGISTRY) else os.path.relpath(model_folder.resolve(), base_folder(to))
    engine = open_engine(to)
    source = ModelSource(opened, name, model_hash, _base(model_folder))
    options = IndexOptions(limits, params.index, workspace.frames, form or IndexForm(), params.evaluate.batch_size, _store(workspace))
    indexed = build_index(source, data, engine, to, workspace.work / "index", options)
    opened.close()
    engine.close()
    return indexed


def open_searchers(
    workspace: Workspace, params: Params, indexes: Sequence[str], model: str | None = None, opened: Sequence[OpenModel] = ()
) -> list[Searcher]:
    """Opens each index with its model; indexes with the same model share it, also one of those that are `opened`.

    `model` replaces the model that the indexes name.

    Raises DataError for a location that holds no index, ModelError if its model is missing or has another hash.
    """
    limits = Limits.of(params.validation)
    limits = Limits(min(limits.megabytes, UPLOAD_MEGABYTES), limits.frames, limits.seconds, min(limits.timeout_seconds, UPLOAD_SECONDS))
    models = {(each.hash, each.precision): each for each in opened}
    model_folders: dict[str, tuple[Path, str, str]] = {}
    searchers = []
    for index in indexes:
        engine = open_engine(index)
        name = model or stored_model(index, engine.manifest.model)
        if name not in model_folders:
            model_folders[name] = _find(workspace, params, name)
        model_folder, _, model_hash = model_folders[name]
        precision = engine.manifest.precision  # a query's vector is computed as those of the index were
        key = model_hash, precision
        if key not in models:
            models[key] = OpenModel(load(model_folder, limits=limits, precision=precision), *key)
        characters = params.validation.max_text_characters
        searchers.append(Searcher(engine, index, models[key], shortlist=params.evaluate.shortlist, most_characters=characters))
    return searchers


def _find(workspace: Workspace, params: Params, name: str) -> tuple[Path, str, str]:
    """Returns the folder of a model, its permanent name and its hash."""
    if name.startswith(REGISTRY):
        # Imported here because MLflow takes seconds to import, and a model in a folder does not need it.
        from reelnest.registry.versions.fetched_model import fetch_model

        fetched = fetch_model(params, name, workspace.work / "models")
        return fetched.folder, fetched.name, fetched.hash
    check_model(params, name)
    folder = Path(name)
    return folder, name, folder_hash(folder, without=ABOUT_THE_MODEL)


def _base(folder: Path) -> str:
    return str(json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))["model"]["name_or_path"])


def _store(workspace: Workspace) -> FrameStore | None:
    """Returns the frame store of preprocessing, if it exists: videos with the same bytes and settings are not decoded again."""
    try:
        return FrameStore.open(workspace.prepared / STORE_FOLDER)
    except DataError:
        return None
