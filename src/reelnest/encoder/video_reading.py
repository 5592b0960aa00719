"""Reads videos as in training: the same frames, sizes and text fields."""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from reelnest.encoder.argument_checks import as_list, check_fields
from reelnest.errors import VideoError
from reelnest.records.formats import TEXT_FIELDS
from reelnest.records.json_lines import RecordError
from reelnest.records.segments import Segment, parse_segment
from reelnest.store.prepared import fields_text
from reelnest.video.decoder import Decoder, Limits
from reelnest.video.frames import Frames, FrameSettings
from reelnest.video.patches import from_patches

VideoSource: TypeAlias = str | Path | bytes | Sequence[str | Path]
"""A video file, its bytes, or the image files of its frames in order."""
Times: TypeAlias = tuple[float, float | None]
"""Start and end of a segment in seconds; the end is None for that of the video."""


class VideoReader:
    """Reads frames and texts of videos. `text_fields` are those of training, None for all."""

    def __init__(self, settings: FrameSettings, text_fields: Sequence[str] | None, limits: Limits) -> None:
        self.settings = settings
        self.text_fields = text_fields
        self._decoder = Decoder(limits)

    def frames(self, video: VideoSource, segment: Segment | None = None) -> Frames:
        """Returns the frames that training would sample from the segment, by default from the whole video. Raises VideoError."""
        if isinstance(video, bytes):
            with tempfile.NamedTemporaryFile(prefix="reelnest-", suffix=".video") as file:
                file.write(video)
                file.flush()
                try:
                    return self._decoder.frames([Path(file.name)], self.settings, segment)
                except VideoError as error:
                    raise VideoError(error.reason, str(error).replace(Path(file.name).name, "the video")) from None
        files = [Path(video)] if isinstance(video, str | Path) else [Path(frame) for frame in video]
        return self._decoder.frames(files, self.settings, segment)

    def text(self, fields: Mapping[str, str]) -> str:
        """Returns the text that the encoder reads after the frames. Raises ValueError for an unknown field."""
        if unknown := sorted(set(fields) - set(TEXT_FIELDS)):
            raise ValueError(f"unknown video fields {unknown}; known fields: {list(TEXT_FIELDS)}")
        chosen = TEXT_FIELDS if self.text_fields is None else self.text_fields
        return fields_text(tuple((name, fields[name]) for name in chosen if fields.get(name, "").strip()))

    def close(self) -> None:
        """Stops the process that decodes videos, if it runs."""
        self._decoder.close()


def texts_of(reader: VideoReader, fields: Iterable[Mapping[str, str]] | None, videos: int) -> list[str]:
    """Returns each video's text, empty without fields. Raises TypeError or ValueError for something else."""
    if fields is None:
        return [""] * videos
    fields = check_fields(fields)
    if len(fields) != videos:
        raise ValueError(f"{videos} videos, but fields of {len(fields)}; pass one mapping per video")
    return [reader.text(video_fields) for video_fields in fields]


def segments_of(times: Iterable[Times | None] | None, videos: int) -> list[Segment | None]:
    """Returns each video's segment, None for a whole one. Raises TypeError or ValueError for something else."""
    if times is None:
        return [None] * videos
    times = as_list(times, "segments", (str, bytes))
    if len(times) != videos:
        raise ValueError(f"{videos} videos, but segments of {len(times)}; pass (start, end) or None for each video")
    return [None if pair is None else _segment(pair, number) for number, pair in enumerate(times)]


def _segment(times: Times, number: int) -> Segment | None:
    try:
        start, end = times
        return parse_segment({"start": start} | ({} if end is None else {"end": end}))
    except (TypeError, ValueError):
        raise ValueError(f"segments[{number}] is {times!r}; expected (start, end) in seconds, or None") from None
    except RecordError as error:
        raise ValueError(f"segments[{number}]: {error}") from None


def sentence_transformers_input(frames: Frames, text: str) -> dict[str, Any]:
    """Returns a video and its text as an input of sentence-transformers' `encode`.

    The saved settings tell its processor not to resize frames. The metadata describe a video of only the sampled frames, so the time
    between frames equals ours.
    """
    array = from_patches(frames.rows, frames.grid_thw, frames.vision).transpose(0, 3, 1, 2)  # (time, channel, height, width)
    rate = frames.vision.temporal_patch_size / frames.seconds_per_grid
    metadata = {"fps": rate, "total_num_frames": len(array), "duration": len(array) / rate, "frames_indices": list(range(len(array)))}
    video = {"video": {"array": array, "video_metadata": metadata}}
    return {**video, "text": text} if text else video
