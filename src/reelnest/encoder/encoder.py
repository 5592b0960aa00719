"""Text and video to one vector."""

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
from reelnest.backbones.flops import trains
from reelnest.backbones.loading import load_backbone
from reelnest.backbones.packing import Packing
from reelnest.backbones.segments import TEXT_TYPE, VIDEO_TYPE, Segment
from reelnest.encoder.batches import Batch, packed
from reelnest.encoder.lora import add_adapters
from reelnest.errors import ModelError
from reelnest.settings import Model
from reelnest.video.vision_spec import CHANNELS


class Encoder(nn.Module):
    """Backbone, pooling and, if asked for, a projection.

    One forward takes queries and targets together: under DDP two forwards in one step fail, and each trainable parameter must take part in
    each step. So a step without video sends one grey square through a tower that trains, and multiplies what comes of it by 0.
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
                f"model.dims: {settings.dims[-1]} is above the embedding's width, {self.width} ({source}). "
                f"The largest dim may be at most {self.width}."
            )
        self.vision_is_cached = False
        """Whether the vision tower need not run, since entries carry what it made of their frames."""
        mean, std = torch.tensor(self.vision.mean), torch.tensor(self.vision.std)
        self.register_buffer("_pixel_scale", (1 / (255 * std))[:, None], persistent=False)  # (channels, 1)
        self.register_buffer("_pixel_shift", (-mean / std)[:, None], persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the inputs have to be."""
        return self._pixel_scale.device  # type: ignore[return-value]

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
        """Whether weights lie spread over processes (FSDP), which all have to run the same layers equally often."""
        return any(isinstance(parameter, DTensor) for parameter in self.parameters())

    def forward(self, batch: Batch) -> Tensor:
        """Vectors of the entries, float32 (entries, width), not normalised: each prefix is normalised by who uses it."""
        pooled, nothing = self._states(batch)
        vectors = pooled if self.projection is None else self.projection(pooled).float()
        return vectors[batch.inverse] + nothing

    def pooled(self, batch: Batch) -> Tensor:
        """What the projection would read, float32 (entries, hidden). For a model that is not sharded."""
        return self._states(batch)[0][batch.inverse]

    def encode_video(self, segment: Segment) -> Tensor:
        """Video tokens of all videos of the segment, (tokens, width), as the vision tower returns them."""
        tower = self.vision_tower
        assert segment.rows is not None and segment.video_grid_thw is not None  # noqa: S101, PT018 (for the type checker)
        with _gradients(trains(tower)):
            return self.family.encode_video(
                tower, self.normalise_pixels(segment.rows).to(tower.device, tower.dtype), segment.video_grid_thw
            )

    def normalise_pixels(self, rows: Tensor) -> Tensor:
        """Patch rows, uint8 (patches, row width), as the family's own processor normalises them, float32."""
        pixels = rows.to(torch.float32).view(len(rows), CHANNELS, -1)  # (patches, channels, frames x height x width)
        return torch.addcmul(self._pixel_shift, pixels, self._pixel_scale).view(len(rows), -1)  # type: ignore[arg-type]

    def trainable_state(self) -> dict[str, Tensor]:
        """The trainable parameters by name: what a checkpoint has to keep, the rest comes from the base."""
        return {name: parameter.detach() for name, parameter in self.named_parameters() if parameter.requires_grad}

    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        """Puts back what `trainable_state` gave. Raises ModelError where the names differ: those weights are of other settings."""
        own = self.trainable_state()
        if different := sorted(own.keys() ^ state.keys()):
            raise ModelError(f"These weights are of a model with other settings: {len(different)} names differ, the first: {different[0]}.")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state[name])

    def enable_gradient_checkpointing(self) -> None:
        """Keeps no activations inside the layers and computes them again in the backward pass: less memory, about a third more time."""
        model: Any = self.backbone
        # Renamed in transformers 5.2x, which warns about the old name. The reentrant kind would lose the gradients of frozen inputs.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})

    def compile_layers(self, backend: Any = "inductor") -> None:
        """Compiles the language model's MLPs and norms, each by itself: equal ones share a compilation, and any number of tokens fits it.

        Attention stays as it is: how many groups of rows it has differs from batch to batch, and so would the compiled code. Names and
        weights stay too. Raises ModelError where there is nothing to compile with.
        """
        _check_compiler(self.device, backend)
        for module in self.family.compiled_modules(self.language_model):
            module.compile(dynamic=True, backend=backend)

    def _states(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Pooled states of the segments' rows, (entries, hidden), and a 0 that each layer took part in which has to take part."""
        nothing = torch.zeros((), device=self.device)
        # Without gradients too: gradient caching runs each micro-batch twice, and both runs have to draw the same random numbers.
        needs_vision = (trains(self.vision_tower) and self.training) or (self.sharded and not self.vision_is_cached)
        if needs_vision and not any(segment.rows is not None for segment in batch.segments):
            nothing = nothing + 0.0 * self.encode_video(self._blank_video()).sum()
        states = [segment.pooled.float() for segment in batch.segments if segment.pooled is not None]
        if batch.packing is not None:
            states.append(self._encode([segment for segment in batch.segments if segment.pooled is None], batch.packing))
        elif self.sharded:
            text = Segment(*(torch.tensor([[value]], device=self.device) for value in (0, 1, TEXT_TYPE, 1)))
            packing = packed([text.to("cpu")])
            assert packing is not None  # noqa: S101 (for the type checker)
            nothing = nothing + 0.0 * self._encode([text], packing.to(self.device)).sum()
        return torch.cat(states), nothing

    def _encode(self, segments: list[Segment], packing: Packing) -> Tensor:
        """Pooled states of the segments' rows, float32 (rows, hidden)."""
        with _gradients(trains(self.backbone)):
            ids = torch.cat([segment.input_ids.flatten() for segment in segments])[packing.tokens]  # (tokens,)
            embedded: Tensor = self.language_model.get_input_embeddings()(ids)  # (tokens, hidden)
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
            del embedded, videos  # the family frees them as soon as it has used them
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
        """A grey square of one token."""
        merge = self.vision.merge_size
        rows = torch.full((merge**2, self.vision.row_width), 128, dtype=torch.uint8, device=self.device)
        return Segment.of_frames(rows, torch.tensor([[1, merge, merge]]))


def load_encoder(settings: Model, base: str | Path, *, training: bool) -> tuple[Encoder, PreTrainedTokenizerBase]:
    """The encoder and its tokenizer from a Hub name or a folder in Hugging Face format.

    With `training`, LoRA is put in and what `freeze` names is frozen; otherwise everything is, and the encoder is in eval mode. New weights
    (projection, adapters) are drawn from torch's global random state: seed it first. Raises ModelError (see `load_backbone`).
    """
    loaded = load_backbone(settings, base)
    return build_encoder(loaded.family, loaded.model, settings, training=training), loaded.tokenizer


def build_encoder(family: Family, backbone: PreTrainedModel, settings: Model, *, training: bool) -> Encoder:
    """The encoder of a backbone that may lie anywhere, on the meta device too; adapters and freezing as in `load_encoder`."""
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


def _gradients(wanted: bool) -> AbstractContextManager[None]:
    return torch.set_grad_enabled(wanted and torch.is_grad_enabled())


def _check_compiler(device: torch.device, backend: Any) -> None:
    if backend != "inductor":
        return
    if device.type == "cuda" and find_spec("triton") is None:
        raise ModelError("train.compile needs Triton on a GPU, and it is not installed: `pip install triton`, or set it to false.")
    if device.type == "cpu" and which("g++") is None:
        raise ModelError("train.compile needs the C++ compiler g++ on a CPU, and there is none here. Install it, or set it to false.")
