"""The summary that a run prints at its end: quality, registration, and where the results are."""

from reelnest.artifacts.evaluation_report import ALL, EvaluationReport
from reelnest.artifacts.registration_report import RegistrationReport
from reelnest.errors import RunError
from reelnest.evaluation.metrics import charted_names
from reelnest.git import uncommitted
from reelnest.stages.workspace import Workspace

INPUTS = ("data.dvc", "params.yaml")
"""What a run is made of besides code. A scheduled run takes it from the last commit."""


def summary(workspace: Workspace) -> str:
    """Returns plain text from the reports that exist."""
    return "\n\n".join(
        block for block in (_quality(workspace), _registered(workspace), _where(workspace), _uncommitted(workspace)) if block
    )


def _quality(workspace: Workspace) -> str:
    report = EvaluationReport.read_if_there(workspace.reports)
    if report is None:
        return ""
    lines, metrics = [], charted_names()
    for kind in ("text_to_video", ALL):
        results = [result for result in report.results if result.pair_kind == kind]
        if not results:
            continue
        among = f" among {results[-1].corpus}" if kind != ALL else ""
        lines += [
            f"Retrieval, {kind.replace('_', ' ')} ({results[-1].queries} queries{among}, {report.split} split):",
            "      dim" + "".join(f"{metric:>11}" for metric in metrics) + "   bytes a vector",
            *(
                f"{result.dim:>9}" + "".join(f"{result.metrics[metric]:>11.3f}" for metric in metrics) + f"{result.bytes_per_vector:>17}"
                for result in results
            ),
        ]
    return "\n".join(lines)


def _registered(workspace: Workspace) -> str:
    report = RegistrationReport.read_if_there(workspace.reports)
    if report is None:
        return ""
    aliases = " and ".join(report.aliases) or "no alias"
    return f"Registered in MLflow: {report.name}, version {report.version} ({aliases}).\n{report.decision}: {report.reason}."


def _where(workspace: Workspace) -> str:
    places = [
        (workspace.candidate, "the model; in Python: reelnest.load(folder)"),
        (workspace.reports / "evaluation.html", "quality by dim, and example searches (a page)"),
        (workspace.reports / "data_docs" / "index.html", "the checks of the data (a page)"),
        (workspace.reports / "quarantine.jsonl", "records that were left out, and why"),
    ]
    lines = [(str(path.relative_to(workspace.root)), what) for path, what in places if path.exists()]
    lines.append(("make up", "starts Prefect and MLflow here: runs, curves, the registry, the schedule"))
    width = max(len(place) for place, _ in lines)
    return "\n".join(["Where to look:", *(f"  {place:<{width}}  {what}" for place, what in lines)])


def _uncommitted(workspace: Workspace) -> str:
    """Returns a warning if a scheduled run would use other data or settings than this one did."""
    try:
        changed = uncommitted(workspace.root, *INPUTS)
    except RunError:  # no repository: no scheduled runs either
        return ""
    if not changed:
        return ""
    return (
        f"Not committed: {', '.join(changed)}. A scheduled run uses the last commit, so it would not see these changes. Commit them:\n"
        f'  git add {" ".join(changed)} dvc.lock && git commit -m "Data and settings"'
    )
