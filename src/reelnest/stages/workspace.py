"""Where the stages find and leave their files."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Workspace:
    """The folders of one checkout. `root` holds `params.yaml` and `dvc.yaml`."""

    root: Path = Path()

    @property
    def params(self) -> Path:
        """The settings."""
        return self.root / "params.yaml"

    @property
    def data(self) -> Path:
        """What the team provides: `videos.jsonl`, `pairs.jsonl` and the files they name."""
        return self.root / "data"

    @property
    def prepared(self) -> Path:
        """What preprocessing makes: pairs, splits and the frame store."""
        return self.root / "prepared"

    @property
    def candidate(self) -> Path:
        """The model that the last training saved."""
        return self.root / "models" / "candidate"

    @property
    def reports(self) -> Path:
        """What people look at."""
        return self.root / "reports"

    @property
    def work(self) -> Path:
        """What speeds up the next run and is no output: decoded frames, checkpoints. Deleting it costs time, nothing else."""
        return self.root / "work"
