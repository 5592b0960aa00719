"""Warnings before the first step of a training that would learn little, or whose metrics would show little."""

import logging
from collections.abc import Mapping
from pathlib import Path

from reelnest.backbones.registry import TINY, TINY_NOTE, family_of
from reelnest.encoder.saved import PROJECTION_FILE
from reelnest.evaluation.data_limits import no_test
from reelnest.evaluation.evaluation import ALL
from reelnest.evaluation.metrics import METRICS
from reelnest.evaluation.retrieval_sets import retrieval_sets
from reelnest.settings import Model, Params
from reelnest.store.prepared import Prepared
from reelnest.training.batches.pair_batches import PairBatcher
from reelnest.training.batches.sampler import BatchOrder

BATCHES = 50
"""How many batches of the first epoch are looked at."""

log = logging.getLogger(__name__)


def warn(params: Params, prepared: Prepared, batcher: PairBatcher, batch_order: BatchOrder) -> None:
    """Logs each warning once, with its count and what to do. Call it on the main process."""
    if params.model.name_or_path == TINY:
        log.info("training: %s", TINY_NOTE)
    _model(params.model)
    steps = batch_order.steps_per_epoch(params.train.accumulation_steps) * params.train.epochs
    if params.train.profile_steps is not None and params.train.profile_steps[0] > steps:
        log.warning("training: there are %d steps, so train.profile_steps: %s profiles none", steps, list(params.train.profile_steps))
    if not params.mining.negatives_per_pair:
        _few_negatives(batcher, batch_order)
    _no_test(prepared, "validation", {"train.best_metric": params.train.best_metric})
    metrics = {"evaluate.choice_metric": params.evaluate.choice_metric, "register.metric": params.registration.metric}
    _no_test(prepared, "test", metrics)


def _model(model: Model) -> None:
    """Warns of a model whose training loses precision, or what its base was published for."""
    if model.dtype == "bfloat16" and model.lora is None and model.freeze != "backbone":
        log.warning(
            "training: model.dtype: bfloat16 without model.lora trains weights with 8 bits, which round small updates away. Use"
            " dtype: float32 with train.mixed_precision: bf16, or set lora."
        )
    if (Path(model.name_or_path) / PROJECTION_FILE).is_file():
        starts = "with none (model.projection: null)" if model.projection is None else f"with a random one of width {model.projection}"
        log.warning("training: the projection of the base %s is not loaded; this training starts %s", model.name_or_path, starts)
    pooling = family_of(model).pooling
    if model.name_or_path != TINY and pooling not in (None, model.pooling):
        log.warning(
            "training: %s was published for the vectors of model.pooling: %s, and starts far from them with %s. Set pooling to %s.",
            *(model.name_or_path, pooling, model.pooling, pooling),
        )


def _few_negatives(batcher: PairBatcher, batch_order: BatchOrder) -> None:
    batches = batch_order.epoch(0)[:BATCHES]
    counts = [batcher.queries_without_negative(rows) for rows in batches]
    short = sum(2 * count > batch_order.batch_size for count in counts)
    if short:
        log.warning(
            "training: in %d of the first %d batches most queries have no negative (at most %d of %d queries), because all targets of the"
            " batch are relevant to them. Use a larger train.batch_size, train.no_duplicates: true, or mining.negatives_per_pair.",
            *(short, len(batches), max(counts), batch_order.batch_size),
        )


def _no_test(prepared: Prepared, split: str, chosen: Mapping[str, str]) -> None:
    """Warns of each metric of the settings, by key, in which models cannot differ on the split."""
    reasons = no_test(retrieval_sets(prepared, split), prepared).get(ALL, {})
    for metric in dict.fromkeys(name for name in chosen.values() if name in reasons):
        keys = " and ".join(key for key, name in chosen.items() if name == metric)
        log.warning(
            "training: %s is no test on the %s split, because %s. Add %s pairs, or change %s.",
            *(METRICS[metric].title, split, reasons[metric], split, keys),
        )
