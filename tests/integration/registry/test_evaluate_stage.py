"""The evaluation stage on a small workspace."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import pytrec_eval
import torch

from reelnest.encoder.embedding import embed
from reelnest.encoder.saved import load
from reelnest.errors import ConfigError, DataError, ModelError
from reelnest.evaluation import split_evaluation as retrieval
from reelnest.evaluation.by_query import data_hash
from reelnest.evaluation.metrics import METRICS, Metric, recall_at
from reelnest.evaluation.retrieval_sets import retrieval_sets
from reelnest.evaluation.split_evaluation import embed_split
from reelnest.launch.command import launch_command
from reelnest.records.behaviour_tests import BEHAVIOUR_FILE
from reelnest.settings import Funnel, Params, Train
from reelnest.stages import evaluate, evaluation_inputs
from reelnest.stages.evaluation_code import evaluation_code_hash
from reelnest.store.entries import Role
from reelnest.store.prepared import Prepared
from tests.integration.registry.candidate_workspace import Project

TREC_NAMES = {
    "recall_1": "recall@1",
    "success_1": "hit@1",
    "recall_5": "recall@5",
    "recall_10": "recall@10",
    "recip_rank": "mrr",
    "ndcg_cut_10": "ndcg@10",
    "map": "map",
}

KINDS = ["text_to_video", "video_to_text", "text_to_text", "video_to_video", "all"]


def report_of(reports: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((reports / "evaluation.json").read_text())
    return report


def without_speed(report: dict[str, Any]) -> dict[str, Any]:
    """The report without values that do not depend only on the model and the data: speeds, and comparisons with MLflow's runs."""
    del report["compared_with"], report["not_compared"]
    for result in report["configurations"]:
        del result["queries_per_second"], result["queries_per_second_range"]
    return report


def with_settings(project: Project, **settings: Any) -> Params:
    """The project's settings without trackers, and with these settings of `evaluate`."""
    return untracked(project).params.model_copy(update={"evaluate": project.params.evaluate.model_copy(update=settings)})


def untracked(project: Project) -> Project:
    return Project(project.workspace, project.params.model_copy(update={"train": Train(batch_size=8, trackers=())}))


def remove_reports(project: Project) -> None:
    """All files except the behaviour tests, which validation writes."""
    for file in project.reports.iterdir():
        if file.name != BEHAVIOUR_FILE:
            file.unlink()


def test_the_report_has_every_pair_kind_at_every_dim(project: Project) -> None:
    report = report_of(project.reports)
    assert {(result["pair_kind"], result["dim"]) for result in report["results"]} == {(kind, dim) for kind in KINDS for dim in (8, 32)}
    assert report["dims"] == [8, 32]
    assert report["width"] == 32
    assert report["queries"] == sum(counts["queries"] for counts in report["data"]["pair_kinds"].values())
    assert [(row["pair_kind"], row["dim"], row["queries"]) for row in report["negatives_outranked"]] == [
        ("text_to_video", 8, 8),
        ("text_to_video", 32, 8),
    ]


def test_behaviour_tests_run_at_each_dim_on_the_corpus_of_the_test_split(project: Project) -> None:
    behaviour = report_of(project.reports)["behaviour"]
    assert (behaviour["tests"], behaviour["left_out"], behaviour["by_kind"]) == (4, 1, {"invariance": 1, "direction": 2, "minimum": 1})
    for dim in ("8", "32"):
        shares = behaviour["passed_by_kind"][dim]
        # Nine videos: eight of the test split, and a named one of the training split. One of two opposites ranks above the other.
        assert shares == {"invariance": 1.0, "direction": 0.5, "minimum": 1.0}
        assert behaviour["passed"][dim] == 0.75
    assert behaviour["failed"] == len(behaviour["failures"]) >= 1
    prepared = Prepared.open(project.workspace.prepared)
    model = load(project.workspace.candidate, device="cpu")
    videos = [prepared.entry(prepared.video_item(video), "target") for video in ("v00", "v09")]
    scores = model.encode_texts(["a red number 8"]) @ model.encode(videos).T
    (failed,) = [failure["line"] for failure in behaviour["failures"] if 32 in failure["dims"]]
    assert failed == (3 if scores[0, 0] > scores[0, 1] else 2)


def test_changed_video_bytes_change_the_data_hash_and_another_sampling_does_not(project: Project) -> None:
    prepared = Prepared.open(project.workspace.prepared)
    sets = retrieval_sets(prepared, "test")

    def hash_with(keys: Callable[[str], str]) -> str:
        prepared.store._keys = pa.chunked_array([[keys(f"key{number}") for number in range(len(prepared.store))]])
        return data_hash(sets, prepared)

    assert hash_with(lambda key: key) == report_of(project.reports)["data"]["hash"]
    assert hash_with(lambda key: f"{key}-other") == hash_with(lambda key: key)
    assert hash_with(lambda key: key.replace("key15", "another")) != hash_with(lambda key: key)


def test_the_metrics_by_query_have_the_hash_of_the_code(project: Project) -> None:
    code = report_of(project.reports)["code"]["hash"]
    assert pd.read_parquet(project.reports / "queries.parquet").attrs["code"] == code == evaluation_code_hash(1000)
    assert evaluation_code_hash(10) != code


def test_every_configuration_has_metrics_size_and_speed(project: Project) -> None:
    report = report_of(project.reports)
    by_name = {row["name"]: row for row in report["configurations"]}
    assert list(by_name) == ["8", "32", "8 int8", "32 int8", "8 binary", "32 binary", "funnel 8→32", "funnel 8→32 int8"]
    assert report["index_videos"] == 1_000_000
    sizes = {name: (row["bytes_per_vector"], row["index_bytes"]) for name, row in by_name.items()}
    assert sizes["32"] == sizes["funnel 8→32"] == (128, 128_000_000)
    assert sizes["32 int8"] == (32, 32_000_000 + 4 * 32)
    assert sizes["8 binary"] == (1, 1_000_000)
    assert (by_name["32"]["funnel"], by_name["funnel 8→32"]["funnel"], by_name["funnel 8→32"]["shortlists"]) == (None, [8, 32], [100])
    for row in by_name.values():
        low, high = row["queries_per_second_range"]
        assert 0 < low <= row["queries_per_second"] <= high
        assert 0 <= row["above_negatives"] <= 1
        assert all(low <= row["metrics"][metric] <= high for metric, (low, high) in row["intervals"].items())
    full = next(result for result in report["results"] if (result["pair_kind"], result["dim"]) == ("all", 32))
    assert by_name["32"]["metrics"] == full["metrics"]
    # The shortlist contains all of this small corpus.
    assert by_name["funnel 8→32"]["metrics"]["mrr"] == pytest.approx(full["metrics"]["mrr"])


def test_the_choice_is_the_smallest_configuration_that_the_margin_allows(project: Project) -> None:
    report = report_of(project.reports)
    choice, by_name = report["choice"], {row["name"]: row for row in report["configurations"]}
    chosen, best = by_name[choice["name"]], by_name[choice["best_name"]]
    assert choice["value"] == pytest.approx(chosen["metrics"]["recall@10"])
    assert best["metrics"]["recall@10"] == pytest.approx(max(row["metrics"]["recall@10"] for row in by_name.values()))
    assert {key: chosen[key] for key in ("dim", "storage", "funnel", "bytes_per_vector")} == {
        key: choice[key] for key in ("dim", "storage", "funnel", "bytes_per_vector")
    }
    assert choice["low"] > -choice["margin"] or choice["name"] == choice["best_name"]
    evaluate.run(project.workspace, with_settings(project, choice_margin=1.0))
    assert report_of(project.reports)["choice"]["name"] == "8 binary"


def test_a_metric_that_is_no_test_gives_no_recommendation_and_no_comparison(
    project: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(METRICS, "recall@99", Metric("recall@99", "Recall@99", recall_at(99), cutoff=99))
    evaluate.run(project.workspace, with_settings(project, choice_metric="recall@99"))
    report = report_of(project.reports)
    assert report["choice"] is None
    assert report["choice_metric"] == "recall@99"
    assert "every search has all of them in its first 99 results" in report["no_test"]["all"]["recall@99"]
    assert "recall@1" not in report["no_test"]["all"]
    assert {"recall@99 is no test on this data" in missing["reason"] for missing in report["not_compared"]} == {True}
    assert "No recommendation: Recall@99 is no test on this data" in caplog.text
    page = (project.reports / "evaluation.html").read_text()
    assert "<h1>No recommendation: Recall@99 is no test on this data</h1>" in page


def test_slices_have_metrics_at_the_chosen_dim_and_the_full_width(project: Project) -> None:
    report = report_of(project.reports)
    slices = report["slices"]
    assert {row["dim"] for row in slices} == {report["choice"]["dim"], 32}
    by_kind = {row["value"]: row for row in slices if row["slice"] == "pair kind" and row["dim"] == 32}
    for result in report["results"]:
        if result["dim"] == 32 and result["pair_kind"] != "all":
            row = by_kind[result["pair_kind"]]
            assert (row["queries"], row["small"]) == (result["queries"], result["queries"] < 30)
            assert row["metrics"]["ndcg@10"] == pytest.approx(result["metrics"]["ndcg@10"])
    at_full_width = [row for row in slices if row["dim"] == 32]
    for name in ("direction", "relevant items"):
        assert sum(row["queries"] for row in at_full_width if row["slice"] == name) == report["queries"]
    assert {row["value"] for row in slices if row["slice"] == "video seconds"} == {"0-5 s"}  # 2 steps of half a second
    assert {row["value"] for row in slices if row["slice"] == "query words"} == {"2-3", "4-7"}


def test_each_evaluation_setting_takes_effect(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    funnel = Funnel(dims=(4, 16, 32), shortlists=(5, 3))
    settings = {"storage": ("float16", "binary", "binary_int8"), "shortlist": 2, "funnels": (funnel,), "index_videos": 7}
    evaluate.run(project.workspace, with_settings(project, **settings, extra_dims=(16,), slice_fields=("title", "topic")))
    report = report_of(project.reports)
    storages = ("float16", "binary", "binary_int8")
    names = [*(f"{dim} {storage}" for storage in storages for dim in (8, 16, 32)), "funnel 4→16→32 float16"]
    assert [row["name"] for row in report["configurations"]] == names
    assert report["configurations"][-1]["shortlists"] == [5, 3]
    assert report["configurations"][-1]["index_bytes"] == 7 * 64
    # With two results, no result has rank 3.
    assert report["configurations"][3]["metrics"]["recall@5"] == report["configurations"][3]["metrics"]["recall@10"]
    assert report["untrained_dims"] == [4, 16]
    assert "dim 16: the model was not trained for it" in caplog.text
    assert "has the tag or field 'topic'" in caplog.text
    assert {result["dim"] for result in report["results"]} == {8, 16, 32}
    assert set(pd.read_parquet(project.reports / "queries.parquet")["dim"]) == {8, 32}  # the gate compares what is served
    assert {"clip 9", "clip 15"} <= {row["value"] for row in report["slices"] if row["slice"] == "title"}


def test_an_extra_dim_that_is_no_prefix_of_the_full_width_is_refused(project: Project) -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.extra_dims: 64 is not below 32"):
        evaluate.run(project.workspace, with_settings(project, extra_dims=(64,)))


def test_vectors_with_nan_are_reported_with_their_item(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverged(*arguments: Any) -> torch.Tensor:
        vectors = embed(*arguments)
        vectors[1, 5] = torch.nan
        return vectors

    monkeypatch.setattr(retrieval, "embed", diverged)
    with pytest.raises(ModelError, match=r'1 of \d+ vectors contain NaN or infinity; the first is that of query "a .* thing"'):
        evaluate.run(project.workspace, untracked(project).params)


def test_the_csv_has_the_same_metrics_for_a_plot(project: Project) -> None:
    table = pd.read_csv(project.reports / "metrics_by_dim.csv")
    assert list(table.columns) == ["pair_kind", "dim", "storage", "metric", "value", "low", "high"]
    values = {(row.pair_kind, row.dim, row.storage, row.metric): row.value for row in table.itertuples()}
    report = report_of(project.reports)
    of_all = [{"pair_kind": "all", **result} for result in report["configurations"] if result["funnel"] is None]
    expected = {
        (result["pair_kind"], result["dim"], result["storage"], metric): value
        for result in [*report["results"], *of_all]
        for metric, value in result["metrics"].items()
    }
    assert {key: value for key, value in values.items() if key[0] == "all" or key[2] == "float32"} == pytest.approx(expected, abs=0)
    assert {key[:3] for key in values} == {
        (kind, dim, storage) for kind in KINDS for dim in (8, 32) for storage in ("float32", "int8", "binary")
    }


def test_each_metric_is_in_its_interval_which_a_higher_confidence_widens(project: Project) -> None:
    report = report_of(project.reports)
    assert report["confidence"] == 0.95
    for result in report["results"]:
        assert set(result["intervals"]) == set(result["metrics"])
        assert all(low <= result["metrics"][metric] <= high for metric, (low, high) in result["intervals"].items())
    table = pd.read_csv(project.reports / "metrics_by_dim.csv")
    ends = {(row.pair_kind, row.dim, row.metric): [row.low, row.high] for row in table.itertuples() if row.storage == "float32"}
    assert all(ends[result["pair_kind"], result["dim"], "mrr"] == result["intervals"]["mrr"] for result in report["results"])
    evaluate.run(project.workspace, with_settings(project, confidence=0.999, storage=("float32",), funnels=()))
    lengths = []
    for before, after in zip(report["results"], report_of(project.reports)["results"], strict=True):
        (low, high), (lower, higher) = before["intervals"]["mrr"], after["intervals"]["mrr"]
        assert lower <= low <= high <= higher
        lengths.append((high - low, higher - lower))
    assert sum(wide > narrow for narrow, wide in lengths) > len(lengths) / 2  # with very few queries, both intervals may contain all draws


def test_the_report_is_the_mean_of_the_metrics_by_query(project: Project) -> None:
    table = pd.read_parquet(project.reports / "queries.parquet")
    assert not table.duplicated(["pair_kind", "query", "dim"]).any()
    for result in report_of(project.reports)["results"]:
        of_dim = table[table["dim"] == result["dim"]]
        of_kind = of_dim if result["pair_kind"] == "all" else of_dim[of_dim["pair_kind"] == result["pair_kind"]]
        assert len(of_kind) == result["queries"]
        for metric, value in result["metrics"].items():
            summary = of_kind[metric].median() if metric == "median_rank" else of_kind[metric].mean()
            assert summary == pytest.approx(value)


def test_trec_eval_computes_the_same_metrics_from_the_run_file(project: Project) -> None:
    with (project.reports / "run.trec").open() as run_file, (project.reports / "qrels.trec").open() as qrels_file:
        run, qrels = pytrec_eval.parse_run(run_file), pytrec_eval.parse_qrel(qrels_file)
    theirs = pytrec_eval.RelevanceEvaluator(qrels, set(TREC_NAMES)).evaluate(run)
    for result in report_of(project.reports)["results"]:
        if result["dim"] != 32:
            continue
        of_kind = [figures for query, figures in theirs.items() if result["pair_kind"] in ("all", query.split(":")[0])]
        assert len(of_kind) == result["queries"]
        for trec, metric in TREC_NAMES.items():
            assert result["metrics"][metric] == pytest.approx(sum(figures[trec] for figures in of_kind) / len(of_kind), abs=1e-9)


def test_a_second_evaluation_writes_the_same_files(project: Project) -> None:
    names = ["metrics_by_dim.csv", "run.trec", "qrels.trec", "queries.parquet"]  # the page shows speeds, which differ each time
    before = {name: (project.reports / name).read_bytes() for name in names}
    report = without_speed(report_of(project.reports))
    remove_reports(project)
    evaluate.run(project.workspace, untracked(project).params)
    assert {name: (project.reports / name).read_bytes() for name in names} == before
    assert without_speed(report_of(project.reports)) == report


def test_two_processes_give_the_results_of_one(project: Project) -> None:
    report, run_file = without_speed(report_of(project.reports)), (project.reports / "run.trec").read_bytes()
    remove_reports(project)
    settings = project.workspace.params.read_text().replace("cpu-1", "cpu-2").replace("batch_size: 8", "batch_size: 8\n  trackers: []")
    project.workspace.params.write_text(settings)
    params = project.params.model_copy(update={"launch": project.params.launch.model_copy(update={"config": "cpu-2"})})
    command, environment = launch_command(params, project.workspace.params, "reelnest.stages.evaluate")
    done = subprocess.run(command, cwd=project.workspace.root, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    by_two = without_speed(report_of(project.reports))
    # The last bit of a value depends on its batch. Codes and signs may round it differently, which may change the choice.
    for content in (by_two, report):
        del content["choice"], content["slices"]
    for ours, theirs in zip(by_two.pop("configurations"), report.pop("configurations"), strict=True):
        tolerance = 0 if ours["storage"] == "float32" else 0.05
        assert ours.pop("metrics") == pytest.approx(theirs.pop("metrics"), abs=tolerance)
        del ours["intervals"], theirs["intervals"]
        assert ours == theirs
    assert by_two == report
    assert (project.reports / "run.trec").read_bytes() == run_file


def test_each_item_is_encoded_as_the_saved_model_encodes_it(project: Project) -> None:
    prepared = Prepared.open(project.workspace.prepared)
    model = load(project.workspace.candidate, device="cpu")
    split = embed_split(prepared, "test", model.encoder, model.batcher, 4)
    roles: list[Role] = ["query", "target"]
    for role, embedded in zip(roles, (split.queries, split.targets), strict=True):
        expected = model.encode([prepared.entry(int(item), role) for item in embedded.items])
        np.testing.assert_allclose(torch.nn.functional.normalize(embedded.vectors, dim=1), expected, atol=1e-5)
    assert not np.allclose(split.queries.vectors[0], split.targets.vectors[0], atol=1e-3)  # the role's instruction is read


def test_without_test_pairs_there_is_nothing_to_evaluate(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_inputs, "SPLIT", "validation")  # this data has no pairs of that split
    with pytest.raises(DataError, match="no pairs in the test split"):
        evaluate.run(project.workspace, untracked(project).params)
