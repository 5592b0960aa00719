"""A small, randomly initialised model of a family, in the format of the published checkpoints.

The whole chain runs and is tested with it on a laptop, through the same loading path as a model of 3 billion parameters.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import MODEL_MAPPING, PreTrainedModel, Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from reelnest.backbones.family import Family
from reelnest.backbones.loading import quiet_transformers
from reelnest.backbones.registry import TINY, family_of, mark_family
from reelnest.settings import Model, Tiny


def build_tiny(folder: Path, texts: Iterable[str], settings: Tiny, seed: int, family: Family | None = None) -> None:
    """Writes a Hugging Face folder: config, safetensors weights drawn from `seed`, and a tokenizer trained on `texts`.

    The default `family` is that of `model.name_or_path: tiny`. The same arguments give the same bytes. The caller's random state does not
    change.
    """
    folder.mkdir(parents=True, exist_ok=True)
    family = family or family_of(Model(name_or_path=TINY))
    tokenizer = family.tiny_tokenizer(texts, settings.vocabulary)
    config = family.tiny_config(settings, len(tokenizer), tokenizer.get_vocab().__getitem__)
    mark_family(config, family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = cast("type[PreTrainedModel]", MODEL_MAPPING[type(config)])(config)
    with quiet_transformers():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train_tokenizer(
    texts: Iterable[str], vocabulary: int, special_tokens: Sequence[str], *, end_of_text: str, padding: str
) -> Qwen2Tokenizer:
    """Trains Qwen's byte-level BPE on `texts`, with at most `vocabulary` tokens, special ones included."""
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
        vocab_size=vocabulary - len(special_tokens),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=2,
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    learnt = json.loads(learner.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=learnt["vocab"],
        merges=[tuple(pair) for pair in learnt["merges"]],  # type: ignore[misc]  # the class takes pairs, though its annotation does not say so
        eos_token=end_of_text,
        pad_token=padding,
        extra_special_tokens=[AddedToken(token, special=True, normalized=False) for token in special_tokens],
    )
