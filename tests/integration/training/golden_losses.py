"""The tiny model's reference losses.

`python -m tests.integration.training.golden_losses` writes `tests/golden/tiny_losses.csv` anew: after a change that is meant to change what
is trained, and the commit says why.
"""

import sys
import tempfile
from pathlib import Path

import torch
import yaml

from reelnest.settings import load_params
from reelnest.stages import train
from reelnest.stages.workspace import Workspace
from tests.integration.training.training_workspace import ROOT, write_prepared

GOLDEN = ROOT / "tests" / "golden" / "tiny_losses.csv"


def write_losses(folder: Path, prepared: Path) -> str:
    """Trains a few steps with the default settings and a smaller batch, and returns `reports/training.csv`."""
    folder.mkdir()
    (folder / "prepared").symlink_to(prepared)
    (folder / "configs").symlink_to(ROOT / "configs")
    settings = {"train": {"epochs": 4, "batch_size": 16, "trackers": []}, "launch": {"config": "cpu-1"}}
    (folder / "params.yaml").write_text(yaml.safe_dump(settings))
    train.run(Workspace(folder), load_params(folder / "params.yaml"))
    return (folder / "reports" / "training.csv").read_text()


def main() -> None:
    """Writes the golden file."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_prepared(Path(folder) / "prepared", Path(folder) / "scratch")
        GOLDEN.write_text(write_losses(Path(folder) / "checkout", Path(folder) / "prepared"))


if __name__ == "__main__":
    sys.exit(main())
