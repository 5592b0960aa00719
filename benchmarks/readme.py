"""README.md and the plot beside it, from the records."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

HEAD = """# Benchmarks

Written by `benchmarks/run.py` from `results/summary.json`. Each row was measured side by side in one run, ours and theirs in turn, each in
a process of its own; the ratio is the median over the pairs of runs, and larger is better. Memory is theirs over ours: of peak growth while
the measured function ran, or, for whole trainings, of the training process's peak.

![Ratios](results/ratios.svg)

| name | what | against | ratio | at least | ours | theirs | memory | runs |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""
WIDTH, LABEL, ROW, MARGIN = 720, 190, 26, 34


def write(records: Sequence[dict[str, Any]], folder: Path) -> None:
    """`records` as results/summary.json has them; writes `folder`/README.md and `folder`/results/ratios.svg."""
    machines = dict.fromkeys((record["machine"], record["commit"]) for record in records)
    measured = [
        f"- {machine}, commit {commit}: {', '.join(r['name'] for r in records if (r['machine'], r['commit']) == (machine, commit))}"
        for machine, commit in machines
    ]
    parts = [HEAD + "\n".join(map(_row, records)), "Measured on", "\n".join(measured), (folder / "conditions.md").read_text()]
    (folder / "README.md").write_text("\n\n".join(part.rstrip() for part in parts) + "\n")
    (folder / "results" / "ratios.svg").write_text(plot(records))


def _row(record: dict[str, Any]) -> str:
    mark = "" if record["ratio"] >= record["at_least"] else " (missed)"
    unit = {"kilobytes": "MB", "seconds": "s"}.get(record["unit"], record["unit"])
    scale = 1000 if record["unit"] == "kilobytes" else 1
    cells = [
        f"`{record['name']}`",
        record["what"],
        record["against"],
        f"**{record['ratio']:.2f}**{mark}",
        f"{record['at_least']:.2f}",
        f"{record['ours'] / scale:.4g} {unit}",
        f"{record['theirs'] / scale:.4g} {unit}",
        f"{record['memory_ratio']:.2f}",
        str(record["runs"]),
    ]
    return "| " + " | ".join(cells) + " |"


def plot(records: Sequence[dict[str, Any]]) -> str:
    """A bar for each ratio on a logarithmic axis, and a line across it where it has to reach. SVG that suits light and dark pages."""
    values = [value for record in records for value in (record["ratio"], record["at_least"], 1.0) if value > 0]
    low, high = math.floor(math.log2(min(values)) - 0.2), math.ceil(math.log2(max(values)) + 0.2)
    height = MARGIN + ROW * len(records)

    def x(value: float) -> float:
        return LABEL + (math.log2(value) - low) / (high - low) * (WIDTH - LABEL - 70)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13">',
        "<style>text{fill:#333}.axis{stroke:#8886}.bar{fill:#3a7ca5}.short{fill:#c0563b}.goal{stroke:#111;stroke-width:2}"
        "@media(prefers-color-scheme:dark){text{fill:#ddd}.goal{stroke:#eee}}</style>",
    ]
    for power in range(low, high + 1):
        at = x(2.0**power)
        lines.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{MARGIN - 8}" y2="{height}"/>')
        lines.append(f'<text x="{at:.1f}" y="16" text-anchor="middle">{2.0**power:g}×</text>')
    for number, record in enumerate(records):
        top = MARGIN + ROW * number
        ends = sorted((x(1.0), x(max(record["ratio"], 2.0**low))))
        kind = "bar" if record["ratio"] >= record["at_least"] else "short"
        goal = x(record["at_least"])
        lines += [
            f'<text x="{LABEL - 10}" y="{top + 14}" text-anchor="end">{escape(record["name"])}</text>',
            f'<rect class="{kind}" x="{ends[0]:.1f}" y="{top + 2}" width="{max(ends[1] - ends[0], 1):.1f}" height="{ROW - 10}"/>',
            f'<line class="goal" x1="{goal:.1f}" x2="{goal:.1f}" y1="{top}" y2="{top + ROW - 6}"/>',
            f'<text x="{max(ends[1], goal) + 6:.1f}" y="{top + 14}">{record["ratio"]:.2f}</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"
