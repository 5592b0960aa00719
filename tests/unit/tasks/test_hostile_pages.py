"""Whatever stands in a report, its page in Prefect has no markup but the page's own. Rendered by a Markdown that leaves HTML as it is."""

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from reelnest.stages.workspace import Workspace
from tasks.pages import artifacts as pages

HOSTILE = [
    "<script>taken()</script><img src=x onerror=taken()>",
    "](javascript:taken()) [x](javascript:taken()) ![x](http://127.0.0.1:9/x.png) <http://127.0.0.1:9>",
    "a | b\n\n# heading\n\n```\n<iframe src=//x></iframe>\n```\n\n    code\n* item\n---\n**bold** `<b>` [x]: http://x &lt;u&gt; \\",
]
OWN = {"h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td", "strong", "code", "pre"}
METRICS = dict.fromkeys(("recall@1", "recall@5", "recall@10", "mrr", "ndcg@10", "map", "median_rank"), 0.5)


def reports(text: str) -> dict[str, Any]:
    """A report a page, with the text wherever one is told, and as names."""
    difference = {"dim": 16, "value": 0.03, "low": 0.01, "high": 0.05}
    return {
        "validation.json": {
            "passed": False,
            "videos": {"lines": 4, "good": 3},
            "pairs": {"lines": 9, "good": 6, "by_split_and_kind": {text: {text: 1}}},
            "quarantined": {"records": 6, "fraction": 0.1, "allowed_fraction": 0.05, "by_reason": {text: {text: 6}}},
            "expectations": [dict.fromkeys(("suite", "description", "severity", "observed"), text) | {"success": False}],
        },
        "quarantine.jsonl": dict.fromkeys(("file", "line", "reason", "detail"), text),
        "preprocessing.json": {"videos": 3, text: text, "sizes": {text: [text, text]}},
        "training.json": {"steps": 3, text: text},
        "evaluation.json": {
            "split": text,
            "results": [{"pair_kind": text, "dim": 16, "storage": text, "metrics": METRICS, "bytes_per_vector": 64}],
            "negatives_outranked": [{"pair_kind": text, "dim": 16, "value": 0.5, "queries": 3}],
            "choice": dict.fromkeys(("name", "metric", "best_name", "value", "best_value"), text)
            | {"bytes_per_vector": 64, "dim": 16, "best_dim": 64},
            "compared_with": [{"what": text, "metric": text, "differences": [difference]}],
            "not_compared": [{"what": text, "reason": text}],
            "behaviour": {"by_kind": {text: 3}, "passed_by_kind": {text: {text: 0.5}}},
        },
        "registration.json": {
            "name": text, "version": text, "decision": text, "reason": text, "differences": [difference],
            "conditions": [{"name": text, "passed": None, "why": text}], "lineage": {"repository": text, text: {text: text}},
        },
    }  # fmt: skip


class Found(HTMLParser):
    """The elements and attributes of what a browser would be given."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(
    "make_page",
    [
        pages.validation_page,
        pages.data_docs_page,
        pages.quarantine_page,
        pages.preprocessing_page,
        pages.training_page,
        pages.evaluation_page,
        pages.registration_page,
        pages.lineage_page,
    ],
)
def test_no_text_becomes_markup(make_page: Callable[[Workspace], str], text: str, tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    for name, report in reports(text).items():
        (tmp_path / "reports" / name).write_text(json.dumps(report))
    cell = '"' + text.replace('"', '""') + '"'
    (tmp_path / "reports" / "training.csv").write_text(f"step,{cell}\n1,{cell}\n")
    found = Found()
    found.feed(MarkdownIt("commonmark", {"html": True}).enable("table").render(make_page(Workspace(tmp_path))))
    assert found.elements <= OWN
    assert not found.attributes
