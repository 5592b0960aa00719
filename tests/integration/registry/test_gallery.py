"""The queries and the confused videos that the page shows, with planted vectors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from reelnest.evaluation.evaluation import Evaluation, Vectors, evaluate_vectors
from reelnest.evaluation.retrieval_sets import RetrievalSet, retrieval_sets
from reelnest.report.gallery import FRAMES, TOP, choose_gallery, confused_videos
from reelnest.store.prepared import Prepared


@pytest.fixture(scope="module")
def prepared(evaluated_folder: Path) -> Prepared:
    """Texts and videos, with pairs of all four kinds."""
    return Prepared.open(evaluated_folder / "prepared")


def evaluated(prepared: Prepared, sets: Sequence[RetrievalSet] | None = None, *, first: int | None = None) -> Evaluation:
    """Every item has its own direction, so that each query only retrieves itself. The video `first` is close to all items."""
    items = np.arange(len(prepared))
    queries, targets = torch.zeros(len(items), 64), torch.eye(len(items), 64)
    for searched in sets or retrieval_sets(prepared, "test"):
        for place, query in enumerate(searched.queries.tolist()):
            queries[query, next(iter(searched.qrels[query]))] = 1.0
            queries[query, -1] = 0.5 + place / 1000
    if first is not None:
        targets[first] = 0.0
        targets[first, -1] = targets[first, first] = 1.0
        queries[:, -1] *= 4
    return evaluate_vectors(sets or retrieval_sets(prepared, "test"), Vectors(items, queries), Vectors(items, targets), [32, 64], 100)


def of_kind(prepared: Prepared, kind: str) -> RetrievalSet:
    return next(searched for searched in retrieval_sets(prepared, "test") if searched.pair_kind == kind)


def test_each_pair_kind_gets_its_share_and_no_query_is_repeated(prepared: Prepared) -> None:
    gallery = choose_gallery(prepared, evaluated(prepared), 9)
    kinds = [query.pair_kind for query in gallery]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "text_to_video": 3,
        "video_to_text": 2,
        "text_to_text": 2,
        "video_to_video": 2,
    }
    assert len({(query.pair_kind, query.query.text) for query in gallery}) == 9
    assert choose_gallery(prepared, evaluated(prepared), 0) == []


def test_half_of_the_gallery_is_the_hardest_queries_worst_first(prepared: Prepared) -> None:
    searched = of_kind(prepared, "text_to_video")
    hub = int(searched.corpus[0])
    evaluation = evaluated(prepared, [searched], first=hub)
    gallery = choose_gallery(prepared, evaluation, 6)
    (ranks,) = (table.values["median_rank"] for table in evaluation.by_query if table.dim == 64)
    hard = [query.rank for query in gallery if query.is_hard]
    assert hard == sorted(ranks, reverse=True)[:3]
    assert len(gallery) == 6
    assert all(not query.is_hard for query in gallery[3:])


def test_a_query_shows_its_relevant_item_its_results_and_its_rank_at_each_dim(prepared: Prepared) -> None:
    searched = of_kind(prepared, "text_to_video")
    evaluation = evaluated(prepared, [searched], first=int(searched.corpus[0]))
    by_dim = {table.dim: table.values["median_rank"] for table in evaluation.by_query}
    texts = [prepared.item(int(query)).key for query in searched.queries]
    for query in choose_gallery(prepared, evaluation, 4):
        place = texts.index(query.query.text)
        assert query.ranks == tuple((dim, int(by_dim[dim][place])) for dim in (32, 64))
        right = searched.qrels[int(searched.queries[place])]
        assert query.relevant.text in {prepared.item(item).key for item in right}
        assert query.relevant_count == len(right)
        assert [result.item.text for result in query.results] == [
            prepared.item(int(item)).key for item in evaluation.retrieved[0].items[place][:TOP]
        ]
        assert query.relevant.frames is not None
        assert len(query.relevant.frames) <= FRAMES


def test_the_random_queries_do_not_depend_on_the_model(prepared: Prepared) -> None:
    searched = of_kind(prepared, "text_to_text")
    texts = [[query.query.text for query in choose_gallery(prepared, evaluated(prepared, [searched]), 2)] for _ in range(2)]
    assert texts[0] == texts[1]


def test_a_video_ranked_first_for_wrong_queries_is_listed_with_their_relevant_items(prepared: Prepared) -> None:
    searched = of_kind(prepared, "text_to_video")
    hub = int(searched.corpus[0])
    evaluation = evaluated(prepared, [searched], first=hub)
    (confused,) = confused_videos(prepared, evaluation, 5)
    wrong = [query for query in searched.queries.tolist() if hub not in searched.qrels[query]]
    assert (confused.video.text, confused.queries) == (prepared.item(hub).key, len(wrong))
    for query, relevant in confused.cases:
        index = next(item for item in wrong if prepared.item(item).key == query.text)
        assert relevant.text in {prepared.item(item).key for item in searched.qrels[index]}
    assert confused_videos(prepared, evaluated(prepared, [searched]), 5) == []
    assert confused_videos(prepared, evaluation, 0) == []
