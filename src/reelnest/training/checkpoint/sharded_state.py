"""What one process of a sharded training (FSDP2) has to save: its own shards of the weights, the optimizer's state and the average.

Gathering them would need the memory of an unsharded model, three or four times over, on one process; so each writes what it holds, and
reads it again. The same number of processes has to resume.

torch.distributed.checkpoint would also serve another number of processes. But it unpickles its metadata, and so runs code that a
checkpoint brings, and it loads into the model in place: a damaged file leaves weights of two steps. Here files are read with
`weights_only`, and nothing is changed until all processes could read theirs; else the checkpoint before it is taken.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from reelnest.encoder.ema import Ema
from reelnest.errors import TrainingError


def own_shard(model: nn.Module, optimizer: Optimizer, ema: Ema | None) -> dict[str, Any]:
    """This process's tensors, on the CPU, by parameter name. No process needs another for it."""
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
    """Puts `own_shard` back into a model that is sharded in the same way. Raises TrainingError if it is not."""
    trainable = _trainable(model)
    differing = sorted(set(shard["weights"]) ^ set(trainable)) or [
        name for name, parameter in trainable.items() if shard["weights"][name].shape != _local(parameter).shape
    ]
    if differing:
        raise TrainingError(
            f"checkpoint: its shards are not those of this model on so many processes ({', '.join(differing[:5])}, …). Start as many"
            " processes as before, or delete work/checkpoints/ and train again."
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
    """The optimizer's tensors of a parameter's size are sharded as it is; a count of steps is not sharded."""
    if not isinstance(parameter, DTensor) or value.ndim == 0:
        # torch's optimizers keep their counts on the CPU.
        return value.clone() if value.ndim == 0 else value.to(parameter.device, copy=True)
    local = value.to(parameter.device, copy=True)
    return DTensor.from_local(
        local, parameter.device_mesh, parameter.placements, run_check=False, shape=parameter.shape, stride=parameter.stride()
    )
