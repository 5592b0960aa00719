"""The documents that are registered with a version: its lineage and its model card."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from reelnest.artifacts.evaluation_report import EvaluationReport
from reelnest.artifacts.lineage import Origins
from reelnest.artifacts.training_report import TrainingReport
from reelnest.artifacts.validation_report import ValidationReport
from reelnest.encoder.saved_settings import SETTINGS_FILE, saved_family
from reelnest.registry.candidate import Candidate
from reelnest.registry.lineage.lineage import LINEAGE_FOLDER, Lineage, find_origin, write_lineage
from reelnest.registry.lineage.model_card import model_card
from reelnest.registry.versions.logged_model import Documents
from reelnest.sample.sample import sample_seed
from reelnest.settings import Params
from reelnest.stages.workspace import Workspace


@contextmanager
def documented(
    workspace: Workspace, params: Params, candidate: Candidate, evaluation: EvaluationReport
) -> Iterator[tuple[Lineage, Documents]]:
    """Yields the candidate's lineage and model card, in files that are removed at the end of the block."""
    workspace.work.mkdir(exist_ok=True)
    with TemporaryDirectory(prefix="registration-", dir=workspace.work) as scratch:
        folder = Path(scratch) / LINEAGE_FOLDER
        folder.mkdir()
        validation = ValidationReport.read_if_there(workspace.reports)
        training = TrainingReport.read_if_there(workspace.reports)
        lineage = write_lineage(workspace.root, folder, candidate.hash, evaluation, validation, sample_seed(workspace.data))
        settings = json.loads((candidate.folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        card = model_card(params.registration.name, saved_family(candidate.folder), settings, evaluation, training, lineage)
        yield lineage, Documents(folder, card)


def origins_of(params: Params, version: int) -> Origins | None:
    """Returns the origins in a version's lineage; None if it has no lineage."""
    with TemporaryDirectory(prefix="reelnest-") as folder:
        lineage = find_origin(params, str(version), Path(folder)).lineage
    return lineage.origins if lineage else None
