"""New, removed and changed records between two versions of the data, by their records and the hashes of their files."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from reelnest.messages import some_of
from reelnest.records.formats import Pair, Side, Video, file_names, known_ids, pair_kind, read_pairs, read_videos
from reelnest.records.pair_segments import cut_videos, segmented_files
from reelnest.records.splits import assign_splits

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

PairKey = tuple[Side, Side]


@dataclass(frozen=True)
class Contents:
    """The good records of a version of the data."""

    videos: dict[str, Video]
    hashes: dict[str, tuple[str, ...]]
    """Hashes of each video's files, in order, by video_id; an empty string for a missing file."""
    pairs: dict[PairKey, Pair]
    splits: dict[PairKey, str]
    bad: int
    """Number of bad lines."""


NOTHING = Contents({}, {}, {}, {}, 0)


def _hash(name: str, files: Mapping[str, str]) -> str:
    """Returns the hash of a file, or of the tar file that contains it; empty for a missing file."""
    tars = (parent.as_posix() for parent in PurePosixPath(name).parents)
    return files.get(name) or next((files[tar] for tar in tars if tar in files), "")


def read_contents(folder: Path, files: Mapping[str, str], validation_fraction: float, test_fraction: float) -> Contents:
    """Reads the record files in `folder`. `files` has the hash of each file of the version by its path. Reads no video."""
    listed, bad_videos = read_videos(folder)
    pairs, bad_pairs = read_pairs(folder, known_ids(listed, bad_videos))
    videos = {video.video_id: video for video in listed}
    cut, pairs, uncut = cut_videos(listed, pairs)
    splits = assign_splits(pairs, validation_fraction, test_fraction, segmented_files([*listed, *cut]))
    first: dict[PairKey, Pair] = {}
    split_of: dict[PairKey, str] = {}
    for pair, split in zip(pairs, splits, strict=True):
        first.setdefault((pair.query, pair.target), pair)
        split_of.setdefault((pair.query, pair.target), split)
    hashes = {video.video_id: tuple(_hash(name, files) for name in file_names(video)) for video in listed}
    return Contents(videos, hashes, first, split_of, len(bad_videos) + len(bad_pairs) + len(uncut))


@dataclass(frozen=True)
class Changes:
    """Two versions and their differences, in file order."""

    before: Contents
    after: Contents
    new_videos: list[str]
    changed_videos: dict[str, list[str]]
    """By id, the kinds of change: `bytes`, `record`."""
    removed_videos: list[str]
    new_pairs: list[PairKey]
    changed_pairs: list[PairKey]
    """Pairs whose relevance, split or negatives differ."""
    removed_pairs: list[PairKey]

    @property
    def any(self) -> bool:
        """Whether there are any differences."""
        return any((self.new_videos, self.changed_videos, self.removed_videos, self.new_pairs, self.changed_pairs, self.removed_pairs))

    @property
    def headline(self) -> str:
        """One line of counts, such as for a commit subject."""
        phrases = []
        for word, videos, pairs in (
            ("new", self.new_videos, self.new_pairs),
            ("changed", self.changed_videos, self.changed_pairs),
            ("removed", self.removed_videos, self.removed_pairs),
        ):
            counted = [_counted(len(changed), name) for changed, name in ((videos, "video"), (pairs, "pair")) if changed]
            phrases += [f"{' and '.join(counted)} {word}"] if counted else []
        return ", ".join(phrases) or "nothing new"

    @property
    def pair_counts(self) -> list[tuple[str, str, int, int, int, int]]:
        """(kind, split, all, new, changed, removed) for each kind and split in either version."""
        present, new, changed = (Counter(map(self.after_group, keys)) for keys in (self.after.pairs, self.new_pairs, self.changed_pairs))
        removed = Counter((_kind(key), self.before.splits[key]) for key in self.removed_pairs)
        return [(*group, present[group], new[group], changed[group], removed[group]) for group in sorted({*present, *removed})]

    def after_group(self, key: PairKey) -> tuple[str, str]:
        """Returns the kind and split of a pair in the later version."""
        return _kind(key), self.after.splits[key]

    @property
    def counts(self) -> str:
        """A table of the numbers of videos, and of pairs by kind and split. It contains no text of the data."""
        rows: list[Sequence[object]] = [("", "", "all", "new", "changed", "removed")]
        rows.append(("videos", "", len(self.after.videos), len(self.new_videos), len(self.changed_videos), len(self.removed_videos)))
        rows += self.pair_counts
        return table(rows)


def compare(before: Contents, after: Contents) -> Changes:
    """Returns the differences between two versions."""
    changed_videos = {}
    for video_id, video in after.videos.items():
        old = before.videos.get(video_id)
        if old is None:
            continue
        same_record = (video.fields, video.tags, video.segment) == (old.fields, old.tags, old.segment)
        kinds = [
            *(["bytes"] if before.hashes[video_id] != after.hashes[video_id] else []),
            *([] if same_record else ["record"]),
        ]
        if kinds:
            changed_videos[video_id] = kinds
    return Changes(
        before,
        after,
        [video_id for video_id in after.videos if video_id not in before.videos],
        changed_videos,
        [video_id for video_id in before.videos if video_id not in after.videos],
        [key for key in after.pairs if key not in before.pairs],
        [key for key in after.pairs if key in before.pairs and _contents(before, key) != _contents(after, key)],
        [key for key in before.pairs if key not in after.pairs],
    )


def pair_texts(contents: Contents) -> list[int]:
    """Returns the length of each distinct text query or target, in characters."""
    return [len(side.value) for side in dict.fromkeys(side for key in contents.pairs for side in key) if side.kind == "text"]


def video_texts(contents: Contents) -> list[int]:
    """Returns the total length of each video's text fields, in characters."""
    return [sum(map(len, video.fields.values())) for video in contents.videos.values()]


def summarise(values: Collection[float]) -> dict[str, float] | None:
    """Returns number, mean and quantiles; None if there are no values."""
    if not values:
        return None
    numbers = np.asarray(list(values), dtype=np.float64)
    quantiles = {f"{quantile:.0%}": float(np.quantile(numbers, quantile)) for quantile in QUANTILES}
    return {"number": len(numbers), "mean": float(numbers.mean()), **quantiles}


def distributions(changes: Changes, seconds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, dict[str, float] | None]]:
    """Returns summaries of text lengths and durations, before and after. `seconds` has the known durations of both versions."""
    measures: dict[str, Callable[[Contents], list[int]]] = {
        "characters of a query or target": pair_texts,
        "characters of a video's texts": video_texts,
    }
    sides = {"before": changes.before, "after": changes.after}
    distributions = {name: {side: summarise(measure(contents)) for side, contents in sides.items()} for name, measure in measures.items()}
    distributions["seconds of a video"] = {side: summarise(seconds[side]) for side in sides}
    return distributions


def as_text(changes: Changes, seconds: Mapping[str, Sequence[float]]) -> str:
    """Returns the changes and distributions as text for a terminal. Ids are escaped, so that they cannot control the terminal."""
    named = [
        f"{word}: {some_of([repr(id) for id in ids])}"
        for word, ids in (
            ("videos new", changes.new_videos),
            ("videos changed", [f"{video_id} ({' and '.join(kinds)})" for video_id, kinds in changes.changed_videos.items()]),
            ("videos removed", changes.removed_videos),
        )
        if ids
    ]
    columns = ("number", "mean", *(f"{quantile:.0%}" for quantile in QUANTILES))
    rows: list[Sequence[object]] = [("", "", *columns)]
    for name, sides in distributions(changes, seconds).items():
        for at, (side, summary) in enumerate(sides.items()):
            figures = ["-"] * len(columns) if summary is None else [f"{summary[column]:,.4g}" for column in columns]
            rows.append((name if at == 0 else "", side, *figures))
    bad = f"Lines that cannot be read: {changes.before.bad:,} before, {changes.after.bad:,} after."
    blocks = [changes.headline.capitalize(), changes.counts, *named, table(rows), bad if changes.before.bad or changes.after.bad else ""]
    return "\n\n".join(filter(None, blocks))


def as_json(changes: Changes, seconds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Returns the changes and distributions as JSON, with every id and pair."""

    def listed(keys: Sequence[PairKey], contents: Contents) -> list[dict[str, Any]]:
        return [{"query": query.record, "target": target.record, "split": contents.splits[query, target]} for query, target in keys]

    counts = ("kind", "split", "all", "new", "changed", "removed")
    return {
        "videos": {
            "before": len(changes.before.videos),
            "after": len(changes.after.videos),
            "new": changes.new_videos,
            "changed": changes.changed_videos,
            "removed": changes.removed_videos,
        },
        "pairs": {
            "before": len(changes.before.pairs),
            "after": len(changes.after.pairs),
            "new": listed(changes.new_pairs, changes.after),
            "changed": listed(changes.changed_pairs, changes.after),
            "removed": listed(changes.removed_pairs, changes.before),
            "by_kind_and_split": [dict(zip(counts, row, strict=True)) for row in changes.pair_counts],
        },
        "distributions": distributions(changes, seconds),
        "bad_lines": {"before": changes.before.bad, "after": changes.after.bad},
    }


def _contents(contents: Contents, key: PairKey) -> tuple[float, str, frozenset[Side]]:
    pair = contents.pairs[key]
    return pair.relevance, contents.splits[key], frozenset(pair.negatives)


def _kind(key: PairKey) -> str:
    return pair_kind(key[0].kind, key[1].kind)


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def table(rows: Sequence[Sequence[object]]) -> str:
    """Formats rows for a terminal: the first two columns are left-aligned, the others right-aligned."""
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = []
    for row in cells:
        left = [f"{cell:<{width}}" for cell, width in zip(row[:2], widths[:2], strict=True)]
        right = [f"{cell:>{width}}" for cell, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join([*left, *right]).rstrip())
    return "\n".join(lines)
