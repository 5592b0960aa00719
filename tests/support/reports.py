"""The reports of the stages, made up and valid, as JSON values. Nothing of the project is imported: stand-in stages use this file alone."""

from typing import Any

Content = dict[str, Any]
METRICS = ("recall@1", "hit@1", "recall@5", "recall@10", "mrr", "ndcg@10", "map", "median_rank")


def validation(**changes: Any) -> Content:
    return {
        "schema_version": 1,
        "passed": True,
        "videos": {"lines": 4, "good": 3, "frames": 90, "seconds": 3.0, "by_decoder": {"decord": 3}, "megabytes": 0.1},
        "pairs": {"lines": 9, "good": 6, "by_split_and_kind": {"train": {"text_to_video": 6}}},
        "quarantined": {"records": 4, "fraction": 0.1, "allowed_fraction": 0.2, "by_reason": {"videos.jsonl": {"truncated": 4}}},
        "behaviour": {
            "lines": 4,
            "good": 4,
            "by_kind": {"invariance": 0, "direction": 4, "minimum": 0},
            "of_training": 0,
            "of_other_data": 0,
        },
        "queries_without_target": {"count": 0, "pairs_by_reason": {}, "queries": []},
        "expectations": [expectation()],
        "texts": {"titles": {"test": {"distinct": 3, "near_duplicates": 2, "near_duplicates_of_train": 1, "scripts": {"Latin": 3}}}},
        "warnings": [],
    } | changes


def expectation(**changes: Any) -> Content:
    return {
        "suite": "pairs_used",
        "expectation": "expect_x",
        "description": "no text is empty",
        "severity": "warning",
        "success": False,
        "observed": {"rows": 9, "unexpected": 3},
        "lines": [1, 2],
    } | changes


def preprocessing(**changes: Any) -> Content:
    return {
        "schema_version": 1,
        "items": 9,
        "texts": 6,
        "videos": 3,
        "pairs": {"train": {"text_to_video": 6}},
        "megabytes": 0.5,
        "videos_by_grid": {"2x4x4": 3},
        "videos_by_decoder": {"decord": 3},
        "decoder_of": {},
        "dropped": {"videos": 0, "by_reason": {}, "details": {}, "pairs": 0},
    } | changes


def training(**changes: Any) -> Content:
    return {
        "schema_version": 1,
        "pairs": 7,
        "batch_size": 4,
        "processes": 1,
        "epochs": 2,
        "steps": 3,
        "seed": 0,
        "parameters": {"total": 1_300_000, "trainable": 1_200_000},
        "loss": 0.25,
        "loss_by_dim": {"16": 0.25},
        "temperature": 0.05,
        "best": {"step": 2, "metric": "ndcg@10", "dim": 16, "value": 0.5},
        "stopped_early": False,
        "validation": [{"epoch": 1, "step": 2, "metrics": {"16": {"ndcg@10": 0.5, "recall@10": 0.75}}}],
        "speed": {"pairs_per_second": 9.0, "seconds": 1.0, "while_stepping": {"pairs_per_second": 10.0}, "breakdown": None},
    } | changes


def evaluation(**changes: Any) -> Content:
    return {
        "schema_version": 2,
        "split": "test",
        "dims": [16],
        "width": 16,
        "untrained_dims": [],
        "queries": 2,
        "corpus": 3,
        "confidence": 0.95,
        "best_possible": {},
        "no_test": {},
        "results": [result()],
        "negatives_outranked": [],
        "index_videos": 1_000_000,
        "configurations": [configuration()],
        "choice_metric": "recall@10",
        "choice": choice(),
        "slices": [],
        "behaviour": behaviour(),
        "engines": [],
        "code": {"hash": "c1"},
        "model": {"hash": "m1", "base": "tiny", "embedding_width": 16},
        "data": {"hash": "d1", "pair_kinds": {"text_to_video": {"queries": 2, "corpus": 3}}},
        "compared_with": [],
        "not_compared": [],
    } | changes


def result(**changes: Any) -> Content:
    return {
        "pair_kind": "all",
        "dim": 16,
        "storage": "float32",
        "metrics": dict.fromkeys(METRICS, 0.5),
        "intervals": {"recall@10": [0.4, 0.6]},
        "queries": 2,
        "corpus": 3,
        "bytes_per_vector": 64,
    } | changes


def configuration(**changes: Any) -> Content:
    return {
        "name": "16",
        "dim": 16,
        "storage": "float32",
        "funnel": None,
        "shortlists": [],
        "metrics": dict.fromkeys(METRICS, 0.5),
        "intervals": {"recall@10": [0.4, 0.6]},
        "bytes_per_vector": 64,
        "index_bytes": 64_000_000,
        "queries_per_second": 1000.0,
        "queries_per_second_range": [900.0, 1200.0],
        "above_negatives": None,
    } | changes


def choice(**changes: Any) -> Content:
    return {
        "name": "16",
        "dim": 16,
        "storage": "float32",
        "funnel": None,
        "metric": "recall@10",
        "margin": 0.01,
        "value": 0.5,
        "best_name": "16",
        "best_dim": 16,
        "best_value": 0.5,
        "low": 0.0,
        "bytes_per_vector": 64,
    } | changes


def behaviour(**changes: Any) -> Content:
    return {
        "tests": 4,
        "by_kind": {"direction": 4},
        "passed": {"16": 0.75},
        "passed_by_kind": {"16": {"direction": 0.75}},
        "left_out": 0,
        "failed": 1,
        "failures": [{"line": 7, "kind": "direction", "query": "a star moving left", "dims": [16], "problem": "clip-2 is above"}],
        "hash": "b1",
    } | changes


def difference(**changes: Any) -> Content:
    return {"dim": 16, "value": 0.03, "low": 0.01, "high": 0.05} | changes


def registration(**changes: Any) -> Content:
    return {
        "schema_version": 1,
        "name": "reelnest",
        "version": 1,
        "aliases": ["challenger", "champion"],
        "decision": "promoted",
        "reason": "against the champion (version 1): better at dim 16",
        "conditions": [{"name": "validation", "passed": True, "why": "the data passed validation"}],
        "differences": [difference()],
        "metric": "recall@10",
        "value": 0.5,
        "run_id": "r1",
        "model_hash": "m1",
        "lineage": None,
    } | changes


def origins(**changes: Any) -> Content:
    return {
        "commit": {"hash": "c" * 40, "clean": True, "changes_saved": True, "repository": "/r", "published": False, "folder": ""},
        "data": {"hash": "d1.dir", "files": 9, "bytes": 4_200_000, "sample_seed": 0, "remote": None, "cache": "/c"},
        "flow_run": None,
        "validation": {"passed": True, "videos": {"good": 4, "lines": 5}, "pairs": {"good": 7, "lines": 7}, "quarantined": 1},
        "environment": {"python": "3.11.9", "platform": "Linux", "packages": 3, "lock_hash": None, "differing": []},
    } | changes
