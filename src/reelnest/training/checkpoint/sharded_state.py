"""The state of one process of a sharded training (FSDP2): its shards of the weights, the optimizer's state and the moving average.

Gathering them would need three or four times the memory of an unsharded model on one process. So each process writes and reads its own
shards, and the same number of processes must resume.

torch.distributed.checkpoint also supports another number of processes. But it unpickles its metadata, which may run code from a checkpoint,
and it loads in place, so a damaged file leaves weights of two steps. Here files are read with `weights_only`, and the model changes only
after all processes could read theirs; otherwise they use the previous checkpoint.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from reelnest.encoder.ema import Ema
from reelnest.errors import TrainingError
from reelnest.messages import some_of


def own_shard(model: nn.Module, optimizer: Optimizer, ema: Ema | None) -> dict[str, Any]:
    """Returns this process's tensors, on the CPU, by parameter name. Needs no communication."""
    trainable = _trainable(model)
    return {
        "weights": {name: _on_cpu(parameter) for name, parameter in trainable.items()},
        "optimizer": {
            name: {key: _on_cpu(value) if isinstance(value, Tensor) else value for key, value in optimizer.state[parameter].items()}
            for name, parameter in trainable.items()
        },
        "learning_rates": [float(group["lr"]) for group in optimizer.param_groups],
        "average": None if ema is None else ema.own_shard(),
    }


@torch.no_grad()
def load_own_shard(model: nn.Module, optimizer: Optimizer, ema: Ema | None, shard: dict[str, Any]) -> None:
    """Loads the result of `own_shard` into a model with the same sharding. Raises TrainingError for another sharding."""
    trainable = _trainable(model)
    differing = sorted(set(shard["weights"]) ^ set(trainable)) or [
        name for name, parameter in trainable.items() if shard["weights"][name].shape != _local(parameter).shape
    ]
    if differing:
        raise TrainingError(
            f"checkpoint: its shards do not match this model and number of processes ({some_of(differing)}). Use the"
            " same number of processes, or delete work/checkpoints/ and train again."
        )
    for name, parameter in trainable.items():
        _local(parameter).copy_(shard["weights"][name])
        optimizer.state[parameter] = {
            key: _like(value, parameter) if isinstance(value, Tensor) else value for key, value in shard["optimizer"][name].items()
        }
    for group, learning_rate in zip(optimizer.param_groups, shard["learning_rates"], strict=True):
        group["lr"] = learning_rate
    if ema is not None:
        ema.load_own_shard(shard["average"])


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _on_cpu(tensor: Tensor) -> Tensor:
    return _local(tensor).to("cpu", copy=True)


def _local(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """Shards an optimizer tensor like its parameter; a step count is not sharded."""
    if not isinstance(parameter, DTensor) or value.ndim == 0:
        # torch's optimizers store their step counts on the CPU.
        return value.clone() if value.ndim == 0 else value.to(parameter.device, copy=True)
    local = value.to(parameter.device, copy=True)
    return DTensor.from_local(
        local, parameter.device_mesh, parameter.placements, run_check=False, shape=parameter.shape, stride=parameter.stride()
    )
