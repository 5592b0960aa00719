"""A small, randomly initialised Qwen2.5-VL, in the format of the published checkpoints.

It has every part of the real one (window attention in the vision tower, merger, three-dimensional rotary positions), so that the whole
chain runs, and is tested, on a laptop through the one loading path that the 3B model takes.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLModel, Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from reelnest.settings import Tiny
from reelnest.video.patches import MERGE_SIZE, PATCH_SIZE, TEMPORAL_PATCH_SIZE

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
WINDOW_SIZE = 112
"""Pixels on a side of the vision tower's attention windows, as in the published models; a smaller frame is one window."""
TOKENS_PER_SECOND = 4
"""Steps of the temporal position in a second. The published models have 2; short clips would get equal positions for different times."""


def build_tiny(folder: Path, texts: Iterable[str], settings: Tiny, seed: int) -> None:
    """Writes a Hugging Face folder: config, safetensors weights drawn from `seed`, and a tokenizer trained on `texts`.

    The same arguments give the same bytes. The caller's random state is left as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _train_tokenizer(texts, settings.vocabulary)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLModel(tiny_config(settings, len(tokenizer), tokenizer.convert_tokens_to_ids))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def tiny_config(settings: Tiny, vocabulary: int, token: Callable[[str], int]) -> Qwen2_5_VLConfig:
    """The architecture of `settings` for a tokenizer of `vocabulary` tokens; `token` gives the number of a special one."""
    half_head = settings.hidden_size // settings.heads // 2
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": settings.hidden_size,
            "intermediate_size": 3 * settings.hidden_size,
            "num_hidden_layers": settings.layers,
            "num_attention_heads": settings.heads,
            "num_key_value_heads": settings.heads,
            "max_position_embeddings": 32768,
            "initializer_range": settings.initializer_range,
            # Qwen's shares for time, height and width (16, 24, 24 of 64), here of half a head.
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [half_head // 4, half_head * 3 // 8, half_head * 3 // 8],
            },
            "bos_token_id": token("<|endoftext|>"),
            "eos_token_id": token("<|im_end|>"),
            # No pad_token_id: it would freeze that token's embedding at zero, and padding shares its token with the pooled end of a row.
        },
        vision_config={
            "depth": settings.vision_layers,
            "hidden_size": settings.vision_hidden_size,
            "intermediate_size": 3 * settings.vision_hidden_size,
            "num_heads": settings.vision_heads,
            "out_hidden_size": settings.hidden_size,
            "patch_size": PATCH_SIZE,
            "spatial_merge_size": MERGE_SIZE,
            "temporal_patch_size": TEMPORAL_PATCH_SIZE,
            "tokens_per_second": TOKENS_PER_SECOND,
            "window_size": WINDOW_SIZE,
            "fullatt_block_indexes": [settings.vision_layers - 1],
            "initializer_range": settings.initializer_range,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )


def _train_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """Qwen's byte-level BPE with merges learnt from `texts`; at most `vocabulary` tokens, the special ones among them."""
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.NFC()
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    learner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=2,
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    learnt = json.loads(learner.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=learnt["vocab"],
        merges=[tuple(pair) for pair in learnt["merges"]],  # type: ignore[misc]  # pairs are what the class wants, whatever it says
        eos_token="<|im_end|>",  # noqa: S106 (a token of text, no secret)
        pad_token="<|endoftext|>",  # noqa: S106
        extra_special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
    )
