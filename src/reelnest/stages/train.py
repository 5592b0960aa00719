"""Training: `prepared/` to `models/candidate/`.

Usage, as `reelnest train` does it: `accelerate launch --config_file configs/accelerate/cpu-2.yaml -m reelnest.launch.rank
reelnest.stages.train`
"""

import hashlib
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs

from reelnest.atomic_files import whole_folder, write_json
from reelnest.backbones.registry import TINY, family_of
from reelnest.backbones.tiny import build_tiny
from reelnest.encoder.batches import Batcher
from reelnest.encoder.encoder import load_encoder
from reelnest.encoder.saved import save_model
from reelnest.errors import Interrupted
from reelnest.evaluation.evaluation import Evaluation
from reelnest.evaluation.split_evaluation import evaluate_split
from reelnest.launch.process_count import check_process_count
from reelnest.registry.connection import without_credentials
from reelnest.registry.lineage.lineage import origin_tags
from reelnest.registry.sweeps import parent_tags
from reelnest.registry.tracking import open_trackers
from reelnest.settings import Params, launch_uses_cpu, load_params, tracking_uri
from reelnest.stages.training_inputs import check_precision
from reelnest.stages.workspace import Workspace
from reelnest.store.prepared import Pairs, Prepared, fields_text
from reelnest.training.batches.negatives import ExtraNegatives
from reelnest.training.batches.pair_batches import PairBatcher
from reelnest.training.batches.sampler import BatchOrder, negative_anchors
from reelnest.training.checkpoint.checkpoints import Checkpoints, data_digest, training_key
from reelnest.training.distributed import shard_layers
from reelnest.training.frozen import FROZEN_FOLDER, keep_frozen
from reelnest.training.host_memory import keep_freed_memory
from reelnest.training.loop import Outcome, Training
from reelnest.training.losses.contrastive_model import ContrastiveModel
from reelnest.training.progress import Progress
from reelnest.training.tracker import Trackers

log = logging.getLogger(__name__)


def run(workspace: Workspace, params: Params) -> None:
    """Trains, or goes on where an earlier process stopped, and saves the best weights as the candidate.

    Every process that accelerate started calls this; one process may call it without a launcher. Raises ConfigError, DataError, ModelError,
    RegistryError before training, TrainingError when it cannot go on, Interrupted after SIGTERM.
    """
    accelerator = _accelerator(workspace, params)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    prepared = Prepared.open(workspace.prepared)
    family = family_of(params.model)
    prepared.store.require(family.vision)
    shard_layers(accelerator, family.wrap_classes)
    pairs = prepared.pairs("train")
    anchors = negative_anchors(pairs) if params.train.group_negatives else None
    items = np.stack([pairs.queries, pairs.targets], axis=1) if params.train.no_duplicates else None
    order = BatchOrder.fitting(len(pairs), params.train.batch_size, params.train.seed, accelerator.num_processes, anchors, items)
    key = training_key(params, workspace.prepared)
    checkpoints = Checkpoints(workspace.work / "checkpoints", key)
    trackers = Trackers()
    if accelerator.is_main_process:
        trackers = open_trackers(params, workspace.work, key, checkpoints.read_runs(), _tags(workspace, accelerator))
        checkpoints.write_runs(trackers.runs)
    try:
        _train(workspace, params, accelerator, prepared, pairs, order, checkpoints, trackers)
    except BaseException as error:
        trackers.close("KILLED" if isinstance(error, Interrupted | KeyboardInterrupt) else "FAILED")
        raise
    trackers.close("FINISHED")
    accelerator.wait_for_everyone()


def main(_arguments: Sequence[str]) -> None:
    """What each rank runs. Raises as `run` does."""
    workspace = Workspace()
    run(workspace, load_params(workspace.params))
    PartialState().destroy_process_group()


def _train(
    workspace: Workspace,
    params: Params,
    accelerator: Accelerator,
    prepared: Prepared,
    pairs: Pairs,
    order: BatchOrder,
    checkpoints: Checkpoints,
    trackers: Trackers,
) -> None:
    base = _base(workspace, params, prepared, pairs, accelerator)
    # The same on all processes: they must begin with the same new weights (adapters, projection).
    torch.manual_seed(params.train.seed)
    encoder, tokenizer = load_encoder(params.model, base, training=True)
    if params.train.gradient_checkpointing:
        encoder.enable_gradient_checkpointing()
    if params.train.compile:
        encoder.to(accelerator.device).compile_layers()
    model = ContrastiveModel(encoder, params.loss, len(params.model.dims))
    parameters = {
        "total": sum(parameter.numel() for parameter in model.parameters()),
        "trainable": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
    }
    batcher = Batcher(tokenizer, params.model, encoder.family)
    prepared = keep_frozen(
        prepared, data_digest(workspace.prepared), encoder, tokenizer, params, accelerator, workspace.work / FROZEN_FOLDER
    )

    def evaluate() -> Evaluation:
        return evaluate_split(
            prepared, "validation", encoder, batcher, params.model.dims, params.evaluate.batch_size, params.evaluate.depth
        )

    def make_progress(done_steps: int) -> Progress:
        return Progress(
            workspace.work / "progress.json" if accelerator.is_main_process else None,
            epochs=params.train.epochs,
            steps=training.total_steps,
            pairs=params.train.epochs * order.batches * order.batch_size,
            done_pairs=training.pairs_in(done_steps),
        )

    negatives = None
    if params.mining.negatives_per_pair:
        negatives = ExtraNegatives(
            prepared,
            pairs,
            encoder,
            batcher,
            params.mining,
            steps_per_epoch=order.steps_per_epoch(params.train.accumulation_steps),
            seed=params.train.seed,
            dim=params.model.dims[-1],
            roles_differ=params.model.query_instruction != params.model.target_instruction,
        )
    has_validation = len(prepared.pairs("validation")) > 0
    pair_batcher = PairBatcher(
        prepared,
        pairs,
        batcher,
        accelerator.process_index,
        accelerator.num_processes,
        micro_batch_size=params.train.micro_batch_size,
        negatives=negatives,
        same_side=params.loss.same_side_negatives,
    )
    training = Training(
        params,
        accelerator,
        model,
        pair_batcher,
        order,
        checkpoints,
        trackers,
        evaluate if has_validation else None,
        negatives,
    )
    _tell(params, order, pairs, parameters, accelerator, has_validation=has_validation)
    outcome = training.run(make_progress)
    if accelerator.is_main_process:
        _save_candidate(workspace, params, base, checkpoints, trackers)
        _report(workspace, params, order, pairs, parameters, accelerator, outcome)
        for path in (workspace.reports / "training.json", workspace.reports / "training.csv"):
            trackers.log_artifact(path, "reports")
        trackers.log_artifact(checkpoints.best, "checkpoints")
        checkpoints.finish()
        log.info(
            "training: %d steps of %d pairs in %.0f s, %.1f pairs a second; best after step %d: %s",
            outcome.history.rows[-1].step,
            order.batch_size,
            outcome.seconds,
            outcome.pairs_per_second,
            outcome.best.step,
            workspace.candidate,
        )


def _accelerator(workspace: Workspace, params: Params) -> Accelerator:
    on_cpu = launch_uses_cpu(params, workspace.params) or not torch.cuda.is_available()
    if on_cpu:
        check_precision(workspace, params)
    # accelerate 1.15 still passes the old name of an argument to torch's DDP, and so every training would begin with a page of advice.
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision=params.train.mixed_precision,
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
    check_process_count(accelerator.num_processes, "train", params, workspace.params)
    if not accelerator.is_main_process:
        logging.getLogger("reelnest").setLevel(logging.WARNING)
    return accelerator


def _tags(workspace: Workspace, accelerator: Accelerator) -> dict[str, str]:
    return {
        **origin_tags(workspace.root),
        **parent_tags(),
        "reelnest.version": version("reelnest"),
        "reelnest.processes": str(accelerator.num_processes),
        "reelnest.device": torch.cuda.get_device_name() if accelerator.device.type == "cuda" else "cpu",
    }


def _base(workspace: Workspace, params: Params, prepared: Prepared, pairs: Pairs, accelerator: Accelerator) -> str | Path:
    """Where the weights come from: for `tiny`, a folder under `work/` that the main process builds while the others wait."""
    if params.model.name_or_path != TINY:
        return params.model.name_or_path
    texts = sorted(set(_texts(prepared, pairs)) | {params.model.query_instruction, params.model.target_instruction})
    parts = [params.model.tiny.model_dump(mode="json"), params.train.seed, version("reelnest"), version("transformers"), texts]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    folder = workspace.work / f"tiny-{key}"
    with accelerator.main_process_first():
        if not folder.is_dir():
            with whole_folder(folder) as aside:
                build_tiny(aside, texts, params.model.tiny, params.train.seed)
    return folder


def _texts(prepared: Prepared, pairs: Pairs) -> Iterator[str]:
    """What the training split's texts and videos say in words. A tokenizer trained on more would have seen the test split."""
    for index in np.unique(np.concatenate([pairs.queries, pairs.targets])):
        item = prepared.item(int(index))
        yield item.key if item.kind == "text" else fields_text(item.fields)


def _tell(
    params: Params, order: BatchOrder, pairs: Pairs, parameters: dict[str, int], accelerator: Accelerator, *, has_validation: bool
) -> None:
    log.info(
        "training: %d pairs in batches of %d, %d epochs of %d batches, %d processes on %s, %d of %d parameters",
        len(pairs),
        order.batch_size,
        params.train.epochs,
        order.batches,
        accelerator.num_processes,
        accelerator.device,
        parameters["trainable"],
        parameters["total"],
    )
    if order.batch_size < params.train.batch_size:
        wanted = params.train.batch_size
        log.warning("training: %d pairs are fewer than train.batch_size (%d): one batch of %d", len(pairs), wanted, order.batch_size)
    repeated = order.repeated_items(0)
    if repeated:
        share = repeated / (2 * order.batches * order.batch_size)
        log.warning("training: train.no_duplicates: too few different items for batches without repeats; %.1f %% are repeats", 100 * share)
    if not has_validation:
        log.warning("training: there is no validation split, so the last weights are taken for the best, and train.patience ends nothing")


def _save_candidate(workspace: Workspace, params: Params, base: str | Path, checkpoints: Checkpoints, trackers: Trackers) -> None:
    """Puts the best weights into a fresh copy of the base: one way for whole, sharded and resumed models, and for a finished training."""
    encoder, tokenizer = load_encoder(params.model, base, training=True)
    model = ContrastiveModel(encoder, params.loss, len(params.model.dims))
    checkpoints.load_best_into(model)
    save_model(workspace.candidate, encoder, tokenizer, params.model, params.preprocess, params.data.text_fields)
    found: dict[str, Any] = {"experiment": None, "run_id": None, "tracking_uri": None}
    if "mlflow" in trackers.runs:
        found = {
            "experiment": params.tracking.experiment,
            "run_id": trackers.runs["mlflow"],
            "tracking_uri": without_credentials(tracking_uri(params)),
        }
    write_json(workspace.candidate / "run.json", found)


def _report(
    workspace: Workspace,
    params: Params,
    order: BatchOrder,
    pairs: Pairs,
    parameters: dict[str, int],
    accelerator: Accelerator,
    outcome: Outcome,
) -> None:
    last = outcome.history.rows[-1]
    report = {
        "pairs": len(pairs),
        "batch_size": order.batch_size,
        "processes": accelerator.num_processes,
        "epochs": params.train.epochs,
        "steps": last.step,
        "seed": params.train.seed,
        "parameters": parameters,
        "loss": last.loss,
        "loss_by_dim": {str(dim): loss for dim, loss in zip(outcome.history.dims, last.losses, strict=True)},
        "temperature": last.temperature,
        "best": {
            "step": outcome.best.step,
            "metric": params.train.best_metric,
            "dim": params.train.best_dim or params.model.dims[-1],
            "value": outcome.best.value,
        },
        "stopped_early": last.epoch < params.train.epochs,
        "validation": [{"epoch": found.epoch, "step": found.step, "metrics": found.metrics} for found in outcome.validations],
        "speed": {
            "pairs_per_second": round(outcome.pairs_per_second, 1),
            "seconds": round(outcome.seconds, 1),
            "while_stepping": {name: round(value, 6) for name, value in outcome.rates.items()},
            "breakdown": outcome.breakdown.report() if outcome.breakdown is not None else None,
        },
    }
    write_json(workspace.reports / "training.json", report)
    outcome.history.write_csv(workspace.reports / "training.csv")
