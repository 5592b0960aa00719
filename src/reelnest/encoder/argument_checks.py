"""Checks of the arguments that people pass to a loaded model, before anything is encoded."""

import os
from collections.abc import Collection, Iterable, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

from reelnest.errors import ModelError

ONE_VIDEO = (str, Path, bytes)


def as_list(values: Any, name: str, alone: tuple[type, ...]) -> list[Any]:
    """Returns the values as a list. Raises TypeError for a single value (of a type in `alone`), or for something that is not a list."""
    if isinstance(values, alone):
        raise TypeError(f"{name} is a single {type(values).__name__}; expected a list. Write [{name}].")
    if not isinstance(values, Iterable) or isinstance(values, Mapping):  # a mapping would give its keys
        raise TypeError(f"{name} is {_kind(values)}; expected a list.")
    return list(values)


def check_texts(texts: Any) -> list[str]:
    """Returns the texts as a list. Raises TypeError for a single text, or for an item that is not a str."""
    checked = as_list(texts, "texts", (str, bytes))
    for number, text in enumerate(checked):
        if not isinstance(text, str):
            raise TypeError(f"texts[{number}] is {_kind(text)}; expected a str.")
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


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    return "None" if value is None else f"of type {type(value).__module__}.{type(value).__qualname__}".replace("builtins.", "")
