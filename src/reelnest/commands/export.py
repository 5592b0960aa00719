"""`reelnest export`: writes the trained model with its adapters merged into the base, or only the adapters.

This is not a DVC stage, because no stage reads its output.
"""

import logging
from pathlib import Path

from pydantic import ValidationError
from transformers import AutoTokenizer

from reelnest.backbones.loading import quiet_transformers
from reelnest.commands.export_inputs import check_export
from reelnest.encoder.encoder import COMPUTE_DTYPES, load_encoder
from reelnest.encoder.lora import has_adapters
from reelnest.encoder.saved import load, save_model
from reelnest.encoder.saved_settings import SETTINGS_FILE
from reelnest.errors import ConfigError, ModelError
from reelnest.settings import Model, Params, Preprocess
from reelnest.stages.workspace import Workspace
from reelnest.training.checkpoint.checkpoints import Checkpoints, training_key

ENCODER = "encoder."
"""Prefix of the encoder's weights in a checkpoint, which also holds those of the loss."""

log = logging.getLogger(__name__)


def run(workspace: Workspace, params: Params, folder: Path, *, adapter: bool) -> None:
    """Writes `models/candidate/` to a new `folder` with merged weights, or with `adapter` the adapters and the name of the base.

    The adapters are read from the best checkpoint of the training, since they cannot be extracted from merged weights. Raises ModelError if
    the folder exists, the candidate was trained without LoRA or its checkpoint is missing, and ConfigError for a base without a name.
    """
    stored = check_export(workspace, folder)
    preprocess, text_fields = Preprocess.model_validate(stored["preprocess"]), stored["text_fields"]
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(str(workspace.candidate), trust_remote_code=False)
    settings = _in_form(stored["model"], merge=not adapter)
    if not adapter:
        encoder = load(workspace.candidate, device="cpu").encoder
    else:
        # Adapters are the same for a 4-bit and an unquantised base, and the unquantised one needs no GPU.
        unquantised = settings.model_copy(update={"load_in_4bit": False})
        encoder, _ = load_encoder(unquantised, settings.name_or_path, training=True)
        checkpoints = Checkpoints(workspace.work / "checkpoints", training_key(params, workspace.prepared))
        if not checkpoints.best.is_file():
            raise ModelError(
                f"{checkpoints.best} is missing: the checkpoint for these settings, this data and this version of the code, from which the"
                " adapters are read. Run `reelnest train`; with model.lora.merge: false it saves the adapters itself."
            )
        best = checkpoints.best_weights()
        encoder.load_trainable_state({name.removeprefix(ENCODER): best[name] for name in best if name.startswith(ENCODER)})
    encoder.autocast_dtype = COMPUTE_DTYPES[stored.get("precision", "no")]
    save_model(folder, encoder, tokenizer, settings, preprocess, text_fields)
    kind = "adapters" if adapter else "full model, adapters merged" if has_adapters(encoder.backbone) else "full model"
    log.info("%s: %s", folder, kind)


def _in_form(stored: dict[str, object], *, merge: bool) -> Model:
    lora = stored["lora"]
    assert isinstance(lora, dict)  # noqa: S101 (the caller checked it)
    try:
        return Model.model_validate({**stored, "lora": {**lora, "merge": merge}, "load_in_4bit": not merge and stored["load_in_4bit"]})
    except ValidationError as error:
        raise ConfigError(f"{SETTINGS_FILE}: {error.errors()[0]['ctx']['error']}.") from error
