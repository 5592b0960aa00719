"""The module with all trainable parameters."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.func import functional_call

from reelnest.encoder.batches import Batch
from reelnest.encoder.encoder import Encoder
from reelnest.settings import LossSettings
from reelnest.training.batches.pair_batches import PairBatch
from reelnest.training.losses.objective import Objective, StepLosses


class ContrastiveModel(nn.Module):
    """The encoder and the objective with its parameters. One forward pass uses every parameter."""

    def __init__(self, encoder: Encoder, settings: LossSettings, dims: Sequence[int]) -> None:
        super().__init__()
        self.objective = Objective(settings, dims)
        self.encoder = encoder

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns vectors (entries, width) and the objective's parameters by name, for `losses`.

        The objective needs the vectors of all micro-batches, so it runs later. Its parameters are an output, because a sharded model has
        them unsharded only here, and because DDP and FSDP wait for the gradients of every parameter that a forward pass used.
        """
        return self.encoder(batch), {name: parameter.clone() for name, parameter in self.objective.named_parameters()}

    def unsharded_parameters(self) -> list[nn.Parameter]:
        """Returns the trained parameters of a sharded model that are not sharded, whose gradients FSDP does not average."""
        if not self.encoder.sharded:
            return []
        return [parameter for parameter in self.objective.parameters() if parameter.requires_grad and not isinstance(parameter, DTensor)]

    def losses(self, vectors: Tensor, learnt: dict[str, Tensor], batch: PairBatch, seed: Sequence[int]) -> StepLosses:
        """Returns the losses of a batch's vectors. `learnt` are the objective's parameters from `forward`; `seed` is the step's seed."""
        losses: StepLosses = functional_call(self.objective, learnt, (vectors, batch, seed))
        return losses
