"""One of two processes of the nested loss.

Usage: `python -m tests.integration.training.nested_loss_share <rank> <folder>`. It writes each case's figures to `<rank>.pt`.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from reelnest.settings import NestedInfoNceSettings
from reelnest.training.distributed import gather_with_gradient, world
from reelnest.training.losses.gather import GatheredBatch
from reelnest.training.losses.nested_infonce import nested_losses

DIMS = (4, 6, 16)
PAIRS, EXTRAS = 10, 4
CASES = {
    "alone": NestedInfoNceSettings(),
    "all": NestedInfoNceSettings(intra_modal_negatives=True, false_negative_margin=0.1, graded_relevance=True),
}


def figures(settings: NestedInfoNceSettings) -> dict[str, Tensor]:
    """Returns losses, and the gradients of their mean over processes as in DDP, for a process's share of the vectors."""
    rank, processes = world()
    numbers = torch.Generator().manual_seed(0)
    queries, targets, extras = (torch.randn(count, DIMS[-1], generator=numbers) for count in (PAIRS, PAIRS, EXTRAS))
    related, related_queries, related_targets = (
        torch.rand(PAIRS, count, generator=numbers) < 0.2 for count in (PAIRS + EXTRAS, PAIRS, PAIRS)
    )
    relevance = torch.rand(PAIRS, generator=numbers) + 0.5
    related[:, -1] = True  # padding
    share = PAIRS // processes
    rows = slice(rank * share, (rank + 1) * share)
    own = [tensor.unflatten(0, (processes, -1))[rank].requires_grad_() for tensor in (queries, targets, extras)]
    temperature = torch.tensor([0.1], requires_grad=True)
    everyones = [gather_with_gradient(tensor).flatten(0, 1) for tensor in own]
    batch = GatheredBatch(
        own[0],
        torch.cat([everyones[1], everyones[2]]),
        rows,
        related[rows],
        relevance[rows],
        everyones[0],
        related_queries[rows],
        related_targets[rows],
    )
    losses = nested_losses(batch, DIMS, temperature, settings)
    (losses * torch.tensor([1.0, 2.0, 3.0])).sum().backward()  # type: ignore[no-untyped-call]  # PyTorch's backward has no types
    results = {"losses": losses.detach()}
    for name, tensor in zip(("queries", "targets", "extras", "temperature"), [*own, temperature], strict=True):
        assert tensor.grad is not None
        results[name] = tensor.grad / processes
    return results


def main(rank: int, folder: Path) -> None:
    """Writes the figures."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save({case: figures(settings) for case, settings in CASES.items()}, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
