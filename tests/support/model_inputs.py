"""Texts and videos for a tiny model."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from reelnest.backbones.families.qwen2_5_vl import VISION
from reelnest.encoder.encoder import Encoder, load_encoder
from reelnest.settings import Model
from reelnest.store.entries import Entry, Role
from reelnest.video.frames import Frames
from reelnest.video.vision_spec import VisionSpec

TEXTS = ["a red circle moves from left to right on a dark ground", "a blue square grows", "title: two green stars turn"] * 20


def random_video(seed: int, grid: tuple[int, int, int] = (4, 4, 4), seconds: float = 0.5, vision: VisionSpec = VISION) -> Frames:
    rows = np.random.default_rng(seed).integers(0, 256, (int(np.prod(grid)), vision.row_width), dtype=np.uint8)
    return Frames.of(rows, grid, seconds, vision)


def mixed_entries(role: Role = "target", vision: VisionSpec = VISION) -> list[Entry]:
    """Texts and videos of several lengths, in turn."""
    return [
        Entry("query", "a red circle moves", None),
        Entry(role, "", random_video(1, vision=vision)),
        Entry("query", "a blue square grows on a dark ground, then turns to the left", None),
        Entry(role, "title: two green stars", random_video(2, (3, 12, 20), 1.0, vision)),
        Entry(role, "", random_video(3, (2, 4, 6), 0.25, vision)),
    ]


def trained(base: Path, settings: Model) -> tuple[Encoder, Any]:
    """An encoder whose trainable weights are not the base's."""
    torch.manual_seed(1)
    encoder, tokenizer = load_encoder(settings, base, training=True)
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return encoder.eval(), tokenizer
