"""`models/candidate/run.json`: the MLflow run that recorded the training of a saved model. The file is in the model's folder."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from reelnest.atomic_files import write_json
from reelnest.errors import ArtifactError

FILE = "run.json"


class CandidateRun(BaseModel):
    """The MLflow run of a training. All fields are None if tracking was off."""

    model_config = ConfigDict(frozen=True)

    experiment: str | None = None
    run_id: str | None = None
    tracking_uri: str | None = None

    @classmethod
    def read(cls, folder: Path) -> "CandidateRun":
        """Reads the run of the model in a folder. A missing file gives empty fields; an invalid one raises ArtifactError."""
        path = folder / FILE
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls()
        except (UnicodeDecodeError, ValidationError) as error:
            raise ArtifactError(f"{path}: expected a JSON object with a run_id: {error}. Run `reelnest train` again.") from error

    def write(self, folder: Path) -> None:
        """Writes the file into a model's folder."""
        write_json(folder / FILE, self.model_dump(mode="json"))
