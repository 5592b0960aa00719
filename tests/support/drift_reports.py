"""A made-up `reports/drift.json` for tests of the page."""

from dataclasses import asdict
from typing import Any

import numpy as np

from reelnest.drift.measures import Shift, decide_drift, histogram
from reelnest.records.changes import summarise

HOSTILE = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"


def drift_report() -> dict[str, Any]:
    """A report of four measures, two of which drifted, with hostile and very long texts."""
    random = np.random.default_rng(0)
    values = {
        "length of texts": (random.poisson(30, 400).tolist(), random.poisson(38, 500).tolist()),
        "seconds of videos": (random.gamma(2, 4, 100).tolist(), random.gamma(2, 4, 100).tolist()),
    }
    shifts = [
        Shift("length of texts", "Kolmogorov-Smirnov D", 0.449, 1e-30, 400, 500, 0.1),
        Shift("pair kinds", "Cramér's V", 0.417, 1e-20, 320, 420, 0.1),
        Shift("embeddings of texts", "energy effect", 0.021, 0.4, 500, 500, 0.1),
        Shift("retrieval", "fall of the mean", 0.037, 0.2, 300, 300, 0.01),
    ]
    verdicts = decide_drift(shifts, 0.95)
    figures = {"before": {"value": 0.8, "low": 0.75, "high": 0.84}, "after": {"value": 0.76, "low": 0.72, "high": 0.81}}
    return {
        "settings": {"sample": 500, "confidence": 0.95, "margin": 0.1},
        "headline": "2 of 4 measures drifted: length of texts, pair kinds",
        "drifted": ["length of texts", "pair kinds"],
        "measures": [{**asdict(verdict.shift), "adjusted": verdict.adjusted, "drifted": verdict.drifted} for verdict in verdicts],
        "not_measured": {"embeddings of videos": f"none {HOSTILE}"},
        "distributions": {
            name: {"summary": {"before": summarise(before), "after": summarise(after)}, "histogram": histogram(before, after)}
            for name, (before, after) in values.items()
        },
        "pair_kinds": {"before": {"text_to_video": 300, "video_to_video": 20}, "after": {"text_to_video": 300, "text_to_text": 120}},
        "unlike": {
            "embeddings of texts": [{"item": HOSTILE + "word" * 80, "cosine": 0.31}],
            "embeddings of videos": [{"item": "clip-0001", "cosine": 0.8}],
        },
        "champion": {"name": "reelnest", "version": 3},
        "data": "0123456789abcdef.dir",
        "compared_data": True,
        "quality": {
            "metric": "recall@10",
            "split": "test",
            "same_questions": False,
            "same_code": True,
            "queries": {"before": 300, "after": 300},
            "dims": [{"dim": dim, **figures} for dim in (16, 128)],
        },
    }
