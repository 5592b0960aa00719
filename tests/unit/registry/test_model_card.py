"""The model card, read as the Hub reads it."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from reelnest.artifacts.evaluation_report import EvaluationReport
from reelnest.artifacts.lineage import Commit, DataVersion, Environment, ValidatedData
from reelnest.artifacts.training_report import TrainingReport
from reelnest.backbones.families.qwen2_5_vl import FAMILY
from reelnest.registry.lineage.lineage import Lineage
from reelnest.registry.lineage.model_card import model_card
from reelnest.settings import Params
from tests.support import reports

ENVIRONMENT = Environment(python="3.11.9", platform="Linux", packages=3, lock_hash=None, differing=())
LINEAGE = Lineage(
    model_hash="m" * 64,
    commit=Commit(hash="c" * 40, clean=False, changes_saved=True, repository="/r", published=False, folder=""),
    data=DataVersion(hash="d1.dir", files=9, bytes=4_200_000, sample_seed=0, remote=None, cache="/c"),
    dvc_lock=True,
    stale=[],
    validation=ValidatedData.model_validate(reports.origins()["validation"]),
    evaluation_data="e" * 64,
    flow_run=None,
    environment=ENVIRONMENT,
)
TRAINING = TrainingReport.from_content(
    reports.training(best={"step": 2, "metric": "ndcg@10", "dim": 32, "value": 0.5}), Path("training.json")
)


def evaluation() -> EvaluationReport:
    metrics = {"recall@1": 0.5, "hit@1": 0.5625, "recall@10": 0.75, "ndcg@10": 0.625}
    results = [
        reports.result(
            pair_kind=kind,
            dim=dim,
            metrics={name: value - 1 / dim for name, value in metrics.items()},
            intervals={name: [value - 0.1, value + 0.1] for name, value in metrics.items()},
            bytes_per_vector=4 * dim,
        )
        for kind in ("text_to_video", "all")
        for dim in (8, 32)
    ]
    data = {"hash": "e" * 64, "pair_kinds": {}}
    choice = reports.choice(name="8", dim=8, bytes_per_vector=32)
    content = reports.evaluation(dims=[8, 32], width=32, queries=200, corpus=90, choice=choice, results=results, data=data)
    content["configurations"] = [reports.configuration(name="8", dim=8)]
    return EvaluationReport.from_content(content, Path("evaluation.json"))


def settings(**changed: Any) -> dict[str, Any]:
    params = Params()
    return {
        "model": params.model.model_dump(mode="json") | changed,
        "preprocess": params.preprocess.model_dump(mode="json"),
        "text_fields": None,
    }


def card(lineage: Lineage = LINEAGE, training: TrainingReport | None = TRAINING, **changed: Any) -> ModelCard:
    return ModelCard(model_card("team-search", FAMILY, settings(**changed), evaluation(), training, lineage))


def test_the_hub_reads_every_metric_at_every_dim_as_an_evaluation_result() -> None:
    written = card()
    name, results = model_index_to_eval_results(written.data.to_dict()["model-index"])
    expected = {(f"dim_{dim}", metric): value for dim, result in evaluation().by_dim.items() for metric, value in result.metrics.items()}
    assert {(result.dataset_type, result.metric_name): result.metric_value for result in results} == expected
    assert name == "team-search"
    assert (written.data.license, written.data.library_name, written.data.pipeline_tag) == (
        "apache-2.0",
        "sentence-transformers",
        "feature-extraction",
    )
    assert "matryoshka" in written.data.tags


def test_the_text_has_quality_data_limits_and_lineage() -> None:
    text = card().text
    assert "| 8 | 32 | 0.375 (0.400 to 0.600) |" in text
    assert 'model.encode_texts(["a search query"], dim=8)' in text
    assert "`d1.dir` (the hash in `data.dvc`): 9 files, 4.2 MB. It is reelnest's sample" in text
    assert "4 of 5 videos and 7 of 7 pairs were valid; 1 records were excluded" in text
    assert "Trained on 7 pairs in batches of 4, 2 epochs, 3 steps, seed 0" in text
    assert f"| git commit | `{'c' * 40}`, with uncommitted changes |" in text
    assert "200 test queries are few" in text


def test_unknown_values_are_left_out(tmp_path: Path) -> None:
    bare = LINEAGE.model_copy(update={"commit": None, "data": None, "validation": None})
    text = card(bare, None).text
    assert "The version of the data is not recorded." in text
    assert "git commit" not in text
    assert "Trained on" not in text
    assert LINEAGE.validation is not None
    failed = LINEAGE.validation.model_copy(update={"passed": False})
    short = card(LINEAGE.model_copy(update={"validation": failed})).text
    assert "The data did not pass validation." in short


@pytest.mark.parametrize(
    ("base", "license_id", "license_name"),
    [
        ("Qwen/Qwen2.5-VL-3B-Instruct", "other", "qwen-research"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "apache-2.0", None),
        ("team/own-model", "unknown", None),
    ],
)
def test_a_model_has_the_licence_of_its_base_on_the_hub(base: str, license_id: str, license_name: str | None) -> None:
    lora = {"r": 16, "merge": False}
    written = card(name_or_path=base, revision="a" * 40, lora=lora)
    assert (written.data.license, written.data.get("license_name")) == (license_id, license_name)
    assert (written.data.base_model, written.data.base_model_relation) == (base, "adapter")
    assert "with LoRA of rank 16 (this folder holds the adapter)" in written.text


def test_the_licence_of_a_folder_is_that_of_its_card(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# A base\n")
    written = card(name_or_path=str(tmp_path))
    assert (written.data.license, written.data.base_model) == ("mit", None)
