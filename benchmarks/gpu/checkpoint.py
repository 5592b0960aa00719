"""A checkpoint with random weights, in a folder, for code that opens one."""

from pathlib import Path

import torch
from transformers import AutoModel

from benchmarks.gpu.reporting import Run
from reelnest.backbones.architecture import backbone_config
from reelnest.backbones.loading import quiet_transformers
from reelnest.backbones.registry import family_of
from reelnest.settings import Params

WORDS = [f"w{number}" for number in range(1000)]


def checkpoint_folder(run: Run, params: Params) -> Path:
    """Returns the folder with weights of `params.model` and a small tokenizer. The first check that needs it writes it."""
    folder, family = run.folder / "checkpoint", family_of(params.model)
    if (folder / "complete").is_file():
        return folder
    config = backbone_config(params.model)
    tokenizer = family.tiny_tokenizer(WORDS, 512)
    ids = tokenizer.convert_tokens_to_ids
    for name, token in (("image", "image_pad"), ("video", "video_pad"), ("vision_start", "vision_start"), ("vision_end", "vision_end")):
        setattr(config, f"{name}_token_id", ids(f"<|{token}|>"))
    torch.manual_seed(0)
    with torch.device(run.device):
        model = AutoModel.from_config(config, dtype=getattr(torch, params.model.dtype))
    with quiet_transformers():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "complete").touch()
    return folder
