"""Caches the frames that validation decodes, so that preprocessing decodes no video again.

No check reads these frames. So a change of the sampling does not make the validation stale, and frames that cannot be cached fail
nothing.
"""

import logging
import threading
from pathlib import Path

from reelnest.errors import DataError
from reelnest.store.frame_store_writing import frames_key, spill_folder, spill_frames
from reelnest.video.frames import Frames, FrameSettings
from reelnest.video.inspection import FrameSink
from reelnest.video.known_videos import Content

log = logging.getLogger(__name__)


def frame_sink(settings: FrameSettings, cache: Path) -> FrameSink:
    """Puts frames into the frame cache in the folder `cache`."""
    is_full = threading.Event()

    def add(content: Content, frames: Frames) -> None:
        if is_full.is_set():
            return
        try:
            spill_frames(spill_folder(cache), frames_key(content, settings), frames)
        except (DataError, OSError) as error:  # the disk is full, or another run has just emptied its cache
            is_full.set()
            log.warning("the frames of this validation are not cached, so preprocessing decodes the videos again (%s)", error)

    return FrameSink(settings, add)
