"""Click logs: grades that are nearer to the simulated truth than click rates, hard negatives, bots, and splits by time."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import kendalltau, spearmanr

from reelnest.errors import DataError
from reelnest.records.clicks.click_log import Rows, _seconds
from reelnest.records.clicks.filters import without_floods
from reelnest.records.clicks.grades import collect_evidence, grade
from reelnest.records.clicks.propensities import estimate_propensities
from reelnest.records.clicks.windows import sessions, split_log
from reelnest.records.importing import import_data
from tests.unit.records.simulated_clicks import Simulation, simulate, write_log

Pairs = list[dict[str, Any]]
HOUR = 3600.0


def imported(source: Path, folder: Path) -> Pairs:
    import_data("clicks", source, folder)
    return [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]


def grades_of(pairs: Pairs, split: str) -> dict[str, dict[str, float]]:
    grades: dict[str, dict[str, float]] = defaultdict(dict)
    for pair in pairs:
        if pair["split"] == split:
            grades[pair["query"]["text"]][pair["target"]["video"]] = pair["relevance"]
    return {query: items for query, items in grades.items() if len(items) >= 4}


def click_rates(simulation: Simulation) -> dict[tuple[str, str], float]:
    clicks: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row in simulation.rows:
        clicks[row["q"], row["file"].removesuffix(".mp4")].append(row["click"])
    return {key: sum(values) / len(values) for key, values in clicks.items()}


@pytest.mark.parametrize("seed", range(5))
def test_grades_rank_better_than_click_rates(tmp_path: Path, seed: int) -> None:
    simulation = simulate(seed, bots=3)
    pairs = imported(write_log(tmp_path / "log", simulation.rows), tmp_path / "new")
    grades, rates = grades_of(pairs, "train"), click_rates(simulation)
    assert len(grades) > 15
    for correlation in (spearmanr, kendalltau):
        learnt, raw = [], []
        for query, items in grades.items():
            truth = [simulation.relevance[query, item] for item in items]
            learnt.append(correlation(list(items.values()), truth).statistic)
            raw.append(correlation([rates[query, item] for item in items], truth).statistic)
        assert np.mean(learnt) > np.mean(raw) + 0.05


def test_hard_negatives_are_less_relevant_than_the_targets(tmp_path: Path) -> None:
    simulation = simulate(0)
    pairs = imported(write_log(tmp_path / "log", simulation.rows), tmp_path / "new")
    is_lower = [
        simulation.relevance[pair["query"]["text"], negative["video"]]
        < simulation.relevance[pair["query"]["text"], pair["target"]["video"]]
        for pair in pairs
        for negative in pair.get("negatives", ())
    ]
    assert len(is_lower) > 50
    assert np.mean(is_lower) >= 0.95


@pytest.mark.parametrize("seed", range(3))
def test_propensities_are_those_of_the_simulation(seed: int) -> None:
    simulation = simulate(seed)
    rows = simulation.rows
    log = make_rows(
        [(int(row["q"].split()[1]), int(row["file"][4:-4]), row["rank"], row["click"]) for row in rows], user=range(1, len(rows) + 1)
    )
    assert estimate_propensities(log)[1:] == pytest.approx(simulation.looked_at, abs=0.05)


def make_rows(rows: list[tuple[int, int, int, int]], user: Any = (), session: Any = (), time: Any = ()) -> Rows:
    """Rows of (query, item, rank, clicks)."""
    query, item, rank, clicks = np.array(rows).T
    count = len(rows)
    users = np.array(user if len(user) else [0] * count, dtype=np.uint64)
    of_sessions = np.array(session if len(session) else users, dtype=np.uint64)
    times = np.array(time if len(time) else [np.nan] * count, dtype=np.float64)
    kinds = (query.astype(np.int32), item.astype(np.int32), rank.astype(np.int16), np.ones(count, np.int32), clicks.astype(np.int32))
    return Rows(np.arange(count), *kinds, users, of_sessions, times)


def test_a_position_that_shares_no_item_with_the_others_has_no_propensity() -> None:
    shared = [(0, item, 1 + (item + turn) % 2, 1) for item in range(4) for turn in range(2)] * 5
    propensities = estimate_propensities(make_rows([*shared, (0, 9, 5, 1)]))
    assert propensities[1:3] == pytest.approx([1, 1], abs=0.05)
    assert np.isnan(propensities[5])


def test_a_log_without_varied_positions_is_an_error() -> None:
    with pytest.raises(DataError, match="no item was clicked at two positions"):
        estimate_propensities(make_rows([(0, 0, 1, 1), (0, 1, 2, 1)]))


def test_bots_and_floods_do_not_count() -> None:
    people = [(0, item, item + 1, int(item == 0)) for item in range(10)]
    rows = people * 30
    users = [1 + at // 10 for at in range(300)]
    scraper = [(0, at % 10, 1 + at % 10, 0) for at in range(600)]
    clicker = [(at, at % 10, 1, 1) for at in range(60)]
    flood = [(0, 7, 8, 1)] * 9
    everything = make_rows([*rows, *scraper, *clicker, *flood, *people], user=[*users, *[100] * 600, *[101] * 60, *[102] * 9, *[102] * 10])
    usable, removed = without_floods(everything)
    assert (removed.bots, removed.bot_rows, removed.repeated_rows) == (2, 660, 7)
    assert sorted(set(usable.user.tolist())) == [*range(1, 31), 102]


def test_one_user_alone_makes_no_item_relevant() -> None:
    rows = make_rows([(0, 0, 1, 1), (0, 0, 1, 1), (0, 1, 1, 1), (0, 1, 1, 1)], user=[1, 1, 1, 2])
    assert [graded.item for graded in grade(collect_evidence(rows, np.array([1.0, 1.0])))] == [1]


def test_an_item_needs_enough_looks_without_a_click_to_be_a_negative() -> None:
    clicked = [(0, 0, 1, int(at % 2 == 0)) for at in range(40)]
    rows = make_rows([*clicked, *[(0, 1, 1, 0)] * 20, *[(0, 2, 1, 0)] * 3, *[(0, 3, 2, 0)] * 20])
    (graded,) = grade(collect_evidence(rows, np.array([1.0, 1.0, 0.1])))
    assert (graded.item, graded.negatives) == (0, (1,))
    assert graded.grade == pytest.approx(0.5, abs=0.1)


def test_no_session_and_no_query_is_in_two_splits() -> None:
    rng = np.random.default_rng(0)
    count = 4000
    session = np.sort(rng.integers(1, 800, count))
    rows = [(int(query), int(item), 1, 0) for query, item in rng.integers(0, 50, (count, 2))]
    log = make_rows(rows, user=session, session=session + 10_000, time=session * HOUR + rng.integers(0, 9999, count))
    usable, splits = split_log(log, [f"query {number}" for number in range(50)])
    of_session = defaultdict(set)
    for row in range(len(usable)):
        of_session[int(usable.session[row])].add(int(splits[usable.query[row]]))
    assert all(len(of_one) == 1 for of_one in of_session.values())
    assert {int(split) for split in splits} == {0, 1, 2}
    starts = [usable.session[splits[usable.query] == split] for split in range(3)]
    assert starts[0].max() < starts[1].min() <= starts[1].max() < starts[2].min()


def test_a_query_that_is_new_in_the_last_window_is_tested() -> None:
    old = [(0, at % 3, 1, 0) for at in range(90)]
    log = make_rows([*old, *[(1, 0, 1, 1)] * 10], session=range(1, 101), time=[at * HOUR for at in range(100)])
    name = next(f"query {number}" for number in range(99) if split_of(f"query {number}") == 0)
    usable, splits = split_log(log, [name, f"{name} again"])
    assert splits.tolist()[1] == 2
    assert set(usable.query[usable.row >= 90]) == {1}


def test_a_query_that_occurs_only_in_the_first_window_is_trained_on() -> None:
    log = make_rows([(at % 50, 0, 1, 0) for at in range(80)] + [(50, 0, 1, 0)] * 20, session=range(1, 101), time=range(100))
    _, splits = split_log(log, [f"query {number}" for number in range(51)])
    assert splits.tolist() == [0] * 50 + [max(1, split_of("query 50"))]


def split_of(query: str) -> int:
    log = make_rows([(0, 0, 1, 0)])
    return int(split_log(log, [query])[1][0])


def test_a_user_without_a_row_for_half_an_hour_starts_a_new_session() -> None:
    rows = [(0, 0, 1, 0)] * 5
    time = np.array([0, 0.4, 1.2, 0.1, 9]) * HOUR
    assert sessions(make_rows(rows, user=[7, 7, 7, 8, 8], time=time)).tolist() == [0, 0, 1, 2, 3]


@pytest.mark.parametrize(
    "times",
    [
        pa.array(["2026-01-31T12:00:00Z", "2026-01-31 13:00:00+01:00", "2026-01-31T12:00:00"]),
        pa.array([1769860800, 1769860800, 1769860800]),
        pa.array(["1769860800", "1769860800000", "1769860800.0"]),
        pa.array([1769860800000] * 3),
        pa.array([1769860800 * 10**6] * 3, pa.timestamp("us")),
        pa.array([1769860800] * 3, pa.timestamp("s", "Europe/Berlin")),
    ],
)
def test_times_are_read_in_many_forms(times: pa.Array) -> None:
    assert _seconds(times).tolist() == [1769860800.0] * 3


@pytest.mark.parametrize(
    "times",
    [
        pa.array(["-5", "0001-01-01", "9999-12-31T23:59:59Z", "31.12.2020", "1e300", "2026-02-30"]),
        pa.array([1e300, -5.0, float("inf"), float("nan"), 1.8e15, -float("inf")]),
        pa.array([5] * 6, pa.time64("us")),
        pa.array([5] * 6, pa.duration("us")),
        pa.array([[1]] * 6),
    ],
)
def test_times_that_are_none_are_not_read(times: pa.Array) -> None:
    assert np.isnan(_seconds(times)).all()
    if pa.types.is_string(times.type):
        assert _seconds(pa.array([*times.to_pylist(), "2026-01-31T12:00:00Z"]))[-1] == 1769860800.0


@pytest.mark.parametrize("bad", [["ring"], {"text": "ring"}, "\ud800", None])
@pytest.mark.parametrize("others", [0, 9])
def test_values_of_another_type_are_bad_rows(tmp_path: Path, bad: Any, others: int) -> None:
    good = {"q": "ring", "file": "a.mp4", "shown": 90, "clicked": 60}
    source = count_rows(tmp_path / "log", [good], "jsonl")
    (tmp_path / "log" / "log.jsonl").write_text((json.dumps(good) + "\n") * others + json.dumps({"q": bad}) + "\n")
    if others:
        result = import_data("clicks", source, tmp_path / "new")
        assert [(row.origin.row, row.reason) for row in result.skipped] == [(others + 1, "empty_text")]
        assert result.pairs == 1
    else:
        with pytest.raises(DataError, match="no row can be used"):
            import_data("clicks", source, tmp_path / "new")


def count_rows(folder: Path, rows: list[dict[str, Any]], suffix: str) -> Path:
    source = write_log(folder, rows, impressions="shown", clicks="clicked")
    if suffix == "jsonl":
        (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / "log.parquet")
    source.write_text(source.read_text().replace("log.csv", f"log.{suffix}"))
    return source


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_counts_without_positions_are_graded_as_they_are(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"q": "red ring", "file": "a.mp4", "shown": 100, "clicked": 50},
        {"q": "Red  ring", "file": "b.mp4", "shown": 100, "clicked": 20},
        {"q": "red ring", "file": "c.mp4", "shown": 100, "clicked": 0},
        {"q": "red ring", "file": "d.mp4", "shown": 10, "clicked": 11},
        {"q": " ", "file": "d.mp4", "shown": 10, "clicked": 1},
    ]
    source = count_rows(tmp_path / "log", rows, suffix)
    result = import_data("clicks", source, tmp_path / "new")
    pairs = [json.loads(line) for line in (tmp_path / "new" / "pairs.jsonl").read_text().splitlines()]
    assert [(pair["query"]["text"], pair["target"]["video"], pair["negatives"]) for pair in pairs] == [
        ("red ring", "a", [{"video": "c"}]),
        ("red ring", "b", [{"video": "c"}]),
    ]
    assert [pair["relevance"] for pair in pairs] == pytest.approx([0.5, 0.2], abs=0.03)
    first = 2 if suffix == "csv" else 1
    assert [(row.origin.row, row.reason) for row in result.skipped] == [(first + 3, "bad_count"), (first + 4, "empty_text")]


def test_rows_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    good = [
        {"q": "ring", "file": "a.mp4", "rank": 1 + at % 2, "click": "true", "visitor": f"u{at}", "at": f"2026-01-0{1 + at // 3}T10:00:00Z"}
        for at in range(9)
    ]
    changes = [{"rank": 0}, {"rank": "first"}, {"click": 2}, {"visitor": ""}, {"at": "noon"}, {"file": ""}]
    rows = [*good, *({**good[0], **change} for change in changes)]
    source = write_log(tmp_path / "log", good, position="rank", clicked="click", user="visitor", time="at")
    lines = [[*good[0]], *(row.values() for row in rows)]
    (tmp_path / "log" / "log.csv").write_text("".join(",".join(map(str, line)) + "\n" for line in lines))
    result = import_data("clicks", source, tmp_path / "new")
    assert [(row.origin.row, row.reason) for row in result.skipped] == [
        (11, "bad_position"),
        (12, "bad_position"),
        (13, "bad_click"),
        (14, "no_session"),
        (15, "bad_time"),
        (16, "no_path"),
    ]
    assert (result.videos, result.pairs) == (1, 1)


@pytest.mark.parametrize(
    ("column", "change", "example"),
    [
        ("click", {0: "no", 1: "yes"}, "row 2: clicked is not 0, 1, true or false"),
        ("click", {1: 3}, r"row \d+: clicked is not 0, 1, true or false"),
        ("at", dict.fromkeys(range(10), "31.01.2026 12:00"), "row 2: expected ISO 8601"),
    ],
)
def test_an_import_that_fails_shows_a_row_that_was_left_out(tmp_path: Path, column: str, change: dict[int, Any], example: str) -> None:
    rows = [
        {"q": "q", "file": f"item{number % 2}.mp4", "rank": 1 + number % 2, "click": number % 2, "visit": number, "at": number}
        for number in range(10)
    ]
    changed = [{**row, column: change.get(row[column], row[column])} for row in rows]
    source = write_log(tmp_path / "log", changed, position="rank", clicked="click", session="visit", time="at")
    with pytest.raises(DataError, match=rf" \d+ rows were left out\. The first: log\.csv, {example}"):
        import_data("clicks", source, tmp_path / "new")


def test_positions_that_count_from_0_are_an_error(tmp_path: Path) -> None:
    rows = [{**row, "rank": row["rank"] - 1} for row in simulate(0).rows]
    with pytest.raises(DataError, match=r"log\.csv: the column rank seems to count from 0, in 6,000 rows.*Add 1"):
        import_data("clicks", write_log(tmp_path / "log", rows), tmp_path / "new")


def test_a_clicked_item_without_a_file_is_no_negative_and_no_target(tmp_path: Path) -> None:
    rows = [{"q": "ring", "file": f"{name}.mp4", "shown": 90, "clicked": clicks} for name, clicks in (("a", 60), ("b", 30), ("c", 0))]
    source = write_log(tmp_path / "log", rows, impressions="shown", clicks="clicked")
    for name in ("b", "c"):
        (tmp_path / "log" / f"{name}.mp4").unlink()
    result = import_data("clicks", source, tmp_path / "new")
    assert sorted(result.reasons.items()) == [("bad_video", 1), ("missing", 2)]
    (pair,) = (json.loads(line) for line in (tmp_path / "new" / "pairs.jsonl").read_text().splitlines())
    assert (pair["target"], "negatives" in pair) == ({"video": "a"}, False)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"position": "rank", "clicked": "click"}, "expected either position, clicked, and session or user"),
        ({"impressions": "shown"}, "expected either"),
        ({"impressions": "shown", "clicks": "click", "clicked": "click"}, "expected either"),
        ({"impressions": "shown", "clicks": "click", "rating": "x"}, "unknown key rating"),
    ],
)
def test_a_map_without_clicks_is_an_error(tmp_path: Path, columns: dict[str, str], message: str) -> None:
    source = write_log(tmp_path / "log", [{"q": "ring", "file": "a.mp4", "rank": 1, "click": 1, "shown": 1}], **columns)
    with pytest.raises(DataError, match=message):
        import_data("clicks", source, tmp_path / "new")


def test_a_log_without_enough_clicks_is_an_error(tmp_path: Path) -> None:
    rows = [{"q": "ring", "file": "a.mp4", "shown": 9, "clicked": 1}]
    with pytest.raises(DataError, match="no item has 2 clicks"):
        import_data("clicks", write_log(tmp_path / "log", rows, impressions="shown", clicks="clicked"), tmp_path / "new")
