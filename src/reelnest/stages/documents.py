"""What is kept with a version when it is registered: its lineage and its model card."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from reelnest.encoder.saved_settings import SETTINGS_FILE, saved_family
from reelnest.errors import RegistryError
from reelnest.registry.candidate import Candidate
from reelnest.registry.lineage.lineage import LINEAGE_FOLDER, Lineage, find_origin, keep_lineage
from reelnest.registry.lineage.model_card import model_card
from reelnest.registry.versions.versions import Documents
from reelnest.sample.sample import sample_seed
from reelnest.settings import Params
from reelnest.stages.workspace import Workspace


@contextmanager
def documented(
    workspace: Workspace, params: Params, candidate: Candidate, evaluation: Mapping[str, Any]
) -> Iterator[tuple[Lineage, Documents]]:
    """The candidate's lineage and model card, in files that are there until the block ends. `evaluation` is `reports/evaluation.json`."""
    workspace.work.mkdir(exist_ok=True)
    with TemporaryDirectory(prefix="registration-", dir=workspace.work) as scratch:
        folder = Path(scratch) / LINEAGE_FOLDER
        folder.mkdir()
        validation, training = (_report(workspace.reports / f"{name}.json") for name in ("validation", "training"))
        lineage = keep_lineage(workspace.root, folder, candidate.hash, evaluation, validation, sample_seed(workspace.data))
        settings = json.loads((candidate.folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        card = model_card(params.registration.name, saved_family(candidate.folder), settings, evaluation, training, lineage)
        yield lineage, Documents(folder, card)


def told_lineage(params: Params, version: int) -> dict[str, Any] | None:
    """The part of a version's lineage that fits on a page: of an earlier registration where the model was registered before."""
    with TemporaryDirectory(prefix="reelnest-") as folder:
        found = find_origin(params, str(version), Path(folder)).lineage
    return found.model_dump(mode="json", include={"commit", "data", "flow_run", "validation", "environment"}) if found else None


def _report(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RegistryError(f"{path}: not readable as JSON: {error}. Run `dvc repro`, which writes it anew.") from error
    return found
