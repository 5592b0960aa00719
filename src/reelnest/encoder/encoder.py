"""Text and video to one vector, with Qwen2.5-VL."""

from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import Qwen2_5_VLModel

from reelnest.backbones.attention import packed_arguments
from reelnest.backbones.loading import load_backbone
from reelnest.backbones.packing import Packing
from reelnest.backbones.parts import TEXT_TYPE, VIDEO_TYPE, Part
from reelnest.backbones.positions import token_positions, vision_index
from reelnest.encoder.batches import Batch, packed
from reelnest.encoder.lora import add_adapters
from reelnest.errors import ModelError
from reelnest.settings import Model
from reelnest.video.patches import IMAGE_MEAN, IMAGE_STD, MERGE_SIZE, ROW_WIDTH


class Encoder(nn.Module):
    """Backbone, pooling and, if asked for, a projection.

    One forward takes queries and targets together: under DDP two forwards in one step fail, and each trainable parameter must take part in
    each step. So a step without video sends one grey square through a tower that trains, and multiplies what comes of it by 0.
    """

    def __init__(self, backbone: Qwen2_5_VLModel, settings: Model) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = settings.pooling
        hidden = int(backbone.language_model.config.hidden_size)
        self.projection = nn.Linear(hidden, settings.projection, bias=False) if settings.projection else None
        self.width = settings.projection or hidden
        if settings.dims[-1] > self.width:
            source = "model.projection" if settings.projection else "the hidden size"
            raise ModelError(
                f"model.dims: {settings.dims[-1]} is above the embedding's width, {self.width} ({source}). "
                f"The largest dim may be at most {self.width}."
            )
        self.vision_is_kept = False
        """Whether the vision tower need not run, since entries carry what it made of their frames."""
        mean, std = torch.tensor(IMAGE_MEAN), torch.tensor(IMAGE_STD)
        self.register_buffer("_pixel_scale", (1 / (255 * std))[:, None], persistent=False)  # (channels, 1)
        self.register_buffer("_pixel_shift", (-mean / std)[:, None], persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the inputs have to be."""
        return self._pixel_scale.device  # type: ignore[return-value]

    @property
    def sharded(self) -> bool:
        """Whether weights lie spread over processes (FSDP), which all have to run the same layers equally often."""
        return any(isinstance(parameter, DTensor) for parameter in self.parameters())

    def forward(self, batch: Batch) -> Tensor:
        """Vectors of the entries, float32 (entries, width), not normalised: each prefix is normalised by who uses it."""
        pooled, nothing = self._states(batch)
        vectors = pooled if self.projection is None else self.projection(pooled).float()
        return vectors[batch.order] + nothing

    def pooled(self, batch: Batch) -> Tensor:
        """What the projection would read, float32 (entries, hidden). For a model that is not sharded."""
        return self._states(batch)[0][batch.order]

    def see(self, part: Part) -> Tensor:
        """Video tokens of all videos of the part, (tokens, hidden), as the vision tower gives them."""
        visual = self.backbone.visual
        assert part.rows is not None and part.video_grid_thw is not None  # noqa: S101, PT018 (for the type checker)
        index = vision_index(part.video_grid_thw, visual.config)
        device = visual.device
        on_gpu = index._replace(position_ids=index.position_ids.to(device), window_index=index.window_index.to(device))
        if visual.config._attn_implementation == "flash_attention_2":
            on_gpu = on_gpu._replace(cu_seqlens=index.cu_seqlens.to(device), cu_window_seqlens=index.cu_window_seqlens.to(device))
        with _gradients(any(parameter.requires_grad for parameter in visual.parameters())):
            pixels = self.normalise_pixels(part.rows).to(device, visual.dtype)
            tokens: Tensor = visual(pixels, grid_thw=part.video_grid_thw, **on_gpu._asdict()).pooler_output
        return tokens

    def normalise_pixels(self, rows: Tensor) -> Tensor:
        """Patch rows, uint8 (patches, 1176), as Qwen's processors normalise them, float32."""
        pixels = rows.to(torch.float32).view(len(rows), len(IMAGE_MEAN), -1)  # (patches, channels, frames x 14 x 14)
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
        for layer in self.backbone.language_model.layers:
            for module in (layer.mlp, layer.input_layernorm, layer.post_attention_layernorm):
                module.compile(dynamic=True, backend=backend)

    def _states(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Pooled states of the parts' rows, (entries, hidden), and a 0 that each layer took part in which has to take part."""
        nothing = torch.zeros((), device=self.device)
        trains = any(parameter.requires_grad for parameter in self.backbone.visual.parameters())
        # Without gradients too: gradient caching runs each micro-batch twice, and both runs have to draw the same random numbers.
        sees = (trains and self.training) or (self.sharded and not self.vision_is_kept)
        if sees and not any(part.rows is not None for part in batch.parts):
            nothing = nothing + 0.0 * self.see(self._stand_in(video=True)).sum()
        states = [part.pooled.float() for part in batch.parts if part.pooled is not None]
        if batch.packing is not None:
            states.append(self._encode([part for part in batch.parts if part.pooled is None], batch.packing))
        elif self.sharded:
            text = self._stand_in(video=False)
            packing = packed([text.to("cpu")])
            assert packing is not None  # noqa: S101 (for the type checker)
            nothing = nothing + 0.0 * self._encode([text], packing.to(self.device)).sum()
        return torch.cat(states), nothing

    def _encode(self, parts: list[Part], packing: Packing) -> Tensor:
        """Pooled states of the parts' rows, float32 (rows, hidden)."""
        model = self.backbone
        with _gradients(any(parameter.requires_grad for parameter in model.parameters())):
            ids = torch.cat([part.input_ids.flatten() for part in parts])[packing.tokens]  # (tokens,)
            embedded = model.language_model.embed_tokens(ids)  # (tokens, hidden)
            seen = [self.see(part) if part.video_tokens is None else part.video_tokens for part in parts if part.has_video]
            if seen:
                types = torch.cat([part.mm_token_type_ids.flatten() for part in parts])[packing.tokens]
                embedded = embedded.masked_scatter((types == VIDEO_TYPE)[:, None], torch.cat(seen).to(embedded.dtype))
            positions = torch.cat([token_positions(part, model.config.vision_config).flatten(1) for part in parts], dim=1)
            hidden = model.language_model(
                inputs_embeds=embedded[None],
                position_ids=positions[:, None, packing.tokens],
                use_cache=False,
                **packed_arguments(model.language_model, packing),
            ).last_hidden_state[0]  # (tokens, hidden)
        return self._pool(hidden, packing)

    def _pool(self, hidden: Tensor, packing: Packing) -> Tensor:
        if self.pooling == "last":
            return hidden[packing.last].float()
        means = []
        for places, mask in zip(packing.groups, packing.pooled, strict=True):
            weights = mask[..., None].float()
            means.append((hidden[places].float() * weights).sum(1) / weights.sum(1))
        return torch.cat(means)[packing.row_order]

    def _stand_in(self, *, video: bool) -> Part:
        ids = self.backbone.config.video_token_id if video else 0
        part = Part(*(torch.tensor([[value]], device=self.device) for value in (ids, 1, VIDEO_TYPE if video else TEXT_TYPE, 1)))
        if video:
            part.rows = torch.full((MERGE_SIZE**2, ROW_WIDTH), 128, dtype=torch.uint8, device=self.device)
            part.video_grid_thw = torch.tensor([[1, MERGE_SIZE, MERGE_SIZE]])
            part.second_per_grid_ts = torch.tensor([1.0])
        return part


def load_encoder(settings: Model, base: str | Path, *, training: bool) -> tuple[Encoder, Any]:
    """The encoder and its tokenizer from a Hub name or a folder in Hugging Face format.

    With `training`, LoRA is put in and what `freeze` names is frozen; otherwise everything is, and the encoder is in eval mode. New weights
    (projection, adapters) are drawn from torch's global random state: seed it first. Raises ModelError (see `load_backbone`).
    """
    backbone, tokenizer = load_backbone(settings, base)
    return build_encoder(backbone, settings, training=training), tokenizer


def build_encoder(backbone: Qwen2_5_VLModel, settings: Model, *, training: bool) -> Encoder:
    """The encoder of a backbone that may lie anywhere, on the meta device too; adapters and freezing as in `load_encoder`."""
    if training and settings.lora is not None:
        add_adapters(backbone, settings.lora)
    encoder = Encoder(backbone, settings)
    if not training:
        return encoder.requires_grad_(False).eval()
    if settings.freeze == "vision":
        backbone.visual.requires_grad_(False)
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
