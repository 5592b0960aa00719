"""The training loop: steps, periodic evaluation, checkpoints, and resuming."""

import gc
import logging
import math
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch.distributed.fsdp import FSDPModule

from reelnest.encoder.batches import Batch, pinned
from reelnest.errors import Interrupted
from reelnest.evaluation.evaluation import ALL, Evaluation
from reelnest.prefetch import prefetched
from reelnest.profiling.profiler import Breakdown, StepProfiler
from reelnest.profiling.throughput import Meter
from reelnest.settings import Params
from reelnest.training.batches.negatives import ExtraNegatives
from reelnest.training.batches.pair_batches import PairBatch, PairBatcher
from reelnest.training.batches.sampler import BatchOrder
from reelnest.training.checkpoint.best import Best
from reelnest.training.checkpoint.checkpoints import Checkpoints
from reelnest.training.checkpoint.history import History
from reelnest.training.checkpoint.timer import CheckpointTimer
from reelnest.training.checkpoint.train_state import TrainState, Validation
from reelnest.training.contrastive_model import ContrastiveModel
from reelnest.training.distributed import StepVotes, StopRequest
from reelnest.training.figures import memory_figures, resumed_step_figures, step_figures, validation_figures
from reelnest.training.progress import Progress
from reelnest.training.snapshot import Snapshots
from reelnest.training.step import TrainingStep
from reelnest.training.tracker import PROFILE_FOLDER, Trackers

NO_LOSS = 1e-7
"""A loss up to this is 0 but for rounding."""

log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """The results of a finished training, for its report."""

    history: History
    validations: list[Validation]
    best: Best
    seconds: float
    """Of steps and evaluations, in all processes that resumed this training."""
    pairs_per_second: float
    rates: dict[str, float]
    """Rates of this process's steps (see `throughput.Meter`); empty if it took no step."""
    breakdown: Breakdown | None
    """Of the profiled steps; None if this process took none."""


@dataclass(frozen=True)
class TrainingData:
    """The batches of a training and its evaluation."""

    batcher: PairBatcher
    batch_order: BatchOrder
    evaluate: Callable[[], Evaluation] | None = None
    """Evaluates the model on the validation split, on all processes; None without a validation split."""
    negatives: ExtraNegatives | None = None
    """The extra negatives that `batcher` reads. The training renews and saves them."""


class Training:
    """Trains one model with all processes of the group. Each process creates one, with the same arguments except the batcher."""

    def __init__(
        self,
        params: Params,
        accelerator: Accelerator,
        model: ContrastiveModel,
        data: TrainingData,
        checkpoints: Checkpoints,
        trackers: Trackers,
    ) -> None:
        self._train = params.train
        self._dims = params.model.dims
        self._data = data
        self._checkpoints = checkpoints
        self._trackers = trackers
        self._is_main = accelerator.is_main_process
        self._device = accelerator.device
        self._steps_per_epoch = data.batch_order.steps_per_epoch(self._train.accumulation_steps)
        self.total_steps = self._steps_per_epoch * self._train.epochs
        self.step = TrainingStep(params, accelerator, model, data.batcher, self.total_steps)
        self.state = TrainState(micro_batch_size=self._train.micro_batch_size)
        self._history = History(self._dims)
        self._snapshots = Snapshots(checkpoints, self._train.keep_checkpoints, self.step, self._history, data.negatives)
        # Only the main process's clock counts.
        self._timer = CheckpointTimer(self._train.checkpoint_every_minutes if accelerator.is_main_process else None)
        self._profiler = StepProfiler(self._train.profile_steps, self.model, checkpoints.folder / "profile", accelerator.process_index)
        self._meter = Meter(self.model.encoder, accelerator.device, accelerator.num_processes)
        self._seconds_before = 0.0

    @property
    def model(self) -> ContrastiveModel:
        """The trained module, without the DDP wrapper."""
        return self.step.model

    def pairs_in(self, steps: int) -> int:
        """Returns the number of pairs in the first `steps` steps."""
        epochs, rest = divmod(steps, self._steps_per_epoch)
        batch_order = self._data.batch_order
        return (epochs * batch_order.batches + rest * self._train.accumulation_steps) * batch_order.batch_size

    def run(self, progress_file: Path | None) -> Outcome:
        """Trains from the last checkpoint, or from the beginning, to the end.

        The main process writes its progress to `progress_file`; the others pass None. Raises TrainingError for a loss that is not finite,
        and Interrupted after SIGTERM, once a checkpoint is saved.
        """
        self.resume()
        state = self.state
        progress = Progress(
            progress_file,
            epochs=self._train.epochs,
            steps=self.total_steps,
            pairs=self.pairs_in(self.total_steps),
            done_pairs=self.pairs_in(state.step),
        )
        self._seconds_before = state.seconds
        # The libraries' 700,000 objects live as long as the process. Scanning them would stop a step for 0.4 s.
        gc.collect()
        gc.freeze()
        try:
            with StopRequest() as stop:
                votes = StepVotes()
                self._timer.restart()
                for epoch in range(state.step // self._steps_per_epoch, self._train.epochs):
                    if state.best.is_final(self._train.patience):
                        log.info("training: no improvement in %d evaluations (train.patience); stopping", state.best.stale)
                        break
                    self._run_epoch(epoch, progress, stop, votes)
        finally:
            gc.unfreeze()
            progress.close(-(-state.step // self._steps_per_epoch), state.step)
        if self._profiler.trace is not None:
            self._trackers.log_artifact(self._profiler.trace, PROFILE_FOLDER)
        rate = self.pairs_in(state.step) / max(state.seconds, 1e-9)
        return Outcome(self._history, state.validations, state.best, state.seconds, rate, self._meter.report(), self._profiler.breakdown)

    def _run_epoch(self, epoch: int, progress: Progress, stop: StopRequest, votes: StepVotes) -> None:
        self.step.wrapped.train()
        self._meter.begin()
        stopping = checkpointing = False
        evaluates = (epoch + 1) % self._train.evaluate_every_epochs == 0 or epoch + 1 == self._train.epochs
        with closing(self._batches_left(epoch)) as steps:
            for batches in self._profiler.over(steps, self.state.step):
                self.take_step(epoch, batches)
                pairs = len(batches) * self._data.batch_order.batch_size
                self._meter.add((inputs for batch in batches for inputs in batch.layouts), pairs)
                if self.state.step % self._train.log_every_steps == 0 or self._epoch_is_over:
                    self._log(progress)
                progress.advance(epoch + 1, self.state.step, pairs)
                due = self._timer.is_due and not (self._epoch_is_over and evaluates)
                stopping, checkpointing = votes.decide(stop=stop.is_made, checkpoint=due)
                stop.is_followed = stopping
                if stopping:
                    break
                if checkpointing and not self._epoch_is_over:
                    self._count_seconds(progress)
                    self._checkpoint(progress)
        self._count_seconds(progress)
        if self._epoch_is_over and evaluates:
            # No checkpoint before this: a training resumed from it would skip the evaluation.
            self._validate(epoch + 1)
            self._checkpoint(progress)
        elif stopping or checkpointing:
            self._checkpoint(progress)
        if stopping and self.state.step < self.total_steps:
            raise Interrupted(
                f"training: stopped by SIGTERM after step {self.state.step} of {self.total_steps}. Run the same command to resume from"
                f" {self._checkpoints.folder}."
            )

    @property
    def _epoch_is_over(self) -> bool:
        return self.state.step % self._steps_per_epoch == 0

    def _batches_left(self, epoch: int) -> Generator[list[PairBatch], None, None]:
        """Yields the batches of each remaining step of the epoch.

        Prefetching stops at the next renewal of the extra negatives: a batch's negatives must not depend on how early it was made.
        """
        done = self.state.step % self._steps_per_epoch
        jobs = self._data.batch_order.steps(epoch, self._train.accumulation_steps, first=done)
        while done < self._steps_per_epoch:
            stretch = self._steps_per_epoch - done
            if self._data.negatives is not None:
                stretch = min(stretch, self._renewed(self._data.negatives))
            with closing(prefetched(islice(jobs, stretch), self._make_step)) as steps:
                yield from steps
            done += stretch

    def _renewed(self, negatives: ExtraNegatives) -> int:
        """Renews the extra negatives if that is due. Returns the number of steps until the next renewal."""
        if negatives.steps_until_renewal(self.state.step) == 0:
            with unsharded(self.model, self._data.batcher.stand_in):
                figures = negatives.renew(self.state.step)
            self._trackers.log_metrics(figures, self.state.step)
        return negatives.steps_until_renewal(self.state.step)

    def _make_step(self, rows: np.ndarray) -> list[PairBatch]:
        batches = [self._data.batcher(batch, self.state.micro_batch_size) for batch in rows]
        return pinned(batches) if self._device.type == "cuda" else batches

    def take_step(self, epoch: int, batches: list[PairBatch]) -> None:
        """Takes one optimizer step and adds it to the history."""
        figures = self.step(batches, self.state)
        self._history.add(epoch + 1, self.state.step, figures)

    def _log(self, progress: Progress) -> None:
        rows = self._history.flush()
        if not rows:
            return
        progress.show(rows[-1])
        if self._is_main and rows[0].step == 1 and max(row.loss for row in rows) <= NO_LOSS:
            log.warning(
                "training: the loss is 0 in each of the first %d steps, so nothing is learnt. Most likely no query has a negative: look for"
                " warnings of `reelnest validate` and above.",
                len(rows),
            )
        figures = step_figures(rows, self._dims, self.model.objective.dim_weights.learnt())
        self._trackers.log_metrics(figures | self._meter.rates() | memory_figures(), self.state.step)

    def _validate(self, epoch: int) -> None:
        state = self.state
        if self._data.evaluate is None:
            state.best = Best(state.step)
            return
        with self._snapshots.evaluated_weights(), unsharded(self.model, self._data.batcher.stand_in):
            evaluation = self._data.evaluate()
        metrics = {str(result.dim): dict(result.metrics) for result in evaluation.results if result.pair_kind == ALL}
        state.validations.append(Validation(epoch, state.step, metrics))
        self._trackers.log_metrics(validation_figures(state.validations[-1]), state.step)
        value = evaluation.value(self._train.best_metric, dim=self._train.best_dim)
        state.best = state.best.after(state.step, value, self._train.best_metric)
        last = self._history.rows[-1]
        log.info("epoch %d: loss %.4f, validation %s %.4f", epoch, last.loss, self._train.best_metric, math.nan if value is None else value)

    def _checkpoint(self, progress: Progress) -> None:
        """Saves the training state. Every process calls it after the same step."""
        self._log(progress)  # reads the steps that are still on the device
        self._snapshots.save(self.state)
        self._timer.restart()

    def _count_seconds(self, progress: Progress) -> None:
        self.state.seconds = self._seconds_before + progress.seconds

    def resume(self) -> None:
        """Restores the last checkpoint, if there is one."""
        state = self._snapshots.restore()
        if state is None:
            return
        self.state = state
        log.info("training: resuming after step %d of %d (%s)", state.step, self.total_steps, self._checkpoints.folder)
        # A new tracker run lacks the earlier steps.
        new_trackers = self._trackers.newly_begun
        for row in self._history.rows:
            if row.step % self._train.log_every_steps == 0:
                new_trackers.log_metrics(resumed_step_figures(row), row.step)
        for validation in state.validations:
            new_trackers.log_metrics(validation_figures(validation), validation.step)


@contextmanager
def unsharded(model: ContrastiveModel, stand_in: Callable[[], Batch]) -> Iterator[None]:
    """Unshards the root's parameters, so that submodules can be called directly: only the root's forward gathers them.

    FSDP sets up all layers in the root's first forward pass. If a submodule runs before it, as in mining before the first step, the next
    step fails. So a pass of `stand_in()`, any batch, comes first.
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    was_training = model.training
    model.eval()
    with torch.no_grad():
        model(stand_in().to(model.encoder.device))
    model.train(was_training)
    model.unshard()
    try:
        yield
    finally:
        model.reshard()
