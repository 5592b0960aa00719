"""Checks of the arguments that people pass to a loaded model, before anything is encoded."""

import os
from collections.abc import Collection, Iterable, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

from reelnest.errors import ModelError
from reelnest.records.json_lines import is_encodable
from reelnest.store.entries import Entry

ONE_VIDEO = (str, Path, bytes)


def as_list(values: Any, name: str, alone: tuple[type, ...]) -> list[Any]:
    """Returns the values as a list. Raises TypeError for a single value (of a type in `alone`), or for something that is not a list."""
    if isinstance(values, alone):
        raise TypeError(f"{name} is a single {type(values).__name__}; expected a list. Write [{name}].")
    if not isinstance(values, Iterable) or isinstance(values, Mapping):  # a mapping would give its keys
        raise TypeError(f"{name} is {_kind(values)}; expected a list.")
    return list(values)


def check_texts(texts: Any) -> list[str]:
    """Returns the texts as a list. Raises TypeError for a single text, or for an item that is not a str, ValueError for broken Unicode."""
    checked = as_list(texts, "texts", (str, bytes))
    for number, text in enumerate(checked):
        _check_text(text, f"texts[{number}]")
    return checked


def check_videos(videos: Any) -> list[Any]:
    """Returns the videos as a list. Raises TypeError for a single video, or for an item that is no path, bytes or list of paths."""
    checked = as_list(videos, "videos", ONE_VIDEO)
    for number, video in enumerate(checked):
        frames = video if isinstance(video, list | tuple) and video else [video]
        if not all(isinstance(frame, str | os.PathLike) for frame in frames) and not isinstance(video, bytes):
            raise TypeError(
                f"videos[{number}] is {_kind(video)}; expected the path of a video file, its bytes, or a list of the paths of its frames."
            )
    return checked


def check_fields(fields: Any) -> list[Mapping[str, str]]:
    """Returns the fields of videos as a list. Raises TypeError for items that do not map names to texts, ValueError for broken Unicode."""
    checked = as_list(fields, "fields", (str, bytes))
    for number, of_video in enumerate(checked):
        if not isinstance(of_video, Mapping):
            raise TypeError(f"fields[{number}] is {_kind(of_video)}; expected a mapping of names to texts, such as {{'title': 'A goal'}}.")
        for name, text in of_video.items():
            _check_text(text, f"fields[{number}][{name!r}]")
    return checked


def check_entries(entries: Any) -> list[Entry]:
    """Returns the entries as a list. Raises TypeError for something else."""
    checked = as_list(entries, "entries", (str, bytes, Entry))
    for entry in checked:
        if not isinstance(entry, Entry):
            raise TypeError(f"entries has a {type(entry).__name__}; expected Entry. For texts use encode_texts, for videos encode_videos.")
    return checked


def check_choice(value: Any, name: str, choices: Collection[Any]) -> None:
    """Raises ValueError for a value that is none of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, choices))}.")


def check_batch_size(batch_size: Any) -> None:
    """Raises TypeError for something that is not an integer, ValueError if it is below 1."""
    if not _is_integer(batch_size):
        raise TypeError(f"batch_size is {batch_size!r}; expected an int.")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected 1 or more.")


def check_dim(dim: Any, width: int, trained: Collection[int]) -> None:
    """Raises TypeError for something that is not an integer, ModelError for a dim that the vectors do not have."""
    if not _is_integer(dim):
        raise TypeError(f"dim is {dim!r}; expected an int from 1 to {width}.")
    if not 1 <= dim <= width:
        raise ModelError(f"dim {dim}: use a dim from 1 to {width}; the model was trained for {list(trained)}.")


def _check_text(text: Any, name: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{name} is {_kind(text)}; expected a str.")
    if not is_encodable(text):
        raise ValueError(f"{name} has half a surrogate pair, which is no character; pass valid Unicode.")


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    return "None" if value is None else f"of type {type(value).__module__}.{type(value).__qualname__}".replace("builtins.", "")
