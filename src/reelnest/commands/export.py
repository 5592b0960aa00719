"""The trained model in the other form: adapters merged into the base, or the adapters alone.

Not a DVC stage: it writes where it is told to, and nothing reads it here.
"""

import json
import logging
from pathlib import Path

from pydantic import ValidationError
from transformers import AutoTokenizer

from reelnest.backbones.loading import quiet_transformers
from reelnest.encoder.encoder import load_encoder
from reelnest.encoder.lora import has_adapters
from reelnest.encoder.saved import load, save_model
from reelnest.encoder.saved_settings import SETTINGS_FILE
from reelnest.errors import ConfigError, ModelError
from reelnest.settings import Model, Params, Preprocess
from reelnest.stages.workspace import Workspace
from reelnest.training.checkpoint.checkpoints import Checkpoints, training_key

ENCODER = "encoder."
"""What the names of the encoder's weights begin with in a checkpoint, which also holds the loss's."""

log = logging.getLogger(__name__)


def run(workspace: Workspace, params: Params, folder: Path, *, adapter: bool) -> None:
    """Writes `models/candidate/` anew to `folder`, which must not be there: whole, or with `adapter` the adapters and the base's name.

    Adapters come from the training's best checkpoint, since they cannot be taken out of merged weights. Raises ModelError where the
    candidate was trained without LoRA, or its checkpoint is gone, and ConfigError for a base that has no name.
    """
    if folder.exists():
        raise ModelError(f"{folder}: is there already. Name another folder, or remove it.")
    stored = json.loads(_settings_file(workspace.candidate).read_text(encoding="utf-8"))
    if stored["model"]["lora"] is None:
        raise ModelError(f"{workspace.candidate}: was trained without LoRA (model.lora: null), so it has one form only, this one.")
    preprocess, text_fields = Preprocess.model_validate(stored["preprocess"]), stored["text_fields"]
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(str(workspace.candidate), trust_remote_code=False)
    settings = _in_form(stored["model"], merge=not adapter)
    if not adapter:
        encoder = load(workspace.candidate, device="cpu").encoder
    else:
        # Adapters are the same beside a base of 4 bits and a whole one, and the whole one needs no GPU.
        whole = settings.model_copy(update={"load_in_4bit": False})
        encoder, _ = load_encoder(whole, settings.name_or_path, training=True)
        checkpoints = Checkpoints(workspace.work / "checkpoints", training_key(params, workspace.prepared))
        if not checkpoints.best.is_file():
            raise ModelError(
                f"{checkpoints.best}: no such file. The adapters are read from the checkpoint of the training that params.yaml and"
                " prepared/ describe, by this version of the code: run `reelnest train` for it, or set model.lora.merge to false before."
            )
        best = checkpoints.best_weights()
        encoder.load_trainable_state({name.removeprefix(ENCODER): best[name] for name in best if name.startswith(ENCODER)})
    save_model(folder, encoder, tokenizer, settings, preprocess, text_fields)
    kind = "adapters" if adapter else "whole model, adapters merged" if has_adapters(encoder.backbone) else "whole model"
    log.info("%s: %s", folder, kind)


def _settings_file(candidate: Path) -> Path:
    path = candidate / SETTINGS_FILE
    if not path.is_file():
        raise ModelError(f"{path}: no such file. Run `reelnest train` first.")
    return path


def _in_form(stored: dict[str, object], *, merge: bool) -> Model:
    lora = stored["lora"]
    assert isinstance(lora, dict)  # noqa: S101 (the caller saw to it)
    try:
        return Model.model_validate({**stored, "lora": {**lora, "merge": merge}, "load_in_4bit": not merge and stored["load_in_4bit"]})
    except ValidationError as error:
        raise ConfigError(f"{SETTINGS_FILE}: {error.errors()[0]['ctx']['error']}.") from error
