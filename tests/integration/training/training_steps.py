"""Training steps with results that must be equal for one and for two processes.

Run by accelerate on two processes: `--module tests.integration.training.training_steps <prepared> <base> <output> <checkout>…` writes the
figures of each case and what a sharded model gives, and then trains in each checkout. `figures` gives the same cases' figures in the
calling process.
"""

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from reelnest.backbones.families.qwen2_5_vl import FAMILY
from reelnest.encoder.batches import Batch, Batcher
from reelnest.encoder.ema import Ema
from reelnest.encoder.encoder import load_encoder
from reelnest.evaluation.split_evaluation import evaluate_split
from reelnest.search import topk
from reelnest.search.sharded import sharded_topk
from reelnest.settings import Mining, Model, Params, load_params
from reelnest.stages import train
from reelnest.stages.workspace import Workspace
from reelnest.store.prepared import Pairs, Prepared
from reelnest.training.batches.negatives import ExtraNegatives
from reelnest.training.batches.pair_batches import PairBatcher
from reelnest.training.batches.sampler import BatchOrder
from reelnest.training.checkpoint.checkpoints import (
    Checkpoints,
    load_optimizer_state,
    load_trainable_state,
    optimizer_state,
    trainable_state,
)
from reelnest.training.contrastive_model import ContrastiveModel
from reelnest.training.distributed import Decision, StepVotes, mean_over_processes, sharding_policy
from reelnest.training.frozen import cache_frozen_features
from reelnest.training.gradients.gradient_cache import GradientCache, ModelCalls
from reelnest.training.loop import Training, TrainingData, unsharded
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


def shard(model: ContrastiveModel, mixed_precision: str = "no") -> None:
    """Shards the model over the processes, as configs/accelerate/gpu-fsdp2.yaml does on GPUs."""
    backbone: Any = model.encoder.backbone
    policy = sharding_policy(mixed_precision)
    for block in [*backbone.language_model.layers, *backbone.visual.blocks]:
        fully_shard(block, mp_policy=policy)
    fully_shard(model, mp_policy=policy)


def sharded_training(prepared_folder: Path, base: Path, folder: Path) -> dict[str, Tensor]:
    """Losses of the loop's steps on a sharded model: three in a row, and the last two again after a checkpoint."""
    params = settings("all_trained")
    train = params.train.model_copy(update={"optimizer": "adamw", "ema_decay": 0.5, "micro_batch_size": 4})
    params = params.model_copy(update={"train": train})
    prepared = Prepared.open(prepared_folder)
    pairs = prepared.pairs("train")
    rows = batches("accumulated", prepared, pairs)

    def training() -> Training:
        model, tokenizer = model_of(params, base)
        shard(model)
        accelerator = Accelerator(cpu=True)
        accelerator.prepare_model = lambda model, **_: model  # type: ignore[method-assign]  # accelerate itself shards on GPUs alone
        batcher = PairBatcher(prepared, pairs, Batcher(tokenizer, params.model, FAMILY), dist.get_rank(), 2)
        data = TrainingData(batcher, BatchOrder(len(pairs), 12, 5))
        return Training(params, accelerator, model, data, Checkpoints(folder, "sharded"), Trackers())

    def losses(training: Training, steps: slice) -> Tensor:
        for batch in rows[steps]:
            training.take_step(0, training._make_step(batch[None]))
        return torch.tensor([row.losses for row in training._history.flush()])

    unbroken = training()
    first = losses(unbroken, slice(0, 1))
    unbroken._snapshots.save(unbroken.state)
    average = unbroken.step.ema.state()["averages"]["encoder.backbone.language_model.norm.weight"]  # type: ignore[union-attr]
    rest = losses(unbroken, slice(1, 3))
    resumed = training()
    resumed.resume()
    again = resumed.step.ema.state()["averages"]["encoder.backbone.language_model.norm.weight"]  # type: ignore[union-attr]
    return {"first": first, "rest": rest, "resumed": losses(resumed, slice(1, 3)), "average": average, "average again": again}


def sharded_figures(prepared_folder: Path, base: Path) -> dict[str, Tensor]:
    """The first case with a sharded model (FSDP2), in micro-batches, and its state after a checkpoint."""
    params = settings("all_trained")
    prepared = Prepared.open(prepared_folder)
    pairs = prepared.pairs("train")

    def sharded_model() -> tuple[ContrastiveModel, Any, Any]:
        model, tokenizer = model_of(params, base)
        shard(model)
        return model, tokenizer, torch.optim.AdamW(model.parameters(), lr=0.01)

    model, tokenizer, optimizer = sharded_model()
    batcher = Batcher(tokenizer, params.model, FAMILY)
    make = PairBatcher(prepared, pairs, batcher, dist.get_rank(), 2)
    batch = make(batches("all_trained", prepared, pairs)[0], 2)

    def step(model: ContrastiveModel, optimizer: torch.optim.Optimizer) -> Tensor:
        optimizer.zero_grad()
        passes = GradientCache(ModelCalls(model, torch.device("cpu")))
        embedded = passes.embed(batch.inputs, synchronise=True)
        losses = model.losses(embedded.vectors[batch.inverse], embedded.learnt, batch, (0,))
        losses.total.backward()  # type: ignore[no-untyped-call]
        passes.backward(batch.inputs, embedded, synchronise=True)
        optimizer.step()
        return mean_over_processes(losses.by_dim)

    first = step(model, optimizer)
    gradients = {name: parameter.grad.full_tensor() for name, parameter in model.named_parameters() if isinstance(parameter.grad, DTensor)}
    weights, state = trainable_state(model), copy.deepcopy(optimizer_state(model, optimizer))
    ema = Ema(model, 0.5)
    results = {"losses": first, **{f"weight {name}": value for name, value in weights.items()}}
    with unsharded(model, batcher.stand_in):
        evaluation = evaluate_split(prepared, "validation", model.encoder, batcher, params.model.dims, 4, 100)
    results["mrr"] = torch.tensor(evaluation.value("mrr"))
    results["second losses"] = step(model, optimizer)
    results["third losses"] = step(model, optimizer)
    before = ema.state()
    ema.update()
    after, now = ema.state(), trainable_state(model)
    with ema.in_place():
        averages = trainable_state(model)
    restored_weights = trainable_state(model)
    ema.load_state(before)
    restored = ema.state()["averages"]
    if dist.get_rank() == 0:  # the other processes get no values
        for name, average in averages.items():
            # The first step's decay is 2/11.
            torch.testing.assert_close(average, weights[name].lerp(now[name], 9 / 11))
            assert torch.equal(average, after["averages"][name])
            assert torch.equal(restored_weights[name], now[name])
            assert torch.equal(restored[name], weights[name])

    # Every process reads the checkpoint's file; here the main process broadcasts its values.
    handed = [weights, state]
    dist.broadcast_object_list(handed)
    resumed, _, resumed_optimizer = sharded_model()
    load_trainable_state(resumed, handed[0])
    load_optimizer_state(resumed, resumed_optimizer, handed[1])
    results["resumed second losses"] = step(resumed, resumed_optimizer)
    results["resumed third losses"] = step(resumed, resumed_optimizer)
    return results | {f"gradient {name}": value for name, value in gradients.items()}


def sharded_precision(prepared_folder: Path, base: Path) -> dict[str, Tensor]:
    """One step in bfloat16 with a projection on a sharded model that has mined before, and the same in float32 on an unsharded one."""
    params = settings("all_trained")
    model_settings = params.model.model_copy(update={"projection": 48})
    mining = Mining(negatives_per_pair=1, ranks=(1, 3), batch_size=8)
    params = params.model_copy(update={"model": model_settings, "mining": mining})
    prepared = Prepared.open(prepared_folder)
    pairs = prepared.pairs("train")
    results = {}
    for precision in ("no", "bf16"):
        model, tokenizer = model_of(params, base)
        if precision == "bf16":
            shard(model, precision)
        batcher = Batcher(tokenizer, params.model, FAMILY)
        negatives = ExtraNegatives(prepared, pairs, model.encoder, batcher, params, steps_per_epoch=1)
        with unsharded(model, batcher.stand_in):
            negatives.renew(0)
        batch = PairBatcher(prepared, pairs, batcher, dist.get_rank(), 2)(batches("all_trained", prepared, pairs)[0], 2)
        passes = GradientCache(ModelCalls(model, torch.device("cpu")))
        embedded = passes.embed(batch.inputs, synchronise=True)
        losses = model.losses(embedded.vectors[batch.inverse], embedded.learnt, batch, (0,))
        losses.total.backward()  # type: ignore[no-untyped-call]
        passes.backward(batch.inputs, embedded, synchronise=True)
        assert model.encoder.projection is not None
        gradient = model.encoder.projection.weight.grad
        assert gradient is not None
        results[f"{precision} losses"] = mean_over_processes(losses.by_dim)
        results[f"{precision} vectors"] = embedded.vectors
        full = gradient.full_tensor() if isinstance(gradient, DTensor) else mean_over_processes(gradient)
        results[f"{precision} gradient"] = full
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


def main(prepared: Path, base: Path, output: Path, *checkouts: Path) -> None:
    """Writes the results of each case, sharded models, mining and search, and `frozen/`; then trains in the checkouts."""
    for case in CASES:
        results = figures(case, prepared, base)
        if dist.get_rank() == 0:
            torch.save(results, output / f"{case}.pt")
    keep(prepared, base, output / "frozen")
    results = sharded_figures(prepared, base)
    if dist.get_rank() == 0:
        torch.save(results, output / "sharded.pt")
    results = sharded_training(prepared, base, output / "checkpoints")
    if dist.get_rank() == 0:
        torch.save(results, output / "sharded_training.pt")
    results = sharded_precision(prepared, base)
    if dist.get_rank() == 0:
        torch.save(results, output / "sharded_precision.pt")
    torch.save(searched(), output / f"searched-{dist.get_rank()}.pt")
    results = mined_figures(prepared, base)
    torch.save(results, output / f"mined-{dist.get_rank()}.pt")
    torch.save([tuple(decision) for decision in decisions()], output / f"decisions-{dist.get_rank()}.pt")
    for checkout in checkouts:
        train.run(Workspace(checkout), load_params(checkout / "params.yaml"))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
