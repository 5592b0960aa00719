"""The base classes of all artifacts. They write, read and validate the files."""

import json
from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from reelnest.atomic_files import write_json
from reelnest.errors import ArtifactError

VERSION_KEY = "schema_version"


class FrozenModel(BaseModel):
    """A frozen model that rejects unknown fields. Artifacts are composed of these."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Artifact(FrozenModel):
    """A file in `reports/`. A subclass names the file, the command that writes it, and its version.

    Increase the version when a change to the fields makes earlier files unreadable or changes their meaning.
    """

    FILE: ClassVar[str]
    COMMAND: ClassVar[str]
    VERSION: ClassVar[int] = 1

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Reads the artifact in a folder. Raises ArtifactError if the file is missing, invalid or of another version."""
        artifact = cls.read_if_there(folder)
        if artifact is None:
            raise ArtifactError(f"{folder / cls.FILE}: no such file. Run `{cls.COMMAND}` first.")
        return artifact

    @classmethod
    def read_if_there(cls, folder: Path) -> Self | None:
        """Reads like `read`, but returns None if the file is missing."""
        path = folder / cls.FILE
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as error:
            raise cls._error(path, f"not UTF-8 ({error})") from error
        return cls.parse(text, path)

    @classmethod
    def parse(cls, text: str, source: Path) -> Self:
        """Parses a JSON text. Raises ArtifactError, with the path `source`, if it is invalid or of another version."""
        try:
            content = json.loads(text)
        except ValueError as error:
            raise cls._error(source, f"not JSON ({error})") from error
        return cls.from_content(content, source)

    @classmethod
    def from_content(cls, content: JsonValue, source: Path) -> Self:
        """Validates a JSON value, such as a field of another file. Raises ArtifactError as `parse` does."""
        fields = dict(content) if isinstance(content, dict) else {}
        version = fields.pop(VERSION_KEY, "missing")
        if version != cls.VERSION:
            raise cls._error(source, f"{VERSION_KEY} is {version}")
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise cls._error(source, f"{where}: {first['msg']}") from error

    def write(self, folder: Path) -> Path:
        """Writes the file into a folder atomically, and returns its path."""
        path = folder / self.FILE
        write_json(path, self.content())
        return path

    def content(self) -> dict[str, JsonValue]:
        """Returns the artifact as a JSON value, with its version."""
        return {VERSION_KEY: self.VERSION, **self.model_dump(mode="json")}

    @classmethod
    def _error(cls, source: Path, problem: str) -> ArtifactError:
        return ArtifactError(f"{source}: {problem}. Expected {VERSION_KEY} {cls.VERSION}. Run `{cls.COMMAND}` again.")
