"""A click log of visitors who look at results from the top, click relevant ones, and see rankings of several rankers."""

import csv
import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

QUERIES, ITEMS, SHOWN = 30, 16, 8


class Simulation(NamedTuple):
    relevance: dict[tuple[str, str], float]
    """The probability of a click on an item that is looked at, by query and item."""
    looked_at: np.ndarray
    """The probability that a result is looked at, by position."""
    rows: list[dict[str, Any]]
    """One for each result that was shown, in the order of the searches, a minute apart."""


@functools.cache
def simulate(seed: int, searches: int = 6000, bots: int = 0) -> Simulation:
    rng = np.random.default_rng(seed)
    relevance = rng.beta(0.6, 1.5, (QUERIES, ITEMS)).round(3)
    rankers = [relevance + rng.normal(0, 0.6, relevance.shape) for _ in range(3)]
    looked_at = 1 / np.arange(1, SHOWN + 1)
    rows = []
    for search in range(searches):
        user, query = f"user {rng.integers(searches // 5)}", min(int(rng.exponential(QUERIES / 3)), QUERIES - 1)
        is_bot = search % 40 == 39 and bots > 0
        shown = np.argsort(-rankers[rng.integers(3)][query], kind="stable")[:SHOWN]
        for rank, item in enumerate(shown):
            clicked = rng.random() < looked_at[rank] * relevance[query, item]
            rows.append(
                {
                    "q": f"query {query}",
                    "file": f"item{item}.mp4",
                    "rank": rank + 1,
                    "click": int(is_bot or clicked),
                    "visit": f"visit {search}",
                    "visitor": f"bot {search // 40 % bots}" if is_bot else user,
                    "at": 1.7e9 + search * 60 + rank,
                }
            )
    truth = {(f"query {query}", f"item{item}"): float(relevance[query, item]) for query, item in np.ndindex(*relevance.shape)}
    return Simulation(truth, looked_at, rows)


def write_log(folder: Path, rows: list[dict[str, Any]], **columns: str) -> Path:
    """Writes a source of the importer `clicks` with its videos; returns its map."""
    folder.mkdir(parents=True)
    for item in {str(row["file"]) for row in rows}:
        (folder / item).write_bytes(item.encode())
    with (folder / "log.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    names = columns or {"position": "rank", "clicked": "click", "session": "visit", "user": "visitor", "time": "at"}
    (folder / "map.json").write_text(json.dumps({"table": "log.csv", "query": "q", "item": "file", **names}))
    return folder / "map.json"
