"""ms-swift's layout for embeddings: JSON lines with `messages`, `positive_messages` and `negative_messages`, a file for each split.

Train with `swift sft --task_type embedding --loss_type infonce --dataset train.jsonl`. A line has one positive, because ms-swift uses the
first only.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from reelnest.records.exporters.exporter import EXPORTERS, ExportedPair, Item

TAG = "<video>"


@EXPORTERS.register("ms-swift")
def write_ms_swift(pairs: Iterable[ExportedPair]) -> Iterator[tuple[str, dict[str, Any]]]:
    """ms-swift's JSON lines for embeddings, with <video> and the files' paths."""
    for pair in pairs:
        record = {
            "messages": _messages(pair.query),
            "videos": _videos(pair.query),
            "positive_messages": [_messages(pair.target)],
            "positive_videos": [_videos(pair.target)],
            "negative_messages": [_messages(negative) for negative in pair.negatives],
            "negative_videos": [_videos(negative) for negative in pair.negatives],
        }
        yield f"{pair.split}.jsonl", record


def _messages(item: Item) -> list[dict[str, str]]:
    return [{"role": "user", "content": TAG if item.text is None else item.text}]


def _videos(item: Item) -> list[str]:
    return [] if item.video is None else [str(item.video)]
