"""Copies of checkpoints at an address, so that a training outlives the disk of its machine.

The copies of a training are in `<address>/<key>/`, under the names of the local files. An object store shows an object when it is
complete; in a file system, a copy is written under another name and renamed.
"""

import logging
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from reelnest.atomic_files import aside_of
from reelnest.errors import ConfigError, TrainingError

log = logging.getLogger(__name__)

SETTING = "train.checkpoint_address"
OBJECT_STORES = ("s3", "gcs", "abfs")
CHUNK = 16 * 2**20
LOCAL = fs.LocalFileSystem()


def open_address(address: str) -> tuple[fs.FileSystem, str]:
    """Returns the file system of an address (s3://, gs://, abfs://, file:// or a path; fsspec+sftp:// …), and the path in it.

    Raises ConfigError for any other address, and for one with a password, which would be in the settings of each run.
    """
    if "@" in urlsplit(address).netloc and not address.startswith("abfs"):  # there it is container@account
        raise ConfigError(f"{SETTING} contains a password. Set it in the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.")
    try:
        files, path = fs.FileSystem.from_uri(address)
    except (pa.ArrowException, ValueError, ImportError, OSError) as error:
        raise ConfigError(
            f"{SETTING}: {address} cannot be opened ({_reason(error)}). Expected an address such as s3://bucket/folder,"
            " gs://…, abfs://… or an absolute path."
        ) from None
    return files, path.rstrip("/")


class CheckpointCopies:
    """The copies of one training's folder. A thread of its own writes them, in the order of the calls, while the training goes on."""

    def __init__(self, address: str, folder: Path) -> None:
        """`folder` is the local one. Raises ConfigError for an unusable address."""
        self._files, self._root = open_address(address)
        self._folder, self._place = folder, f"{self._root}/{folder.name}"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint-copies")
        self._last: Future[None] | None = None
        self._shown = f"{SETTING} ({address})"

    def names(self) -> list[str]:
        """Returns the names of the copies.

        Raises TrainingError if the address does not respond: a training from its beginning would lose them.
        """
        with self._reading():
            return sorted(info.base_name for info in self._infos(self._place) if info.type == fs.FileType.File)

    def fetch(self, name: str) -> None:
        """Copies a file from the address to `folder`. Raises TrainingError if that fails."""
        aside = aside_of(self._folder / name)
        try:
            with self._reading():
                fs.copy_files(f"{self._place}/{name}", str(aside), self._files, LOCAL, chunk_size=CHUNK)
            aside.replace(self._folder / name)
        finally:
            aside.unlink(missing_ok=True)

    def push(self, name: str) -> None:
        """Copies a file of `folder` to the address, later. A failure is logged: the training goes on, and the next file is tried again."""
        self._later(self._push, name)

    def keep(self, names: Collection[str]) -> None:
        """Removes the copies of checkpoints with other names, after the files before it are copied."""
        self._later(self._keep, frozenset(names))

    def finish(self) -> None:
        """Marks the training as finished and removes the copies of other finished ones, after the files before it are copied."""
        self._later(self._finish)

    def wait(self) -> None:
        """Waits until everything is copied. Each process calls it before it ends."""
        if self._last is not None:
            self._last.result()

    def _later(self, work: Callable[..., None], *arguments: object) -> None:
        self._last = self._thread.submit(self._try, work, *arguments)

    def _try(self, work: Callable[..., None], *arguments: object) -> None:
        try:
            work(*arguments)
        except OSError as error:
            log.warning("checkpoint: no copy at %s: %s. The training goes on.", self._shown, _reason(error))

    def _push(self, name: str) -> None:
        if not (self._folder / name).exists():
            return  # a newer one has replaced it
        local, place = str(self._folder / name), f"{self._place}/{name}"
        if self._files.type_name in OBJECT_STORES:
            fs.copy_files(local, place, LOCAL, self._files, chunk_size=CHUNK)
        else:
            self._files.create_dir(self._place, recursive=True)
            aside = f"{self._place}/.{name}"
            fs.copy_files(local, aside, LOCAL, self._files, chunk_size=CHUNK)
            self._files.move(aside, place)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TrainingError(
                f"checkpoint: {self._shown} cannot be read ({_reason(error)}). Repair it and run again, or set it to null to train"
                " without copies."
            ) from error

    def _keep(self, names: frozenset[str]) -> None:
        for info in self._infos(self._place):
            if info.base_name.startswith("step-") and info.base_name.partition(".")[0] not in names:
                self._files.delete_file(info.path)

    def _finish(self) -> None:
        with self._files.open_output_stream(f"{self._place}/finished"):
            pass
        for info in self._infos(self._root):
            if info.type == fs.FileType.Directory and info.base_name != self._folder.name and self._is_finished(info.path):
                self._files.delete_dir(info.path)

    def _is_finished(self, place: str) -> bool:
        info: fs.FileInfo = self._files.get_file_info(f"{place}/finished")
        return info.type == fs.FileType.File

    def _infos(self, place: str) -> list[fs.FileInfo]:
        infos: list[fs.FileInfo] = self._files.get_file_info(fs.FileSelector(place, allow_not_found=True))
        return infos


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0]
