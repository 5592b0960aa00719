"""The vectors of a folder by transformers alone: its own model, positions, masks and the text of its processor."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedModel
from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from reelnest.backbones.family import FAMILIES
from reelnest.backbones.qwen_vl import VIDEO_END, VIDEO_START
from reelnest.encoder.video_reading import sentence_transformers_input
from reelnest.settings import Model
from reelnest.store.entries import Entry
from reelnest.video.frames import Frames

PROCESSORS: dict[str, Any] = {
    "qwen2_vl": Qwen2VLProcessor,
    "qwen2_5_vl": Qwen2VLProcessor,
    "qwen3_vl": Qwen3VLProcessor,
    "qwen3_vl_embedding": Qwen3VLProcessor,
}


class Plain:
    """transformers' model and processor. The processor's pixels need torchvision, so its methods are called one by one."""

    def __init__(self, base: Path, name: str, model: Model) -> None:
        self.family, self.settings = FAMILIES[name], model
        self.model: PreTrainedModel = AutoModel.from_pretrained(base, attn_implementation="sdpa").eval()
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        self.processor = PROCESSORS[name].__new__(PROCESSORS[name])
        vision = self.family.vision
        self.processor.video_processor = SimpleNamespace(merge_size=vision.merge_size, temporal_patch_size=vision.temporal_patch_size)
        self.processor.video_token = self.family.video_token
        self.processor.vision_start_token, self.processor.vision_end_token = VIDEO_START, VIDEO_END

    def vectors(self, entries: Sequence[Entry]) -> Tensor:
        """Returns the last token's hidden states, in one batch that is padded on the left."""
        texts = [self.text(entry) for entry in entries]
        inputs = self.tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
        is_video = inputs["input_ids"] == self.model.config.video_token_id
        videos = [entry.frames for entry in entries if entry.frames is not None]
        if videos:
            inputs["mm_token_type_ids"] = 2 * is_video.long()
            inputs["pixel_values_videos"] = torch.cat([self.pixels(frames) for frames in videos])
            inputs["video_grid_thw"] = torch.tensor([frames.grid_thw for frames in videos])
            if self.family.model_type == "qwen2_5_vl":
                inputs["second_per_grid_ts"] = torch.tensor([frames.seconds_per_grid for frames in videos])
        hidden: Tensor = self.model(**inputs, use_cache=False).last_hidden_state
        return hidden[:, -1]

    def text(self, entry: Entry) -> str:
        """Returns an entry in the saved chat template, with the tokens of its video written by the processor."""
        instruction = self.settings.query_instruction if entry.role == "query" else self.settings.target_instruction
        content = [{"type": "text", "text": entry.text}] + ([{"type": "video"}] if entry.frames is not None else [])
        system = {"role": "system", "content": [{"type": "text", "text": self.family.system_message(instruction)}]}
        messages = [system, {"role": "user", "content": content}]
        text: str = self.tokenizer.apply_chat_template(messages, chat_template=self.family.chat_template, tokenize=False)
        if entry.frames is None:
            return text
        metadata = SimpleNamespace(**sentence_transformers_input(entry.frames, "")["video"]["video_metadata"])
        inputs = {"video_grid_thw": torch.tensor([entry.frames.grid_thw]), "video_metadata": [metadata]}
        return text.replace(self.family.video_token, self.processor.replace_video_token(inputs, 0))

    def pixels(self, frames: Frames) -> Tensor:
        vision = self.family.vision
        array = torch.from_numpy(sentence_transformers_input(frames, "")["video"]["array"].copy()) / 255  # (time, channel, height, width)
        mean, std = (torch.tensor(values)[:, None, None] for values in (vision.mean, vision.std))
        video = ((array - mean) / std)[None]
        # The other families' processors have the same method.
        patches: Tensor = Qwen3VLVideoProcessor.patchify(None, video, vision.patch_size, vision.merge_size, vision.temporal_patch_size)[0][
            0
        ]
        return patches
