"""Renders the reports of the stages as Markdown pages for Prefect's UI."""

import csv
import itertools
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx

from reelnest.artifacts.candidate_run import CandidateRun
from reelnest.artifacts.evaluation_report import ALL, Difference, EvaluationReport, Result
from reelnest.artifacts.preprocessing_report import PreprocessingReport
from reelnest.artifacts.registration_report import WAITS, RegistrationReport
from reelnest.artifacts.training_report import TrainingReport
from reelnest.artifacts.validation_report import ValidationReport
from reelnest.evaluation.metrics import metric_names
from reelnest.report.wording import configuration_name
from reelnest.stages.workspace import Workspace
from tasks.pages.markdown import code, escape, page, table
from tasks.process.runner import setting

CURVE_ROWS = 20
QUARANTINE_ROWS = 50
MLFLOW_SECONDS = 5.0
MLFLOW_PAGES = "REELNEST_MLFLOW_UI_URL"
"""Environment variable with the address of MLflow's UI, like PREFECT_UI_URL for Prefect."""


def validation_page(workspace: Workspace) -> str:
    """Returns counts, quarantined records by reason, and failed expectations."""
    report = ValidationReport.read(workspace.reports)
    quarantined, splits = report.quarantined, report.pairs.by_split_and_kind
    reasons = [(file, reason, n) for file, by_reason in quarantined.by_reason.items() for reason, n in sorted(by_reason.items())]
    failed = [outcome for outcome in report.expectations if not outcome.success]
    return page(
        "# Data: " + ("can be used" if report.passed else "cannot be used"),
        table(
            ["", "lines", "good"],
            [(name, counts.lines, counts.good) for name, counts in (("videos", report.videos), ("pairs", report.pairs))],
        ),
        *(f"Warning: {escape(warning)}" for warning in report.warnings),
        table(["split", "kind", "pairs"], [(split, kind, n) for split, kinds in splits.items() for kind, n in kinds.items()]),
        "## Quarantined",
        f"{quarantined.records} records, {quarantined.fraction:.2%} (limit: {quarantined.allowed_fraction:.2%}).",
        table(["file", "reason", "records"], reasons),
        "## Failed expectations" if failed else "",
        table(
            ["suite", "expectation", "severity", "observed"],
            [(outcome.suite, outcome.description, outcome.severity, outcome.observed) for outcome in failed],
        ),
        "All bad lines: `reports/quarantine.jsonl`. A page with examples: `reports/data_docs/index.html`.",
    )


def quarantine_page(workspace: Workspace) -> str:
    """Returns the first bad records with their errors, since a run's files may be gone when somebody looks."""
    with (workspace.reports / "quarantine.jsonl").open(encoding="utf-8") as file:
        records = [json.loads(line) for line in itertools.islice(file, QUARANTINE_ROWS)]
        more = sum(1 for _ in file)
    return page(
        "# Quarantined records",
        table(
            ["file", "line", "reason", "what is wrong"],
            [[record[key] for key in ("file", "line", "reason", "detail")] for record in records],
        ),
        "" if records else "None.",
        f"And {more:,} more in `reports/quarantine.jsonl`." if more else "",
    )


def data_docs_page(workspace: Workspace) -> str:
    """Returns every expectation and its observed value."""
    report = ValidationReport.read(workspace.reports)
    marks = {True: "passed", False: "failed"}
    rows = [
        (outcome.suite, outcome.description, outcome.severity, marks[outcome.success], outcome.observed) for outcome in report.expectations
    ]
    return page(
        "# Expectations of the data",
        table(["suite", "expectation", "severity", "result", "observed"], rows),
        "With examples: `reports/data_docs/index.html`.",
    )


def preprocessing_page(workspace: Workspace) -> str:
    """Returns the numbers of items, videos and pairs, and the videos that could not be decoded."""
    return page("# Prepared data", table(["", ""], _facts(PreprocessingReport.read(workspace.reports).model_dump(mode="json"))))


def training_page(workspace: Workspace) -> str:
    """Returns the results of the training, and about twenty points of its curve."""
    with (workspace.reports / "training.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    every = max(1, -(-len(rows) // CURVE_ROWS))
    points = [row for number, row in enumerate(rows, start=1) if number % every == 0 or number == len(rows)]
    header = list(rows[0]) if rows else []
    return page(
        "# Training",
        table(["", ""], _facts(TrainingReport.read(workspace.reports).model_dump(mode="json"))),
        "## Curve",
        table(header, [[_number(row[name]) for name in header] for row in points]),
        "All steps: `reports/training.csv`.",
    )


def evaluation_page(workspace: Workspace) -> str:
    """Returns the quality at each dim, over all queries and by pair kind."""
    report = EvaluationReport.read(workspace.reports)
    results: dict[str, list[Result]] = {}
    for result in report.results:
        results.setdefault(result.pair_kind, []).append(result)
    metrics = metric_names()
    sections = [
        page(
            f"## {escape(kind.replace('_', ' '))}",
            table(
                ["dim", "storage", "bytes", *metrics],
                [(result.dim, result.storage, result.bytes_per_vector, *map(result.metrics.get, metrics)) for result in of_kind],
            ),
        )
        for kind, of_kind in sorted(results.items(), key=lambda item: item[0] != ALL)
    ]
    outranked = [(entry.pair_kind.replace("_", " "), entry.dim, entry.value, entry.queries) for entry in report.negatives_outranked]
    behaviour = report.behaviour
    shares = [
        (kind, dim, share, behaviour.by_kind[kind]) for dim in behaviour.dims for kind, share in behaviour.passed_by_kind[str(dim)].items()
    ]
    return page(
        f"# Retrieval on the {escape(report.split)} split",
        _recommended(report),
        *_comparisons(report),
        *sections,
        "## Relevant item ranked above the listed negatives" if outranked else "",
        table(["pairs", "dim", "share", "queries"], outranked),
        "## Behaviour tests" if shares else "",
        table(["kind", "dim", "share passed", "tests"], shares),
        "With charts and examples: `reports/evaluation.html`.",
    )


def _recommended(report: EvaluationReport) -> str:
    choice = report.choice
    if choice is None:
        reason = report.no_test[ALL][report.choice_metric]
        return f"No recommendation: {escape(report.choice_metric)} is no test on this data, because {escape(reason)}."
    metric, value, best = escape(choice.metric), escape(choice.value), escape(choice.best_value)
    return (
        f"Recommended: **{escape(configuration_name(choice.name))}**. {metric} {value} (best: {best} with"
        f" {escape(configuration_name(choice.best_name))}); {choice.bytes_per_vector:,} bytes a vector."
    )


def _comparisons(report: EvaluationReport) -> Iterator[str]:
    """Returns the metrics of this model minus the champion and minus the previous run."""
    for compared in report.compared_with:
        yield f"## {escape(compared.metric)} minus the {escape(compared.what)}'s"
        yield _differences(compared.differences)
    for missing in report.not_compared:
        yield f"No comparison with the {escape(missing.what)}: {escape(missing.reason)}."


def _differences(differences: Sequence[Difference]) -> str:
    return table(
        ["dim", "difference", "from", "to"],
        [(difference.dim, difference.value, difference.low, difference.high) for difference in differences],
    )


def registration_page(workspace: Workspace) -> str:
    """Returns the registered version, why it is or is not the champion, and each condition of the gate."""
    report = RegistrationReport.read(workspace.reports)
    marks = {True: "yes", False: "no", None: "open"}
    conditions = [(condition.name, marks[condition.passed], condition.why) for condition in report.conditions]
    return page(
        "# Registration",
        f"{escape(report.decision)}: {escape(report.reason)}",
        table(["", ""], _facts(report.model_dump(mode="json", exclude={"decision", "reason", "lineage"}))),
        "## Conditions" if conditions else "",
        table(["condition", "met", "why"], conditions),
        "## Challenger minus champion" if report.differences else "",
        _differences(report.differences),
    )


def lineage_page(workspace: Workspace) -> str:
    """Returns where the registered version comes from, and the commands that show more and rebuild it."""
    report = RegistrationReport.read(workspace.reports)
    version = shlex.quote(f"models:/{report.name}/{report.version}")
    lineage = report.lineage
    return page(
        "# Lineage",
        table(["", ""], _facts(lineage.model_dump(mode="json")))
        if lineage
        else "The version was registered without lineage, or its files are missing from MLflow.",
        "To show all of it, and to rebuild the model in a new folder:",
        code(f"reelnest lineage {version}", f"reelnest lineage {version} --commands | bash"),
    )


def drift_page(report: Mapping[str, Any]) -> str:
    """Returns each measure of the data compared with the champion's training data, and the champion's retrieval before and now."""
    champion, quality, link = report["champion"], report["quality"], drift_link(report)
    marks = {True: "drifted", False: "no drift shown"}
    keys = ("effect", "margin", "adjusted", "before", "after", "statistic")
    sides = ("before", "after")
    return page(
        f"# {escape(report['headline'])}",
        f"Data {escape(report['data'])} compared with {escape(champion['name'])} version {champion['version']}, the champion.",
        table(
            ["measure", "result", "effect", "margin", "adjusted p", "values before", "values now", "statistic"],
            [(measure["measure"], marks[measure["drifted"]], *(measure[key] for key in keys)) for measure in report["measures"]],
        ),
        *(f"Not measured: {escape(measure)} ({escape(why)})." for measure, why in report["not_measured"].items()),
        f"## {escape(quality['metric'])} on the {escape(quality['split'])} split" if quality else "",
        table(
            ["dim", "when registered", "from", "to", "now", "from", "to"],
            [
                (figures["dim"], *(figures[side] and figures[side][key] for side in sides for key in ("value", "low", "high")))
                for figures in quality["dims"]
            ],
        )
        if quality
        else "",
        f"[The page with distributions and new items]({link})"
        if link
        else "With distributions and new items: `drift.html` among the artifacts of the champion's run in MLflow.",
    )


def is_registered(workspace: Workspace) -> bool:
    """Returns whether the model of the last evaluation is the one that was registered last."""
    registration = RegistrationReport.read_if_there(workspace.reports)
    evaluation = EvaluationReport.read_if_there(workspace.reports)
    return registration is not None and evaluation is not None and registration.model_hash == evaluation.model.hash


def waits_for_approval(workspace: Workspace) -> bool:
    """Returns whether the model that was registered last only needs a person's approval."""
    registration = RegistrationReport.read_if_there(workspace.reports)
    return registration is not None and registration.decision == WAITS


def run_link(workspace: Workspace) -> str | None:
    """Returns the URL of the candidate's run in MLflow; None if MLflow is a file without a server."""
    server, run_id = _mlflow_run(workspace)
    return f"{_pages_of(server)}/#/runs/{run_id}" if server else None


def evaluation_link(workspace: Workspace) -> str | None:
    """Returns the URL of the evaluation page among the run's artifacts; that of the run if MLflow does not return the experiment."""
    server, run_id = _mlflow_run(workspace)
    if not server:
        return None
    try:
        response = httpx.get(f"{server}/api/2.0/mlflow/runs/get", params={"run_id": run_id}, timeout=MLFLOW_SECONDS)
        experiment = response.raise_for_status().json()["run"]["info"]["experiment_id"]
    except (httpx.HTTPError, ValueError, KeyError):
        return run_link(workspace)
    return f"{_pages_of(server)}/#/experiments/{experiment}/runs/{run_id}/artifacts/evaluation/evaluation.html"


def drift_link(report: Mapping[str, Any]) -> str | None:
    """Returns the URL of the drift page among the champion's artifacts; None if MLflow is a file without a server."""
    logged = report.get("mlflow", {})
    server = str(logged.get("tracking_uri", ""))
    if not server.startswith(("http://", "https://")):
        return None
    place = f"experiments/{logged['experiment_id']}/runs/{logged['run_id']}/artifacts/{logged['folder']}/drift.html"
    return f"{_pages_of(server.rstrip('/'))}/#/{place}"


def _mlflow_run(workspace: Workspace) -> tuple[str, str]:
    """Returns the server of the candidate's run and the run's id; empty if there is no server."""
    run = CandidateRun.read(workspace.candidate)
    address = run.tracking_uri or ""
    if not address.startswith(("http://", "https://")) or not run.run_id:
        return "", ""
    return address.rstrip("/"), run.run_id


def _pages_of(server: str) -> str:
    """Returns the address of the server for a browser, which may differ from the worker's."""
    return (setting(MLFLOW_PAGES) or server).rstrip("/")


def _facts(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, object]]:
    """Yields each number and text of a report with the path of its keys (dims in rising order). Lists of objects are left out."""
    for key, value in sorted(values.items(), key=lambda item: int(item[0]) if item[0].isdecimal() else 0):
        name = f"{above}{str(key).replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _facts(value, f"{name}: ")
        elif isinstance(value, list):
            if all(not isinstance(element, (dict, list)) for element in value):
                yield name, ", ".join(map(str, value))
        else:
            yield name, value


def _number(text: str) -> object:
    """Returns a CSV cell as a number if it is one, so that it is displayed with four digits."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
