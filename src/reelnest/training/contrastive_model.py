"""All that training changes, in one module."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.func import functional_call

from reelnest.encoder.batches import Batch
from reelnest.encoder.encoder import Encoder
from reelnest.settings import LossSettings
from reelnest.training.batches.pair_batches import PairBatch
from reelnest.training.losses.objective import Objective, StepLosses


class ContrastiveModel(nn.Module):
    """The encoder, and the objective with what it learns, in one module whose one forward touches every parameter."""

    def __init__(self, encoder: Encoder, settings: LossSettings, dims: Sequence[int]) -> None:
        super().__init__()
        self.objective = Objective(settings, dims)
        self.encoder = encoder

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Vectors (entries, width), and the objective's parameters by name, for `losses`.

        The objective needs the vectors of all micro-batches, and so runs after this. Its parameters come out here, since a sharded model
        has them whole only here, and since DDP and FSDP wait for the gradients of what a forward pass used.
        """
        return self.encoder(batch), {name: parameter.clone() for name, parameter in self.objective.named_parameters()}

    def losses(self, vectors: Tensor, learnt: dict[str, Tensor], batch: PairBatch, seed: Sequence[int]) -> StepLosses:
        """The losses of a batch's vectors, with the objective's parameters as `forward` gave them. `seed` is that of the step."""
        losses: StepLosses = functional_call(self.objective, learnt, (vectors, batch, seed))
        return losses
