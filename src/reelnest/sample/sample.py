"""The sample data: short videos of moving shapes and searches for them, in the format of every `data/` folder.

It shows in minutes whether the whole chain learns. A *combination* is one colour, shape, background and movement. Its *twin* differs only
in the direction of movement. No combination of the test split is in training, so a search finds it only if the model has learnt the four
attributes and not the clips. The twins are listed as negatives and show whether the model sees the order of the frames.

The constants here set the contents; `clips` draws them and `words` writes the texts.
"""

import hashlib
import itertools
import json
import logging
import random
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from reelnest.atomic_files import atomic_folder, write_json, write_lines
from reelnest.errors import DataError
from reelnest.progress import Activity
from reelnest.records.behaviour_tests import BEHAVIOUR_FILE
from reelnest.records.content_hash import folder_hash
from reelnest.records.formats import PAIRS_FILE, SPLITS, VIDEOS_FILE
from reelnest.sample import clips as sample_clips
from reelnest.sample import words as sample_words

TWINS = {"train": 700, "validation": 30, "test": 45}
"""The number of pairs of twins in each split. Each pair has at least two clips."""
ALONE = {"train": 0, "validation": 0, "test": 3}
"""The number of combinations without a twin in the sample, for each pair of twins. In most collections few clips have an exact opposite."""
RENDERED_TWICE = 11
"""One in this many combinations has a second clip of another size and speed. Both are relevant, and they are a video→video pair."""
REPHRASED = 8
"""One in this many combinations has text→text pairs between all of its texts."""
SEARCHES = 2
"""The number of text→video searches for a combination. The caption, which is its video→text target, is an additional text."""
TITLED = 5
"""One in this many training clips has a title, which names colour and shape."""
NOTED = 6
"""One in this many clips of any split has a caption that does not describe it."""
TESTED = 60
"""The number of test combinations with a behaviour test of invariance and one of minimum function. Each twin has one of direction."""

MANIFEST = "sample.json"
"""Records the recipe and the content hash of the folder."""

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Combination(NamedTuple):
    """What a clip shows."""

    colour: str
    shape: str
    background: str
    movement: str

    @property
    def twin(self) -> "Combination":
        """The same shape and background with the opposite movement."""
        return self._replace(movement=sample_clips.OPPOSITES[self.movement])


@dataclass(frozen=True)
class Clip:
    """One video of the sample."""

    video_id: str
    split: str
    combination: Combination
    seed: str
    fields: Mapping[str, str]

    @property
    def path(self) -> str:
        """The file, relative to the sample's folder."""
        return f"videos/{self.video_id}.mp4"


@dataclass(frozen=True)
class SampleCounts:
    """The contents of a sample: clips by split, pairs by split and kind (such as `text_to_video`)."""

    folder: Path
    clips: Mapping[str, int]
    pairs: Mapping[str, Mapping[str, int]]
    bytes: int
    was_written: bool
    """False if the folder already had this sample."""

    def __str__(self) -> str:
        lines = [
            f"{self.folder}: {'written' if self.was_written else 'unchanged, the same sample is already here'} ({self.bytes / 1e6:.1f} MB)"
        ]
        for split, count in self.clips.items():
            kinds = ", ".join(f"{number} {kind.replace('_to_', '→')}" for kind, number in self.pairs[split].items())
            lines.append(f"  {split}: {count} clips; pairs: {kinds}")
        return "\n".join(lines)


def plan(seed: int = 0, twins: Mapping[str, int] = TWINS) -> tuple[list[Clip], list[dict[str, Any]]]:
    """Returns the clips and the pairs (lines of `pairs.jsonl`) of a sample without drawing anything. The same arguments give the same plan.

    Raises DataError where there are not enough combinations.
    """
    needed = sum(count * (1 + ALONE[split]) for split, count in twins.items())
    available = _shuffled(_twin_pairs(), seed)
    if needed > len(available):
        raise DataError(f"the sample needs {needed} twin pairs, but there are only {len(available)}; lower `twins`")
    remaining = iter(available)
    split_of: dict[Combination, str] = {}
    for split, count in twins.items():
        for first in itertools.islice(remaining, count):
            split_of |= {first: split, first.twin: split}
        for number, first in enumerate(itertools.islice(remaining, count * ALONE[split])):
            split_of[first if number % 2 else first.twin] = split
    by_combination: dict[Combination, list[Clip]] = {}
    unnumbered = []
    for number, (combination, split) in enumerate(split_of.items()):
        for rendering in range(2 if number % RENDERED_TWICE == 0 else 1):
            unnumbered.append((combination, split, f"{seed}/{'/'.join(combination)}/{rendering}"))
    # Numbers follow a shuffled order, so a clip's id is unrelated to its contents, and breaking ties by id favours none.
    for number, (combination, split, clip_seed) in enumerate(_shuffled(unnumbered, seed), start=1):
        clip = Clip(f"clip-{number:04d}", split, combination, clip_seed, _fields(combination, split, clip_seed))
        by_combination.setdefault(combination, []).append(clip)
    clips = sorted(itertools.chain.from_iterable(by_combination.values()), key=lambda clip: clip.video_id)
    pairs: list[dict[str, Any]] = []
    for number, combination in enumerate(by_combination):
        pairs += _pairs(combination, by_combination, seed, rephrased=number % REPHRASED == 0)
    return clips, pairs


def behaviour_tests(clips: Iterable[Clip]) -> list[dict[str, Any]]:
    """Returns the lines of `behaviour.jsonl` for the clips of the test split. Training has none of their combinations."""
    ids: dict[Combination, list[str]] = {}
    for clip in clips:
        if clip.split == "test":
            ids.setdefault(clip.combination, []).append(clip.video_id)
    tests: list[dict[str, Any]] = []
    for combination in itertools.islice(ids, TESTED):
        query = sample_words.plain_search(combination)
        tests.append({"kind": "invariance", "query": query, "same_as": sample_words.synonymous_search(combination)})
        tests.append({"kind": "minimum", "query": query, "video": ids[combination]})
    # Both twins are searched for: a model that ignores the changed word, or the movement, passes half of these.
    for combination in ids:
        if combination.twin in ids:
            query = sample_words.plain_search(combination)
            tests.append({"kind": "direction", "query": query, "video": ids[combination], "above": ids[combination.twin]})
    return tests


def write_sample(folder: Path, seed: int = 0, twins: Mapping[str, int] = TWINS) -> SampleCounts:
    """Writes the sample to `folder` atomically. The same seed gives the same bytes.

    Does nothing if the folder already has this sample, and replaces another unmodified sample. Raises DataError and changes nothing if the
    folder has any other contents.
    """
    clips, pairs = plan(seed, twins)
    recipe = _recipe(clips, pairs)
    if _is_there(folder, recipe):
        return _counts(folder, clips, pairs, was_written=False)
    started = time.monotonic()
    with atomic_folder(folder) as temporary:
        (temporary / "videos").mkdir()
        with ThreadPoolExecutor(2) as threads:
            drawn = Activity("drawing", len(clips), "clip").over(threads.map(_render, clips))
            for clip, video in zip(clips, drawn, strict=True):
                (temporary / clip.path).write_bytes(video)
        videos = ({"video_id": clip.video_id, "path": clip.path, **clip.fields} for clip in clips)
        for name, records in ((VIDEOS_FILE, videos), (PAIRS_FILE, pairs), (BEHAVIOUR_FILE, behaviour_tests(clips))):
            write_lines(temporary / name, (json.dumps(record, ensure_ascii=False) for record in records))
        write_json(temporary / MANIFEST, {"seed": seed, "recipe": recipe, "digest": folder_hash(temporary)})
    seconds = time.monotonic() - started
    logger.info("%s: drew %d clips, %.0f a second", folder, len(clips), len(clips) / seconds)
    return _counts(folder, clips, pairs, was_written=True)


def sample_seed(folder: Path) -> int | None:
    """Returns the seed with which `reelnest sample` writes this folder's contents, or None if it has any other contents."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        seed = int(manifest["seed"])
        is_current = _is_there(folder, _recipe(*plan(seed)))
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None
    return seed if is_current else None


def _twin_pairs() -> list[Combination]:
    """Returns one of each pair of twins."""
    every = itertools.product(sample_words.COLOURS, sample_words.SHAPES, sample_words.BACKGROUNDS, sample_clips.BACKWARDS)
    return list(itertools.starmap(Combination, every))


def _shuffled(items: Iterable[T], seed: int) -> list[T]:
    """Shuffles in an order that does not depend on the version of any library."""
    return sorted(items, key=lambda item: hashlib.sha256(f"{seed}/{item}".encode()).digest())


def _fields(combination: Combination, split: str, clip_seed: str) -> dict[str, str]:
    """Returns the text fields of a clip. Only those of training describe it: test results have to come from the frames."""
    rng = random.Random(f"fields/{clip_seed}")  # noqa: S311 (the same on every run, and no secret)
    fields = {}
    if split == "train" and rng.randrange(TITLED) == 0:
        fields["title"] = sample_words.title(combination.colour, combination.shape, rng)
    if rng.randrange(NOTED) == 0:
        fields["caption"] = sample_words.note(rng)
    return fields


def _pairs(combination: Combination, clips: Mapping[Combination, list[Clip]], seed: int, *, rephrased: bool) -> list[dict[str, Any]]:
    """Returns all pairs of one combination. Each of its texts is paired with each of its clips, so every relevant clip is labelled."""
    rng = random.Random(f"words/{seed}/{'/'.join(combination)}")  # noqa: S311 (the same on every run, and no secret)
    own, twins = clips[combination], clips.get(combination.twin, [])
    split = own[0].split
    templates = sample_words.TEST_SEARCHES if split == "test" else sample_words.SEARCHES
    searches = [{"text": text} for text in sample_words.searches(combination, SEARCHES, templates, rng)]
    caption = {"text": sample_words.caption(combination, rng)}
    videos = [{"video": clip.video_id} for clip in own]
    opposite = [{"video": clip.video_id} for clip in twins]
    negatives = {"negatives": opposite} if opposite else {}
    pairs: list[dict[str, Any]] = [{"query": search, "target": video, **negatives} for search in searches for video in videos]
    pairs += [{"query": video, "target": caption} for video in videos]
    pairs += [{"query": first, "target": second} for first, second in itertools.combinations(videos, 2)]
    if rephrased:
        pairs += [{"query": first, "target": second} for first, second in itertools.combinations([*searches, caption], 2)]
    return [{**pair, "split": split} for pair in pairs]


def _render(clip: Clip) -> bytes:
    rng = random.Random(clip.seed)  # noqa: S311 (the same on every run, and no secret)
    colour, shape, background, movement = clip.combination
    path = sample_clips.trajectory(movement, rng)
    return sample_clips.encode(sample_clips.draw(colour, shape, background, path, rng))


def _recipe(clips: list[Clip], pairs: list[dict[str, Any]]) -> str:
    """Hashes everything that the bytes depend on, except the code that draws."""
    constants = {name: value for name, value in vars(sample_clips).items() if name.isupper()}
    return hashlib.sha256(repr((clips, pairs, behaviour_tests(clips), constants)).encode()).hexdigest()


def _is_there(folder: Path, recipe: str) -> bool:
    """Returns whether the folder has this sample. Raises DataError for a folder with anything but an unmodified sample."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        unmodified = manifest["digest"] == folder_hash(folder, without=[MANIFEST])
    except (OSError, ValueError, KeyError, TypeError):
        unmodified = False
    if not unmodified:
        raise DataError(
            f"{folder}: expected an empty folder or an unmodified sample, but {MANIFEST} is missing or"
            " its digest does not match; nothing was changed. Name another folder, or move this one away first."
        )
    return bool(manifest["recipe"] == recipe)


def _counts(folder: Path, clips: list[Clip], pairs: list[dict[str, Any]], *, was_written: bool) -> SampleCounts:
    numbers: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    for pair in pairs:
        (query,), (target,) = pair["query"], pair["target"]
        numbers[pair["split"]][f"{query}_to_{target}"] += 1
    return SampleCounts(
        folder=folder,
        clips={split: sum(clip.split == split for clip in clips) for split in SPLITS},
        pairs={split: dict(sorted(kinds.items())) for split, kinds in numbers.items()},
        bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        was_written=was_written,
    )
