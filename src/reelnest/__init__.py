"""reelnest: one nested (Matryoshka) encoder for text and video, from pairs of what people searched and what they wanted."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reelnest.encoder.saved import SavedModel, load, videos_for_sentence_transformers

__all__ = ["SavedModel", "load", "videos_for_sentence_transformers"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # torch and transformers take seconds to import: only those who load a model wait for them.
    if name in __all__:
        from reelnest.encoder import saved

        return getattr(saved, name)
    raise AttributeError(f"module 'reelnest' has no attribute '{name}'")
