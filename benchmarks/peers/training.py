"""The same training with sentence-transformers: SentenceTransformerTrainer, MatryoshkaLoss(MultipleNegativesRankingLoss).

Nothing here needs reelnest: this runs in the peers' environment. What was chosen, so that the other side has its fair chance:

- Tokens, frames, pixels and pooling are ours: a chat template without roles or system prompt (a usual one would add some 20 tokens to each
  entry), 8 frames, resized by the processor to 112 × 112, the mean over tokens.
- Frames are decoded by decord in the dataset's transform, only the wanted ones, as Qwen's tools do it; the processor gets them as arrays
  and need not decode again. Nothing is kept between epochs: the library has no such cache.
- One process, two threads, as ours. With WORKERS of the data loader the next batches are decoded during a step, on the same two cores; ours
  makes its batches ahead too. Two are its fastest here: 34.7 pairs/s with LoRA, 26.4 with one, 28.4 with none.
- Both directions in the loss, as ours; fused AdamW, as the trainer chooses by itself; no logging, no evaluation, no checkpoints.
- Only trainable weights have gradients; a frozen tower or backbone builds no graph.
- Every step costs it the same, whatever the epoch: so COUNTED_STEPS steps are measured, after WARM_UP steps that are not.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parents[2]
Kind = Literal["full", "lora", "frozen"]

BATCH_SIZE = 64
DIMS = (16, 32, 64, 128)
FRAMES = 8
PIXELS = 112 * 112
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.01
TEMPERATURE = 0.05
LORA_R, LORA_ALPHA = 16, 32
LORA_TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
COUNTED_STEPS, WARM_UP = 16, 4
WORKERS = 2

# What our batches hold: the frames between their marks, then the text, then the end.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% elif part.type == 'text' %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}<|endoftext|>"
)


def clips() -> Path:
    """The folder of the data: what CLIPS names (`make bench CLIPS=…`), or the sample."""
    folder = Path(os.environ.get("CLIPS") or ROOT / "data")
    if not (folder / "pairs.jsonl").is_file():
        raise SystemExit(f"there is no {folder}/pairs.jsonl to train on: run `reelnest sample`, or name a folder: make bench CLIPS=…")
    return folder.resolve()


def tiny_folder() -> Path:
    """The checkpoint that every side begins with; `benchmarks.training.export_tiny` writes it."""
    return ROOT / "work" / "benchmarks" / "tiny"


def prepare(kind: Kind) -> Callable[[], dict[str, float]]:
    """Everything but the steps; the returned function trains, and gives pairs a second."""
    import torch
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.losses import MatryoshkaLoss, MultipleNegativesRankingLoss
    from transformers import TrainerCallback

    torch.set_num_threads(2)
    torch.manual_seed(0)
    model = model_of(kind)
    ranking = MultipleNegativesRankingLoss(
        model, scale=1 / TEMPERATURE, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"
    )
    ends: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]  # the base has no types here: it is the peers' environment's
        def on_step_end(self, *_arguments: Any, **_others: Any) -> None:
            ends.append(time.perf_counter())

    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tiny_folder().parent / "peers"),
        max_steps=WARM_UP + COUNTED_STEPS,
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        warmup_steps=0.1,
        lr_scheduler_type="cosine",
        max_grad_norm=1.0,
        dataloader_drop_last=True,
        dataloader_num_workers=WORKERS,
        use_cpu=True,
        seed=0,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = SentenceTransformerTrainer(model, arguments, _pairs(), loss=MatryoshkaLoss(model, ranking, list(DIMS)), callbacks=[Clock()])

    def run() -> dict[str, float]:
        trainer.train()
        return {"pairs/s": COUNTED_STEPS * BATCH_SIZE / (ends[-1] - ends[WARM_UP - 1])}

    return run


def model_of(kind: Kind) -> Any:
    """The checkpoint as sentence-transformers opens it, with what `kind` trains."""
    from peft import LoraConfig
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense, Pooling, Transformer
    from torch import nn

    backbone = Transformer(str(_with_processor()))
    modules = [backbone, Pooling(backbone.get_embedding_dimension(), "mean")]
    if kind == "frozen":
        backbone.model.requires_grad_(False)
        modules.append(Dense(DIMS[-1], DIMS[-1], bias=False, activation_function=nn.Identity()))
    model = SentenceTransformer(modules=modules, device="cpu")
    if kind == "lora":
        model.add_adapter(LoraConfig(r=LORA_R, lora_alpha=LORA_ALPHA, target_modules=LORA_TARGETS, bias="none"))
    return model


def _with_processor() -> Path:
    """The checkpoint beside a processor; ours needs no processor's files."""
    import shutil

    folder = tiny_folder().with_name("tiny-with-processor")
    if not tiny_folder().is_dir():
        raise SystemExit(f"there is no {tiny_folder()}: run one whole benchmark, which makes it")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(tiny_folder(), folder)
    add_processor(folder, PIXELS, PIXELS)
    return folder


def add_processor(folder: Path, least_pixels: int, most_pixels: int) -> None:
    """Writes a processor of Qwen2.5-VL that makes the same tokens and pixels of an entry as ours, whose frames have such sizes."""
    from transformers import AutoTokenizer, Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    size = {"shortest_edge": least_pixels, "longest_edge": most_pixels}
    Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        tokenizer=AutoTokenizer.from_pretrained(folder, padding_side="left"),
        video_processor=Qwen2VLVideoProcessor(size=size, do_sample_frames=False, cap_pixels_per_frame=False),
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)


def _pairs() -> Any:
    """The training pairs; a video is decoded when its row is read."""
    from datasets import Dataset

    paths = {}
    for line in (clips() / "videos.jsonl").read_text().splitlines():
        video = json.loads(line)
        paths[video["video_id"]] = str(clips() / video["path"])
    rows = [json.loads(line) for line in (clips() / "pairs.jsonl").read_text().splitlines()]
    kept = [row for row in rows if row.get("split", "train") == "train" and "text" in row["query"] and "video" in row["target"]]
    data = Dataset.from_dict({"query": [row["query"]["text"] for row in kept], "target": [paths[row["target"]["video"]] for row in kept]})

    def decode(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        return {**batch, "target": [frames_of(path) for path in batch["target"]]}

    data.set_transform(decode)
    return data


def frames_of(path: str) -> dict[str, Any]:
    """The chosen frames of a video file, decoded, as the processor takes them."""
    import numpy as np
    from decord import VideoReader

    reader = VideoReader(path, num_threads=1)
    total = len(reader)
    indices = np.linspace(0, total - 1, FRAMES).round().astype(int)
    rate = reader.get_avg_fps()
    # (frames, channels, height, width)
    array = reader.get_batch(indices).asnumpy().transpose(0, 3, 1, 2)
    metadata = {"fps": rate, "total_num_frames": total, "duration": total / rate, "frames_indices": indices.tolist()}
    return {"array": array, "video_metadata": metadata}
