"""Pictures of the videos that a check of their appearance names."""

from collections.abc import Sequence
from pathlib import Path

from reelnest.checks.findings import Finding
from reelnest.errors import VideoError
from reelnest.records.formats import Video, video_files
from reelnest.report.pictures import Strip, strip
from reelnest.video.decoder import Decoder, Limits, in_parallel
from reelnest.video.frames import FrameSettings
from reelnest.video.patches import from_patches

APPEARANCE = frozenset({"brightness", "contrast", "change", "look"})
"""Columns of `video_table` that a picture explains."""
FRAMES, PIXELS = 4, 112 * 112


def pictures_of(
    findings: Sequence[Finding], videos: Sequence[Video], folder: Path, limits: Limits, settings: FrameSettings, most: int
) -> dict[int, Strip]:
    """Returns frames of the first `most` examples of each check of the appearance that failed, by line of `videos.jsonl`.

    Frames have the vision spec and the decoder of `settings`.
    """
    flagged = {
        example.line
        for finding in findings
        if not finding.outcome.success and APPEARANCE & set(finding.columns)
        for example in finding.examples[:most]
    }
    chosen = [video for video in videos if video.line in flagged]
    sampling = settings.sampling.model_copy(update={"sampling": "uniform", "frames": FRAMES, "min_pixels": 1, "max_pixels": PIXELS})
    small = FrameSettings(sampling, settings.vision)

    def frames(process: Decoder, video: Video) -> Strip:
        decoded = process.frames(video_files(video, folder), small, video.segment)
        return strip(from_patches(decoded.rows, decoded.grid_thw, settings.vision))

    if not chosen:
        return {}
    results = in_parallel(chosen, frames, limits, workers=1)  # to start another takes as long as decoding some dozen videos
    return {video.line: result for video, result in results if not isinstance(result, VideoError)}
