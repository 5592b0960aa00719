"""Steps of training whose figures one process and two processes must agree on.

Run by accelerate on two processes: `training_steps.py <prepared> <base> <output> <checkout>…` writes the figures of each case and what a
sharded model gives, and then trains in each checkout. `figures` gives the same cases' figures in the calling process.
"""

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from training_workspace import TINY

from reelnest.config import Params, load_params
from reelnest.data.batches import Batcher
from reelnest.data.prepared import Pairs, Prepared
from reelnest.model.encoder import load_encoder
from reelnest.stages import train
from reelnest.stages.workspace import Workspace
from reelnest.training.checkpoints import (
    Checkpoints,
    load_optimizer_state,
    load_trainable_state,
    optimizer_state,
    trainable_state,
)
from reelnest.training.contrastive import ContrastiveModel, PairBatcher, contrastive_losses
from reelnest.training.distributed import mean_over_processes
from reelnest.training.loop import Training, whole_root
from reelnest.training.retrieval import evaluate_split
from reelnest.training.sampler import BatchOrder
from reelnest.training.tracker import Trackers

CASES = ("all_trained", "text_only_share", "lora", "accumulated", "mean_pooled_projection")


def settings(case: str) -> Params:
    """One case's settings."""
    model: dict[str, Any] = {"tiny": TINY, "dims": [8, 16, 32]}
    train: dict[str, Any] = {"batch_size": 12, "learn_temperature": True, "dim_weights": [1, 2, 3], "trackers": []}
    if case == "lora":
        model["lora"] = {"r": 4, "vision": True}
    if case == "mean_pooled_projection":
        model |= {"pooling": "mean", "projection": 48, "freeze": "backbone"}
    if case == "accumulated":
        train["accumulation_steps"] = 3
    return Params.model_validate({"model": model, "train": train, "launch": {"config": "cpu-1"}})


def batches(case: str, prepared: Prepared, pairs: Pairs) -> np.ndarray:
    """(batches, 12) row numbers of pairs; in one case the second half of them are text to text."""
    if case != "text_only_share":
        return BatchOrder(len(pairs), 12, seed=5).epoch(0)[: 3 if case == "accumulated" else 1]
    sides = zip(pairs.queries.tolist(), pairs.targets.tolist(), strict=True)
    is_text = np.array([all(prepared.item(item).kind == "text" for item in pair) for pair in sides])
    text, other = np.flatnonzero(is_text), np.flatnonzero(~is_text)
    return np.concatenate([other[:6], np.resize(text, 6)])[None]


def model_of(params: Params, base: Path) -> tuple[ContrastiveModel, Any]:
    """The same weights in every process; adapters that are not zero."""
    torch.manual_seed(1)
    encoder, tokenizer = load_encoder(params.model, base, training=True)
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return ContrastiveModel(encoder, params.train.temperature, learn_temperature=True), tokenizer


def figures(case: str, prepared_folder: Path, base: Path) -> dict[str, Tensor]:
    """Loss by dim over all processes, and each trainable parameter's gradient, after one real step's backward passes."""
    params = settings(case)
    accelerator = Accelerator(cpu=True)
    prepared = Prepared.open(prepared_folder)
    pairs = prepared.pairs("train")
    model, tokenizer = model_of(params, base)
    batcher = PairBatcher(prepared, pairs, Batcher(tokenizer, params.model), accelerator.process_index, accelerator.num_processes)
    training = Training(
        params, accelerator, model, batcher, BatchOrder(len(pairs), 12, 5), Checkpoints(Path("unused"), "key"), Trackers(), None
    )
    loss, losses, _ = training.backward([batcher(rows) for rows in batches(case, prepared, pairs)])
    found = {"loss": mean_over_processes(loss), "losses": mean_over_processes(losses)}
    for name, parameter in training.model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            found[f"gradient {name}"] = parameter.grad.clone()
    return found


def sharded_figures(prepared_folder: Path, base: Path) -> dict[str, Tensor]:
    """The first case with a model that is spread over the processes (FSDP2), and its state after a way through a checkpoint."""
    params = settings("all_trained")
    prepared = Prepared.open(prepared_folder)
    pairs = prepared.pairs("train")

    def sharded_model() -> tuple[ContrastiveModel, Any, Any]:
        model, tokenizer = model_of(params, base)
        for block in [*model.encoder.backbone.language_model.layers, *model.encoder.backbone.visual.blocks]:
            fully_shard(block)
        fully_shard(model)
        return model, tokenizer, torch.optim.AdamW(model.parameters(), lr=0.01)

    model, tokenizer, optimizer = sharded_model()
    batcher = Batcher(tokenizer, params.model)
    make = PairBatcher(prepared, pairs, batcher, dist.get_rank(), 2)
    batch = make(batches("all_trained", prepared, pairs)[0])

    def step(model: ContrastiveModel, optimizer: torch.optim.Optimizer) -> Tensor:
        losses, _ = contrastive_losses(model, batch, params.model.dims)
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
        return mean_over_processes(losses)

    first = step(model, optimizer)
    gradients = {name: parameter.grad.full_tensor() for name, parameter in model.named_parameters() if isinstance(parameter.grad, DTensor)}
    weights, state = trainable_state(model), copy.deepcopy(optimizer_state(model, optimizer))
    found = {"losses": first, **{f"weight {name}": value for name, value in weights.items()}}
    with whole_root(model):
        evaluation = evaluate_split(prepared, "validation", model.encoder, batcher, params.model.dims, 4, 100)
    found["mrr"] = torch.tensor(evaluation.value("mrr"))
    found["second losses"] = step(model, optimizer)
    found["third losses"] = step(model, optimizer)

    # Every process reads the checkpoint's file; here the first one's values are handed over.
    handed = [weights, state]
    dist.broadcast_object_list(handed)
    resumed, _, resumed_optimizer = sharded_model()
    load_trainable_state(resumed, handed[0])
    load_optimizer_state(resumed, resumed_optimizer, handed[1])
    found["resumed second losses"] = step(resumed, resumed_optimizer)
    found["resumed third losses"] = step(resumed, resumed_optimizer)
    return found | {f"gradient {name}": value for name, value in gradients.items()}


def main(prepared: Path, base: Path, output: Path, *checkouts: Path) -> None:
    """Writes `<case>.pt` for each case and `sharded.pt`, and trains in each checkout."""
    for case in CASES:
        found = figures(case, prepared, base)
        if dist.get_rank() == 0:
            torch.save(found, output / f"{case}.pt")
    found = sharded_figures(prepared, base)
    if dist.get_rank() == 0:
        torch.save(found, output / "sharded.pt")
    for checkout in checkouts:
        train.run(Workspace(checkout), load_params(checkout / "params.yaml"))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
