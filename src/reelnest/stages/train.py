"""Training: `prepared/` to `models/candidate/`.

Usage, as `reelnest train` does it: `accelerate launch --config_file configs/accelerate/cpu-2.yaml -m reelnest.launch.rank
reelnest.stages.train`
"""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from transformers import PreTrainedTokenizerBase

from reelnest.addresses import without_credentials
from reelnest.artifacts.candidate_run import CandidateRun
from reelnest.artifacts.training_report import BestEvaluation, Parameters, Speed, TrainingReport, ValidationMetrics
from reelnest.backbones.registry import family_of
from reelnest.encoder.batches import Batcher
from reelnest.encoder.encoder import COMPUTE_DTYPES, Encoder, load_encoder
from reelnest.encoder.saved import save_model
from reelnest.errors import ConfigError, Interrupted
from reelnest.evaluation.evaluation import Evaluation
from reelnest.evaluation.split_evaluation import evaluate_split
from reelnest.launch.process_count import check_process_count
from reelnest.registry.lineage.dvc_lock import data_version
from reelnest.registry.lineage.run_tags import origin_tags, parent_tags
from reelnest.registry.run_notes import TrackedData
from reelnest.registry.tracking import open_trackers
from reelnest.settings import Params, launch_uses_cpu, load_params, tracking_uri
from reelnest.stages import training_warnings
from reelnest.stages.training_inputs import check_precision
from reelnest.stages.workspace import Workspace
from reelnest.store.prepared import Pairs, Prepared
from reelnest.training.base_model import base_model
from reelnest.training.batches.negatives import ExtraNegatives
from reelnest.training.batches.pair_batches import PairBatcher
from reelnest.training.batches.sampler import BatchOrder, negative_anchors
from reelnest.training.checkpoint.checkpoints import Checkpoints, data_digest, training_key
from reelnest.training.contrastive_model import ContrastiveModel
from reelnest.training.distributed import shard_layers
from reelnest.training.frozen import FROZEN_FOLDER, cache_frozen_features
from reelnest.training.host_memory import keep_freed_memory
from reelnest.training.loop import Outcome, Training, TrainingData
from reelnest.training.tracker import Trackers

log = logging.getLogger(__name__)

LONGEST_WAIT = timedelta(hours=6)
"""Of one process for another. The main process saves, exports and uploads while the others wait, longer than NCCL's default of 10 minutes.
The launcher ends all processes if one dies, so a long limit delays nothing."""


@dataclass(frozen=True)
class _Setup:
    """The inputs of a training, before the model is loaded."""

    workspace: Workspace
    params: Params
    accelerator: Accelerator
    prepared: Prepared
    pairs: Pairs
    """The pairs of the train split."""
    batch_order: BatchOrder
    checkpoints: Checkpoints
    trackers: Trackers


def run(workspace: Workspace, params: Params) -> None:
    """Trains, or resumes from the last checkpoint, and saves the best weights as the candidate.

    Every process that accelerate starts calls this; a single process may call it without a launcher. Raises ConfigError, DataError,
    ModelError and RegistryError before training, TrainingError if training cannot continue, Interrupted after SIGTERM.
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
    batch_order = BatchOrder.fitting(len(pairs), params.train.batch_size, params.train.seed, accelerator.num_processes, anchors, items)
    key = training_key(params, workspace.prepared)
    checkpoints = Checkpoints(workspace.work / "checkpoints", key, params.train.checkpoint_address)
    checkpoints.fetch(is_local_main=accelerator.is_local_main_process)
    accelerator.wait_for_everyone()
    trackers = Trackers()
    if accelerator.is_main_process:
        data = _tracked_data(workspace, prepared, pairs)
        trackers = open_trackers(params, workspace.work, key, checkpoints.read_runs(), _tags(workspace, accelerator), data)
        checkpoints.write_runs(trackers.runs)
    try:
        _train(_Setup(workspace, params, accelerator, prepared, pairs, batch_order, checkpoints, trackers))
    except BaseException as error:
        trackers.close("KILLED" if isinstance(error, Interrupted | KeyboardInterrupt) else "FAILED")
        if isinstance(error, Interrupted):
            checkpoints.wait_for_copies()
        raise
    trackers.close("FINISHED")
    checkpoints.wait_for_copies()
    accelerator.wait_for_everyone()


def main(_arguments: Sequence[str]) -> None:
    """Runs the stage on one rank. Raises as `run` does."""
    workspace = Workspace()
    run(workspace, load_params(workspace.params))
    PartialState().destroy_process_group()


def _train(setup: _Setup) -> None:
    workspace, params, accelerator = setup.workspace, setup.params, setup.accelerator
    base = base_model(params, setup.prepared, setup.pairs, accelerator, workspace.work)
    # The same on all processes: they must start with the same new weights (adapters, projection).
    torch.manual_seed(params.train.seed)
    encoder, tokenizer = _encoder(setup, base)
    if params.train.gradient_checkpointing:
        encoder.enable_gradient_checkpointing()
    if params.train.compile:
        encoder.to(accelerator.device).compile_layers()
    model = ContrastiveModel(encoder, params.loss, params.model.dims)
    parameters = Parameters(
        total=sum(parameter.numel() for parameter in model.parameters()),
        trainable=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
    )
    data = _data(setup, encoder, tokenizer)
    training = Training(params, accelerator, model, data, setup.checkpoints, setup.trackers)
    if accelerator.is_main_process:
        _log_start(setup, parameters, has_validation=data.evaluate is not None)
        training_warnings.warn(params, setup.prepared, data.batcher, setup.batch_order)
    outcome = training.run(workspace.work / "progress.json" if accelerator.is_main_process else None)
    if accelerator.is_main_process:
        _save_candidate(setup, base)
        _report(setup, parameters, outcome)
        for path in (workspace.reports / "training.json", workspace.reports / "training.csv"):
            setup.trackers.log_artifact(path, "reports")
        setup.trackers.log_artifact(setup.checkpoints.best, "checkpoints")
        setup.checkpoints.finish()
        log.info(
            "training: %d steps of %d pairs in %.0f s, %.1f pairs a second; best after step %d: %s",
            outcome.history.rows[-1].step,
            setup.batch_order.batch_size,
            outcome.seconds,
            outcome.pairs_per_second,
            outcome.best.step,
            workspace.candidate,
        )


def _encoder(setup: _Setup, base: str | Path) -> tuple[Encoder, PreTrainedTokenizerBase]:
    autocast_dtype = COMPUTE_DTYPES[setup.params.train.mixed_precision]
    return load_encoder(setup.params.model, base, training=True, device=setup.accelerator.device, autocast_dtype=autocast_dtype)


def _data(setup: _Setup, encoder: Encoder, tokenizer: PreTrainedTokenizerBase) -> TrainingData:
    """Returns the batches of the training split with their extra negatives, and the evaluation of the validation split."""
    params, accelerator, pairs = setup.params, setup.accelerator, setup.pairs
    batcher = Batcher(tokenizer, params.model, encoder.family)
    digest, cache = data_digest(setup.workspace.prepared), setup.workspace.work / FROZEN_FOLDER
    prepared = cache_frozen_features(setup.prepared, digest, encoder, tokenizer, params, accelerator, cache)

    def evaluate() -> Evaluation:
        return evaluate_split(
            prepared, "validation", encoder, batcher, params.model.dims, params.evaluate.batch_size, params.evaluate.depth
        )

    negatives = None
    if params.mining.negatives_per_pair:
        steps_per_epoch = setup.batch_order.steps_per_epoch(params.train.accumulation_steps)
        negatives = ExtraNegatives(prepared, pairs, encoder, batcher, params, steps_per_epoch)
    pair_batcher = PairBatcher(
        prepared,
        pairs,
        batcher,
        accelerator.process_index,
        accelerator.num_processes,
        negatives=negatives,
        intra_modal=params.loss.needs_intra_modal_relations,
    )
    has_validation = len(prepared.pairs("validation")) > 0
    return TrainingData(pair_batcher, setup.batch_order, evaluate if has_validation else None, negatives)


def _accelerator(workspace: Workspace, params: Params) -> Accelerator:
    on_cpu = launch_uses_cpu(params, workspace.params)
    if on_cpu:
        check_precision(workspace, params)
    elif not torch.cuda.is_available():
        raise ConfigError(
            f"{workspace.params}: launch.config: {params.launch.config} needs a GPU, and torch finds none here. Look at `nvidia-smi`, or"
            " set launch.config: cpu-1."
        )
    # accelerate 1.15 passes the old name of an argument to torch's DDP, so every training would start with a long warning.
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision=params.train.mixed_precision,
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True), InitProcessGroupKwargs(timeout=LONGEST_WAIT)],
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


def _tracked_data(workspace: Workspace, prepared: Prepared, pairs: Pairs) -> TrackedData:
    data = data_version(workspace.root)
    version = data_digest(workspace.prepared) if data is None else data.hash
    return TrackedData(version, len(pairs), len(prepared.pairs("validation")), len(prepared.store))


def _log_start(setup: _Setup, parameters: Parameters, *, has_validation: bool) -> None:
    params, batch_order, pairs, accelerator = setup.params, setup.batch_order, setup.pairs, setup.accelerator
    log.info(
        "training: %s pairs in batches of %d, epochs: %d of %d batches, processes: %d on %s, trained parameters: %s of %s",
        f"{len(pairs):,}",
        batch_order.batch_size,
        params.train.epochs,
        batch_order.batches,
        accelerator.num_processes,
        accelerator.device,
        f"{parameters.trainable:,}",
        f"{parameters.total:,}",
    )
    if batch_order.batch_size < params.train.batch_size:
        configured = params.train.batch_size
        log.warning(
            "training: %d pairs are fewer than train.batch_size (%d): using one batch of %d", len(pairs), configured, batch_order.batch_size
        )
    repeated = batch_order.repeated_items(0)
    if repeated:
        share = repeated / (2 * batch_order.batches * batch_order.batch_size)
        log.warning("training: train.no_duplicates: too few distinct items for batches without repeats; %.1f %% are repeats", 100 * share)
    if not has_validation:
        log.warning("training: there is no validation split, so the last weights count as the best, and train.patience has no effect")


def _save_candidate(setup: _Setup, base: str | Path) -> None:
    """Loads the best weights into a new copy of the base model. This works for unsharded, sharded, resumed and finished trainings alike."""
    params, runs = setup.params, setup.trackers.runs
    encoder, tokenizer = _encoder(setup, base)
    setup.checkpoints.load_best_into(ContrastiveModel(encoder, params.loss, params.model.dims))
    candidate = setup.workspace.candidate
    save_model(candidate, encoder, tokenizer, params.model, params.preprocess, params.data.text_fields)
    run = CandidateRun()
    if "mlflow" in runs:
        uri = without_credentials(tracking_uri(params))
        run = CandidateRun(experiment=params.tracking.experiment, run_id=runs["mlflow"], tracking_uri=uri)
    run.write(candidate)


def _report(setup: _Setup, parameters: Parameters, outcome: Outcome) -> None:
    params, reports = setup.params, setup.workspace.reports
    last = outcome.history.rows[-1]
    report = TrainingReport(
        pairs=len(setup.pairs),
        batch_size=setup.batch_order.batch_size,
        processes=setup.accelerator.num_processes,
        epochs=params.train.epochs,
        steps=last.step,
        seed=params.train.seed,
        parameters=parameters,
        loss=last.loss,
        loss_by_dim={str(dim): loss for dim, loss in zip(outcome.history.dims, last.losses, strict=True)},
        temperature=last.temperature,
        best=BestEvaluation(
            step=outcome.best.step,
            metric=params.train.best_metric,
            dim=params.train.best_dim or params.model.dims[-1],
            value=outcome.best.value,
        ),
        stopped_early=last.epoch < params.train.epochs,
        validation=tuple(ValidationMetrics(**asdict(validation)) for validation in outcome.validations),
        speed=Speed(
            pairs_per_second=round(outcome.pairs_per_second, 1),
            seconds=round(outcome.seconds, 1),
            while_stepping={name: round(value, 6) for name, value in outcome.rates.items()},
            breakdown=outcome.breakdown.report() if outcome.breakdown is not None else None,
        ),
    )
    report.write(reports)
    outcome.history.write_csv(reports / "training.csv")
