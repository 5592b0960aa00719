"""The headline of the evaluation page: the recommended configuration, the evidence, and a few numbers."""

from dataclasses import dataclass

from reelnest.artifacts.evaluation_report import EvaluationReport, RecommendedConfiguration
from reelnest.evaluation.metrics import headline_names
from reelnest.report.wording import configuration_name, figure, metric_name, percent, signed, size

A_MILLION = 1_000_000
MOST_TILES = 6


@dataclass(frozen=True)
class Tile:
    """One big number."""

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class Headline:
    """The title, the evidence and the tiles of the page."""

    title: str
    evidence: str
    tiles: tuple[Tile, ...]


def headline(evaluation: EvaluationReport) -> Headline:
    """Returns the headline of an evaluation."""
    choice = evaluation.choice
    name = configuration_name(choice.name)
    return Headline(f"Recommended: {name}", _evidence(choice, percent(evaluation.confidence)), tuple(_tiles(evaluation, name)))


def _evidence(choice: RecommendedConfiguration, confidence: str) -> str:
    name, best = configuration_name(choice.name), configuration_name(choice.best_name)
    metric, value, margin = metric_name(choice.metric), figure(choice.value), f"{choice.margin:g}"
    if name == best:
        return f"{metric} {value} with {name}, the best. Smaller configurations lose, or may lose, more than {margin}."
    return (
        f"{metric} {value} (best: {figure(choice.best_value)} with {best}). The difference, {signed(choice.value - choice.best_value)}, is"
        f" above {signed(choice.low)} with {confidence} confidence; a loss of less than {margin} is accepted."
    )


def _tiles(evaluation: EvaluationReport, name: str) -> list[Tile]:
    choice, configuration = evaluation.choice, evaluation.chosen
    interval = configuration.intervals.get(choice.metric)
    ends = f", {figure(interval[0])} to {figure(interval[1])}" if interval else ""
    tiles = [Tile(metric_name(choice.metric), figure(choice.value), f"with {name}, all queries{ends}")]
    first = headline_names()[0]
    if first in configuration.metrics and choice.metric != first:
        tiles.append(Tile(metric_name(first), figure(configuration.metrics[first]), f"with {name}, all queries"))
    per_vector = choice.bytes_per_vector
    full = 4 * evaluation.width
    smaller = f"{full / per_vector:.3g} times smaller than {evaluation.width} float32; " if per_vector < full else ""
    tiles.append(Tile("A vector", size(per_vector), f"{smaller}{size(per_vector * A_MILLION)} for a million videos"))
    if configuration.queries_per_second:
        tiles.append(
            Tile("Searches a second", f"{configuration.queries_per_second:,.0f}", "on the machine of this evaluation, without encoding")
        )
    tiles += _against_champion(evaluation)
    at_full_width = [outranked for outranked in evaluation.negatives_outranked if outranked.dim == evaluation.width]
    for outranked in at_full_width[:1]:
        note = f"of {outranked.queries} queries have a relevant item above all of their listed negatives"
        tiles.append(Tile("Above listed negatives", percent(round(outranked.value, 2)), note))
    return tiles[:MOST_TILES]


def _against_champion(evaluation: EvaluationReport) -> list[Tile]:
    for compared in evaluation.compared_with:
        if compared.what == "champion":
            for difference in compared.differences:
                if difference.dim == evaluation.choice.dim:
                    ends = f"{signed(difference.low)} to {signed(difference.high)}"
                    note = f"{metric_name(compared.metric)} at {difference.dim} dims minus version {compared.version}'s, {ends}"
                    return [Tile("Against the champion", signed(difference.value), note)]
    return []
