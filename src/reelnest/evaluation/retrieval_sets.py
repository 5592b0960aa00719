"""What an evaluation searches: for each pair kind the queries, the corpus and the relevant items."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from reelnest.store.prepared import Prepared

PAIR_KINDS = ("text_to_video", "video_to_text", "text_to_text", "video_to_video")


@dataclass(frozen=True)
class RetrievalSet:
    """One pair kind of one split. All numbers are item indices of the prepared data."""

    pair_kind: str
    queries: np.ndarray  # (queries,) int64, rising
    corpus: np.ndarray  # (corpus,) int64, rising
    qrels: dict[int, dict[int, float]]
    """query → relevant item → grade, above 0."""
    negatives: dict[int, np.ndarray] = field(default_factory=dict)
    """query → its listed negatives."""
    ignored: dict[int, np.ndarray] = field(default_factory=dict)
    """query → items of the corpus that do not count for it: itself, and items paired with it in another split."""

    @property
    def target_kind(self) -> str:
        """`text` or `video`."""
        return self.pair_kind.split("_")[2]


def retrieval_sets(prepared: "Prepared", split: str) -> list[RetrievalSet]:
    """Returns the retrieval sets of a split, in the order of PAIR_KINDS; kinds without pairs are left out.

    Each pair is searched in both directions: a text→video pair is also a video→text pair of the same grade. The corpus of a kind holds
    every item that is relevant to one of its queries or a listed negative of one. Of repeated pairs the highest grade counts.
    """
    qrels: dict[str, dict[int, dict[int, float]]] = {kind: defaultdict(dict) for kind in PAIR_KINDS}
    negatives: dict[str, dict[int, set[int]]] = {kind: defaultdict(set) for kind in PAIR_KINDS}
    kinds: dict[int, str] = {}

    def kind_of(item: int) -> str:
        if item not in kinds:
            kinds[item] = prepared.item(item).kind
        return kinds[item]

    pairs = prepared.pairs(split)
    rows = zip(pairs.queries.tolist(), pairs.targets.tolist(), pairs.relevance.tolist(), pairs.negatives, strict=True)
    for query, target, grade, wrong in rows:
        for a, b in ((query, target), (target, query)):
            if a != b:
                grades = qrels[f"{kind_of(a)}_to_{kind_of(b)}"][a]
                grades[b] = max(grade, grades.get(b, 0.0))
        for negative in wrong.tolist():
            negatives[f"{kind_of(query)}_to_{kind_of(negative)}"][query].add(negative)
    return [_retrieval_set(prepared, kind, qrels[kind], negatives[kind]) for kind in PAIR_KINDS if qrels[kind]]


def _retrieval_set(
    prepared: "Prepared", pair_kind: str, qrels: dict[int, dict[int, float]], negatives: dict[int, set[int]]
) -> RetrievalSet:
    # Negatives of a query without a relevant item of this kind have nothing to be compared with.
    wrong = {query: np.array(sorted(items - {query, *qrels[query]})) for query, items in sorted(negatives.items()) if query in qrels}
    wrong = {query: items for query, items in wrong.items() if len(items)}
    right = (np.fromiter(grades, dtype=np.int64) for grades in qrels.values())
    corpus = np.unique(np.concatenate([*right, *wrong.values()]))
    ignored = {}
    for query in qrels:
        labelled = [*qrels[query], *wrong.get(query, ())]
        others = np.setdiff1d(np.append(prepared.related(query), query), labelled)
        others = others[np.isin(others, corpus)]
        if len(others):
            ignored[query] = others
    queries = np.array(sorted(qrels), dtype=np.int64)
    return RetrievalSet(pair_kind, queries, corpus, {query: qrels[query] for query in queries.tolist()}, wrong, ignored)
