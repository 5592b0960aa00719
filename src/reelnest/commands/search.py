"""`reelnest search`: one search over an index."""

import json
from dataclasses import asdict

from reelnest.commands.columns import in_columns
from reelnest.commands.index import open_searchers
from reelnest.commands.search_inputs import Query
from reelnest.records.segments import Segment
from reelnest.serving.searcher import Hit, SearchResults
from reelnest.settings import Params
from reelnest.stages.workspace import Workspace

LONGEST_CELL = 60


def run(workspace: Workspace, params: Params, index: str, query: Query, *, model: str | None = None, as_json: bool = False) -> str:
    """Returns the results as a table or as JSON. Raises QueryError, DataError and ModelError."""
    (searcher,) = open_searchers(workspace, params, [index], model)
    try:
        results = searcher.words(query.words, query.k, dim=query.dim, funnel=query.funnel, where=query.where)
    finally:
        searcher.model.close()
    if as_json:
        return json.dumps(asdict(results), ensure_ascii=False, indent=2)
    return f"{_table(results)}\n\n{_details(results, searcher.manifest.videos)}"


def _table(results: SearchResults) -> str:
    lines: list[tuple[str, ...]] = [("rank", "score", "video_id", "moment", "title", "path")]
    lines += [(str(hit.rank), f"{hit.score:.4f}", *map(_cell, (hit.video_id, _moment(hit), hit.title, hit.path))) for hit in results.hits]
    has_moments = any(hit.start is not None for hit in results.hits)
    return in_columns(lines if has_moments else [(*line[:3], *line[4:]) for line in lines])


def _moment(hit: Hit) -> str:
    return "" if hit.start is None else str(Segment(hit.start, hit.end))


def _cell(text: str) -> str:
    """Returns the text on one line, without control characters."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return printable if len(printable) <= LONGEST_CELL else f"{printable[: LONGEST_CELL - 1]}…"


def _details(results: SearchResults, videos: int) -> str:
    first, last = results.dims[0], results.dims[-1]
    method = f"{first} dims" if first == last else f"a shortlist with {first} dims, re-ranked with {last}"
    warnings = "".join(f" The model was not trained for {dim} dims: expect worse results." for dim in results.untrained)
    return f"{videos:,} videos, {method}: query {results.encode_ms:.1f} ms, search {results.search_ms:.1f} ms.{warnings}"
