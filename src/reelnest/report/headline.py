"""What to read first: the configuration to ship, the evidence, and the few figures that go with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reelnest.evaluation.metrics import headline_names
from reelnest.report.wording import figure, metric_name, percent, signed, size

A_MILLION = 1_000_000


@dataclass(frozen=True)
class Tile:
    """One big figure."""

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class Headline:
    """The page's first words."""

    title: str
    evidence: str
    tiles: tuple[Tile, ...]


def headline(evaluation: Mapping[str, Any]) -> Headline:
    """Of what `reports/evaluation.json` holds."""
    choice = evaluation["choice"]
    name, best = _spoken(choice["name"]), _spoken(choice["best_name"])
    verb = "are" if " dims" in name else "is"
    return Headline(
        title=f"{name} {verb} needed" if name == best else f"{name} {verb} enough",
        evidence=_evidence(choice, name, best, percent(evaluation["confidence"])),
        tiles=tuple(_tiles(evaluation, choice, name)),
    )


def chosen_configuration(evaluation: Mapping[str, Any]) -> Mapping[str, Any]:
    """The entry of `configurations` that the choice names."""
    found: Mapping[str, Any] = next(one for one in evaluation["configurations"] if one["name"] == evaluation["choice"]["name"])
    return found


def _spoken(configuration: object) -> str:
    """`64 int8` as "64 dims as int8"; a funnel names its dims itself."""
    first, *rest = str(configuration).split(" ")
    dims, storage = (f"{first} dims", rest) if first.isdecimal() else (" ".join([first, *rest[:1]]), rest[1:])
    return " as ".join([dims, *storage])


def _evidence(choice: Mapping[str, Any], name: str, best: str, confidence: str) -> str:
    metric, value = metric_name(choice["metric"]), figure(choice["value"])
    margin = f"{choice['margin']:g}"
    if name == best:
        return f"{metric} over all queries is {value} with {name}; no smaller one was shown to be less than {margin} below it."
    difference = signed(choice["value"] - choice["best_value"])
    return (
        f"{metric} over all queries is {value} with {name}, against {figure(choice['best_value'])} with the best, {best}: the difference,"
        f" {difference}, is above {signed(choice['low'])} with {confidence} confidence, so less than the {margin} that is allowed."
    )


def _tiles(evaluation: Mapping[str, Any], choice: Mapping[str, Any], name: str) -> list[Tile]:
    configuration = chosen_configuration(evaluation)
    interval = configuration["intervals"].get(choice["metric"])
    ends = f", {figure(interval[0])} to {figure(interval[1])}" if interval else ""
    tiles = [Tile(metric_name(choice["metric"]), figure(choice["value"]), f"with {name}, all queries{ends}")]
    first = headline_names()[0]
    if first in configuration["metrics"] and choice["metric"] != first:
        tiles.append(Tile(metric_name(first), figure(configuration["metrics"][first]), f"with {name}, all queries"))
    per_vector = choice["bytes_per_vector"]
    full = 4 * evaluation["width"]
    smaller = f"{full / per_vector:.3g} times smaller than {evaluation['width']} float32; " if per_vector < full else ""
    tiles.append(Tile("A vector", size(per_vector), f"{smaller}{size(per_vector * A_MILLION)} for a million videos"))
    if configuration["queries_per_second"]:
        tiles.append(
            Tile("Searches a second", f"{configuration['queries_per_second']:,.0f}", "on the machine of this evaluation, without encoding")
        )
    tiles += _against_champion(evaluation, choice)
    for entry in evaluation["negatives_outranked"]:
        if entry["dim"] == evaluation["width"] and len(tiles) < 6:
            note = f"of {entry['queries']} searches put the right answer above the wrong ones that the data names"
            tiles.append(Tile("Wrong answers outranked", figure(entry["value"]), note))
            break
    return tiles


def _against_champion(evaluation: Mapping[str, Any], choice: Mapping[str, Any]) -> list[Tile]:
    for compared in evaluation["compared_with"]:
        if compared["what"] == "champion":
            for one in compared["differences"]:
                if one["dim"] == choice["dim"]:
                    ends = f"{signed(one['low'])} to {signed(one['high'])}"
                    note = f"{metric_name(compared['metric'])} at {one['dim']} dims minus version {compared['version']}'s, {ends}"
                    return [Tile("Against the champion", signed(one["value"]), note)]
    return []
