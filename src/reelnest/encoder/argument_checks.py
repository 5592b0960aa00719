"""Checks of the arguments that people pass to a loaded model, before anything is encoded."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ONE_VIDEO = (str, Path, bytes)


def as_list(values: Any, name: str, alone: tuple[type, ...]) -> list[Any]:
    """Returns the values as a list. Raises TypeError for a single value (of a type in `alone`), or for something that is not a list."""
    if isinstance(values, alone):
        raise TypeError(f"{name} is a single {type(values).__name__}; expected a list. Write [{name}].")
    if not isinstance(values, Iterable):
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


def _kind(value: Any) -> str:
    return "None" if value is None else f"of type {type(value).__module__}.{type(value).__qualname__}".replace("builtins.", "")
