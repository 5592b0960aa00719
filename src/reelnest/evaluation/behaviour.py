"""Runs behaviour tests at each dim. They need only vectors, so any model can be tested."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from reelnest.records.behaviour_tests import KINDS, BehaviourTest, Kind
from reelnest.search.topk import prefix_scores, query_blocks


@dataclass(frozen=True)
class EmbeddedTests:
    """Tests and the vectors that they need."""

    tests: Sequence[BehaviourTest]
    texts: Mapping[str, int]
    """Text of each query → its row of `queries`."""
    queries: Tensor  # (texts, width) float32, any length
    videos: Mapping[str, int]
    """Video id → its row of `corpus`. It holds every video that the tests name."""
    corpus: Tensor  # (videos, width) float32, any length


@dataclass(frozen=True)
class Failure:
    """A test that failed at some dims."""

    line: int
    """Line of `data/behaviour.jsonl`."""
    kind: Kind
    query: str
    dims: tuple[int, ...]
    problem: str
    """The result at the largest of these dims, and what was expected."""


@dataclass(frozen=True)
class Behaviour:
    """The results of all tests."""

    tests: dict[Kind, int]
    """Kind → number of tests."""
    passed: dict[int, dict[Kind, float]]
    """Dim → kind → share that passed."""
    failures: tuple[Failure, ...]


def score_behaviour(embedded: EmbeddedTests, dims: Sequence[int]) -> Behaviour:
    """Runs each test at each dim.

    Ranks are over the whole corpus; of equal scores the lower row ranks first, as in every search of this package. A relevant video whose
    score equals that of a wrong one does not rank above it.
    """
    tests, dims = embedded.tests, sorted(dims)
    kinds: list[Kind] = [kind for kind in KINDS if any(test.kind == kind for test in tests)]
    counts = {kind: sum(test.kind == kind for test in tests) for kind in kinds}
    failed: dict[int, Counter[Kind]] = {dim: Counter() for dim in dims}
    faults: dict[int, dict[int, str]] = {}  # test → dim → why it failed
    for block in query_blocks(len(tests), 2 * len(embedded.videos)):  # an invariance test has two queries
        texts = {text: row for row, text in enumerate(dict.fromkeys(text for test in tests[block] for text in test.texts))}
        rows = [embedded.texts[text] for text in texts]
        for dim in dims:
            scores = prefix_scores(embedded.queries[rows], embedded.corpus, dim).cpu().numpy()  # (texts, videos)
            for number, test in enumerate(tests[block], start=block.start):
                fault = _fault(test, [scores[texts[text]] for text in test.texts], embedded.videos)
                if fault is not None:
                    faults.setdefault(number, {})[dim] = fault
                    failed[dim][test.kind] += 1
    passed = {dim: {kind: 1 - failed[dim][kind] / counts[kind] for kind in kinds} for dim in dims}
    failures = [
        Failure(tests[number].line, tests[number].kind, tests[number].query, tuple(by_dim), by_dim[max(by_dim)])
        for number, by_dim in sorted(faults.items())
    ]
    return Behaviour(counts, passed, tuple(failures))


def _fault(test: BehaviourTest, scores: Sequence[np.ndarray], videos: Mapping[str, int]) -> str | None:
    """Returns why the test fails, or None if it passes. `scores` has an array for each text of the test, (videos,)."""
    if test.kind == "invariance":
        first, second = (np.argsort(-of_text, kind="stable")[: test.top] for of_text in scores)
        both = len(np.intersect1d(first, second))
        if both < min(test.shared, len(scores[0])):
            return f"both wordings share {both} of their first {test.top} videos; expected {test.shared} or more"
    elif test.kind == "direction":
        right, wrong = (max(scores[0][videos[video]] for video in named) for named in (test.video, test.above))
        if not right > wrong:
            return f"the relevant video scores {right:.3f}, its opposite {wrong:.3f}; expected the relevant one above"
    else:
        rank = min(_rank(scores[0], videos[video]) for video in test.video)
        if rank > test.top:
            return f"the video has rank {rank} of {len(videos)}; expected one of the first {test.top}"
    return None


def _rank(scores: np.ndarray, row: int) -> int:
    return 1 + int((scores > scores[row]).sum()) + int((scores[:row] == scores[row]).sum())
