"""`reports/data_docs/index.html`: the checks of the data, which of them failed, and on which lines.

Great Expectations runs the checks. Its own pages load scripts and fonts from the network; this one is a single file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from reelnest.artifacts.validation_report import TextCounts, ValidationReport
from reelnest.checks.findings import Finding
from reelnest.records.formats import PAIRS_FILE, VIDEOS_FILE, BadRecord
from reelnest.report import wording
from reelnest.report.data_checks.flagged_videos import APPEARANCE
from reelnest.report.pictures import Strip
from reelnest.report.template import STYLE, source, write_page

TEMPLATE, STYLES = Path(__file__).with_name("validation_page.html.j2"), (STYLE, Path(__file__).with_name("validation_page.css"))
SHOWN_EXAMPLES = 8
"""Examples of each check; `validation.json` names more lines."""
SHOWN_RECORDS = 20
"""Examples of excluded records; `quarantine.jsonl` has all."""

ALL_LINES, USED, ADVICE = "found", "used", "advice"
FAILED, WARNING, PASSED = "failed", "warning", "passed"


@dataclass(frozen=True)
class Check:
    """A row of the page."""

    finding: Finding
    file: str
    verdict: str
    """One of FAILED, WARNING, PASSED."""
    observed: str

    @property
    def shows_videos(self) -> bool:
        """Whether pictures explain the check."""
        return bool(APPEARANCE & set(self.finding.columns))

    @property
    def sentence(self) -> str:
        """The expectation in words, with a capital letter."""
        text = self.finding.outcome.description
        return text[:1].upper() + text[1:]


@dataclass(frozen=True)
class Group:
    """The checks of one suite."""

    title: str
    about: str
    checks: tuple[Check, ...]


def write_validation_page(
    path: Path,
    report: ValidationReport,
    findings: Sequence[Finding],
    bad: Sequence[BadRecord],
    fault: str | None,
    pictures: Mapping[int, Strip] | None = None,
) -> None:
    """Writes the page atomically.

    Args:
        path: Where the page goes.
        report: The content of `reports/validation.json`.
        findings: The result of each expectation.
        bad: The records that were left out.
        fault: Why the data cannot be used; None if it can.
        pictures: Frames of videos by line (`pictures_of`).
    """
    groups = _groups(findings)
    checks = [check for group in groups for check in group.checks]
    splits = report.pairs.by_split_and_kind
    write_page(
        path,
        TEMPLATE,
        {"kind": wording.kind_name, "percent": wording.percent},
        report=report,
        fault=fault,
        groups=groups,
        checks=checks,
        unmet=sorted((check for check in checks if check.verdict != PASSED), key=lambda check: check.verdict != FAILED),
        bad=bad[:SHOWN_RECORDS],
        more_bad=max(0, len(bad) - SHOWN_RECORDS),
        shown_examples=SHOWN_EXAMPLES,
        pictures=pictures or {},
        kinds=sorted({kind for counts in splits.values() for kind in counts}, key=wording.kind_style),
        texts=[
            {"name": _TEXTS[name], "split": split, "counts": counts, "scripts": _scripts(counts)}
            for name, splits in report.texts.items()
            for split, counts in splits.items()
        ],
        style=source(*STYLES),
    )


_TEXTS = {"pairs": "Queries and targets", "titles": "Titles of videos"}


def _scripts(counts: TextCounts) -> str:
    """Returns the scripts with their shares, such as `Latin 97.5 %, Cyrillic 2.5 %`."""
    shares = {script or "no letters": count / counts.distinct for script, count in counts.scripts.items()}
    return ", ".join(f"{script} {wording.percent(round(share, 3))}" for script, share in shares.items())


def _groups(findings: Sequence[Finding]) -> list[Group]:
    """Groups the checks: first those of the data that is used, then unusual data, then all records of the files."""
    groups = []
    for step in (USED, ADVICE, ALL_LINES):
        for what, file in (("videos", VIDEOS_FILE), ("pairs", PAIRS_FILE)):
            checks = tuple(_check(finding, file) for finding in findings if finding.outcome.suite == f"{what}_{step}")
            title, about = _HEADS[step]
            groups.append(Group(title.format(what), about.format(file), checks))
    return [group for group in groups if group.checks]


_HEADS = {
    USED: ("The {} that are used", "Lines of {} without those that were left out. A check that fails here stops the workflow."),
    ADVICE: ("Unusual {}", "Lines of {} that are used and may be correct. Look at them."),
    ALL_LINES: ("All {}", "Every line of {}. Lines that fail here were left out; the others are used."),
}


def _check(finding: Finding, file: str) -> Check:
    outcome = finding.outcome
    verdict = PASSED if outcome.success else FAILED if outcome.severity == "critical" else WARNING
    return Check(finding, file, verdict, _observed(outcome.observed))


def _observed(observed: JsonValue) -> str:
    """Returns the observed value in words."""
    if isinstance(observed, Mapping) and "rows" in observed:
        rows, unexpected = observed["rows"], observed["unexpected"]
        return f"{unexpected:,} of {rows:,} lines fail" if unexpected else f"{rows:,} lines"
    if isinstance(observed, Mapping):
        missing = observed["missing"]
        return f"missing: {', '.join(map(str, missing))}" if isinstance(missing, list) and missing else "none is missing"
    if isinstance(observed, float):
        return f"{wording.percent(observed)} of the lines"
    if isinstance(observed, list | tuple):
        return f"{len(observed)} columns"
    return "" if observed is None else str(observed)
