"""Encodes text and video into one vector."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reelnest.backbones.architecture import hidden_size
from reelnest.backbones.family import Family, PackedTokens
from reelnest.backbones.loading import load_backbone
from reelnest.backbones.packing import Packing
from reelnest.backbones.segments import TEXT_TYPE, VIDEO_TYPE, Segment
from reelnest.encoder.batches import Batch, packed
from reelnest.encoder.lora import add_adapters
from reelnest.errors import ModelError
from reelnest.settings import Model, Precision
from reelnest.video.vision_spec import CHANNELS

COMPUTE_DTYPES: dict[Precision, torch.dtype | None] = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The dtype of matrix products by `train.mixed_precision`; None is that of the weights."""


class Encoder(nn.Module):
    """Backbone, pooling and an optional projection.

    One forward pass takes queries and targets together, because DDP allows one forward pass per step. DDP also needs a gradient for each
    trainable parameter in each step. So a step without video sends one grey square through a trainable tower, and multiplies its output by
    0.
    """

    def __init__(self, family: Family, backbone: PreTrainedModel, settings: Model) -> None:
        super().__init__()
        self.family, self.vision = family, family.vision
        self.backbone = backbone
        self.pooling = settings.pooling
        hidden = hidden_size(backbone.config)
        self.projection = nn.Linear(hidden, settings.projection, bias=False) if settings.projection else None
        self.width = settings.projection or hidden
        if settings.dims[-1] > self.width:
            source = "model.projection" if settings.projection else "the hidden size"
            raise ModelError(
                f"model.dims: {settings.dims[-1]} is above the embedding's width, {self.width} ({source}). Use dims up to {self.width}."
            )
        self.autocast_dtype: torch.dtype | None = None
        """The dtype of matrix products in `autocast`, that of the training; None for that of the weights."""
        self.vision_is_cached = False
        """Whether entries carry cached video tokens or pooled states, so that the vision tower need not run."""
        self._walks: dict[nn.Module, ParameterWalk] = {module: ParameterWalk(module) for module in (self, backbone, self.vision_tower)}
        mean, std = torch.tensor(self.vision.mean), torch.tensor(self.vision.std)
        self.register_buffer("_pixel_scale", (1 / (255 * std))[:, None], persistent=False)  # (channels, 1)
        self.register_buffer("_pixel_shift", (-mean / std)[:, None], persistent=False)

    @property
    def device(self) -> torch.device:
        """The device of the inputs."""
        return self._pixel_scale.device  # type: ignore[return-value]  # a buffer, which torch types as Tensor | Module

    @property
    def vision_tower(self) -> PreTrainedModel:
        """The part of the backbone that reads patches."""
        return cast("PreTrainedModel", self.backbone.get_submodule(self.family.vision_module))

    @property
    def language_model(self) -> PreTrainedModel:
        """The part of the backbone that reads tokens."""
        return cast("PreTrainedModel", self.backbone.get_submodule(self.family.language_module))

    @property
    def sharded(self) -> bool:
        """Whether weights are sharded over processes (FSDP). Then all processes must run the same layers equally often."""
        return any(isinstance(parameter, DTensor) for parameter in self._walks[self])

    @property
    def precision(self) -> Precision:
        """The name of `autocast_dtype` in the settings."""
        return next(name for name, dtype in COMPUTE_DTYPES.items() if dtype is self.autocast_dtype)

    def autocast(self) -> torch.autocast:
        """Returns the context of every forward pass outside a training step, so that all vectors of a model have the same precision."""
        return torch.autocast(self.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None)

    def forward(self, batch: Batch) -> Tensor:
        """Returns vectors of the entries, float32 (entries, width). They are not normalised: callers normalise the prefix that they use."""
        pooled, zero = self._states(batch)
        vectors = pooled if self.projection is None else self.projection(pooled.to(self.projection.weight.dtype)).float()
        return vectors[batch.inverse] + zero

    def pooled(self, batch: Batch) -> Tensor:
        """Returns the input of the projection, float32 (entries, hidden), of an unsharded model."""
        return self._states(batch)[0][batch.inverse]

    def encode_video(self, segment: Segment) -> Tensor:
        """Returns the vision tower's tokens of all videos of the segment, (tokens, width)."""
        tower = self.vision_tower
        assert segment.rows is not None and segment.video_grid_thw is not None  # noqa: S101, PT018 (for the type checker)
        with _gradients(self._trains(tower)):
            return self.family.encode_video(
                tower, self.normalise_pixels(segment.rows).to(tower.device, tower.dtype), segment.video_grid_thw
            )

    def normalise_pixels(self, rows: Tensor) -> Tensor:
        """Normalises patch rows, uint8 (patches, row width), to float32 like the family's processor."""
        pixels = rows.to(torch.float32).view(len(rows), CHANNELS, -1)  # (patches, channels, frames x height x width)
        return torch.addcmul(self._pixel_shift, pixels, self._pixel_scale).view(len(rows), -1)  # type: ignore[arg-type]  # buffers

    def trainable_state(self) -> dict[str, Tensor]:
        """Returns the trainable parameters by name. A checkpoint saves these; the others come from the base."""
        return {name: parameter.detach() for name, parameter in self.named_parameters() if parameter.requires_grad}

    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        """Loads the result of `trainable_state`. Raises ModelError if the names differ, which means other settings."""
        own = self.trainable_state()
        if different := sorted(own.keys() ^ state.keys()):
            raise ModelError(f"These weights are of a model with other settings: {len(different)} names differ, the first: {different[0]}.")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state[name])

    def release_vision_tower(self) -> None:
        """Moves the weights of a tower that no longer runs, because its features are cached, out of the GPU's memory.

        Its buffers stay: DDP sends all buffers of a model from GPU to GPU.
        """
        for parameter in self._walks[self.vision_tower]:
            parameter.data = parameter.data.cpu()

    def enable_gradient_checkpointing(self) -> None:
        """Recomputes the layers' activations in the backward pass: less memory, about a third more time."""
        model: Any = self.backbone
        # transformers 5.2x renamed it and warns about the old name. The reentrant variant would lose the gradients of frozen inputs.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})

    def compile_layers(self, backend: Any = "inductor") -> None:
        """Compiles each MLP and norm of the language model, for any number of tokens; equal modules share a compilation.

        Attention is not compiled: its number of row groups differs between batches, and each number would compile anew. Names and weights
        do not change. Raises ModelError if no compiler is installed.
        """
        _check_compiler(self.device, backend)
        for module in self.family.compiled_modules(self.language_model):
            module.compile(dynamic=True, backend=backend)

    def _trains(self, module: nn.Module) -> bool:
        return any(parameter.requires_grad for parameter in self._walks[module])

    def _states(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns pooled states of the segments' rows, (entries, hidden), and a 0 that depends on every layer that must run."""
        zero = torch.zeros((), device=self.device)
        # Also without gradients: gradient caching runs each micro-batch twice, and both runs must draw the same random numbers.
        needs_vision = (self.training and self._trains(self.vision_tower)) or (self.sharded and not self.vision_is_cached)
        blank = None
        if needs_vision and not any(segment.rows is not None for segment in batch.segments):
            blank = 0.0 * self.encode_video(self._blank_video()).sum()
        states = [segment.pooled.float() for segment in batch.segments if segment.pooled is not None]
        if batch.packing is not None:
            states.append(self._encode([segment for segment in batch.segments if segment.pooled is None], batch.packing, blank))
        elif self.sharded:
            text = Segment(*(torch.tensor([[value]], device=self.device) for value in (0, 1, TEXT_TYPE, 1)))
            packing = packed([text.to("cpu")])
            assert packing is not None  # noqa: S101 (for the type checker)
            zero = zero + 0.0 * self._encode([text], packing.to(self.device), blank).sum()
        return torch.cat(states), zero

    def _encode(self, segments: list[Segment], packing: Packing, blank: Tensor | None = None) -> Tensor:
        """Returns pooled states of the segments' rows, float32 (rows, hidden).

        `blank` is a 0 that depends on the tower, in a batch without video. It is added before the first layer: in the backward pass every
        process then comes to the tower after the layers, which FSDP's reductions need.
        """
        with _gradients(self._trains(self.backbone)):
            ids = torch.cat([segment.input_ids.flatten() for segment in segments])[packing.tokens]  # (tokens,)
            embedded: Tensor = self.language_model.get_input_embeddings()(ids)  # (tokens, hidden)
            if blank is not None:
                embedded = embedded + blank
            videos = [
                self.encode_video(segment) if segment.video_tokens is None else segment.video_tokens
                for segment in segments
                if segment.has_video
            ]
            positions = torch.cat([self.family.positions(segment, self.backbone.config).flatten(1) for segment in segments], dim=1)
            tokens = PackedTokens(embedded, positions[:, packing.tokens], packing)
            if videos:
                types = torch.cat([segment.mm_token_type_ids.flatten() for segment in segments])[packing.tokens]
                tokens.is_video, tokens.video = types == VIDEO_TYPE, torch.cat(videos)
            del embedded, videos  # so that the family can free them after use
            hidden = self.family.encode_tokens(self.language_model, tokens)  # (tokens, hidden)
        return self._pool(hidden, packing)

    def _pool(self, hidden: Tensor, packing: Packing) -> Tensor:
        if self.pooling == "last":
            return hidden[packing.last].float()
        means = []
        for places, mask in zip(packing.groups, packing.pooled, strict=True):
            weights = mask[..., None].float()
            means.append((hidden[places].float() * weights).sum(1) / weights.sum(1))
        return torch.cat(means)[packing.row_order]

    def _blank_video(self) -> Segment:
        """Returns a grey square of one token."""
        merge = self.vision.merge_size
        rows = torch.full((merge**2, self.vision.row_width), 128, dtype=torch.uint8, device=self.device)
        return Segment.of_frames(rows, torch.tensor([[1, merge, merge]]))


class ParameterWalk:
    """A module's parameters. The first walk finds the modules that hold them; each later one takes a twentieth of the time.

    Modules do not change after that. Parameters may: sharding replaces them.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._holders: list[nn.Module] = []

    def __iter__(self) -> Iterator[nn.Parameter]:
        if not self._holders:
            self._holders = [module for module in self._module.modules() if module._parameters]
        for holder in self._holders:
            for parameter in holder._parameters.values():
                if parameter is not None:
                    yield parameter


def load_encoder(
    settings: Model,
    base: str | Path,
    *,
    training: bool,
    device: torch.device | None = None,
    autocast_dtype: torch.dtype | None = None,
) -> tuple[Encoder, PreTrainedTokenizerBase]:
    """Loads an encoder and its tokenizer from a Hub name or a folder in Hugging Face format, on the CPU.

    `device` is where it will run, by default a GPU if there is one: it decides on the attention. `autocast_dtype` is the encoder's.

    With `training`, adds LoRA and freezes what `freeze` names; otherwise freezes all weights and sets eval mode. New weights (projection,
    adapters) come from torch's global random state: seed it first. Raises ModelError (see `load_backbone`).
    """
    loaded = load_backbone(settings, base, device, autocast_dtype)
    encoder = build_encoder(loaded.family, loaded.model, settings, training=training)
    encoder.autocast_dtype = autocast_dtype
    return encoder, loaded.tokenizer


def build_encoder(family: Family, backbone: PreTrainedModel, settings: Model, *, training: bool) -> Encoder:
    """Builds an encoder on a backbone on any device, the meta device included. Adapters and freezing are as in `load_encoder`."""
    if training and settings.lora is not None:
        add_adapters(backbone, settings.lora, family)
    encoder = Encoder(family, backbone, settings)
    if not training:
        return encoder.requires_grad_(False).eval()
    if settings.freeze == "vision":
        encoder.vision_tower.requires_grad_(False)
    elif settings.freeze == "backbone":
        backbone.requires_grad_(False)
    return encoder.train()


def _gradients(enabled: bool) -> AbstractContextManager[None]:
    return torch.set_grad_enabled(enabled and torch.is_grad_enabled())


def _check_compiler(device: torch.device, backend: Any) -> None:
    if backend != "inductor":
        return
    if device.type == "cuda" and find_spec("triton") is None:
        raise ModelError("train.compile needs Triton on a GPU. Run `pip install triton`, or set it to false.")
    if device.type == "cpu" and which("g++") is None:
        raise ModelError("train.compile needs the C++ compiler g++ on a CPU. Install g++, or set it to false.")
