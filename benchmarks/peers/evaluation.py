"""The same evaluation with sentence-transformers: its InformationRetrievalEvaluator, called once for each truncate_dim.

Nothing here needs reelnest: this runs in the peers' environment. That is how its documentation evaluates a Matryoshka model, and each call
encodes queries and corpus again. An evaluator knows one direction, so there are two: text→video and video→text. What was chosen in its
favour: frames are decoded before time starts and stay in memory, the processor's resizing keeps their size, and the batch size is ours.
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from benchmarks.peers.training import clips, frames_of, model_of

BATCH_SIZE = 64
DIMS = (8, 16, 32, 64, 128)


def prepare() -> Callable[[], dict[str, float]]:
    """Everything but the evaluations; the returned function runs them, and gives their seconds and one figure to compare."""
    import torch
    from sentence_transformers.evaluation import InformationRetrievalEvaluator

    torch.set_num_threads(2)
    model = model_of("full")
    texts, videos, to_videos, to_texts = _test_pairs()
    frames = {video: frames_of(path) for video, path in videos.items()}

    def evaluators(dim: int) -> list[Any]:
        settings: dict[str, Any] = {"truncate_dim": dim, "batch_size": BATCH_SIZE, "write_csv": False}
        return [
            InformationRetrievalEvaluator(texts, frames, to_videos, name="text_to_video", **settings),
            InformationRetrievalEvaluator(frames, texts, to_texts, name="video_to_text", **settings),
        ]

    model.encode(list(frames.values())[:8])  # warms up

    def run() -> dict[str, float]:
        started = time.perf_counter()
        values = [evaluator(model) for dim in DIMS for evaluator in evaluators(dim)]
        return {"seconds": time.perf_counter() - started, "recall@10": values[-2]["text_to_video_cosine_recall@10"]}

    return run


def _test_pairs() -> tuple[dict[str, str], dict[str, str], dict[str, set[str]], dict[str, set[str]]]:
    """Texts and videos' paths by id, and which videos are right for a text, and the reverse."""
    paths = {}
    for line in (clips() / "videos.jsonl").read_text().splitlines():
        video = json.loads(line)
        paths[video["video_id"]] = str(clips() / video["path"])
    rows = [json.loads(line) for line in (clips() / "pairs.jsonl").read_text().splitlines()]
    pairs = [(row["query"]["text"], row["target"]["video"]) for row in rows if row.get("split") == "test" and _from_text_to_video(row)]
    to_videos, to_texts = defaultdict(set), defaultdict(set)
    for text, video in pairs:
        to_videos[text].add(video)
        to_texts[video].add(text)
    return {text: text for text in to_videos}, {video: paths[video] for video in to_texts}, dict(to_videos), dict(to_texts)


def _from_text_to_video(row: dict[str, Any]) -> bool:
    return "text" in row["query"] and "video" in row["target"]
