"""Training steps with results that must be equal for one and for two processes. `figures` gives those of the calling process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor

from reelnest.backbones.families.qwen2_5_vl import FAMILY
from reelnest.encoder.batches import Batch, Batcher
from reelnest.encoder.encoder import load_encoder
from reelnest.search import topk
from reelnest.search.sharded import sharded_topk
from reelnest.settings import Mining, Model, Params
from reelnest.store.prepared import Pairs, Prepared
from reelnest.training.batches.negatives import ExtraNegatives
from reelnest.training.batches.pair_batches import PairBatcher
from reelnest.training.batches.sampler import BatchOrder
from reelnest.training.checkpoint.checkpoints import (
    Checkpoints,
)
from reelnest.training.contrastive_model import ContrastiveModel
from reelnest.training.distributed import Decision, StepVotes, mean_over_processes
from reelnest.training.frozen import cache_frozen_features
from reelnest.training.loop import Training, TrainingData
from reelnest.training.tracker import Trackers
from tests.integration.training.training_workspace import TINY

CASES = ("all_trained", "text_only_share", "lora", "accumulated", "mean_pooled_projection", "cached", "adaptive")


def settings(case: str) -> Params:
    """One case's settings."""
    model: dict[str, Any] = {"tiny": TINY, "dims": [8, 16, 32]}
    train: dict[str, Any] = {"batch_size": 12, "trackers": []}
    loss: dict[str, Any] = {"learn_temperature": True, "dim_weights": [1, 2, 3]}
    if case == "lora":
        model["lora"] = {"r": 4, "vision": True}
        loss["dim_weights"] = "learnt"
    if case == "mean_pooled_projection":
        model |= {"pooling": "mean", "projection": 48, "freeze": "backbone"}
        loss |= {"dim_weights": "random", "intra_modal_negatives": True, "false_negative_margin": 0.2, "graded_relevance": True}
    if case in ("accumulated", "cached"):
        train["accumulation_steps"] = 3
    if case == "cached":
        train["micro_batch_size"] = 2
    if case == "adaptive":
        train["adaptive_batch_size"] = True
    return Params.model_validate({"model": model, "train": train, "loss": loss, "launch": {"config": "cpu-1"}})


def batches(case: str, prepared: Prepared, pairs: Pairs) -> np.ndarray:
    """(batches, 12) row numbers of pairs; in one case the second half of them are text to text."""
    if case != "text_only_share":
        return BatchOrder(len(pairs), 12, seed=5).epoch(0)[: settings(case).train.accumulation_steps]
    sides = zip(pairs.queries.tolist(), pairs.targets.tolist(), strict=True)
    is_text = np.array([all(prepared.item(item).kind == "text" for item in pair) for pair in sides])
    text, with_video = np.flatnonzero(is_text), np.flatnonzero(~is_text)
    return np.concatenate([with_video[:6], np.resize(text, 6)])[None]


def model_of(params: Params, base: Path) -> tuple[ContrastiveModel, Any]:
    """The same weights in every process; adapters that are not zero."""
    torch.manual_seed(1)
    encoder, tokenizer = load_encoder(params.model, base, training=True)
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return ContrastiveModel(encoder, params.loss, params.model.dims), tokenizer


def little_memory() -> Callable[[torch.nn.Module, tuple[Batch]], None]:
    """A hook on an encoder: with a graph, it has memory for no more than 0.4 of the first batch's tokens."""
    seen: list[int] = []

    def check(_module: torch.nn.Module, inputs: tuple[Batch]) -> None:
        assert inputs[0].packing is not None
        seen.append(len(inputs[0].packing.tokens))
        if torch.is_grad_enabled() and seen[-1] > 0.4 * seen[0]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 5.00 GiB.")

    return check


def figures(case: str, prepared_folder: Path, base: Path) -> dict[str, Tensor]:
    """Loss by dim over all processes, and each trainable parameter's gradient, after one real step's backward passes.

    One process embeds all at once and is the reference. In some cases there are extra negatives; in one, the second process
    has memory for less than half of its share at a time.
    """
    params = settings(case)
    accelerator = Accelerator(cpu=True)
    prepared = Prepared.open(prepared_folder)
    pairs = prepared.pairs("train")
    model, tokenizer = model_of(params, base)
    rank, processes = accelerator.process_index, accelerator.num_processes
    batcher = PairBatcher(
        prepared,
        pairs,
        Batcher(tokenizer, params.model, FAMILY),
        rank,
        processes,
        negatives=(lambda row: np.array([3 * row, 5 * row + 1]) % len(prepared)) if case in ("lora", "cached") else None,
        intra_modal=params.loss.needs_intra_modal_relations,
    )
    data = TrainingData(batcher, BatchOrder(len(pairs), 12, 5))
    training = Training(params, accelerator, model, data, Checkpoints(Path("unused"), "key"), Trackers())
    training.state.micro_batch_size = params.train.micro_batch_size if processes > 1 else None
    if case == "adaptive" and rank == 1:
        model.encoder.register_forward_pre_hook(little_memory())
    losses = training.step.gradients([batcher(rows) for rows in batches(case, prepared, pairs)], training.state)
    if case == "adaptive":
        assert training.state.micro_batch_size == (1 if processes > 1 else None)
    results = {"loss": mean_over_processes(losses.total), "losses": mean_over_processes(losses.by_dim)}
    for name, parameter in training.model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            results[f"gradient {name}"] = parameter.grad.clone()
    return results


def mined_figures(prepared_folder: Path, base: Path) -> dict[str, Tensor]:
    """The extra negatives of all pairs, mined with the initial model."""
    params = settings("all_trained")
    prepared = Prepared.open(prepared_folder)
    pairs = prepared.pairs("train")
    model, tokenizer = model_of(params, base)
    params = params.model_copy(update={"mining": Mining(negatives_per_pair=2, ranks=(1, 3), batch_size=8)})
    batcher = Batcher(tokenizer, params.model, FAMILY)
    negatives = ExtraNegatives(prepared, pairs, model.encoder, batcher, params, steps_per_epoch=1)
    figures = negatives.renew(0)
    table = torch.from_numpy(np.stack([negatives(row) for row in range(len(pairs))]))
    return {"table": table, **{name: torch.tensor(value) for name, value in figures.items()}}


def keep(prepared_folder: Path, base: Path, folder: Path) -> None:
    """Caches the features of the frozen vision tower with all processes."""
    params = settings("accumulated").model_copy(update={"model": Model.model_validate({"tiny": TINY, "dims": [8, 32], "freeze": "vision"})})
    model, tokenizer = model_of(params, base)
    cache_frozen_features(Prepared.open(prepared_folder), "data", model.encoder, tokenizer, params, Accelerator(cpu=True), folder)


def searched(block_scores: int = 60) -> dict[str, Tensor]:
    """An exact search in small blocks, shared by all processes, with equal scores on both sides of the corpus's split."""
    numbers = torch.Generator().manual_seed(3)
    queries, corpus = torch.randn(15, 8, generator=numbers), torch.randn(41, 8, generator=numbers)
    corpus[[3, 19, 20, 21, 40]] = corpus[3].clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topk, "BLOCK_SCORES", block_scores)
        rankings = sharded_topk(queries, corpus, [2, 8], 30)
    return {f"{dim} {name}": getattr(ranking, name) for dim, ranking in rankings.items() for name in ("indices", "scores")}


def decisions() -> list[Decision]:
    """The decisions of ten steps.

    From the third on the first process requests a checkpoint until it is written; from the seventh on the second requests a stop.
    """
    votes, decided = StepVotes(), list[Decision]()
    rank, due = dist.get_rank(), False
    for step in range(1, 11):
        due = due or step == 3
        decided.append(votes.decide(stop=rank == 1 and step >= 7, checkpoint=rank == 0 and due))
        due = due and not decided[-1].checkpoint
    return decided
