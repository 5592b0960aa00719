"""reelnest: a nested (Matryoshka) encoder for text and video, trained on pairs of queries and targets."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reelnest.encoder.saved import SavedModel, load, videos_for_sentence_transformers

__all__ = ["SavedModel", "load", "videos_for_sentence_transformers"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Imported on first use, because torch and transformers take seconds to import.
    if name in __all__:
        from reelnest.encoder import saved

        return getattr(saved, name)
    raise AttributeError(f"module 'reelnest' has no attribute '{name}'")
