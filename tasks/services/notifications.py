"""Events of which people are notified: a new champion, and data that was refused or has drifted.

`tasks/services/automations.py` turns them into messages.
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
CHAMPION_NOTIFIED = "reelnest_champion_notified"
"""Prefect variable with the champion of the last notification, so that registering a model again does not notify again."""
DRIFT_NOTIFIED = "reelnest_drift_notified"
"""Prefect variable with the champion and the data of the last notification of drift."""
REASONS = 5


def new_champion(workspace: Workspace) -> None:
    """Emits the event for the registered version, if it is champion and was not notified yet.

    The variable is set after the event, so an interruption causes a second notification rather than none.
    """
    report = RegistrationReport.read(workspace.reports)
    notified = f"{report.name} {report.version} {report.run_id}"
    if "champion" not in report.aliases or notified == Variable.get(CHAMPION_NOTIFIED):
        return
    payload = report.model_dump(include={"name", "version", "reason", "metric", "value"})
    links = {"evaluation": pages.evaluation_link(workspace), "training": pages.run_link(workspace)}
    emit_event(CHAMPION_CHANGED, resource={"prefect.resource.id": CHAMPION}, payload=payload | links)
    Variable.set(CHAMPION_NOTIFIED, notified, overwrite=True)


def data_drifted(report: Mapping[str, Any]) -> None:
    """Emits the event that the data has drifted from the champion's training data, once for each champion and data version."""
    champion = report["champion"]
    notified = f"{champion['name']} {champion['version']} {report['data']}"
    if not report["drifted"] or notified == Variable.get(DRIFT_NOTIFIED):
        return
    measures = [
        f"{measure['measure']}: {measure['effect']:.3f} ({measure['statistic']})" for measure in report["measures"] if measure["drifted"]
    ]
    payload = {**champion, "data": report["data"], "headline": report["headline"], "measures": measures, "page": pages.drift_link(report)}
    emit_event(CHAMPION_DRIFTED, resource={"prefect.resource.id": CHAMPION}, payload=payload)
    Variable.set(DRIFT_NOTIFIED, notified, overwrite=True)


def data_refused(workspace: Workspace, why: str, page: str | None) -> None:
    """Emits the event that validation refused the data. `page` is the URL of the page with the bad records, if there is one."""
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
