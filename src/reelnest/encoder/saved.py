"""The saved model: one folder with all files that encoding needs.

config.json, model*.safetensors   the backbone in Hugging Face format (LoRA merged in), with the names that servers know, or
adapter/                          with `lora.merge: false`, the adapter in peft's format; the base is named in reelnest.json
tokenizer files
projection/model.safetensors      if there is a projection
modules.json and others           for sentence-transformers (see sentence_transformer_files), unless adapters are saved separately
reelnest.json                     settings of the model and of preprocessing, the version of this format, the files' checksums
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from reelnest.atomic_files import atomic_folder, write_json
from reelnest.backbones.architecture import hidden_size
from reelnest.backbones.loading import quiet_transformers, refuse_pickles
from reelnest.encoder.argument_checks import check_batch_size, check_choice, check_dim, check_entries, check_texts, check_videos
from reelnest.encoder.batches import Batcher, on_device
from reelnest.encoder.embedding import batches_by_length, read_late
from reelnest.encoder.encoder import COMPUTE_DTYPES, Encoder, load_encoder
from reelnest.encoder.lora import adapter_state, add_adapters, has_adapters, load_adapter_state, lora_config, merged_state
from reelnest.encoder.manifest import check_files, checksums
from reelnest.encoder.saved_settings import (
    FORMAT,
    FORMAT_VERSION,
    SETTINGS_FILE,
    frame_settings,
    read_settings,
    saved_checksums,
    unknown_settings,
)
from reelnest.encoder.sentence_transformer_files import PROJECTION_FOLDER, can_be_opened, write_sentence_transformer_files
from reelnest.encoder.server_files import describe_for_servers, served_weights
from reelnest.encoder.video_reading import Times, VideoReader, VideoSource, segments_of, sentence_transformers_input, texts_of
from reelnest.errors import ModelError
from reelnest.settings import Model, Precision, Preprocess, Validate
from reelnest.store.entries import Entry, Role
from reelnest.video.decoder import Limits

logger = logging.getLogger(__name__)

PROJECTION_FILE = f"{PROJECTION_FOLDER}/model.safetensors"
PROJECTION_WEIGHT = "linear.weight"
"""The name that sentence-transformers uses."""
ADAPTER_FOLDER = "adapter"
ADAPTER_FILE = "adapter_model.safetensors"


def save_model(
    folder: Path,
    encoder: Encoder,
    tokenizer: PreTrainedTokenizerBase,
    settings: Model,
    preprocess: Preprocess,
    text_fields: Sequence[str] | None,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes the folder atomically, and replaces an existing one. Does not change the encoder.

    `text_fields` are `data.text_fields`. For a sharded encoder, `state` is its gathered state dict. Call this on one process only.
    """
    state = encoder.state_dict() if state is None else state
    if Path(settings.name_or_path).is_dir():
        # An absolute path, so that an adapter finds its base from any working folder.
        settings = settings.model_copy(update={"name_or_path": str(Path(settings.name_or_path).resolve())})
    backbone = {name.removeprefix("backbone."): value.cpu() for name, value in state.items() if name.startswith("backbone.")}
    with atomic_folder(folder) as aside, quiet_transformers():
        if settings.lora is None or settings.lora.merge:
            merged = merged_state(encoder.backbone, backbone) if has_adapters(encoder.backbone) else backbone
            weights = served_weights(merged, encoder.family)
            encoder.backbone.save_pretrained(aside, state_dict=weights, save_original_format=False)
            describe_for_servers(aside, encoder.family, settings.dims)
        else:
            adapter = aside / ADAPTER_FOLDER
            lora_config(settings.lora, encoder.family, settings.name_or_path, settings.revision).save_pretrained(str(adapter))
            save_file(_contiguous(adapter_state(backbone)), adapter / ADAPTER_FILE, metadata={"format": "pt"})
        tokenizer.save_pretrained(aside)
        if settings.lora is None or settings.lora.merge:
            if not can_be_opened(settings):
                logger.warning(
                    "%s: sentence-transformers will refuse this model, and vLLM would pool it in another way: neither can exclude an"
                    " instruction from the mean (model.pooling)",
                    folder,
                )
            hidden = hidden_size(encoder.backbone.config)
            write_sentence_transformer_files(aside, tokenizer, settings, preprocess, encoder.family, hidden)
        if encoder.projection is not None:
            weight = {PROJECTION_WEIGHT: state["projection.weight"].cpu()}
            (aside / PROJECTION_FOLDER).mkdir(exist_ok=True)
            save_file(_contiguous(weight), aside / PROJECTION_FILE, metadata={"format": "pt"})
        write_json(
            aside / SETTINGS_FILE,
            {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "width": encoder.width,
                "model": settings.model_dump(mode="json"),
                "preprocess": preprocess.model_dump(mode="json", include={"sampling", "frames", "fps", "min_pixels", "max_pixels"}),
                "precision": encoder.precision,
                "text_fields": None if text_fields is None else list(text_fields),
                "files": checksums(aside, without=SETTINGS_FILE),
            },
        )


def load(
    folder: str | Path, device: str | torch.device | None = None, limits: Limits | None = None, precision: Precision | None = None
) -> "SavedModel":
    """Opens a saved model on `device`, by default a GPU if there is one. `limits` apply to the videos to encode.

    `precision` is that of matrix products, by default that of the training. A CPU has no fp16, so there the default is that of the weights.
    Raises ModelError with the folder's problem. `reelnest.load` calls it.
    """
    folder = Path(folder)
    if precision is not None:
        check_choice(precision, "precision", get_args(Precision))
    refuse_pickles(folder)
    stored = read_settings(folder)
    check_files(folder, saved_checksums(stored, folder), without=SETTINGS_FILE)
    device = _device(device)
    try:
        model = _model_settings(stored["model"], folder, device)
        check_choice(trained_precision := stored.get("precision", "no"), "precision", get_args(Precision))
    except (ValueError, KeyError, TypeError) as error:  # pydantic's errors are ValueErrors
        raise unknown_settings(folder, error) from error
    compute_dtype = _compute_dtype(precision, trained_precision, device)
    videos = _video_reader(stored, folder, limits)
    encoder, tokenizer = load_encoder(model, model.name_or_path, training=False, device=device, autocast_dtype=compute_dtype)
    if model.lora is not None and not model.lora.merge:
        add_adapters(encoder.backbone, model.lora, encoder.family)
        if wrong := load_adapter_state(encoder.backbone, _tensors(folder / ADAPTER_FOLDER / ADAPTER_FILE)):
            raise ModelError(
                f"{folder / ADAPTER_FOLDER}: does not match {model.name_or_path}: {len(wrong)} weights differ, the first: {wrong[0]}."
            )
    if encoder.projection is not None:
        _fill_projection(encoder, folder)
    encoder.requires_grad_(False).eval().to(device)
    _check_finite(encoder, folder)
    return SavedModel(encoder, Batcher(tokenizer, model, encoder.family), model, videos)


def _device(device: str | torch.device | None) -> torch.device:
    """Raises ModelError for a device that torch does not know, or does not find here, and for one that is neither CPU nor GPU."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise ModelError(f"device is {str(device)!r}; expected cpu, cuda or a GPU such as cuda:1.")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"device is '{device}', and torch finds {torch.cuda.device_count()} GPUs on this machine. Use device='cpu'.")
    return chosen


def videos_for_sentence_transformers(
    folder: str | Path,
    videos: Sequence[VideoSource],
    fields: Sequence[Mapping[str, str]] | None = None,
    limits: Limits | None = None,
    segments: Sequence[Times | None] | None = None,
) -> list[dict[str, Any]]:
    """Returns inputs for `SentenceTransformer(folder).encode_document`; `fields` and `segments` are as in `SavedModel.encode_videos`.

    Frames are sampled as in training, so the vectors equal those of `SavedModel`. Opens no weights. Example:

        model = SentenceTransformer("models/candidate", truncate_dim=64)
        videos = reelnest.videos_for_sentence_transformers("models/candidate", ["clip.mp4"])
        model.encode_document(videos, normalize_embeddings=True)
    """
    folder, videos = Path(folder), check_videos(videos)
    reader = _video_reader(read_settings(folder), folder, limits)
    try:
        inputs = zip(videos, segments_of(segments, len(videos)), texts_of(reader, fields, len(videos)), strict=True)
        return [sentence_transformers_input(reader.frames(video, segment), text) for video, segment, text in inputs]
    finally:
        reader.close()


class SavedModel:
    """Encodes as in training. Vectors are float32 of unit length; their dot products are cosine similarities."""

    def __init__(self, encoder: Encoder, batcher: Batcher, settings: Model, videos: VideoReader) -> None:
        self.encoder, self.batcher, self.settings, self.videos = encoder, batcher, settings, videos
        self.frame_settings, self.text_fields = videos.settings, videos.text_fields
        self.width = encoder.width
        self.dims = settings.dims
        """The trained prefix lengths. Other dims up to `width` work, with lower quality."""

    def encode_texts(
        self, texts: Sequence[str], *, role: Role = "query", dim: int | None = None, batch_size: int = 32
    ) -> NDArray[np.float32]:
        """Returns vectors of texts, (texts, dim). `role` selects the instruction: `query` for searches, `target` for documents."""
        check_choice(role, "role", get_args(Role))
        return self.encode([Entry(role, text, None) for text in check_texts(texts)], dim=dim, batch_size=batch_size)

    def encode_videos(
        self,
        videos: Sequence[VideoSource],
        *,
        role: Role = "target",
        fields: Sequence[Mapping[str, str]] | None = None,
        segments: Sequence[Times | None] | None = None,
        dim: int | None = None,
        batch_size: int = 8,
    ) -> NDArray[np.float32]:
        """Returns vectors of videos, (videos, dim), with frames sampled as in training.

        `fields` are each video's known fields among title, caption, text, ocr and asr; the model uses those that it was trained on.
        `segments` has (start, end) in seconds for each video of which only a part is encoded, and None for the others.
        Raises VideoError for a video that cannot be decoded, or that is shorter than its segment.
        """
        videos = check_videos(videos)
        check_choice(role, "role", get_args(Role))
        self._check_numbers(dim, batch_size)
        inputs = list(zip(videos, segments_of(segments, len(videos)), texts_of(self.videos, fields, len(videos)), strict=True))
        chunks = []
        for start in range(0, len(videos), batch_size):  # in chunks, to hold few frames in memory
            chunk = inputs[start : start + batch_size]
            entries = [Entry(role, text, self.videos.frames(video, segment)) for video, segment, text in chunk]
            chunks.append(self._vectors(entries, batch_size))
        return self._prefix(torch.cat(chunks) if chunks else torch.empty(0, self.width), dim)

    def encode(self, entries: Sequence[Entry], *, dim: int | None = None, batch_size: int = 32) -> NDArray[np.float32]:
        """Returns vectors of entries of any kind, (entries, dim). The default `dim` is the last of `dims`."""
        entries = check_entries(entries)
        self._check_numbers(dim, batch_size)
        return self._prefix(self._vectors(entries, batch_size), dim)

    def close(self) -> None:
        """Stops the process that decodes videos, if it runs."""
        self.videos.close()

    def _vectors(self, entries: Sequence[Entry], batch_size: int) -> Tensor:
        vectors = torch.empty(len(entries), self.width)
        with torch.no_grad(), self.encoder.autocast():
            batches = batches_by_length(entries, batch_size)
            inputs = ((batch, on_device(self.batcher([entries[i] for i in batch]), self.encoder.device)) for batch in batches)
            for batch, rows in read_late((batch, self.encoder(moved)) for batch, moved in inputs):
                vectors[batch] = rows
        return vectors

    def _check_numbers(self, dim: int | None, batch_size: int) -> None:
        """Checks the arguments before anything is encoded. Raises TypeError, ValueError or ModelError."""
        check_batch_size(batch_size)
        if dim is not None:
            check_dim(dim, self.width, self.dims)

    def _prefix(self, vectors: Tensor, dim: int | None) -> NDArray[np.float32]:
        dim = self.dims[-1] if dim is None else dim
        if dim not in self.dims:
            logger.warning(
                "dim %d: the model was not trained for it (trained: %s); expect lower quality",
                dim,
                list(self.dims),
            )
        normalised: NDArray[np.float32] = F.normalize(vectors[:, :dim], dim=-1).numpy()
        return normalised


def _model_settings(stored: Mapping[str, Any], folder: Path, device: torch.device) -> Model:
    settings = dict(stored)
    if not settings["lora"] or settings["lora"]["merge"]:
        settings.update(name_or_path=str(folder), revision=None)
    if device.type == "cpu":
        if settings["load_in_4bit"]:
            logger.warning("%s: the base was quantised to 4 bits in training, which needs a GPU; opening it unquantised", folder)
        settings.update(load_in_4bit=False, attention="eager" if settings["attention"] == "eager" else "sdpa")
    elif settings["attention"] == "flash_attention_2":
        settings["attention"] = "auto"  # the attention implementation is the machine's choice, not part of the model
    return Model.model_validate(settings)


def _compute_dtype(chosen: Precision | None, trained: Precision, device: torch.device) -> torch.dtype | None:
    if device.type == "cpu" and chosen == "fp16":
        raise ModelError("precision fp16 needs a GPU, and this model is opened on the CPU. Use bf16 or no (evaluate.precision).")
    if chosen is None:
        chosen = "no" if device.type == "cpu" and trained == "fp16" else trained
    return COMPUTE_DTYPES[chosen]


def _video_reader(stored: Mapping[str, Any], folder: Path, limits: Limits | None) -> VideoReader:
    try:
        return VideoReader(frame_settings(folder), stored["text_fields"], limits or Limits.of(Validate()))
    except KeyError as error:
        raise unknown_settings(folder, error) from error


def _fill_projection(encoder: Encoder, folder: Path) -> None:
    path = folder / PROJECTION_FILE
    weight = _tensors(path).get(PROJECTION_WEIGHT)
    assert encoder.projection is not None  # noqa: S101 (for the type checker)
    if weight is None or weight.shape != encoder.projection.weight.shape:
        expected = tuple(encoder.projection.weight.shape)
        raise ModelError(f"{path}: expected `{PROJECTION_WEIGHT}` of shape {expected}. Save the model again.")
    with torch.no_grad():
        encoder.projection.weight.copy_(weight)


def _check_finite(encoder: Encoder, folder: Path) -> None:
    for name, weight in encoder.state_dict().items():
        if weight.is_floating_point() and not torch.isfinite(weight.sum(dtype=torch.float32)):
            raise ModelError(f"{folder}: the weight {name} is not finite (NaN or infinity). Save the model again.")


def _tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"{path}: is missing, so the model is incomplete. Copy the model again.")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ModelError(f"{path}: cannot be opened: {error}. Copy the model again.") from error


def _contiguous(tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in dict(tensors).items()}
