"""Whole trainings: ours, preprocessing included, beside sentence-transformers; and our loop beside a bare one.

All of them train the same tiny Qwen2.5-VL on the same clips, 112 × 112 pixels and 8 frames of each, in batches of 64 pairs, with the same
four nested dims, optimizer and, where it is said, LoRA, in one process with two threads. The clips are those of `make bench CLIPS=folder`
(in the project's data format), or the sample in data/. Neither side counts imports. What the other side does: peers/training.py.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.peers import training as peers
from benchmarks.peers.training import BATCH_SIZE, DIMS, FRAMES, LEARNING_RATE, PIXELS, WEIGHT_DECAY, Kind, clips, tiny_folder
from benchmarks.side_by_side import ROOT, Benchmark, Figures

LOOP_EPOCHS = 4
"""Of the loops: about a minute each, since this machine's speed differs by a tenth from one minute to the next."""

MODELS: dict[Kind, dict[str, Any]] = {
    "full": {},
    "lora": {"freeze": "vision", "lora": {"r": peers.LORA_R, "alpha": float(peers.LORA_ALPHA)}},
    "frozen": {"freeze": "backbone", "projection": DIMS[-1]},
}


def export_tiny() -> None:
    """Puts the checkpoint that all sides begin with where they look for it."""
    from reelnest.atomic_files import atomic_folder
    from reelnest.backbones.tiny import build_tiny
    from reelnest.records.formats import known_ids, read_pairs, read_videos
    from reelnest.settings import Tiny

    videos, bad = read_videos(clips())
    pairs, _ = read_pairs(clips(), known_ids(videos, bad))
    texts = {side.value for pair in pairs if pair.split == "train" for side in (pair.query, pair.target) if side.kind == "text"}
    with atomic_folder(tiny_folder()) as aside:
        build_tiny(aside, sorted(texts), Tiny(), seed=0)


def workspace_of(kind: Kind, epochs: int, trackers: list[str]) -> tuple[Any, Any]:
    """A fresh folder with a copy of the clips, where nothing is decoded or trained yet, and the settings."""
    import torch

    from reelnest.launch.command import prepare_process
    from reelnest.settings import Params
    from reelnest.stages.workspace import Workspace

    prepare_process()
    torch.set_num_threads(2)
    root = Path(tempfile.mkdtemp(prefix="reelnest-bench-"))
    workspace = Workspace(root)
    shutil.copytree(clips(), workspace.data)
    shutil.copytree(ROOT / "configs" / "accelerate", root / "configs" / "accelerate")
    workspace.reports.mkdir()
    (workspace.reports / "quarantine.jsonl").touch()  # as validation leaves it where all is good
    params = Params.model_validate(
        {
            "data": {"text_fields": []},
            "preprocess": {"frames": FRAMES, "min_pixels": PIXELS, "max_pixels": PIXELS},
            "model": {"name_or_path": str(tiny_folder()), "dims": list(DIMS), **MODELS[kind]},
            "train": {
                "epochs": epochs,
                "evaluate_every_epochs": epochs,
                "batch_size": BATCH_SIZE,
                "optimizer": "adamw",
                "learning_rate": LEARNING_RATE,
                "weight_decay": WEIGHT_DECAY,
                "trackers": trackers,
            },
            "launch": {"config": "cpu-1"},
            "tracking": {"uri": f"sqlite:///{root / 'mlflow.db'}"},
        }
    )
    return workspace, params


def _whole(kind: Kind, epochs: int, counted_epochs: int | None = None) -> Callable[[], Callable[[], Figures]]:
    """The stages preprocess and train, all that they do. Where every epoch costs the same, one stands for `counted_epochs`."""

    def prepare() -> Callable[[], Figures]:
        from reelnest.artifacts.training_report import TrainingReport
        from reelnest.stages import preprocess, train

        workspace, params = workspace_of(kind, epochs, [])

        def run() -> Figures:
            started = time.perf_counter()
            preprocess.run(workspace, params)
            prepared = time.perf_counter()
            train.run(workspace, params)
            trained = time.perf_counter()
            report = TrainingReport.read(workspace.reports)
            shutil.rmtree(workspace.root)
            times = (counted_epochs or epochs) / epochs
            pairs = report.steps * report.batch_size * times
            return {"pairs/s": pairs / (prepared - started + (trained - prepared) * times)}

        return run

    return prepare


def _our_loop() -> Callable[[], Figures]:
    from reelnest.artifacts.training_report import TrainingReport
    from reelnest.stages import preprocess, train

    workspace, params = workspace_of("lora", LOOP_EPOCHS, ["mlflow", "tensorboard"])
    preprocess.run(workspace, params)

    def run() -> Figures:
        train.run(workspace, params)
        report = TrainingReport.read(workspace.reports)
        shutil.rmtree(workspace.root)
        return {"pairs/s": report.speed.pairs_per_second}

    return run


def _bare_loop() -> Callable[[], Figures]:
    """As one would write it in a notebook: no logging, no checkpoints, no masks; the batches are there before time starts."""
    import torch
    import torch.nn.functional as F
    from accelerate import Accelerator
    from torch.nn.utils import clip_grad_norm_

    from reelnest.encoder.batches import Batcher
    from reelnest.encoder.encoder import load_encoder
    from reelnest.stages import preprocess
    from reelnest.store.prepared import Prepared
    from reelnest.training.batches.pair_batches import PairBatcher
    from reelnest.training.batches.sampler import BatchOrder
    from reelnest.training.frozen import cache_frozen_features

    workspace, params = workspace_of("lora", LOOP_EPOCHS, [])
    preprocess.run(workspace, params)
    prepared = Prepared.open(workspace.prepared)
    pairs = prepared.pairs("train")
    encoder, tokenizer = load_encoder(params.model, params.model.name_or_path, training=True)
    # Our loop has the frozen tower's tokens ready as well.
    prepared = cache_frozen_features(prepared, "bench", encoder, tokenizer, params, Accelerator(cpu=True), workspace.work / "frozen")
    make = PairBatcher(prepared, pairs, Batcher(tokenizer, params.model, encoder.family), 0, 1)
    order = BatchOrder.fitting(len(pairs), BATCH_SIZE, params.train.seed, 1)
    batches = [make(rows) for epoch in range(params.train.epochs) for rows in order.epoch(epoch)]
    shutil.rmtree(workspace.root)
    trainable = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    def run() -> Figures:
        relevant = torch.arange(order.batch_size)
        started = time.perf_counter()
        for batch in batches:
            vectors = torch.cat([encoder(part) for part in batch.inputs])[batch.inverse]
            loss = torch.zeros(())
            for dim in DIMS:
                queries, targets = F.normalize(vectors[:, :dim], dim=1).chunk(2)
                scores = queries @ targets.T / params.loss.temperature
                loss = loss + (F.cross_entropy(scores, relevant) + F.cross_entropy(scores.T, relevant)) / 2
            loss.backward()
            clip_grad_norm_(trainable, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return {"pairs/s": len(batches) * order.batch_size / (time.perf_counter() - started)}

    return run


def _against_peers(what: str, at_least: float, kind: Kind, ours: Callable[[], Callable[[], Figures]]) -> Benchmark:
    against = "sentence-transformers 6.2, decord decoding in its data pipeline"
    theirs: Callable[[], Callable[[], Any]] = lambda: peers.prepare(kind)  # noqa: E731 (to give it a type)
    return Benchmark(what, against, at_least, ours, theirs, runs=2, unit="pairs/s", peers=True, setup=export_tiny)


BENCHMARKS = {
    "train-lora": _against_peers(
        "training, LoRA on the language model, frozen vision, 5 epochs, our preprocessing included", 6, "lora", _whole("lora", 5)
    ),
    "train-full": _against_peers("training, everything trainable, the same", 1.6, "full", _whole("full", 1, counted_epochs=5)),
    "train-frozen": _against_peers("training, frozen backbone, projection only, 20 epochs, the same", 30, "frozen", _whole("frozen", 20)),
    "loop-efficiency": Benchmark(
        "our whole loop (LoRA, frozen vision; data, MLflow, TensorBoard, checkpoint)",
        "a bare loop: the same model, batches ready in memory, no logging",
        0.95,
        _our_loop,
        _bare_loop,
        runs=5,
        unit="pairs/s",
        setup=export_tiny,
    ),
}
