"""Warnings at the start of a training that would learn nothing, or whose metrics would show nothing."""

import logging
from pathlib import Path

import pytest

from reelnest.backbones.families.qwen2_5_vl import VISION
from reelnest.encoder.saved import PROJECTION_FILE
from reelnest.records.formats import Pair, Side
from reelnest.settings import Model
from reelnest.stages.training_warnings import _model
from reelnest.store.frame_cache import FrameCache
from reelnest.store.frame_store_writing import write_store
from reelnest.store.prepared import STORE_FOLDER, write_tables
from tests.integration.training.training_workspace import run, write_workspace


def write_texts(folder: Path, scratch: Path, pairs: list[tuple[str, str, str]]) -> Path:
    """Prepared texts without videos: (query, target, split)."""
    write_store(folder / STORE_FOLDER, [], FrameCache(scratch), 1.0, VISION)
    rows = [Pair(Side("text", query), Side("text", target), 1.0, None, (), line) for line, (query, target, _) in enumerate(pairs)]
    write_tables(folder, {}, rows, [split for _, _, split in pairs])
    return folder


def test_a_training_that_cannot_learn_says_so_at_its_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """All train pairs have one target, and the test split has two candidates."""
    pairs = [(f"query {number}", "the only target", "train") for number in range(16)]
    data = write_texts(tmp_path / "prepared", tmp_path / "scratch", [*pairs, ("q", "t", "test"), ("v", "w", "validation")])
    with caplog.at_level(logging.INFO):
        run(write_workspace(tmp_path / "root", data, epochs=1, loss={"intra_modal_negatives": False}))
    assert "in 2 of the first 2 batches most queries have no negative (at most 8 of 8 queries)" in caplog.text
    assert "the loss is 0 in each of the first 2 steps" in caplog.text
    assert "Recall@10 is no test on the test split, because there are only 2 different candidates" in caplog.text
    assert "Add test pairs, or change evaluate.choice_metric and register.metric." in caplog.text
    assert "on the validation split" not in caplog.text  # nDCG@10 of two candidates depends on their order
    assert "The model 'tiny' is for trying the workflow." in caplog.text
    for message in ("most queries have no negative", "the loss is 0", "'tiny' is for trying", "no test on the test split"):
        assert caplog.text.count(message) == 1


def test_an_ordinary_training_has_no_such_warning(prepared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(write_workspace(tmp_path / "root", prepared, epochs=1))
    assert not any("most queries" in message or "the loss is 0" in message for message in caplog.messages)


def test_bfloat16_weights_without_adapters_are_warned_of(prepared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(write_workspace(tmp_path / "full", prepared, model={"dtype": "bfloat16"}, epochs=1))
    assert caplog.text.count("model.dtype: bfloat16 without model.lora trains weights with 8 bits") == 1
    assert "Use dtype: float32 with train.mixed_precision: bf16, or set lora." in caplog.text
    caplog.clear()
    for name, model in (("lora", {"lora": {"r": 4}}), ("projection", {"freeze": "backbone", "projection": 32})):
        run(write_workspace(tmp_path / name, prepared, model={"dtype": "bfloat16", **model}, epochs=1))
    assert "trains weights with 8 bits" not in caplog.text


@pytest.mark.parametrize(("family", "pooling", "warned"), [("qwen3_vl_embedding", "mean", True), ("qwen3_vl_embedding", "last", False)])
def test_another_pooling_than_the_published_is_warned_of(
    family: str, pooling: str, warned: bool, prepared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "base"
    _model(Model(name_or_path=str(folder), revision="0", family=family, pooling=pooling))  # type: ignore[arg-type]  # a parameter of the test
    assert (f"{folder} was published for the vectors of model.pooling: last" in caplog.text) == warned


@pytest.mark.parametrize(
    ("mining", "advice"),
    [
        ({"ranks": [5000, 5001]}, "Lower the first of mining.ranks, or raise mining.relative_margin if it is set."),
        ({"listed": "only"}, "No train pair lists negatives: set mining.listed to first."),
    ],
)
def test_settings_without_effect_are_warned_of(
    mining: dict[str, object], advice: str, prepared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings: dict[str, object] = {"negatives_per_pair": 2, **mining}
    run(write_workspace(tmp_path / "root", prepared, epochs=2, mining=settings, profile_steps=[13, 14]))
    assert caplog.messages.count(f"mining: no pair has an extra negative, so mining.negatives_per_pair has no effect. {advice}") == 1
    assert "training: there are 12 steps, so train.profile_steps: [13, 14] profiles none" in caplog.messages


@pytest.mark.parametrize(("projection", "starts"), [(16, "with a random one of width 16"), (None, r"with none (model.projection: null)")])
def test_a_projection_of_the_base_that_is_not_loaded_is_warned_of(
    projection: int | None, starts: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = Model(name_or_path=str(tmp_path), revision="0", family="qwen2_5_vl", projection=projection, dims=(16,))
    _model(model)
    assert caplog.messages == []
    (tmp_path / PROJECTION_FILE).parent.mkdir()
    (tmp_path / PROJECTION_FILE).touch()
    _model(model)
    assert caplog.messages == [f"training: the projection of the base {tmp_path} is not loaded; this training starts {starts}"]
