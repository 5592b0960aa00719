"""Events about what people want to hear: a new champion, data that was refused or has drifted.

`tasks/services/automations.py` makes messages of them.
"""

from collections.abc import Mapping
from typing import Any

from prefect.events import emit_event
from prefect.variables import Variable

from reelnest.artifacts.registration_report import RegistrationReport
from reelnest.artifacts.validation_report import ValidationReport
from reelnest.stages.workspace import Workspace
from tasks.pages import artifacts as pages

CHAMPION, CHAMPION_CHANGED, CHAMPION_DRIFTED = "reelnest.champion", "reelnest.champion.changed", "reelnest.champion.drifted"
DATA, DATA_REFUSED = "reelnest.data", "reelnest.data.refused"
CHAMPION_TOLD = "reelnest_champion_told"
"""Prefect's variable: the champion that was told last. A model that is registered again is no news."""
DRIFT_TOLD = "reelnest_drift_told"
"""The champion and the data of which it was told last that they drifted apart."""
REASONS = 5


def champion(workspace: Workspace) -> None:
    """Tells of the version that was registered here, where it is champion and nobody was told yet.

    It is remembered after it was told: cut off in between, it is told twice, and not never.
    """
    report = RegistrationReport.read(workspace.reports)
    told = f"{report.name} {report.version} {report.run_id}"
    if "champion" not in report.aliases or told == Variable.get(CHAMPION_TOLD):
        return
    payload = report.model_dump(include={"name", "version", "reason", "metric", "value"})
    links = {"evaluation": pages.evaluation_link(workspace), "training": pages.run_link(workspace)}
    emit_event(CHAMPION_CHANGED, resource={"prefect.resource.id": CHAMPION}, payload=payload | links)
    Variable.set(CHAMPION_TOLD, told, overwrite=True)


def drifted(report: Mapping[str, Any]) -> None:
    """Tells that the data has left what the champion was trained on, once for each champion and version of the data."""
    champion = report["champion"]
    told = f"{champion['name']} {champion['version']} {report['data']}"
    if not report["drifted"] or told == Variable.get(DRIFT_TOLD):
        return
    measures = [f"{one['measure']}: {one['effect']:.3f} ({one['statistic']})" for one in report["measures"] if one["drifted"]]
    payload = {**champion, "data": report["data"], "headline": report["headline"], "measures": measures, "page": pages.drift_link(report)}
    emit_event(CHAMPION_DRIFTED, resource={"prefect.resource.id": CHAMPION}, payload=payload)
    Variable.set(DRIFT_TOLD, told, overwrite=True)


def refused(workspace: Workspace, why: str, page: str | None) -> None:
    """Tells that validation refused the data. `page` is the address of what it found, where it has one."""
    report = ValidationReport.read(workspace.reports)
    by_reason = report.quarantined.by_reason
    counts = [(n, f"{file}: {reason}") for file, reasons in by_reason.items() for reason, n in reasons.items()]
    payload: dict[str, Any] = {
        "why": why,
        "page": page,
        "quarantined": report.quarantined.records,
        "reasons": [f"{n} {reason}" for n, reason in sorted(counts, key=lambda count: -count[0])[:REASONS]],
    }
    for name, table in (("videos", report.videos), ("pairs", report.pairs)):
        payload |= {name: table.lines, f"{name}_good": table.good}
    emit_event(DATA_REFUSED, resource={"prefect.resource.id": DATA}, payload=payload)
