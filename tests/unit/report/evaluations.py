"""What `reports/evaluation.json` holds, made up, and examples to show."""

from pathlib import Path
from typing import Any

import numpy as np

from reelnest.artifacts.evaluation_report import EvaluationReport
from reelnest.report.gallery import ConfusedVideo, GalleryItem, GalleryQuery, GalleryResult
from tests.support import reports

NO_TESTS = reports.behaviour(tests=0, by_kind={}, passed={}, passed_by_kind={}, failed=0, failures=[])

KINDS = ("text_to_video", "video_to_text", "all")


def report(content: dict[str, Any]) -> EvaluationReport:
    """The report with such content."""
    return EvaluationReport.from_content(content, Path("evaluation.json"))


def evaluation(kinds: tuple[str, ...] = KINDS, dims: tuple[int, ...] = (16, 32, 64)) -> dict[str, Any]:
    """Of an evaluation of exact search alone."""
    results = [
        {
            "pair_kind": kind,
            "dim": dim,
            "storage": "float32",
            "metrics": metrics(0.9 + dim / 1000, 0.4123 + dim / 1000),
            "intervals": {"recall@10": [0.88 + dim / 1000, 0.92 + dim / 1000]},
            "queries": 40,
            "corpus": 20,
            "bytes_per_vector": 4 * dim,
        }
        for kind in kinds
        for dim in dims
    ]
    outranked = [{"pair_kind": "text_to_video", "dim": dim, "value": 0.5 + dim / 200, "queries": 30} for dim in dims if kinds]
    return reports.evaluation(
        dims=list(dims),
        width=dims[-1],
        queries=80,
        corpus=40,
        choice=reports.choice(
            name=str(dims[0]), dim=dims[0], value=0.916, best_name=str(dims[-1]), best_dim=dims[-1], best_value=0.92, low=-0.008
        ),
        results=results,
        configurations=[configuration(str(dim), dim, "float32", 0.9 + dim / 1000, 4 * dim) for dim in dims],
        negatives_outranked=outranked,
        behaviour=NO_TESTS,
        model={"hash": "c0ffee" * 10, "base": "tiny", "embedding_width": 64},
        data={"hash": "da7a" * 16, "pair_kinds": {}},
    )


def metrics(recall: float, first: float) -> dict[str, float]:
    """Of one configuration."""
    return {
        "recall@1": first,
        "hit@1": first,
        "recall@5": 0.7,
        "recall@10": recall,
        "mrr": 0.6,
        "ndcg@10": 0.7,
        "map": 0.6,
        "median_rank": 1.5,
    }


def full_evaluation() -> dict[str, Any]:
    """With everything that the page has a section for."""
    content = evaluation()
    configurations = [
        configuration("16", 16, "float32", 0.916, 64),
        configuration("32", 32, "float32", 0.932, 128),
        configuration("64", 64, "float32", 0.964, 256),
        configuration("16 int8", 16, "int8", 0.902, 20),
        configuration("32 int8", 32, "int8", 0.93, 36),
        configuration("64 int8", 64, "int8", 0.961, 68),
        configuration("64 binary", 64, "binary", 0.8, 8),
        configuration("funnel 16→64", 64, "float32", 0.96, 256, [16, 64]),
    ]
    choice = {"name": "64 int8", "dim": 64, "storage": "int8", "value": 0.961, "best_value": 0.964, "bytes_per_vector": 68}
    return content | {
        "configurations": configurations,
        "choice": content["choice"] | choice,
        "slices": [
            slice_entry("pair kind", "text_to_video", dim, value, queries) for dim, value, queries in ((16, 0.9, 50), (64, 0.95, 50))
        ]
        + [slice_entry("query words", "8+", dim, value, 12) for dim, value in ((16, 0.6), (64, 0.8))]
        + [slice_entry("query words", "1", dim, value, 120) for dim, value in ((16, 0.7), (64, 0.75))],
        "compared_with": [
            {
                "what": "champion",
                "version": 3,
                "run_id": "f00d",
                "metric": "recall@10",
                "differences": [
                    {"dim": 16, "value": 0.03, "low": 0.01, "high": 0.05},
                    {"dim": 32, "value": 0.005, "low": -0.01, "high": 0.02},
                    {"dim": 64, "value": -0.02, "low": -0.035, "high": -0.004},
                ],
            }
        ],
        "not_compared": [{"what": "previous run", "reason": "it was evaluated on other queries"}],
        "behaviour": reports.behaviour(
            tests=12,
            by_kind={"direction": 4, "minimum": 8},
            passed={"64": 1.0, "16": 0.75},
            passed_by_kind={"64": {"direction": 1.0, "minimum": 1.0}, "16": {"direction": 0.25, "minimum": 1.0}},
            failed=3,
        ),
    }


def configuration(name: str, dim: int, storage: str, recall: float, size: int, funnel: list[int] | None = None) -> dict[str, Any]:
    """An entry of `configurations`."""
    return {
        "name": name,
        "dim": dim,
        "storage": storage,
        "funnel": funnel,
        "shortlists": [],
        "metrics": metrics(recall, recall - 0.4),
        "intervals": {"recall@10": [recall - 0.02, recall + 0.02]},
        "bytes_per_vector": size,
        "index_bytes": size * 1_000_000,
        "queries_per_second": 2e6 / size,
        "queries_per_second_range": [1.8e6 / size, 3e6 / size],
        "above_negatives": 0.64,
    }


def slice_entry(name: str, value: str, dim: int, recall: float, queries: int) -> dict[str, Any]:
    """An entry of `slices`."""
    ends = {"recall@10": [recall - 0.05, recall + 0.04]}
    return {
        "slice": name, "value": value, "dim": dim, "queries": queries, "small": queries < 30,
        "metrics": {"recall@10": recall}, "intervals": ends,
    }  # fmt: skip


def video(name: str, fields: tuple[tuple[str, str], ...] = (), seed: int = 0) -> GalleryItem:
    """Two frames of one colour each."""
    frames = np.random.default_rng(seed).integers(60, 196, (2, 1, 1, 3), np.uint8).repeat(28, 1).repeat(56, 2)
    return GalleryItem(name, fields, frames)


def query(
    text: str = "a red star rising", rank: int = 2, fields: tuple[tuple[str, str], ...] = (), slices: tuple[str, ...] = ()
) -> GalleryQuery:
    """A text query; of its three results the one at `rank` is relevant."""
    results = tuple(GalleryResult(video(f"clip-{place}", fields), 0.9 - place / 10, float(place == rank)) for place in range(1, 4))
    return GalleryQuery(
        "text_to_video",
        GalleryItem(text),
        rank > 1,
        ((16, rank + 3), (32, rank + 1), (64, rank)),
        video("right", fields),
        1,
        results,
        slices,
    )


def video_query(name: str = "clip-7") -> GalleryQuery:
    """A video query that finds its text first."""
    results = (GalleryResult(GalleryItem("a text about it"), 0.8, 1.0),)
    return GalleryQuery("video_to_text", video(name), False, ((16, 2), (64, 1)), GalleryItem("a text about it"), 2, results)


def confused() -> ConfusedVideo:
    """A video that stood first for three queries."""
    return ConfusedVideo(video("hub"), 3, ((GalleryItem("a dog"), video("dog")), (GalleryItem("a wolf"), video("wolf"))))
