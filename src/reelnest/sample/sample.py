"""The sample data: small videos of moving things with searches for them, in the layout that every `data/` has.

It shows in minutes whether the whole chain learns to see. A *combination* is one colour, shape, background and movement; its *twin* differs
in the direction of movement alone. Combinations of the test split stand nowhere in training, so a search finds them only if the model has
learnt the four parts and not the clips; the twins, listed as negatives, tell whether it sees the order of the frames.

What the sample holds is fixed by the constants here, the drawings by `clips`, the wordings by `words`.
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

from tqdm import tqdm

from reelnest.atomic_files import atomic_folder, write_json, write_lines
from reelnest.errors import DataError
from reelnest.records.behaviour_tests import BEHAVIOUR_FILE
from reelnest.records.content_hash import folder_hash
from reelnest.records.formats import PAIRS_FILE, SPLITS, VIDEOS_FILE
from reelnest.sample import clips as sample_clips
from reelnest.sample import words as sample_words

TWINS = {"train": 700, "validation": 30, "test": 45}
"""Pairs of opposite combinations in each split; each is at least two clips."""
ALONE = {"train": 0, "validation": 0, "test": 3}
"""For each of those, so many combinations whose twin stands nowhere: as in most collections, few clips have an exact opposite."""
RENDERED_TWICE = 11
"""Every so many combinations have a second clip of another size and speed: both are right answers, and a video→video pair."""
REPHRASED = 8
"""Every so many combinations have text→text pairs, between all of their texts."""
SEARCHES = 2
"""text→video searches for a combination; a caption, its video→text target, is one text more."""
TITLED = 5
"""Every so many training clips have a title, which names colour and shape."""
NOTED = 6
"""Every so many clips of any split have a caption, which names nothing that can be seen."""
TESTED = 60
"""So many combinations of the test split have a behaviour test of invariance and one of minimum function; each twin one of direction."""

MANIFEST = "sample.json"
"""Says which recipe made the folder and which bytes it had then."""

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
        """The same thing before the same background, moving the opposite way."""
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
        """Its file, relative to the sample's folder."""
        return f"videos/{self.video_id}.mp4"


@dataclass(frozen=True)
class SampleCounts:
    """What a sample holds: clips by split, pairs by split and kind (such as `text_to_video`)."""

    folder: Path
    clips: Mapping[str, int]
    pairs: Mapping[str, Mapping[str, int]]
    bytes: int
    made: bool
    """False where it was there already."""

    def __str__(self) -> str:
        lines = [f"{self.folder}: {'made' if self.made else 'is there already, and whole'} ({self.bytes / 1e6:.1f} MB)"]
        for split, count in self.clips.items():
            kinds = ", ".join(f"{number} {kind.replace('_to_', '→')}" for kind, number in self.pairs[split].items())
            lines.append(f"  {split}: {count} clips; pairs: {kinds}")
        return "\n".join(lines)


def plan(seed: int = 0, twins: Mapping[str, int] = TWINS) -> tuple[list[Clip], list[dict[str, Any]]]:
    """The clips and the pairs of a sample (as lines of `pairs.jsonl`), without drawing anything. A function of its arguments alone."""
    needed = sum(count * (1 + ALONE[split]) for split, count in twins.items())
    order = _shuffled(_twin_pairs(), seed)
    if needed > len(order):
        raise DataError(f"a sample of {needed} twin pairs was asked for; there are {len(order)}")
    left = iter(order)
    split_of: dict[Combination, str] = {}
    for split, count in twins.items():
        for first in itertools.islice(left, count):
            split_of |= {first: split, first.twin: split}
        for number, first in enumerate(itertools.islice(left, count * ALONE[split])):
            split_of[first if number % 2 else first.twin] = split
    by_combination: dict[Combination, list[Clip]] = {}
    unnumbered = []
    for number, (combination, split) in enumerate(split_of.items()):
        for rendering in range(2 if number % RENDERED_TWICE == 0 else 1):
            unnumbered.append((combination, split, f"{seed}/{'/'.join(combination)}/{rendering}"))
    # Numbers follow a shuffled order, so that a clip's id tells nothing of what it shows, and ties are not broken by it.
    for number, (combination, split, clip_seed) in enumerate(_shuffled(unnumbered, seed), start=1):
        clip = Clip(f"clip-{number:04d}", split, combination, clip_seed, _fields(combination, split, clip_seed))
        by_combination.setdefault(combination, []).append(clip)
    clips = sorted(itertools.chain.from_iterable(by_combination.values()), key=lambda clip: clip.video_id)
    pairs: list[dict[str, Any]] = []
    for number, combination in enumerate(by_combination):
        pairs += _pairs(combination, by_combination, seed, rephrased=number % REPHRASED == 0)
    return clips, pairs


def behaviour_tests(clips: Iterable[Clip]) -> list[dict[str, Any]]:
    """Lines of `behaviour.jsonl` for the clips of the test split: nothing that is asked or found was trained on."""
    ids: dict[Combination, list[str]] = {}
    for clip in clips:
        if clip.split == "test":
            ids.setdefault(clip.combination, []).append(clip.video_id)
    tests: list[dict[str, Any]] = []
    for combination in itertools.islice(ids, TESTED):
        query = sample_words.plain_search(combination)
        tests.append({"kind": "invariance", "query": query, "same_as": sample_words.synonymous_search(combination)})
        tests.append({"kind": "minimum", "query": query, "video": ids[combination]})
    # Each twin is asked for: a model that does not see the changed word, or the movement, passes half of these.
    for combination in ids:
        if combination.twin in ids:
            query = sample_words.plain_search(combination)
            tests.append({"kind": "direction", "query": query, "video": ids[combination], "above": ids[combination.twin]})
    return tests


def write_sample(folder: Path, seed: int = 0, twins: Mapping[str, int] = TWINS) -> SampleCounts:
    """Makes the sample in `folder`, whole or not at all; the same seed gives the same bytes.

    Does nothing where the same sample is there already, and replaces another untouched sample. Raises DataError, and leaves `folder` as it
    was, where it holds anything that this function did not write.
    """
    clips, pairs = plan(seed, twins)
    recipe = _recipe(clips, pairs)
    if _is_there(folder, recipe):
        return _counts(folder, clips, pairs, made=False)
    started = time.monotonic()
    with atomic_folder(folder) as aside:
        (aside / "videos").mkdir()
        bar = tqdm(total=len(clips), desc="drawing", unit="clip", disable=None)
        with bar, ThreadPoolExecutor(2) as threads:
            for clip, video in zip(clips, threads.map(_render, clips), strict=True):
                (aside / clip.path).write_bytes(video)
                bar.update()
        videos = ({"video_id": clip.video_id, "path": clip.path, **clip.fields} for clip in clips)
        for name, records in ((VIDEOS_FILE, videos), (PAIRS_FILE, pairs), (BEHAVIOUR_FILE, behaviour_tests(clips))):
            write_lines(aside / name, (json.dumps(record, ensure_ascii=False) for record in records))
        write_json(aside / MANIFEST, {"seed": seed, "recipe": recipe, "digest": folder_hash(aside)})
    seconds = time.monotonic() - started
    logger.info("%s: drew %d clips, %.0f a second", folder, len(clips), len(clips) / seconds)
    return _counts(folder, clips, pairs, made=True)


def sample_seed(folder: Path) -> int | None:
    """The seed with which `reelnest sample` makes what `folder` holds; None where it holds anything else."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        seed = int(manifest["seed"])
        is_whole = _is_there(folder, _recipe(*plan(seed)))
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None
    return seed if is_whole else None


def _twin_pairs() -> list[Combination]:
    """One of each pair of twins. A circle or a ring looks the same however far it is turned."""
    every = itertools.product(sample_words.COLOURS, sample_words.SHAPES, sample_words.BACKGROUNDS, sample_clips.BACKWARDS)
    return [
        made for made in itertools.starmap(Combination, every) if not (made.shape in ("circle", "ring") and made.movement == "clockwise")
    ]


def _shuffled(items: Iterable[T], seed: int) -> list[T]:
    """In an order that no version of any library can change."""
    return sorted(items, key=lambda item: hashlib.sha256(f"{seed}/{item}".encode()).digest())


def _fields(combination: Combination, split: str, clip_seed: str) -> dict[str, str]:
    """The text that goes with a clip. Outside training none names what the clip shows: what is measured must come from its frames."""
    rng = random.Random(f"fields/{clip_seed}")  # noqa: S311 (the same on every run, and no secret)
    fields = {}
    if split == "train" and rng.randrange(TITLED) == 0:
        fields["title"] = sample_words.title(combination.colour, combination.shape, rng)
    if rng.randrange(NOTED) == 0:
        fields["caption"] = sample_words.note(rng)
    return fields


def _pairs(combination: Combination, clips: Mapping[Combination, list[Clip]], seed: int, *, rephrased: bool) -> list[dict[str, Any]]:
    """All pairs of one combination. Each of its texts is paired with each of its clips, so that no right answer goes unmarked."""
    rng = random.Random(f"words/{seed}/{'/'.join(combination)}")  # noqa: S311 (the same on every run, and no secret)
    own, twins = clips[combination], clips.get(combination.twin, [])
    split = own[0].split
    templates = sample_words.TEST_SEARCHES if split == "test" else sample_words.SEARCHES
    searches = [{"text": text} for text in sample_words.searches(combination, SEARCHES, templates, rng)]
    caption = {"text": sample_words.caption(combination, rng)}
    videos = [{"video": clip.video_id} for clip in own]
    opposite = [{"video": clip.video_id} for clip in twins]
    wrong = {"negatives": opposite} if opposite else {}
    pairs: list[dict[str, Any]] = [{"query": search, "target": video, **wrong} for search in searches for video in videos]
    pairs += [{"query": video, "target": caption} for video in videos]
    pairs += [{"query": first, "target": second} for first, second in itertools.combinations(videos, 2)]
    if rephrased:
        pairs += [{"query": first, "target": second} for first, second in itertools.combinations([*searches, caption], 2)]
    return [{**pair, "split": split} for pair in pairs]


def _render(clip: Clip) -> bytes:
    rng = random.Random(clip.seed)  # noqa: S311 (the same on every run, and no secret)
    colour, shape, background, movement = clip.combination
    along = sample_clips.trajectory(movement, rng)
    return sample_clips.encode(sample_clips.draw(colour, shape, background, along, rng))


def _recipe(clips: list[Clip], pairs: list[dict[str, Any]]) -> str:
    """A digest of all that decides the bytes, but for the code that draws."""
    constants = {name: value for name, value in vars(sample_clips).items() if name.isupper()}
    return hashlib.sha256(repr((clips, pairs, behaviour_tests(clips), constants)).encode()).hexdigest()


def _is_there(folder: Path, recipe: str) -> bool:
    """Whether this very sample is there. Raises DataError for a folder that holds anything else than an untouched sample."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        untouched = manifest["digest"] == folder_hash(folder, without=[MANIFEST])
    except (OSError, ValueError, KeyError, TypeError):
        untouched = False
    if not untouched:
        raise DataError(
            f"{folder}: holds something else than an untouched sample ({MANIFEST} is missing, or its digest does not fit),"
            " so nothing was changed. Name another folder, or move this one away first."
        )
    return bool(manifest["recipe"] == recipe)


def _counts(folder: Path, clips: list[Clip], pairs: list[dict[str, Any]], *, made: bool) -> SampleCounts:
    numbers: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    for pair in pairs:
        (query,), (target,) = pair["query"], pair["target"]
        numbers[pair["split"]][f"{query}_to_{target}"] += 1
    return SampleCounts(
        folder=folder,
        clips={split: sum(clip.split == split for clip in clips) for split in SPLITS},
        pairs={split: dict(sorted(kinds.items())) for split, kinds in numbers.items()},
        bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        made=made,
    )
