"""sentence-transformers' layout: JSON lines with `anchor` and `positive`, and with `negative` where pairs have negatives.

A column of a dataset has one type, so there is a folder for each kind of pair, such as `text_to_video`, and one for its triplets, such as
`text_to_video_negatives`, with a line for each negative of the target's kind. Load them with `datasets.load_dataset("json", …)`, and give
the trainer a dict of them.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from reelnest.records.exporters.exporter import EXPORTERS, ExportedPair, Item


@EXPORTERS.register("sentence-transformers")
def write_sentence_transformers(pairs: Iterable[ExportedPair]) -> Iterator[tuple[str, dict[str, Any]]]:
    """sentence-transformers' pairs and triplets, a folder for each kind of pair."""
    for pair in pairs:
        kind = f"{pair.query.kind}_to_{pair.target.kind}"
        record = {"anchor": _value(pair.query), "positive": _value(pair.target)}
        yield f"{kind}/{pair.split}.jsonl", record
        for negative in pair.negatives:
            if negative.kind == pair.target.kind:
                yield f"{kind}_negatives/{pair.split}.jsonl", {**record, "negative": _value(negative)}


def _value(item: Item) -> str | dict[str, str]:
    """Returns the library's input: a text, or a dict from the modality to the path."""
    return {"video": str(item.video)} if item.text is None else item.text
