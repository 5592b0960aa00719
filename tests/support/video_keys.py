"""The content of a video's files, and its key in the frame cache, from an empty database."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from reelnest.store.frame_cache import frames_key
from reelnest.video.frames import FrameSettings
from reelnest.video.known_videos import Content, KnownVideos


def content_of(files: Sequence[Path]) -> Content:
    """The content of the video in `files`."""
    with TemporaryDirectory() as folder, KnownVideos(Path(folder)) as known:
        ((_, content),) = known.contents([files], lambda video: video)
    assert isinstance(content, Content)
    return content


def video_key(files: Sequence[Path], settings: FrameSettings) -> str:
    """The key of the video in `files`."""
    return frames_key(content_of(files), settings)
