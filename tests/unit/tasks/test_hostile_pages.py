"""Whatever stands in a report, its page in Prefect has no markup but the page's own. Rendered by a Markdown that leaves HTML as it is."""

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from reelnest.stages.workspace import Workspace
from tasks.pages import artifacts as pages
from tests.support import reports

HOSTILE = [
    "<script>taken()</script><img src=x onerror=taken()>",
    "](javascript:taken()) [x](javascript:taken()) ![x](http://127.0.0.1:9/x.png) <http://127.0.0.1:9>",
    "a | b\n\n# heading\n\n```\n<iframe src=//x></iframe>\n```\n\n    code\n* item\n---\n**bold** `<b>` [x]: http://x &lt;u&gt; \\",
]
OWN = {"h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td", "strong", "code", "pre"}


def contents(text: str) -> dict[str, reports.Content]:
    """A report a page, with the text wherever one may be."""
    quarantined = {"records": 6, "fraction": 0.1, "allowed_fraction": 0.05, "by_reason": {text: {text: 6}}}
    pairs = {"lines": 9, "good": 6, "by_split_and_kind": {text: {text: 1}}}
    expectation = reports.expectation(suite=text, description=text, observed={text: text})
    named = {"name": text, "storage": text, "metric": text, "best_name": text}
    origins = reports.origins(flow_run={"id": text, "url": text})
    origins["environment"]["differing"] = [text]
    return {
        "validation.json": reports.validation(quarantined=quarantined, pairs=pairs, expectations=[expectation]),
        "quarantine.jsonl": dict.fromkeys(("file", "line", "reason", "detail"), text),
        "preprocessing.json": reports.preprocessing(videos_by_grid={text: 3}, pairs={text: {text: 1}}),
        "training.json": reports.training(loss_by_dim={text: 0.5}, best={"step": 1, "metric": text, "dim": 16, "value": None}),
        "evaluation.json": reports.evaluation(
            split=text,
            results=[reports.result(pair_kind=text, storage=text)],
            negatives_outranked=[{"pair_kind": text, "dim": 16, "value": 0.5, "queries": 3}],
            choice=reports.choice(**named),
            compared_with=[{"what": text, "version": 1, "run_id": text, "metric": text, "differences": [reports.difference()]}],
            not_compared=[{"what": text, "reason": text}],
            behaviour=reports.behaviour(by_kind={text: 3}, passed_by_kind={"16": {text: 0.5}}),
        ),
        "registration.json": reports.registration(
            name=text, decision=text, reason=text, metric=text, conditions=[{"name": text, "passed": None, "why": text}], lineage=origins
        ),
    }


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
    for name, report in contents(text).items():
        (tmp_path / "reports" / name).write_text(json.dumps(report))
    cell = '"' + text.replace('"', '""') + '"'
    (tmp_path / "reports" / "training.csv").write_text(f"step,{cell}\n1,{cell}\n")
    found = Found()
    found.feed(MarkdownIt("commonmark", {"html": True}).enable("table").render(make_page(Workspace(tmp_path))))
    assert found.elements <= OWN
    assert not found.attributes
