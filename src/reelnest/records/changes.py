"""What came, went and changed between two versions of the data, known from their records and the hashes of their files alone."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reelnest.records.formats import Pair, Side, Video, file_names, known_ids, pair_kind, read_pairs, read_videos
from reelnest.records.splits import assign_splits

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SHOWN = 5
"""Ids that the text names; `--json` has all."""

PairKey = tuple[Side, Side]


@dataclass(frozen=True)
class Contents:
    """A version of the data, as far as its good lines tell."""

    videos: dict[str, Video]
    hashes: dict[str, tuple[str, ...]]
    """Of each video's files, in order, by video_id; empty text for a file that is missing."""
    pairs: dict[PairKey, Pair]
    splits: dict[PairKey, str]
    bad: int
    """Lines that cannot be read."""


NOTHING = Contents({}, {}, {}, {}, 0)


def read_contents(folder: Path, files: Mapping[str, str], validation_fraction: float, test_fraction: float) -> Contents:
    """Reads the two files of records in `folder`; `files` has the hash of each file of the version by its path. No video is read."""
    listed, bad_videos = read_videos(folder)
    pairs, bad_pairs = read_pairs(folder, known_ids(listed, bad_videos))
    videos = {video.video_id: video for video in listed}
    splits = assign_splits(pairs, validation_fraction, test_fraction)
    first: dict[PairKey, Pair] = {}
    split_of: dict[PairKey, str] = {}
    for pair, split in zip(pairs, splits, strict=True):
        first.setdefault((pair.query, pair.target), pair)
        split_of.setdefault((pair.query, pair.target), split)
    hashes = {video.video_id: tuple(files.get(name, "") for name in file_names(video)) for video in listed}
    return Contents(videos, hashes, first, split_of, len(bad_videos) + len(bad_pairs))


@dataclass(frozen=True)
class Changes:
    """The two versions, and what is not the same in them, in the order of the files."""

    before: Contents
    after: Contents
    new_videos: list[str]
    changed_videos: dict[str, list[str]]
    """By id, what changed: `bytes`, `record`."""
    removed_videos: list[str]
    new_pairs: list[PairKey]
    changed_pairs: list[PairKey]
    """Another relevance, split or negatives."""
    removed_pairs: list[PairKey]

    @property
    def any(self) -> bool:
        """Whether anything came, went or changed."""
        return any((self.new_videos, self.changed_videos, self.removed_videos, self.new_pairs, self.changed_pairs, self.removed_pairs))

    @property
    def headline(self) -> str:
        """One line of counts, as a commit's subject is."""
        parts = []
        for word, videos, pairs in (
            ("new", self.new_videos, self.new_pairs),
            ("changed", self.changed_videos, self.changed_pairs),
            ("removed", self.removed_videos, self.removed_pairs),
        ):
            counted = [_counted(len(changed), name) for changed, name in ((videos, "video"), (pairs, "pair")) if changed]
            parts += [f"{' and '.join(counted)} {word}"] if counted else []
        return ", ".join(parts) or "nothing new"

    @property
    def pair_counts(self) -> list[tuple[str, str, int, int, int, int]]:
        """Kind, split, and how many pairs there are, new, changed and removed; for each kind and split of either version."""
        there, came, changed = (Counter(map(self.after_place, keys)) for keys in (self.after.pairs, self.new_pairs, self.changed_pairs))
        went = Counter((_kind(key), self.before.splits[key]) for key in self.removed_pairs)
        return [(*place, there[place], came[place], changed[place], went[place]) for place in sorted({*there, *went})]

    def after_place(self, key: PairKey) -> tuple[str, str]:
        """Kind and split of a pair of the later version."""
        return _kind(key), self.after.splits[key]

    @property
    def counts(self) -> str:
        """Of videos, and of pairs by kind and split, as a table; no text of the data is in it."""
        rows: list[Sequence[object]] = [("", "", "all", "new", "changed", "removed")]
        rows.append(("videos", "", len(self.after.videos), len(self.new_videos), len(self.changed_videos), len(self.removed_videos)))
        rows += self.pair_counts
        return table(rows)


def compare(before: Contents, after: Contents) -> Changes:
    """What is not the same in two versions."""
    changed_videos = {}
    for video_id, video in after.videos.items():
        there = before.videos.get(video_id)
        if there is None:
            continue
        same_record = (video.fields, video.tags) == (there.fields, there.tags)
        what = [
            *(["bytes"] if before.hashes[video_id] != after.hashes[video_id] else []),
            *([] if same_record else ["record"]),
        ]
        if what:
            changed_videos[video_id] = what
    return Changes(
        before,
        after,
        [video_id for video_id in after.videos if video_id not in before.videos],
        changed_videos,
        [video_id for video_id in before.videos if video_id not in after.videos],
        [key for key in after.pairs if key not in before.pairs],
        [key for key in after.pairs if key in before.pairs and _said(before, key) != _said(after, key)],
        [key for key in before.pairs if key not in after.pairs],
    )


def pair_texts(contents: Contents) -> list[int]:
    """The length of each text that is a query or a target."""
    return [len(side.value) for side in dict.fromkeys(side for key in contents.pairs for side in key) if side.kind == "text"]


def video_texts(contents: Contents) -> list[int]:
    """The length of each video's text fields together."""
    return [sum(map(len, video.fields.values())) for video in contents.videos.values()]


def summarise(values: Collection[float]) -> dict[str, float] | None:
    """Number, mean and quantiles; None of nothing."""
    if not values:
        return None
    numbers = np.asarray(list(values), dtype=np.float64)
    quantiles = {f"{quantile:.0%}": float(np.quantile(numbers, quantile)) for quantile in QUANTILES}
    return {"number": len(numbers), "mean": float(numbers.mean()), **quantiles}


def distributions(changes: Changes, seconds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, dict[str, float] | None]]:
    """Text lengths and durations of `before` and `after`, beside each other. `seconds` has durations of both, as far as they are known."""
    measures: dict[str, Callable[[Contents], list[int]]] = {
        "characters of a query or target": pair_texts,
        "characters of a video's texts": video_texts,
    }
    sides = {"before": changes.before, "after": changes.after}
    distributions = {name: {side: summarise(measure(contents)) for side, contents in sides.items()} for name, measure in measures.items()}
    distributions["seconds of a video"] = {side: summarise(seconds[side]) for side in sides}
    return distributions


def as_text(changes: Changes, seconds: Mapping[str, Sequence[float]]) -> str:
    """For a terminal: what came, went and changed, and the distributions. Ids are shown so that no terminal acts on them."""
    named = [
        f"{word}: {', '.join(map(repr, list(ids)[:SHOWN]))}{f' and {len(ids) - SHOWN:,} more' if len(ids) > SHOWN else ''}"
        for word, ids in (
            ("videos new", changes.new_videos),
            ("videos changed", [f"{video_id} ({' and '.join(what)})" for video_id, what in changes.changed_videos.items()]),
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
    parts = [changes.headline.capitalize(), changes.counts, *named, table(rows), bad if changes.before.bad or changes.after.bad else ""]
    return "\n\n".join(part for part in parts if part)


def as_json(changes: Changes, seconds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The same for programs, with every id and pair."""

    def listed(keys: Sequence[PairKey], contents: Contents) -> list[dict[str, Any]]:
        return [
            {"query": {query.kind: query.value}, "target": {target.kind: target.value}, "split": contents.splits[query, target]}
            for query, target in keys
        ]

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


def _said(contents: Contents, key: PairKey) -> tuple[float, str, frozenset[Side]]:
    pair = contents.pairs[key]
    return pair.relevance, contents.splits[key], frozenset(pair.negatives)


def _kind(key: PairKey) -> str:
    return pair_kind(key[0].kind, key[1].kind)


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def table(rows: Sequence[Sequence[object]]) -> str:
    """For a terminal: two columns of words, the others of figures."""
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = []
    for row in cells:
        left = [f"{cell:<{width}}" for cell, width in zip(row[:2], widths[:2], strict=True)]
        right = [f"{cell:>{width}}" for cell, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join([*left, *right]).rstrip())
    return "\n".join(lines)
