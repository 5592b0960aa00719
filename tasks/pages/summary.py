"""The last words of a run, for the person at the terminal: what was made, how good it is, where to look."""

import json
from pathlib import Path
from typing import Any

from reelnest.evaluation.metrics import charted_names
from reelnest.stages.workspace import Workspace


def summary(workspace: Workspace) -> str:
    """Plain text, from the reports that are there."""
    return "\n\n".join(part for part in (_quality(workspace), _registered(workspace), _where(workspace)) if part)


def _quality(workspace: Workspace) -> str:
    report = _read(workspace.reports / "evaluation.json")
    if report is None:
        return ""
    lines = []
    for kind in ("text_to_video", "all"):
        results = [found for found in report["results"] if found["pair_kind"] == kind and found["storage"] == "float32"]
        if not results:
            continue
        queries, corpus = results[-1]["queries"], results[-1].get("corpus")
        among = f" among {corpus}" if kind != "all" and corpus else ""
        lines += [
            f"Retrieval, {kind.replace('_', ' ')} ({queries} queries{among}, {report['split']} split):",
            "      dim" + "".join(f"{metric:>11}" for metric in charted_names()) + "   bytes a vector",
            *(
                f"{found['dim']:>9}"
                + "".join(f"{found['metrics'][metric]:>11.3f}" for metric in charted_names())
                + f"{found['bytes_per_vector']:>17}"
                for found in results
            ),
        ]
    return "\n".join(lines)


def _registered(workspace: Workspace) -> str:
    found = _read(workspace.reports / "registration.json")
    if found is None:
        return ""
    aliases = " and ".join(found.get("aliases") or []) or "no alias"
    decision, reason = found.get("decision"), found.get("reason")
    why = f"\n{decision}: {reason}." if decision and reason else ""
    return f"Registered in MLflow: {found.get('name')}, version {found.get('version')} ({aliases}).{why}"


def _where(workspace: Workspace) -> str:
    places = [
        (workspace.candidate, "the model; in Python: reelnest.load(folder)"),
        (workspace.reports / "evaluation.html", "quality by dim, and what the model finds (a page)"),
        (workspace.reports / "data_docs" / "index.html", "what was checked in the data (a page)"),
        (workspace.reports / "quarantine.jsonl", "records that were left out, and why"),
    ]
    there = [(str(path.relative_to(workspace.root)), what) for path, what in places if path.exists()]
    there.append(("make up", "opens Prefect and MLflow here: runs, curves, the registry, the schedule"))
    width = max(len(place) for place, _ in there)
    return "\n".join(["Where to look:", *(f"  {place:<{width}}  {what}" for place, what in there)])


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
