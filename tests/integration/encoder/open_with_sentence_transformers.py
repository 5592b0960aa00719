"""Vectors of saved models by sentence-transformers alone, in the peers' environment: no module of reelnest is imported.

Usage: .venv-peers/bin/python open_with_sentence_transformers.py FOLDER

FOLDER holds models/*, texts.json, videos.json and videos.npz; vectors.npz is written there, `model/kind/dim` each.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer


def main(folder: Path) -> None:
    """Opens each model, at full width and at each dim."""
    texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    videos = read_videos(folder)
    vectors, refused = {}, {}
    for path in sorted((folder / "models").iterdir()):
        dims = json.loads((path / "config.json").read_text(encoding="utf-8"))["matryoshka_dimensions"]
        for dim in (*dims, None):
            try:
                model = SentenceTransformer(str(path), truncate_dim=dim, device="cpu", local_files_only=True)
            except ValueError as error:
                refused[path.name] = str(error)
                continue
            name = f"{path.name}/{{}}/{dim}"
            vectors[name.format("query")] = model.encode_query(texts, normalize_embeddings=True, batch_size=3)
            vectors[name.format("document")] = model.encode_document(texts[:-1], normalize_embeddings=True)
            vectors[name.format("video")] = model.encode_document(videos, normalize_embeddings=True, batch_size=2)
            # A batch with text and video has another layout than a batch of one kind.
            vectors[name.format("mixed")] = model.encode_document([texts[0], videos[0]], normalize_embeddings=True)
            if dim is None:
                vectors[name.format("plain")] = model.encode_document(texts[:-1])
    np.savez(folder / "vectors.npz", **vectors)
    (folder / "refused.json").write_text(json.dumps(refused), encoding="utf-8")


def read_videos(folder: Path) -> list[dict[str, Any]]:
    """Reads the inputs of `videos_for_sentence_transformers`."""
    arrays = np.load(folder / "videos.npz")
    described = json.loads((folder / "videos.json").read_text(encoding="utf-8"))
    return [
        {**rest, "video": {"array": arrays[str(i)], "video_metadata": metadata}}
        for i, (metadata, rest) in enumerate(zip(described["metadata"], described["rest"], strict=True))
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
