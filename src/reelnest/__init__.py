"""reelnest: a nested (Matryoshka) encoder for text and video, trained on pairs of queries and targets."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from reelnest.encoder.saved import SavedModel, videos_for_sentence_transformers
    from reelnest.settings import Precision
    from reelnest.video.decoder import Limits

__all__ = ["SavedModel", "load", "videos_for_sentence_transformers"]
__version__ = "0.1.0"


def load(
    model: "str | os.PathLike[str]",
    device: "str | torch.device | None" = None,
    limits: "Limits | None" = None,
    precision: "Precision | None" = None,
) -> "SavedModel":
    """Opens a saved model on `device`, by default a GPU if there is one.

    `model` is the folder of a saved model, or a registered one: `models:/reelnest@champion` or `models:/reelnest/3`. `limits` apply to the
    videos to encode. `precision` of matrix products is `no` (that of the weights), `bf16` or `fp16`, by default that of the training.
    Raises ModelError with the folder's problem, RegistryError if there is no such version. Example:

        model = reelnest.load("models/candidate")
        queries = model.encode_texts(["a red ball rolling to the left"], dim=64)
        videos = model.encode_videos(["clip.mp4"], dim=64)
        scores = queries @ videos.T
    """
    if not isinstance(model, str | os.PathLike):
        raise TypeError(f"load: model is {model!r}; expected a folder, or a registered model such as 'models:/reelnest@champion'.")
    # Imported on first use, because torch, transformers and MLflow take seconds to import. A wrong name is found before that.
    if str(model).startswith("models:/"):
        from reelnest.registry.known_versions import known_version
        from reelnest.settings import current_params

        known_version(current_params(), str(model))
        from reelnest.registry.versions.fetched_model import saved_folder

        model = saved_folder(str(model))
    else:
        from reelnest.encoder.saved_settings import read_settings

        read_settings(Path(model))
    from reelnest.encoder.saved import load as load_folder

    return load_folder(Path(model), device, limits, precision)


def __getattr__(name: str) -> Any:
    if name in __all__:
        from reelnest.encoder import saved

        return getattr(saved, name)
    raise AttributeError(f"module 'reelnest' has no attribute '{name}'")
