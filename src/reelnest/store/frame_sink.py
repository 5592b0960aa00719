"""Caches the frames that validation decodes, so that preprocessing decodes no video again.

No check reads these frames. So a change of the sampling does not make the validation stale, and frames that cannot be cached fail
nothing.
"""

import functools
import logging
import threading
from pathlib import Path

from reelnest.errors import DataError
from reelnest.store.frame_cache import frames_key, listed_keys, spill_folder, spill_frames
from reelnest.video.frames import Frames, FrameSettings
from reelnest.video.inspection import FrameSink
from reelnest.video.known_videos import Content

log = logging.getLogger(__name__)


def frame_sink(settings: FrameSettings, cache: Path) -> FrameSink:
    """Puts frames into the frame cache in the folder `cache`."""
    is_full = threading.Event()
    stored = functools.cache(lambda: listed_keys(cache))  # read only if there is a video to decode

    def add(content: Content, frames: Frames) -> None:
        key = frames_key(content, settings)
        if is_full.is_set() or key in stored():
            return
        try:
            spill_frames(spill_folder(cache), key, frames)
        except (DataError, OSError) as error:  # the disk is full, or another run has just emptied its cache
            is_full.set()
            log.warning("the frames of this validation are not cached, so preprocessing decodes the videos again (%s)", error)

    return FrameSink(settings, add)
