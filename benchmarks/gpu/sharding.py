"""A model that is sharded over a world of one."""

import math
import os
from collections.abc import Callable
from functools import partial

import numpy as np
import torch.distributed as dist
from accelerate import Accelerator
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from benchmarks.gpu.inputs import accelerator_of, random_encoder, settings, training_of
from benchmarks.gpu.reporting import Run
from reelnest.settings import Params
from reelnest.training.contrastive_model import ContrastiveModel
from reelnest.training.distributed import shard_layers, sharding_policy
from reelnest.training.loop import Training

PAIRS, BATCHES = 4, 4
Shard = Callable[[ContrastiveModel], object]
TOLERANCE = 0.05
"""Between losses of a sharded and an unsharded model, both in bfloat16."""
ENVIRONMENT = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_WORLD_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29517",
}
"""What `accelerate launch` sets for configs/accelerate/gpu-fsdp2.yaml, with one process."""


def fsdp2(run: Run) -> None:
    """Sharded by torch, as in the tests, where there are no GPUs."""
    plain = _params(run, "adamw")
    unsharded = _losses(_training(run, plain, accelerator_of(run, plain), None, "unsharded"), 2)
    run.figures(unsharded_losses=unsharded)
    dist.init_process_group("nccl" if run.on_gpu else "gloo", store=dist.HashStore(), rank=0, world_size=1)

    def shard(training_params: Params) -> tuple[Accelerator, Shard]:
        accelerator = accelerator_of(run, training_params)
        accelerator.prepare_model = lambda model, **_: model  # type: ignore[method-assign]  # it is sharded already
        return accelerator, partial(_shard, sharding_policy(training_params.train.mixed_precision))

    first = _checked(run, shard)
    off = abs(first / unsharded[0] - 1)
    run.require(off <= TOLERANCE, f"sharded, the first loss differs by {off:.2g}")


def fsdp2_accelerate(run: Run) -> None:
    """Sharded by accelerate, which shards on GPUs only."""
    if not run.on_gpu:
        run.skip("accelerate shards on GPUs only")
    os.environ.update(ENVIRONMENT)

    def shard(training_params: Params) -> tuple[Accelerator, None]:
        accelerator = Accelerator(mixed_precision=training_params.train.mixed_precision)
        run.figures(distributed_type=str(accelerator.distributed_type))
        return accelerator, None

    _checked(run, shard)


def _shard(policy: MixedPrecisionPolicy, model: ContrastiveModel) -> None:
    for module in list(model.modules()):
        if type(module).__name__ in model.encoder.family.wrap_classes:
            fully_shard(module, mp_policy=policy)
    fully_shard(model, mp_policy=policy)


def _checked(run: Run, sharded: Callable[[Params], tuple[Accelerator, Shard | None]]) -> float:
    """Mines before the first step, trains, saves, trains on, resumes, and trains the same steps again. Returns the first loss."""
    first_loss = math.nan
    for optimizer in ("muon", "adamw"):
        with run.part(optimizer):
            params = _params(run, optimizer)
            training = _training(run, params, *sharded(params), optimizer)
            run.require(training.model.encoder.sharded, f"{optimizer}: the model is not sharded")
            weights = _norm(training)
            before = _losses(training, 3)
            run.require(_norm(training) != weights, f"{optimizer}: steps do not change the weights")
            training._snapshots.save(training.state)
            after = _losses(training, 2)
            resumed = _training(run, params, *sharded(params), optimizer)
            resumed.resume()
            again = _losses(resumed, 2)
            run.figures(**{f"{optimizer}_losses": before + after, f"{optimizer}_resumed": again})
            run.require(resumed.state.step == training.state.step, f"{optimizer}: resumed at another step")
            run.require(bool(np.allclose(after, again, rtol=1e-3)), f"{optimizer}: after resuming, losses differ: {after} and {again}")
            first_loss = before[0]
    return first_loss


def _params(run: Run, optimizer: str) -> Params:
    return settings(
        run,
        small=True,
        model={"projection": 48, "dims": [16, 48]},
        train={"mixed_precision": "bf16", "optimizer": optimizer, "ema_decay": 0.9, "batch_size": PAIRS},
        mining={"negatives_per_pair": 1},
        loss={"learn_temperature": True},
    )


def _training(run: Run, params: Params, accelerator: Accelerator, shard: Shard | None, name: str) -> Training:
    encoder = random_encoder(params, run.device)
    shard_layers(accelerator, encoder.family.wrap_classes)
    # The process id separates the two checks.
    folder = run.folder / f"{os.getpid()}-{name}"
    return training_of(params, encoder, accelerator, cached=False, checkpoints=folder, pairs=BATCHES * PAIRS, shard=shard)


def _norm(training: Training) -> float:
    norms = [parameter.detach().float().norm() for parameter in training.model.parameters() if parameter.requires_grad]
    return sum(float(norm.full_tensor() if isinstance(norm, DTensor) else norm) for norm in norms)


def _losses(training: Training, steps: int) -> list[float]:
    """Takes steps and returns their losses. The first step of a training mines before it."""
    assert training._data.negatives is not None  # noqa: S101 (for the type checker)
    if training.state.step == 0:
        training._renewed(training._data.negatives)
    training.step.wrapped.train()
    for _ in range(steps):
        first = PAIRS * (training.state.step % BATCHES)
        training.take_step(0, training._make_step(np.arange(first, first + PAIRS)[None]))
    return [row.loss for row in training._history.flush()]
