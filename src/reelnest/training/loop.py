"""The training loop: steps, periodic evaluation, checkpoints, and going on where an earlier process stopped."""

import gc
import logging
import math
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import psutil
import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from reelnest.encoder.ema import Ema
from reelnest.errors import Interrupted
from reelnest.evaluation.evaluation import ALL, Evaluation
from reelnest.evaluation.metrics import logged_name
from reelnest.profiling.phases import phase
from reelnest.profiling.profiler import Breakdown, StepProfiler
from reelnest.profiling.throughput import Meter
from reelnest.settings import Params
from reelnest.training.batch_gradients import BatchGradients
from reelnest.training.batches.negatives import ExtraNegatives
from reelnest.training.batches.pair_batches import PairBatch, PairBatcher
from reelnest.training.batches.prefetch import prefetched
from reelnest.training.batches.sampler import BatchOrder
from reelnest.training.checkpoint import checkpoints as saved
from reelnest.training.checkpoint.best import Best
from reelnest.training.checkpoint.checkpoints import Checkpoints
from reelnest.training.checkpoint.history import History
from reelnest.training.checkpoint.sharded_state import load_own_part, own_part
from reelnest.training.distributed import StopRequest
from reelnest.training.losses.contrastive_model import ContrastiveModel
from reelnest.training.optimizer import build_optimizer, build_scheduler
from reelnest.training.progress import Progress
from reelnest.training.tracker import PROFILE_FOLDER, Trackers

log = logging.getLogger(__name__)

MEBIBYTE = 1 << 20


@dataclass
class Validation:
    """One evaluation of the validation split."""

    epoch: int
    step: int
    metrics: dict[str, dict[str, float]]
    """By dim, then by name, over the queries of all pair kinds."""


@dataclass
class Outcome:
    """What a finished training tells its report."""

    history: History
    validations: list[Validation]
    best: Best
    seconds: float
    """Of steps and evaluations, over all sittings."""
    pairs_per_second: float
    rates: dict[str, float]
    """While stepping, of the last sitting (see `throughput.Meter`); empty where it took no step."""
    breakdown: Breakdown | None
    """Of the profiled steps, where this process took any."""


@dataclass
class Position:
    """What, besides weights and optimizer, a resumed training needs to know."""

    step: int = 0
    best: Best = field(default_factory=Best)
    validations: list[Validation] = field(default_factory=list)
    seconds: float = 0.0
    micro_batch_size: int | None = None
    """The present one, where `train.adaptive_batch_size` may have made it smaller than the settings'."""


class Training:
    """Trains one model with all processes of the group. Each process makes one of these, with the same arguments but its own batcher."""

    def __init__(
        self,
        params: Params,
        accelerator: Accelerator,
        model: ContrastiveModel,
        batcher: PairBatcher,
        order: BatchOrder,
        checkpoints: Checkpoints,
        trackers: Trackers,
        evaluate: Callable[[], Evaluation] | None,
        negatives: ExtraNegatives | None = None,
    ) -> None:
        """`evaluate` measures the model on the validation split, on all processes; None where there is no such split.

        `negatives` are those that `batcher` asks for each pair's; they are renewed, and saved, here.
        """
        self._train = params.train
        self._loss = params.loss
        self._dims = params.model.dims
        self._accelerator = accelerator
        self._batcher = batcher
        self._order = order
        self._checkpoints = checkpoints
        self._trackers = trackers
        self._evaluate = evaluate
        self._negatives = negatives
        self._steps_per_epoch = order.steps_per_epoch(self._train.accumulation_steps)
        self.total_steps = self._steps_per_epoch * self._train.epochs
        optimizer = build_optimizer(model, self._train)
        self._wrapped, self.optimizer = accelerator.prepare(model, optimizer)
        self.model: ContrastiveModel = accelerator.unwrap_model(self._wrapped)  # sharded under FSDP2, otherwise `model` itself
        self._scheduler = build_scheduler(self.optimizer.optimizer, self._train, self.total_steps)
        self._ema = None if self._train.ema_decay is None else Ema(self.model, self._train.ema_decay)
        self._profiler = StepProfiler(self._train.profile_steps, self.model, checkpoints.folder / "profile", accelerator.process_index)
        self.gradients = BatchGradients(params, accelerator, self._wrapped, batcher, order.batch_size)
        self._meter = Meter(self.model.encoder, accelerator.device, accelerator.num_processes)
        self._history = History(self._dims)
        self._at = Position()
        self._seconds_before = 0.0

    def pairs_in(self, steps: int) -> int:
        """How many pairs the first `steps` steps see."""
        epochs, rest = divmod(steps, self._steps_per_epoch)
        return (epochs * self._order.batches + rest * self._train.accumulation_steps) * self._order.batch_size

    def run(self, make_progress: Callable[[int], Progress]) -> Outcome:
        """Trains from the last checkpoint, or from the beginning, to the end.

        `make_progress` gets the number of steps done before. Raises TrainingError for a loss that is no finite number and
        Interrupted after SIGTERM, with a checkpoint to go on from.
        """
        self._resume()
        progress = make_progress(self._at.step)
        self._seconds_before = self._at.seconds
        # What the libraries brought stays as long as the process: a pass over its 700,000 objects would stop a step for 0.4 s.
        gc.collect()
        gc.freeze()
        try:
            with StopRequest() as stop:
                for epoch in range(self._at.step // self._steps_per_epoch, self._train.epochs):
                    if self._at.best.is_final(self._train.patience):
                        log.info("training: no better for %d evaluations (train.patience): this is the end", self._at.best.stale)
                        break
                    self._run_epoch(epoch, progress, stop)
        finally:
            gc.unfreeze()
            progress.close(-(-self._at.step // self._steps_per_epoch), self._at.step)
        if self._profiler.trace is not None:
            self._trackers.log_artifact(self._profiler.trace, PROFILE_FOLDER)
        rate = self.pairs_in(self._at.step) / max(self._at.seconds, 1e-9)
        return Outcome(
            self._history, self._at.validations, self._at.best, self._at.seconds, rate, self._meter.report(), self._profiler.breakdown
        )

    def _run_epoch(self, epoch: int, progress: Progress, stop: StopRequest) -> None:
        self._wrapped.train()
        self._meter.begin()
        stopping = False
        with closing(self._batches_left(epoch)) as steps:
            for batches in self._profiler.over(steps, self._at.step):
                self.step(epoch, batches)
                pairs = len(batches) * self._order.batch_size
                self._meter.add((inputs for batch in batches for inputs in batch.layouts), pairs)
                if self._at.step % self._train.log_every_steps == 0 or self._at.step % self._steps_per_epoch == 0:
                    self._log(progress)
                progress.advance(epoch + 1, self._at.step, pairs)
                if stop.agreed():
                    stopping = True
                    break
        ended = self._at.step % self._steps_per_epoch == 0
        self._at.seconds = self._seconds_before + progress.seconds
        if ended and ((epoch + 1) % self._train.evaluate_every_epochs == 0 or epoch + 1 == self._train.epochs):
            self._validate(epoch + 1)
            self._save()
        elif stopping:
            self._log(progress)
            self._save()
        if stopping and self._at.step < self.total_steps:
            raise Interrupted(
                f"training: stopped by SIGTERM after step {self._at.step} of {self.total_steps}; the same command goes on from there"
                f" ({self._checkpoints.folder})."
            )

    def _batches_left(self, epoch: int) -> Generator[list[PairBatch], None, None]:
        """What each step from the present one to the epoch's end sees.

        Batches are made ahead only up to the next renewal of the extra negatives: which of them a batch holds must not hang on how far
        ahead it was made.
        """
        done = self._at.step % self._steps_per_epoch
        jobs = self._order.steps(epoch, self._train.accumulation_steps, first=done)
        while done < self._steps_per_epoch:
            stretch = self._steps_per_epoch - done
            if self._negatives is not None:
                stretch = min(stretch, self._renewed(self._negatives))
            with closing(prefetched(islice(jobs, stretch), self._make_step)) as steps:
                yield from steps
            done += stretch

    def _renewed(self, negatives: ExtraNegatives) -> int:
        """Renews the extra negatives where that is due, and gives the steps for which they hold."""
        if negatives.steps_until_renewal(self._at.step) == 0:
            with whole_root(self.model):
                figures = negatives.renew(self._at.step)
            self._trackers.log_metrics(figures, self._at.step)
        return negatives.steps_until_renewal(self._at.step)

    def _make_step(self, rows: np.ndarray) -> list[PairBatch]:
        return [self._batcher(batch) for batch in rows]

    def step(self, epoch: int, batches: list[PairBatch]) -> None:
        """One optimizer step."""
        with phase("loss"):
            loss, losses, temperature = self.gradients(batches, self._at.step)
        with phase("optimizer"):
            trainable = [parameter for parameter in self._wrapped.parameters() if parameter.requires_grad]
            norm = self._accelerator.clip_grad_norm_(trainable, self._train.max_gradient_norm or math.inf)
            norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
            learning_rate = float(self._scheduler.get_last_lr()[0])
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.model.limit_temperature()
            if not self._accelerator.optimizer_step_was_skipped:  # fp16's scaler leaves a step out when gradients overflow
                self._scheduler.step()
                if self._ema is not None:
                    self._ema.update()
        self._at.step += 1
        self._history.add(epoch + 1, self._at.step, loss, losses, learning_rate, norm, temperature)

    def _log(self, progress: Progress) -> None:
        rows = self._history.flush()
        if not rows:
            return
        progress.show(rows[-1])
        metrics = {
            "train/loss": float(np.mean([row.loss for row in rows])),
            **{f"train/loss_{dim}": float(np.mean([row.losses[i] for row in rows])) for i, dim in enumerate(self._dims)},
            "train/learning_rate": rows[-1].learning_rate,
            "train/gradient_norm": float(np.mean([row.gradient_norm for row in rows])),
            "train/temperature": rows[-1].temperature,
            **self._meter.rates(),
            **_memory(),
        }
        if self._loss.dim_weights == "learnt":
            metrics |= {f"train/weight_{dim}": weight for dim, weight in zip(self._dims, self.model.learnt_weights(), strict=True)}
        self._trackers.log_metrics(metrics, self._at.step)

    def _validate(self, epoch: int) -> None:
        if self._evaluate is None:
            self._at.best = Best(self._at.step)
            return
        with self._judged_weights(), whole_root(self.model):
            evaluation = self._evaluate()
        metrics = {str(result.dim): dict(result.metrics) for result in evaluation.results if result.pair_kind == ALL}
        self._at.validations.append(Validation(epoch, self._at.step, metrics))
        named = {validation_metric(name, dim): value for dim, found in metrics.items() for name, value in found.items()}
        self._trackers.log_metrics(named, self._at.step)
        value = evaluation.value(self._train.best_metric, dim=self._train.best_dim)
        self._at.best = self._at.best.after(self._at.step, value, self._train.best_metric)
        last = self._history.rows[-1]
        log.info("epoch %d: loss %.4f, validation %s %.4f", epoch, last.loss, self._train.best_metric, math.nan if value is None else value)

    def _judged_weights(self) -> AbstractContextManager[None]:
        """Puts the weights that are evaluated, and become the candidate, into the model for a while."""
        return nullcontext() if self._ema is None else self._ema.in_place()

    def _save(self) -> None:
        """Every process takes part, since a sharded model lies on all of them; the main process writes what is everyone's."""
        optimizer = self.optimizer.optimizer
        held: dict[str, Any] = {"parts": self._accelerator.num_processes}
        if isinstance(self.model, FSDPModule):
            self._checkpoints.save_part(self._at.step, own_part(self.model, optimizer, self._ema))
        else:
            held = {
                "weights": saved.trainable_state(self.model),
                "optimizer": saved.optimizer_state(self.model, optimizer),
                "ema": None if self._ema is None else self._ema.state(),
            }
        if self._at.best.step == self._at.step:
            with self._judged_weights():
                best = saved.trainable_state(self.model)
            if self._accelerator.is_main_process:
                self._checkpoints.save_best(best, self._at.step)
        self._accelerator.wait_for_everyone()
        if self._accelerator.is_main_process:
            scaler = self._accelerator.scaler
            state = {
                **held,
                "scheduler": self._scheduler.state_dict(),
                "scaler": scaler.state_dict() if scaler is not None else None,
                "history": self._history.state(),
                "negatives": None if self._negatives is None else self._negatives.state(),
                "position": asdict(replace(self._at, micro_batch_size=self._batcher.micro_batch_size)),
            }
            self._checkpoints.save(self._at.step, state, self._train.keep_checkpoints)
        self._accelerator.wait_for_everyone()

    def _resume(self) -> None:
        state = self._checkpoints.load_last()
        if state is None:
            return
        if "part" in state:
            load_own_part(self.model, self.optimizer.optimizer, self._ema, state["part"])
        else:
            saved.load_trainable_state(self.model, state["weights"])
            if self._ema is not None:
                self._ema.load_state(state["ema"])
            saved.load_optimizer_state(self.model, self.optimizer.optimizer, state["optimizer"])
        self._scheduler.load_state_dict(state["scheduler"])
        if state["scaler"] is not None and self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])
        self._history.load_state(state["history"])
        if self._negatives is not None:
            self._negatives.load_state(state["negatives"])
        at = state["position"]
        self._at = Position(
            at["step"], Best(**at["best"]), [Validation(**found) for found in at["validations"]], at["seconds"], at["micro_batch_size"]
        )
        self._batcher.micro_batch_size = self._at.micro_batch_size
        log.info("training: going on after step %d of %d (%s)", self._at.step, self.total_steps, self._checkpoints.folder)
        # A tracker's run that begins here would lack the steps before.
        for row in self._history.rows:
            if row.step % self._train.log_every_steps == 0:
                self._trackers.newly_begun.log_metrics({"train/loss": row.loss, "train/learning_rate": row.learning_rate}, row.step)
        for found in self._at.validations:
            named = {validation_metric(name, dim): value for dim, metrics in found.metrics.items() for name, value in metrics.items()}
            self._trackers.newly_begun.log_metrics(named, found.step)


@contextmanager
def whole_root(model: nn.Module) -> Iterator[None]:
    """Lets parts of a sharded model be called by themselves: it is the root's forward that gathers the root's own parameters."""
    if not isinstance(model, FSDPModule):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


def validation_metric(name: str, dim: str) -> str:
    """A metric's name for the trackers."""
    return f"validation/{logged_name(name)}/dim_{dim}"


def _memory() -> dict[str, float]:
    memory = {"memory/rss_mb": psutil.Process().memory_info().rss / MEBIBYTE}
    if torch.cuda.is_available():
        memory["memory/gpu_peak_mb"] = torch.cuda.max_memory_allocated() / MEBIBYTE
    return memory
