"""What two processes give, for comparison with one.

Run by accelerate: `--module tests.integration.training.run_on_two_processes <prepared> <base> <output> <checkout>…` writes the figures of
each case and what a sharded model gives, and then trains in each checkout.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from reelnest.settings import load_params
from reelnest.stages import train
from reelnest.stages.workspace import Workspace
from tests.integration.training.sharded_steps import sharded_figures, sharded_precision, sharded_training, temperatures, uneven_videos
from tests.integration.training.training_steps import CASES, decisions, figures, keep, mined_figures, searched


def main(prepared: Path, base: Path, output: Path, *checkouts: Path) -> None:
    """Writes the results of each case, sharded models, mining and search, and `frozen/`; then trains in the checkouts."""
    for case in CASES:
        results = figures(case, prepared, base)
        if dist.get_rank() == 0:
            torch.save(results, output / f"{case}.pt")
    keep(prepared, base, output / "frozen")
    results = sharded_figures(prepared, base)
    if dist.get_rank() == 0:
        torch.save(results, output / "sharded.pt")
    results = sharded_training(prepared, base, output / "checkpoints")
    if dist.get_rank() == 0:
        torch.save(results, output / "sharded_training.pt")
    results = sharded_precision(prepared, base)
    if dist.get_rank() == 0:
        torch.save(results, output / "sharded_precision.pt")
    results = uneven_videos(base)
    if dist.get_rank() == 0:
        torch.save(results, output / "uneven_videos.pt")
    torch.save(temperatures(prepared, base), output / f"temperatures-{dist.get_rank()}.pt")
    torch.save(searched(), output / f"searched-{dist.get_rank()}.pt")
    results = mined_figures(prepared, base)
    torch.save(results, output / f"mined-{dist.get_rank()}.pt")
    torch.save([tuple(decision) for decision in decisions()], output / f"decisions-{dist.get_rank()}.pt")
    for checkout in checkouts:
        train.run(Workspace(checkout), load_params(checkout / "params.yaml"))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
