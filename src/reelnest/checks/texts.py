"""The texts of pairs and the titles of videos: their scripts, and which are almost the same."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reelnest.artifacts.validation_report import TextCounts
from reelnest.checks.near_duplicate_texts import NearDuplicates, near_duplicate_texts
from reelnest.checks.scripts import scripts_of
from reelnest.records.formats import SPLITS, Pair, Video


@dataclass(frozen=True)
class Texts:
    """Some texts of the data, each at a place: a number of a row or of a side."""

    places: NDArray[np.int64]
    splits: Sequence[str]
    scripts: Sequence[str]
    near: NearDuplicates

    def repeated(self, places: int) -> NDArray[np.int64]:
        """Returns, for each place, that of a text of the train split which its text nearly repeats; -1 if there is none, (places,)."""
        repeated = np.full(places, -1)
        of_train = self.near.of_train
        repeated[self.places] = np.where(of_train >= 0, self.places[of_train], -1)
        return repeated

    def scripts_by_place(self, places: int) -> NDArray[np.object_]:
        """Returns, for each place, the script of its text; None without a text or letter, (places,)."""
        scripts = np.full(places, None, np.object_)
        scripts[self.places] = [script or None for script in self.scripts]
        return scripts

    def counts(self) -> dict[str, TextCounts]:
        """Returns the counts by split."""
        counts = {}
        for split in SPLITS:
            of_split = np.fromiter((name == split for name in self.splits), np.bool_, len(self.splits))
            first = np.flatnonzero(of_split & self.near.is_first)
            if len(first):
                counts[split] = TextCounts(
                    distinct=len(first),
                    near_duplicates=int(self.near.within[first].sum()),
                    near_duplicates_of_train=int((self.near.of_train[first] >= 0).sum()),
                    scripts=dict(Counter(self.scripts[row] for row in first.tolist()).most_common()),
                )
        return counts


def pair_texts(pairs: Sequence[Pair], splits: Sequence[str], least: float) -> Texts:
    """Returns the queries and targets that are texts. The place of a query is twice the number of its pair, that of a target one more."""
    sides = [side for pair in pairs for side in (pair.query, pair.target)]
    places = [place for place, side in enumerate(sides) if side.kind == "text"]
    return _texts(places, [sides[place].value for place in places], [splits[place // 2] for place in places], least)


def titles(videos: Sequence[Video], split_of: Mapping[str, str], least: float) -> Texts:
    """Returns the titles of the videos that are in a split. The place of a title is the number of its video."""
    places = [place for place, video in enumerate(videos) if "title" in video.fields and video.video_id in split_of]
    titled = [videos[place] for place in places]
    return _texts(places, [video.fields["title"] for video in titled], [split_of[video.video_id] for video in titled], least)


def _texts(places: Sequence[int], texts: Sequence[str], splits: Sequence[str], least: float) -> Texts:
    return Texts(np.array(places, np.int64), splits, scripts_of(texts), near_duplicate_texts(texts, splits, least))
