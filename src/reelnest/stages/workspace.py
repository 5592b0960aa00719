"""The folders in which stages read and write files."""

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
        """The team's data: `videos.jsonl`, `pairs.jsonl` and the files that they name."""
        return self.root / "data"

    @property
    def prepared(self) -> Path:
        """The output of preprocessing: pairs, splits and the frame store."""
        return self.root / "prepared"

    @property
    def candidate(self) -> Path:
        """The model that the last training saved."""
        return self.root / "models" / "candidate"

    @property
    def reports(self) -> Path:
        """Reports and pages."""
        return self.root / "reports"

    @property
    def work(self) -> Path:
        """Caches that speed up the next run: decoded frames, checkpoints. Deleting them costs only time."""
        return self.root / "work"

    @property
    def frames(self) -> Path:
        """The cache of decoded frames, and of what is known of the videos. Checkouts may share it by a link."""
        return self.work / "frames"
