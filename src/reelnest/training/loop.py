"""The training loop: steps, periodic evaluation, checkpoints, and going on where an earlier process stopped."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field

import numpy as np
import psutil
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from reelnest.config import Params
from reelnest.errors import Interrupted
from reelnest.search.evaluation import ALL, Evaluation
from reelnest.training import checkpoints as saved
from reelnest.training.checkpoints import Checkpoints
from reelnest.training.contrastive import ContrastiveModel, PairBatch, PairBatcher, contrastive_losses
from reelnest.training.distributed import StopRequest
from reelnest.training.history import History
from reelnest.training.losses import weighted
from reelnest.training.optimizer import build_optimizer, build_scheduler
from reelnest.training.prefetch import prefetched
from reelnest.training.progress import Progress
from reelnest.training.sampler import BatchOrder
from reelnest.training.tracker import Trackers

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
class Best:
    """The evaluation whose weights become the candidate."""

    step: int = 0
    value: float | None = None
    """Of `train.best_metric`; None where there is no validation split, and the last weights count as the best."""


@dataclass
class Outcome:
    """What a finished training tells its report."""

    history: History
    validations: list[Validation]
    best: Best
    seconds: float
    """Of steps and evaluations, over all sittings."""
    pairs_per_second: float


@dataclass
class Position:
    """What, besides weights and optimizer, a resumed training needs to know."""

    step: int = 0
    best: Best = field(default_factory=Best)
    validations: list[Validation] = field(default_factory=list)
    seconds: float = 0.0


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
    ) -> None:
        """`evaluate` measures the model on the validation split, on all processes; None where there is no such split."""
        self._train = params.train
        self._dims = params.model.dims
        self._accelerator = accelerator
        self._batcher = batcher
        self._order = order
        self._checkpoints = checkpoints
        self._trackers = trackers
        self._evaluate = evaluate
        self._steps_per_epoch = order.steps_per_epoch(self._train.accumulation_steps)
        self.total_steps = self._steps_per_epoch * self._train.epochs
        optimizer = build_optimizer(model, self._train)
        self._wrapped, self._optimizer = accelerator.prepare(model, optimizer)
        self.model: ContrastiveModel = accelerator.unwrap_model(self._wrapped)  # sharded under FSDP2, otherwise `model` itself
        self._scheduler = build_scheduler(self._optimizer.optimizer, self._train, self.total_steps)
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
        try:
            with StopRequest() as stop:
                for epoch in range(self._at.step // self._steps_per_epoch, self._train.epochs):
                    self._run_epoch(epoch, progress, stop)
        finally:
            progress.close(-(-self._at.step // self._steps_per_epoch), self._at.step)
        rate = self.pairs_in(self._at.step) / max(self._at.seconds, 1e-9)
        return Outcome(self._history, self._at.validations, self._at.best, self._at.seconds, rate)

    def _run_epoch(self, epoch: int, progress: Progress, stop: StopRequest) -> None:
        self._wrapped.train()
        jobs = self._order.steps(epoch, self._train.accumulation_steps, first=self._at.step % self._steps_per_epoch)
        window = _Window()
        stopping = False
        with closing(prefetched(jobs, self._make_step)) as steps:
            for batches in steps:
                self._step(epoch, batches)
                pairs = len(batches) * self._order.batch_size
                window.pairs += pairs
                if self._at.step % self._train.log_every_steps == 0 or self._at.step % self._steps_per_epoch == 0:
                    self._log(window, progress)
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
            self._log(window, progress)
            self._save()
        if stopping and self._at.step < self.total_steps:
            raise Interrupted(
                f"training: stopped by SIGTERM after step {self._at.step} of {self.total_steps}; the same command goes on from there"
                f" ({self._checkpoints.folder})."
            )

    def _make_step(self, rows: np.ndarray) -> list[PairBatch]:
        return [self._batcher(batch) for batch in rows]

    def _step(self, epoch: int, batches: list[PairBatch]) -> None:
        """One optimizer step."""
        seed_step(self._train.seed, self._at.step, self._accelerator.process_index)
        loss, losses, temperature = self.backward(batches)
        trainable = [parameter for parameter in self._wrapped.parameters() if parameter.requires_grad]
        norm = self._accelerator.clip_grad_norm_(trainable, self._train.max_gradient_norm or math.inf)
        learning_rate = float(self._scheduler.get_last_lr()[0])
        self._optimizer.step()
        if not self._accelerator.optimizer_step_was_skipped:  # fp16's scaler leaves a step out when gradients overflow
            self._scheduler.step()
        self._optimizer.zero_grad()
        self.model.limit_temperature()
        self._at.step += 1
        self._history.add(epoch + 1, self._at.step, loss, losses, learning_rate, norm, temperature)

    def backward(self, batches: list[PairBatch]) -> tuple[Tensor, Tensor, Tensor]:
        """Adds the gradients of the mean over `batches` to the parameters.

        Returns this process's share of the loss, () and by dim (dims,), and the temperature (1,). Means over processes are the whole's.
        """
        device = self._accelerator.device
        total, by_dim = torch.zeros((), device=device), torch.zeros(len(self._dims), device=device)
        for index, batch in enumerate(batches):
            last = index == len(batches) - 1
            # Gradients are summed over processes once a step, with the last batch's backward pass.
            with nullcontext() if last else self._accelerator.no_sync(self._wrapped):
                batch.inputs = batch.inputs.to(device)
                losses, temperature = contrastive_losses(self._wrapped, batch, self._dims)
                loss = weighted(losses, self._train.dim_weights) / len(batches)
                self._accelerator.backward(loss)
            total += loss.detach()
            by_dim += losses.detach() / len(batches)
        return total, by_dim, temperature

    def _log(self, window: "_Window", progress: Progress) -> None:
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
            "train/pairs_per_second": window.rate(),
            **_memory(),
        }
        self._trackers.log_metrics(metrics, self._at.step)

    def _validate(self, epoch: int) -> None:
        if self._evaluate is None:
            self._at.best = Best(self._at.step)
            return
        with whole_root(self.model):
            evaluation = self._evaluate()
        metrics = {str(result.dim): dict(result.metrics) for result in evaluation.results if result.pair_kind == ALL}
        self._at.validations.append(Validation(epoch, self._at.step, metrics))
        named = {validation_metric(name, dim): value for dim, found in metrics.items() for name, value in found.items()}
        self._trackers.log_metrics(named, self._at.step)
        value = evaluation.value(self._train.best_metric)
        # Of equals the later one: a metric that has reached its top says nothing about the rest, which longer training still improves.
        if value is None or self._at.best.value is None or value >= self._at.best.value:
            self._at.best = Best(self._at.step, value)
        last = self._history.rows[-1]
        log.info("epoch %d: loss %.4f, validation %s %.4f", epoch, last.loss, self._train.best_metric, math.nan if value is None else value)

    def _save(self) -> None:
        """Every process takes part, since a sharded model lies on all of them; the main process writes."""
        weights = saved.trainable_state(self.model)
        optimizer = saved.optimizer_state(self.model, self._optimizer.optimizer)
        if self._accelerator.is_main_process:
            scaler = self._accelerator.scaler
            if self._at.best.step == self._at.step:
                self._checkpoints.save_best(weights, self._at.step)
            state = {
                "weights": weights,
                "optimizer": optimizer,
                "scheduler": self._scheduler.state_dict(),
                "scaler": scaler.state_dict() if scaler is not None else None,
                "history": self._history.state(),
                "position": asdict(self._at),
            }
            self._checkpoints.save(self._at.step, state, self._train.keep_checkpoints)
        self._accelerator.wait_for_everyone()

    def _resume(self) -> None:
        state = self._checkpoints.load_last()
        if state is None:
            return
        saved.load_trainable_state(self.model, state["weights"])
        saved.load_optimizer_state(self.model, self._optimizer.optimizer, state["optimizer"])
        self._scheduler.load_state_dict(state["scheduler"])
        if state["scaler"] is not None and self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])
        self._history.load_state(state["history"])
        at = state["position"]
        self._at = Position(at["step"], Best(**at["best"]), [Validation(**found) for found in at["validations"]], at["seconds"])
        log.info("training: going on after step %d of %d (%s)", self._at.step, self.total_steps, self._checkpoints.folder)
        # A tracker's run that begins here would lack the steps before.
        for row in self._history.rows:
            if row.step % self._train.log_every_steps == 0:
                self._trackers.newly_begun.log_metrics({"train/loss": row.loss, "train/learning_rate": row.learning_rate}, row.step)
        for found in self._at.validations:
            named = {validation_metric(name, dim): value for dim, metrics in found.metrics.items() for name, value in metrics.items()}
            self._trackers.newly_begun.log_metrics(named, found.step)


class _Window:
    """Pairs and time since the last look."""

    def __init__(self) -> None:
        self.pairs = 0
        self._since = time.monotonic()

    def rate(self) -> float:
        """Pairs a second since the last call."""
        now = time.monotonic()
        rate = self.pairs / max(now - self._since, 1e-9)
        self.pairs, self._since = 0, now
        return rate


def seed_step(seed: int, step: int, rank: int) -> None:
    """Makes what a step draws (dropout) a function of these three, so that a resumed training draws what an unbroken one would."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1)))


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
    """A metric's name for the trackers; MLflow allows no @."""
    return f"validation/{name.replace('@', '_at_')}/dim_{dim}"


def _memory() -> dict[str, float]:
    memory = {"memory/rss_mb": psutil.Process().memory_info().rss / MEBIBYTE}
    if torch.cuda.is_available():
        memory["memory/gpu_peak_mb"] = torch.cuda.max_memory_allocated() / MEBIBYTE
    return memory
