"""Predicts the memory of a training step without weights and without a GPU.

The model is built on the meta device with fake tensors, which have shapes and no bytes. The real training loop takes a step on them under a
dispatch mode that counts the storage of each operation's outputs until it is freed. So the prediction includes gradient checkpointing,
gradient caching, adapters, the optimizer and the loss.

It misses temporary memory inside kernels, the allocator's rounding, and the process's own size.
"""

import copy
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedConfig

from reelnest.backbones.flops import trains
from reelnest.encoder.batches import Batch, map_tensors
from reelnest.encoder.encoder import Encoder
from reelnest.encoder.unfilled import unfilled_encoder
from reelnest.profiling.phases import Phase, watched
from reelnest.settings import Params
from reelnest.training.batches.pair_batches import PairBatcher
from reelnest.training.batches.sampler import BatchOrder
from reelnest.training.checkpoint.checkpoints import Checkpoints
from reelnest.training.contrastive_model import ContrastiveModel
from reelnest.training.loop import Training, TrainingData
from reelnest.training.memory_prediction.sharding import SHARDED, gathered_bytes
from reelnest.training.memory_prediction.step_shapes import RebuiltBatches, Sizes, stand_in_batcher, step_of
from reelnest.training.tracker import Trackers

MemoryComponent = Literal["weights", "gradients", "optimizer", "activations", "vision", "loss", "inputs"]
MEMORY_COMPONENTS: tuple[MemoryComponent, ...] = get_args(MemoryComponent)
"""`activations` are those of the language model; `vision` includes its own activations."""

FEW_LAYERS, MANY_LAYERS = 3, 6
"""Depths of the models that deeper ones are extrapolated from."""

_COMPONENT_OF: dict[Phase, MemoryComponent] = {"vision": "vision", "language": "activations", "optimizer": "optimizer"}
_ON_THE_HOST = ("video_grid_thw", "second_per_grid_ts")  # the code reads them as numbers


@dataclass(frozen=True)
class StepMemory:
    """One process's memory at the peak of a step, in bytes."""

    components: dict[MemoryComponent, int]

    @property
    def peak(self) -> int:
        """The sum of all components."""
        return sum(self.components.values())


def predict_step(
    params: Params, config: PreTrainedConfig, sizes: Sizes, *, processes: int = 1, sharded: bool = False, on_gpu: bool = False
) -> StepMemory:
    """Predicts the memory of a step of `params` on architecture `config`, in one of `processes`.

    Each process has a full copy of the model (DDP), or if `sharded`, a shard of it (FSDP2). With `on_gpu`, only a GPU's memory counts: a
    frozen vision tower is not there, because its features are cached.

    Takes a few seconds for a model of 3 billion parameters. It resets accelerate's state, so do not call it in a training process.
    """
    changes = {"compile": False, "adaptive_batch_size": False, "mixed_precision": _cpu_precision(params)}
    params = params.model_copy(update={"train": params.train.model_copy(update=changes)})
    encoder = unfilled_encoder(params.model, config)
    if params.train.gradient_checkpointing:
        encoder.enable_gradient_checkpointing()
    model = ContrastiveModel(encoder, params.loss, params.model.dims)
    fake, count = FakeTensorMode(allow_non_fake_inputs=True), _Count(processes if sharded else None)
    with ExitStack() as stack:
        # Fake tensors cannot be moved, and need not be.
        AcceleratorState._reset_state(reset_partial_state=True)
        stack.callback(AcceleratorState._reset_state, reset_partial_state=True)
        accelerator = Accelerator(cpu=True, mixed_precision=params.train.mixed_precision, device_placement=False)
        if processes > 1:
            stack.enter_context(_stand_in_processes(processes))
        batcher = stand_in_batcher(params, config, sizes, processes=processes, contents=False)
        batches = [
            replace(batch, inputs=RebuiltBatches(batch.inputs)) if len(batch.inputs) > 1 else batch for batch in step_of(params, batcher)
        ]
        stack.enter_context(fake)
        stack.enter_context(count)
        _fill(model, but=encoder.vision_tower if on_gpu and not sharded and not trains(encoder.vision_tower) else None)
        training = stand_in_training(params, accelerator, model, batcher)
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        count.component = "optimizer"
        _fill_optimizer(training, trainable)
        count.component = "gradients"
        buckets = torch.empty(sum(parameter.numel() for parameter in trainable)) if processes > 1 and not sharded else None
        for parameter in trainable:
            parameter.register_post_accumulate_grad_hook(lambda arrived: _keep_gradient(arrived, buckets, count))
        if len(batches) > 1 or params.train.micro_batch_size is not None:
            # From the second micro-batch on, gradients and activations exist together.
            for parameter in trainable:
                parameter.grad = torch.empty_like(parameter)
                _keep_gradient(parameter, buckets, count)
        _run_each_shape_once(encoder)
        count.component = "inputs"
        widths = {"rows": encoder.vision.row_width, "video_tokens": encoder.family.video_width(config)}

        def as_input(name: str, tensor: Tensor) -> Tensor:
            fake_input = _fake_input(name, tensor, widths)
            count.assign(fake_input, "inputs")
            return fake_input

        batches = map_tensors(batches, as_input)
        count.begin()
        with watched(model, lambda phase: count.enter(_COMPONENT_OF.get(phase, "loss"))):
            training.take_step(0, batches)
        if sharded:
            half = params.train.mixed_precision != "no"
            weights, gradients = gathered_bytes(model, encoder.family.wrap_classes, half=half)
            count.at_peak.update(weights=weights, gradients=gradients)
        return StepMemory({component: count.at_peak[component] for component in MEMORY_COMPONENTS})


def estimate_step(
    params: Params, config: PreTrainedConfig, sizes: Sizes, *, processes: int = 1, sharded: bool = False, on_gpu: bool = False
) -> StepMemory:
    """Estimates `predict_step`, several times faster for deep models: two shallow models give the memory per layer.

    Too low if a deep model reaches its peak at another point of the step than a shallow model.
    """
    layers = int(config.get_text_config().num_hidden_layers)
    predict = partial(predict_step, processes=processes, sharded=sharded, on_gpu=on_gpu)
    if layers <= MANY_LAYERS:
        return predict(params, config, sizes)
    few, many = (predict(params, _of_depth(config, depth), sizes).components for depth in (FEW_LAYERS, MANY_LAYERS))
    steps = (layers - MANY_LAYERS) / (MANY_LAYERS - FEW_LAYERS)
    return StepMemory({component: round(many[component] + steps * (many[component] - few[component])) for component in MEMORY_COMPONENTS})


def _of_depth(config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    shallow = copy.deepcopy(config)
    text = shallow.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    return shallow


def stand_in_training(params: Params, accelerator: Accelerator, model: ContrastiveModel, batcher: PairBatcher) -> Training:
    """Builds a training loop for `model` that can only take steps."""
    batch_order = BatchOrder(params.train.batch_size, params.train.batch_size, params.train.seed)
    return Training(params, accelerator, model, TrainingData(batcher, batch_order), Checkpoints(Path("unused"), "unused"), Trackers())


class _Count(TorchDispatchMode):
    """Counts the bytes of all storages that operations allocate, by component.

    With `shards`, components of sharded tensors count a share of the bytes, and 16-bit copies of weights count nothing: FSDP gathers the
    weights in 16 bits, one layer at a time.
    """

    def __init__(self, shards: int | None) -> None:
        super().__init__()
        self._shards = shards
        self.component: MemoryComponent = "weights"
        self.at_peak: Counter[MemoryComponent] = Counter()
        self._now: Counter[MemoryComponent] = Counter()
        self._total = self._peak = 0
        self._live: dict[int, tuple[int, MemoryComponent]] = {}

    def begin(self) -> None:
        """Starts measuring the peak."""
        self._peak = 0
        self._update_peak()

    def enter(self, component: MemoryComponent) -> None:
        """Assigns later allocations to `component`."""
        self.component = component

    def assign(self, tensor: Tensor, component: MemoryComponent) -> None:
        """Assigns an existing tensor to `component`."""
        key = _key(tensor)
        if key in self._live:
            self._free(key)
            self._live[key] = (size := self._share(tensor.untyped_storage(), component), component)
            self._now[component] += size
            self._total += size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation and counts its outputs."""
        if func.namespace == "prim":  # queries of a tensor's properties
            return func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not any(isinstance(tensor, FakeTensor) for tensor in tensors) and (tensors or func.overloadpacket is torch.ops.aten.arange):
            # Index computations read their tensors as numbers, so these are real and small.
            with unset_fake_temporarily():
                return func(*args, **(kwargs or {}))
        results = func(*args, **(kwargs or {}))
        cast = self._shards and func is torch.ops.aten._to_copy.default and self._live.get(_key(args[0]), (0, None))[1] == "weights"
        for leaf in tree_leaves(results):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage(), counts=not cast)
        return results

    def _add(self, storage: torch.UntypedStorage, *, counts: bool) -> None:
        key = storage._cdata
        if key in self._live:
            return
        size = self._share(storage, self.component) if counts else 0
        self._live[key] = (size, self.component)
        self._now[self.component] += size
        self._total += size
        weakref.finalize(storage, self._free, key)
        self._update_peak()

    def _share(self, storage: torch.UntypedStorage, component: MemoryComponent) -> int:
        return storage.nbytes() // (self._shards if self._shards and component in SHARDED else 1)

    def _free(self, key: int) -> None:
        size, component = self._live.pop(key)
        self._now[component] -= size
        self._total -= size

    def _update_peak(self) -> None:
        if self._total > self._peak:
            self._peak = self._total
            self.at_peak = self._now.copy()


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _fill(model: nn.Module, but: nn.Module | None) -> None:
    """Replaces tensors on the meta device with fake ones, except for those of `but`; shared tensors stay shared."""
    filled: dict[Tensor, nn.Parameter] = {}
    left_out = set() if but is None else set(but.modules())
    for module in model.modules():
        if module in left_out:
            continue
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if parameter not in filled:
                    empty = torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu")
                    filled[parameter] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
                module._parameters[name] = filled[parameter]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu")


def _fill_optimizer(training: Training, trainable: list[nn.Parameter]) -> None:
    """Takes one step, because the optimizer creates its state then, and the prediction is for a later step."""
    for parameter in trainable:
        parameter.grad = torch.empty_like(parameter)
    training.step.optimizer.step()
    training.step.optimizer.zero_grad()


def _run_each_shape_once(encoder: Encoder) -> None:
    """Skips micro-batches of a known shape: they need the same memory again, and no more."""
    seen: set[tuple[object, ...]] = set()
    forward = encoder.forward

    def once(batch: Batch) -> Tensor:
        shapes = tuple(
            tuple(tensor.shape)
            for segment in batch.segments
            for tensor in (segment.input_ids, segment.rows, segment.pooled)
            if tensor is not None
        )
        key = (torch.is_grad_enabled(), len(batch), shapes)
        if key in seen:
            return torch.empty(len(batch), encoder.width, requires_grad=torch.is_grad_enabled())
        seen.add(key)
        return forward(batch)

    encoder.forward = once  # type: ignore[method-assign]  # for this measurement


def _keep_gradient(parameter: Tensor, buckets: Tensor | None, count: _Count) -> None:
    if parameter.grad is None:
        return
    if buckets is None:
        count.assign(parameter.grad, "gradients")
    else:  # DDP's buckets exist from the start and hold all gradients
        parameter.grad = buckets[: parameter.numel()].view_as(parameter)


def _fake_input(name: str, tensor: Tensor, widths: dict[str, int]) -> Tensor:
    if name in _ON_THE_HOST:
        return tensor
    shape = (len(tensor), widths[name]) if name in widths else tensor.shape
    return torch.empty(shape, dtype=tensor.dtype)


def _cpu_precision(params: Params) -> Literal["no", "bf16"]:
    """Returns a precision of the same size that runs on a CPU: bf16 for fp16, which needs a GPU."""
    return "no" if params.train.mixed_precision == "no" else "bf16"


@contextmanager
def _stand_in_processes(processes: int) -> Iterator[None]:
    """A fake process group: this process acts as the first of several, and receives tensors of the right shapes."""
    from torch.testing._internal.distributed.fake_pg import FakeStore  # registers the backend "fake"

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=processes)
    try:
        yield
    finally:
        dist.destroy_process_group()
