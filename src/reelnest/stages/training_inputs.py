"""What training needs, checked before any process is started.

Starting processes and loading torch takes many seconds, and a mistake should be reported at once: nothing here imports torch.
"""

from reelnest.errors import ConfigError
from reelnest.settings import Params, launch_processes, launch_uses_cpu
from reelnest.stages.workspace import Workspace
from reelnest.store.prepared import Prepared
from reelnest.training.batches.sampler import BatchOrder


def check_training(workspace: Workspace, params: Params) -> None:
    """Raises DataError without prepared data or enough pairs, ConfigError for a precision that the CPU does not have."""
    if launch_uses_cpu(params, workspace.params):
        check_precision(workspace, params)
    pairs = Prepared.open(workspace.prepared).pairs("train")
    BatchOrder.fitting(len(pairs), params.train.batch_size, params.train.seed, launch_processes(params, workspace.params))


def check_precision(workspace: Workspace, params: Params) -> None:
    """Raises ConfigError where a training on the CPU asks for fp16."""
    if params.train.mixed_precision == "fp16":
        raise ConfigError(
            f"{workspace.params}: train.mixed_precision: fp16 needs a GPU, and this training runs on the CPU (launch.config:"
            f" {params.launch.config}). Use bf16 or no."
        )
