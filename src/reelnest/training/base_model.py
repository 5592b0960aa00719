"""The base model of a training."""

import hashlib
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from reelnest.atomic_files import atomic_folder
from reelnest.backbones.registry import TINY, family_of
from reelnest.backbones.tiny import build_tiny
from reelnest.settings import Params
from reelnest.store.prepared import Pairs, Prepared, fields_text


def base_model(params: Params, prepared: Prepared, pairs: Pairs, accelerator: Accelerator, work: Path) -> str | Path:
    """Returns the name or folder of the base. For `tiny` it is a folder in `work`, which the main process builds while the others wait."""
    if params.model.name_or_path != TINY:
        return params.model.name_or_path
    texts = sorted(set(_texts(prepared, pairs)) | {params.model.query_instruction, params.model.target_instruction})
    family = family_of(params.model)
    facts = [
        family.model_type,
        params.model.tiny.model_dump(mode="json"),
        params.train.seed,
        version("reelnest"),
        version("transformers"),
        texts,
    ]
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    folder = work / f"tiny-{key}"
    with accelerator.main_process_first():
        if not folder.is_dir():
            with atomic_folder(folder) as aside:
                build_tiny(aside, texts, params.model.tiny, params.train.seed, family)
    return folder


def _texts(prepared: Prepared, pairs: Pairs) -> Iterator[str]:
    """Yields the texts of the training split, from texts and videos. A tokenizer must not see the test split."""
    for index in np.unique(np.concatenate([pairs.queries, pairs.targets])):
        item = prepared.item(int(index))
        yield item.key if item.kind == "text" else fields_text(item.fields)
