"""The videos that pairs cut out of others by `start` and `end`, and the files of which there are segments."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from types import MappingProxyType

from reelnest.records.formats import PAIRS_FILE, VIDEOS_FILE, BadRecord, Pair, Side, Video, file_names
from reelnest.records.json_lines import RecordError, show
from reelnest.records.segments import Segment

SAME_MOMENT = 0.5
"""Share of the time of two segments from which on both are the same moment, as in measures of moment retrieval."""
NO_SEGMENTS: Mapping[str, str] = MappingProxyType({})


def cut_videos(videos: Sequence[Video], pairs: Sequence[Pair]) -> tuple[list[Video], list[Pair], list[BadRecord]]:
    """Returns each segment on a side or among the negatives of `pairs`, once, by file, as a video with the texts of the one in `videos`.

    Also returns `pairs` without those whose segments cannot be cut, and these (`bad_segment`). Segments of videos that are not in `videos`
    are left out.
    """
    known = {video.video_id: video for video in videos}
    cut: dict[str, Video] = {}
    bad: list[BadRecord] = []
    for pair in pairs:
        for side in (pair.query, pair.target, *pair.negatives):
            if side.segment is None or side.value in cut or side.source not in known:
                continue
            try:
                cut[side.value] = _cut(side, known)
            except RecordError as error:
                bad.append(BadRecord(PAIRS_FILE, pair.line, error.reason, str(error)))
                break
    bad_lines = {record.line for record in bad}
    usable = [pair for pair in pairs if pair.line not in bad_lines]
    by_file = sorted(cut.values(), key=lambda video: (str(video.path), video.segment.start if video.segment is not None else 0.0))
    return [video for video in by_file if video.video_id not in known], usable, bad


def segmented_files(videos: Sequence[Video]) -> dict[str, str]:
    """Returns the file of each video whose file has a segment in `videos`, by video_id. All videos of a file belong into one split."""
    files = {file_names(video)[0] for video in videos if video.segment is not None}
    return {video.video_id: name for video in videos if video.path is not None and (name := file_names(video)[0]) in files} if files else {}


def overlapping_segments(videos: Sequence[Video]) -> dict[str, list[str]]:
    """Returns by video_id of a segment the others of its file with which it shares more than half of the time that either has.

    A result that overlaps the target of a query is not wrong, so it is never its negative.
    """
    of_file: dict[str, list[tuple[str, Segment]]] = {}
    for video in videos:
        if video.segment is not None:
            of_file.setdefault(file_names(video)[0], []).append((video.video_id, video.segment))
    overlaps: dict[str, list[str]] = {}
    for segments in of_file.values():
        for (first_id, first), (second_id, second) in combinations(segments, 2):
            if first.shares(second) > SAME_MOMENT:
                overlaps.setdefault(first_id, []).append(second_id)
                overlaps.setdefault(second_id, []).append(first_id)
    return overlaps


def _cut(side: Side, known: Mapping[str, Video]) -> Video:
    segment, video = side.segment, known[side.source]
    assert segment is not None  # noqa: S101 - for the type checker
    if video.path is None:
        advice = "name the whole video, or list the segment's images as a video"
        raise RecordError("bad_segment", f"video {show(side.source)} consists of images, of which there are no segments; {advice}")
    if video.segment is not None:
        problem = f"video {show(side.source)} is a segment itself ({video.segment})"
        raise RecordError("bad_segment", f"{problem}; name the video of the whole file with start and end, or remove them")
    clash = known.get(side.value)
    if clash is not None and (clash.path, clash.segment) != (video.path, segment):
        problem = f"the id of this segment, {show(side.value)}, is another video's in {VIDEOS_FILE}, line {clash.line}"
        raise RecordError("bad_segment", f"{problem}; rename that video")
    return clash or video.cut(segment)
