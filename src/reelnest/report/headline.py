"""The headline of the evaluation page: the recommended configuration, the evidence, and a few numbers.

All tiles are about one configuration, and each names it. A number of another configuration belongs into a section.
"""

from dataclasses import dataclass

from reelnest.artifacts.evaluation_report import ALL, FLOATS, ConfigurationResult, EvaluationReport, RecommendedConfiguration
from reelnest.backbones.registry import TINY, TINY_NOTE
from reelnest.evaluation.metrics import headline_names
from reelnest.evaluation.slices import SMALL
from reelnest.report.wording import configuration_name, figure, metric_name, percent, shown_metrics, signed, size

A_MILLION = 1_000_000


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
    commands: tuple[str, ...]
    """The commands that build the recommended index and search it."""
    notes: tuple[str, ...]
    """What else to know before reading the numbers."""
    tiles: tuple[Tile, ...]


def headline(evaluation: EvaluationReport) -> Headline:
    """Returns the headline of an evaluation."""
    choice = evaluation.choice
    if choice is None:
        metric = metric_name(evaluation.choice_metric)
        reason = evaluation.no_test[ALL][evaluation.choice_metric]
        title = f"No recommendation: {metric} is no test on this data"
        evidence = f"{reason[:1].upper()}{reason[1:]}. Add test data, or choose another metric (evaluate.choice_metric in params.yaml)."
    else:
        title = f"Recommended: {configuration_name(choice.name)}"
        has_smaller = any(each.bytes_per_vector < choice.bytes_per_vector for each in evaluation.configurations)
        evidence = _evidence(choice, percent(evaluation.confidence), has_smaller=has_smaller)
    commands = () if choice is None else _commands(choice)
    return Headline(title, evidence, commands, tuple(_notes(evaluation)), tuple(_tiles(evaluation)))


def _evidence(choice: RecommendedConfiguration, confidence: str, *, has_smaller: bool) -> str:
    name, best = configuration_name(choice.name), configuration_name(choice.best_name)
    metric, value, margin = metric_name(choice.metric), figure(choice.value), f"{choice.margin:g}"
    if name == best:
        smaller = (
            f"Smaller configurations lose, or may lose, more than {margin}." if has_smaller else "No measured configuration is smaller."
        )
        return f"{metric} {value} with {name}, the best. {smaller}"
    return (
        f"{metric} {value} (best: {figure(choice.best_value)} with {best}). The difference, {signed(choice.value - choice.best_value)}, is"
        f" above {signed(choice.low)} with {confidence} confidence; a loss of less than {margin} is accepted."
    )


def _commands(choice: RecommendedConfiguration) -> tuple[str, ...]:
    storage = "" if choice.storage == FLOATS else f" --storage {choice.storage}"
    funnel = f" --dim {choice.funnel[0]} --funnel" if choice.funnel else ""
    return f"reelnest index --dim {choice.dim}{storage}", f'reelnest search "…"{funnel}'


def _notes(evaluation: EvaluationReport) -> list[str]:
    notes = []
    dim = evaluation.featured.dim
    for compared in evaluation.compared_with:
        for difference in compared.differences:
            if compared.what == "champion" and difference.dim == dim:
                ends = f"{signed(difference.low)} to {signed(difference.high)}"
                notes.append(
                    f"Against the champion (version {compared.version}), at {dim} dims, {FLOATS}: {metric_name(compared.metric)}"
                    f" {signed(difference.value)} ({ends})."
                )
    if evaluation.queries < SMALL:
        notes.append(f"{evaluation.queries} queries are few: the intervals are unreliable. Use {SMALL} or more.")
    if evaluation.model.base == TINY:
        notes.append(TINY_NOTE)
    return notes


def _tiles(evaluation: EvaluationReport) -> list[Tile]:
    configuration = evaluation.featured
    name = _full_name(configuration)
    tiles = []
    for metric in dict.fromkeys((evaluation.metric, *shown_metrics(headline_names()[:2], evaluation))):
        if metric in configuration.metrics:
            tiles.append(Tile(metric_name(metric), figure(configuration.metrics[metric]), f"{name}{_limits(evaluation, metric)}"))
    per_vector = configuration.bytes_per_vector
    full = 4 * evaluation.width
    smaller = f"{full / per_vector:.3g} times smaller than {evaluation.width} float32; " if per_vector < full else ""
    tiles.append(Tile("A vector", size(per_vector), f"{name}; {smaller}{size(per_vector * A_MILLION)} for a million videos"))
    low, high = configuration.queries_per_second_range
    runs = f"{low:,.0f} to {high:,.0f} in the middle half of repeated runs on one machine, without encoding"
    tiles.append(Tile("Searches a second", f"{configuration.queries_per_second:,.0f}", f"{name}; {runs}"))
    if configuration.above_negatives is not None:
        queries = sum(outranked.queries for outranked in evaluation.negatives_outranked if outranked.dim == evaluation.width)
        note = f"{name}; of {queries:,} queries, a relevant item ranks above all of their listed negatives"
        tiles.append(Tile("Above listed negatives", percent(round(configuration.above_negatives, 2)), note))
    return tiles


def _full_name(configuration: ConfigurationResult) -> str:
    """Returns a configuration with its storage even if that is the usual one: `64 dims, float32`."""
    name = configuration_name(configuration.name)
    return name if configuration.storage != FLOATS else f"{name}, {FLOATS}"


def _limits(evaluation: EvaluationReport, metric: str) -> str:
    """Returns the metric's interval, and its best possible value if that is below 1."""
    interval = evaluation.featured.intervals.get(metric)
    best = evaluation.best_possible.get(ALL, {}).get(metric, 1.0)
    ends = f"; {figure(interval[0])} to {figure(interval[1])}" if interval else ""
    return ends + (f"; at most {figure(best)} is possible" if best < 1 else "")
