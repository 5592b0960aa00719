"""Checks the inputs of training before any process starts.

Starting processes and importing torch takes many seconds, and mistakes should be reported at once. So nothing here imports torch.
"""

from reelnest.errors import ConfigError
from reelnest.settings import Params, launch_processes, launch_uses_cpu
from reelnest.stages.workspace import Workspace
from reelnest.store.prepared import Prepared
from reelnest.training.batches.sampler import BatchOrder


def check_training(workspace: Workspace, params: Params) -> None:
    """Raises DataError without prepared data or enough pairs, ConfigError for a precision that the CPU does not support."""
    if launch_uses_cpu(params, workspace.params):
        check_precision(workspace, params)
    pairs = Prepared.open(workspace.prepared).pairs("train")
    BatchOrder.fitting(len(pairs), params.train.batch_size, params.train.seed, launch_processes(params, workspace.params))


def check_precision(workspace: Workspace, params: Params) -> None:
    """Raises ConfigError if the precision is fp16. Call it for trainings on the CPU."""
    if params.train.mixed_precision == "fp16":
        raise ConfigError(
            f"{workspace.params}: train.mixed_precision: fp16 needs a GPU, and this training runs on the CPU (launch.config:"
            f" {params.launch.config}). Use bf16 or no."
        )
