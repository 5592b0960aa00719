"""Trainings with extra negatives, mined during training, in one process."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reelnest.backbones.families.qwen2_5_vl import FAMILY
from reelnest.backbones.tiny import build_tiny
from reelnest.encoder.batches import Batcher
from reelnest.encoder.encoder import load_encoder
from reelnest.errors import Interrupted
from reelnest.settings import Mining, Model, Params, Tiny
from reelnest.store.prepared import Prepared
from reelnest.training.batches.negatives import ExtraNegatives
from reelnest.training.distributed import Decision, StepVotes
from tests.integration.training.training_workspace import TINY, rows, run, write_workspace

# 6 steps an epoch: renewed before the first step, mined at steps 6, 8 and 16.
MINING = {"negatives_per_pair": 2, "start_epoch": 1, "every_steps": 8, "ranks": [1, 4]}
MODEL: dict[str, object] = {"query_instruction": "Find:"}


def workspace(root: Path, prepared: Path, mining: dict[str, Any] | None, **more: object) -> Path:
    return write_workspace(root, prepared, model=MODEL, mining=mining, epochs=3, **more)


@pytest.fixture(scope="module")
def unbroken(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = workspace(tmp_path_factory.mktemp("unbroken") / "checkout", prepared, MINING, no_duplicates=True)
    run(root)
    return root


def test_mined_negatives_change_the_losses_from_the_first_mining_on(unbroken: Path, prepared: Path, tmp_path: Path) -> None:
    root = workspace(tmp_path / "checkout", prepared, None, no_duplicates=True)
    run(root)
    plain, mined = ([row["loss"] for row in rows(path)] for path in (root, unbroken))
    per_epoch = len(plain) // 3
    assert plain[:per_epoch] == mined[:per_epoch]
    assert all(float(more) > float(without) for without, more in zip(plain[per_epoch:], mined[per_epoch:], strict=True))


def test_the_settings_choose_batches_without_repeats(unbroken: Path, prepared: Path, tmp_path: Path) -> None:
    root = workspace(tmp_path / "checkout", prepared, MINING)
    run(root)
    assert rows(root)[0]["loss"] != rows(unbroken)[0]["loss"]


@pytest.mark.parametrize("stop_after", [4, 6, 9])
def test_a_training_stopped_between_two_minings_goes_on_as_if_nothing_had_happened(
    stop_after: int, unbroken: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = workspace(tmp_path / "checkout", prepared, MINING, no_duplicates=True)
    with monkeypatch.context() as patched:
        steps = iter(range(1, 100))
        patched.setattr(StepVotes, "decide", lambda *_, **__: Decision(stop=next(steps) == stop_after, checkpoint=False))
        with pytest.raises(Interrupted, match=f"after step {stop_after} of"):
            run(root)
    run(root)
    assert rows(root) == rows(unbroken)
    [weights, expected] = [path / "models" / "candidate" / "model.safetensors" for path in (root, unbroken)]
    assert weights.read_bytes() == expected.read_bytes()
    assert json.loads((root / "reports" / "training.json").read_text())["steps"] == len(rows(unbroken))


def test_queries_are_embedded_as_queries_where_the_roles_read_differently(prepared: Path, tmp_path: Path) -> None:
    build_tiny(tmp_path / "base", ["show me a red clip"], Tiny.model_validate(TINY), seed=0)
    model = Model.model_validate({"tiny": TINY, "dims": [8, 32], **MODEL})
    torch.manual_seed(0)
    encoder, tokenizer = load_encoder(model, tmp_path / "base", training=True)
    opened = Prepared.open(prepared)
    pairs = opened.pairs("train")
    params = Params(model=model, mining=Mining(negatives_per_pair=1, ranks=(1, 1)))
    batcher = Batcher(tokenizer, model, FAMILY)
    negatives = ExtraNegatives(opened, pairs, encoder, batcher, params, steps_per_epoch=6)
    negatives.renew(0)
    items = np.unique(np.concatenate([pairs.queries, pairs.targets]))
    encoder.eval()
    with torch.no_grad():
        targets = torch.nn.functional.normalize(encoder(batcher([opened.entry(int(item), "target") for item in items])), dim=1)
        for row in range(0, len(pairs), 5):
            query = torch.nn.functional.normalize(encoder(batcher([opened.entry(int(pairs.queries[row]), "query")])), dim=1)
            [negative] = negatives(row).tolist()
            kind = opened.item(int(pairs.targets[row])).kind
            allowed = [
                place
                for place, item in enumerate(items.tolist())
                if opened.item(item).kind == kind and item != pairs.queries[row] and item not in opened.related(int(pairs.queries[row]))
            ]
            scores = (targets[allowed] @ query.T).squeeze(1)
            assert float(scores.max() - scores[allowed.index(items.tolist().index(negative))]) < 1e-5
