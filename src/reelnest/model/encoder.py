"""Text and video to one vector, with Qwen2.5-VL."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import Qwen2_5_VLModel

from reelnest.config import Model
from reelnest.data.batches import TEXT_TYPE, VIDEO_TYPE, Batch, Part
from reelnest.data.patches import IMAGE_MEAN, IMAGE_STD, MERGE_SIZE, ROW_WIDTH
from reelnest.errors import ModelError
from reelnest.model.loading import load_backbone
from reelnest.model.lora import add_adapters
from reelnest.model.positions import token_positions, vision_index


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
        # Text before video, stand-ins too: all processes must come by the layers of a sharded model in one order.
        parts = [(part, False) for part in batch.parts] + [(part, True) for part in self._stand_ins(batch)]
        parts.sort(key=lambda found: found[0].rows is not None)
        vectors, nothing = [], torch.zeros((), device=self.device)
        for part, is_stand_in in parts:
            rows = self._encode(part)
            if is_stand_in:
                nothing = nothing + 0.0 * rows.sum()
            else:
                vectors.append(rows)
        return torch.cat(vectors)[batch.order] + nothing

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

    def _encode(self, part: Part) -> Tensor:
        model = self.backbone
        with _gradients(any(parameter.requires_grad for parameter in model.parameters())):
            embedded = model.language_model.embed_tokens(part.input_ids)  # (rows, tokens, hidden)
            if part.rows is not None:
                is_video = (part.mm_token_type_ids == VIDEO_TYPE)[..., None]
                embedded = embedded.masked_scatter(is_video, self._see(part).to(embedded.dtype))
            hidden = model.language_model(
                inputs_embeds=embedded,
                attention_mask=part.attention_mask,
                position_ids=token_positions(part, model.config.vision_config),
                use_cache=False,
            ).last_hidden_state
        pooled = self._pool(hidden, part.pooling_mask)  # (rows, hidden)
        return pooled if self.projection is None else self.projection(pooled).float()

    def _see(self, part: Part) -> Tensor:
        """Video tokens of all videos of the part, (tokens, hidden)."""
        visual = self.backbone.visual
        assert part.rows is not None and part.video_grid_thw is not None  # noqa: S101, PT018 (for the type checker)
        index = vision_index(part.video_grid_thw, visual.config)
        device = part.rows.device
        on_gpu = index._replace(position_ids=index.position_ids.to(device), window_index=index.window_index.to(device))
        if visual.config._attn_implementation == "flash_attention_2":
            on_gpu = on_gpu._replace(cu_seqlens=index.cu_seqlens.to(device), cu_window_seqlens=index.cu_window_seqlens.to(device))
        with _gradients(any(parameter.requires_grad for parameter in visual.parameters())):
            pixels = self.normalise_pixels(part.rows).to(visual.dtype)
            tokens: Tensor = visual(pixels, grid_thw=part.video_grid_thw, **on_gpu._asdict()).pooler_output
        return tokens

    def _pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        if self.pooling == "last":
            return hidden[:, -1].float()  # rows are padded on the left: the end token is last in each
        weights = mask[..., None].float()
        return (hidden.float() * weights).sum(1) / weights.sum(1)

    def _stand_ins(self, batch: Batch) -> list[Part]:
        has_video = any(part.rows is not None for part in batch.parts)
        has_text = any(part.rows is None for part in batch.parts)
        sharded = self.sharded
        trains = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.backbone.visual.parameters())
        stand_ins = [self._stand_in(video=True)] if not has_video and (trains or sharded) else []
        return [*stand_ins, self._stand_in(video=False)] if sharded and not has_text else stand_ins

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
    if training and settings.lora is not None:
        add_adapters(backbone, settings.lora)
    encoder = Encoder(backbone, settings)
    if not training:
        return encoder.requires_grad_(False).eval(), tokenizer
    if settings.freeze == "vision":
        backbone.visual.requires_grad_(False)
    elif settings.freeze == "backbone":
        backbone.requires_grad_(False)
    return encoder.train(), tokenizer


def _gradients(wanted: bool) -> AbstractContextManager[None]:
    return torch.set_grad_enabled(wanted and torch.is_grad_enabled())
