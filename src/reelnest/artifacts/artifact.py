"""What all artifacts have in common: how they are written and read, and what is wrong with a file that cannot be read."""

import json
from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from reelnest.atomic_files import write_json
from reelnest.errors import ArtifactError

VERSION_KEY = "schema_version"


class Part(BaseModel):
    """A part of an artifact: frozen, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Artifact(Part):
    """A file in `reports/`. A subclass names the file, the command that writes it, and its version.

    The version goes up when a change to the fields would make an earlier file unreadable, or give it another meaning.
    """

    FILE: ClassVar[str]
    COMMAND: ClassVar[str]
    VERSION: ClassVar[int] = 1

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The artifact in a folder. Raises ArtifactError where the file is missing, broken or of another version."""
        artifact = cls.read_if_there(folder)
        if artifact is None:
            raise ArtifactError(f"{folder / cls.FILE}: there is no such file. Run `{cls.COMMAND}` first.")
        return artifact

    @classmethod
    def read_if_there(cls, folder: Path) -> Self | None:
        """The artifact in a folder; None where there is no such file. Raises ArtifactError where it is broken or of another version."""
        path = folder / cls.FILE
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as error:
            raise cls._error(path, f"it is not UTF-8 ({error})") from error
        return cls.parse(text, path)

    @classmethod
    def parse(cls, text: str, source: Path) -> Self:
        """The artifact in a text. `source` is where it is from, for the ArtifactError of a text that is broken or of another version."""
        try:
            content = json.loads(text)
        except ValueError as error:
            raise cls._error(source, f"it is no JSON ({error})") from error
        return cls.from_content(content, source)

    @classmethod
    def from_content(cls, content: JsonValue, source: Path) -> Self:
        """The artifact in a JSON value, such as a part of another file. Raises ArtifactError as `parse` does."""
        fields = dict(content) if isinstance(content, dict) else {}
        version = fields.pop(VERSION_KEY, "missing")
        if version != cls.VERSION:
            raise cls._error(source, f"its {VERSION_KEY} is {version}")
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise cls._error(source, f"its {VERSION_KEY} is {version}, but {where}: {first['msg']}") from error

    def write(self, folder: Path) -> Path:
        """Writes the file into a folder, in one step, and returns its path."""
        path = folder / self.FILE
        write_json(path, self.content())
        return path

    def content(self) -> dict[str, JsonValue]:
        """The artifact as a JSON value, with its version."""
        return {VERSION_KEY: self.VERSION, **self.model_dump(mode="json")}

    @classmethod
    def _error(cls, source: Path, problem: str) -> ArtifactError:
        return ArtifactError(
            f"{source}: {problem}. Expected what `{cls.COMMAND}` writes now, {VERSION_KEY} {cls.VERSION}. Run `{cls.COMMAND}` again."
        )
