"""Training steps of a model that is sharded over two processes."""

import copy
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from reelnest.backbones.families.qwen2_5_vl import FAMILY
from reelnest.encoder.batches import Batcher
from reelnest.encoder.ema import Ema
from reelnest.evaluation.split_evaluation import evaluate_split
from reelnest.settings import Lora, Mining
from reelnest.store.prepared import Prepared
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
from reelnest.training.distributed import mean_over_processes, sharding_policy, world
from reelnest.training.gradients.gradient_cache import GradientCache, ModelCalls
from reelnest.training.loop import Training, TrainingData, unsharded
from reelnest.training.tracker import Trackers
from tests.integration.training.training_steps import batches, model_of, settings
from tests.support.model_inputs import mixed_entries


def shard(model: ContrastiveModel, mixed_precision: str = "no") -> None:
    """Shards the model over the processes, as configs/accelerate/gpu-fsdp2.yaml does on GPUs."""
    backbone: Any = model.encoder.backbone
    policy = sharding_policy(mixed_precision)
    for block in [*backbone.language_model.layers, *backbone.visual.blocks]:
        fully_shard(block, mp_policy=policy)
    fully_shard(model, mp_policy=policy, ignored_params=set(model.objective.parameters()) if mixed_precision == "bf16" else set())


def temperatures(prepared_folder: Path, base: Path) -> dict[str, Tensor]:
    """Learnt temperatures: before each of three steps and after them, and as each step used them.

    Two processes shard the model and compute in bfloat16; one does neither.
    """
    params = settings("all_trained")
    params = params.model_copy(update={"train": params.train.model_copy(update={"optimizer": "adamw", "learning_rate": 0.002})})
    prepared = Prepared.open(prepared_folder)
    pairs = prepared.pairs("train")
    model, tokenizer = model_of(params, base)
    rank, processes = world()
    accelerator = Accelerator(cpu=True)
    if processes > 1:
        shard(model, "bf16")
        accelerator.prepare_model = lambda model, **_: model  # type: ignore[method-assign]  # accelerate itself shards on GPUs alone
    batcher = PairBatcher(prepared, pairs, Batcher(tokenizer, params.model, FAMILY), rank, processes)
    data = TrainingData(batcher, BatchOrder(len(pairs), 12, 5))
    training = Training(params, accelerator, model, data, Checkpoints(base, "key"), Trackers())
    held = [model.objective.loss.temperature.detach().clone()]
    for batch in batches("accumulated", prepared, pairs):
        training.take_step(0, training._make_step(batch[None]))
        held.append(model.objective.loss.temperature.detach().clone())
    used = [torch.tensor([row.temperature]) for row in training._history.flush()]
    return {"held": torch.cat(held), "used": torch.cat(used)}


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
    average = unbroken.step.ema.state()["averages"]["encoder.backbone.language_model.norm.weight"]  # type: ignore[union-attr]  # the average is on
    rest = losses(unbroken, slice(1, 3))
    resumed = training()
    resumed.resume()
    again = resumed.step.ema.state()["averages"]["encoder.backbone.language_model.norm.weight"]  # type: ignore[union-attr]  # the average is on
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
        losses.total.backward()  # type: ignore[no-untyped-call]  # PyTorch's backward has no types
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
        losses.total.backward()  # type: ignore[no-untyped-call]  # PyTorch's backward has no types
        passes.backward(batch.inputs, embedded, synchronise=True)
        assert model.encoder.projection is not None
        gradient = model.encoder.projection.weight.grad
        assert gradient is not None
        results[f"{precision} losses"] = mean_over_processes(losses.by_dim)
        results[f"{precision} vectors"] = embedded.vectors
        full = gradient.full_tensor() if isinstance(gradient, DTensor) else mean_over_processes(gradient)
        results[f"{precision} gradient"] = full
    return results


def uneven_videos(base: Path) -> dict[str, Tensor]:
    """Gradients of adapters in the tower and the language model. Of two processes, which shard the model, only the first has a video."""
    params = settings("all_trained")
    params = params.model_copy(update={"model": params.model.model_copy(update={"lora": Lora(r=4, vision=True)})})
    entries = mixed_entries()
    parts = [entries[:2], [entries[2]]]
    rank, processes = world()
    model, tokenizer = model_of(params, base)
    if processes > 1:
        shard(model)
    batcher = Batcher(tokenizer, params.model, FAMILY)
    for part in parts[rank::processes]:
        vectors, _ = model(batcher(part))
        (vectors.square().sum() * processes / len(parts)).backward()  # FSDP averages over the processes
    gradients = {name: parameter.grad for name, parameter in model.encoder.named_parameters() if parameter.requires_grad}
    return {
        f"gradient {name}": gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
        for name, gradient in gradients.items()
        if gradient is not None
    }
