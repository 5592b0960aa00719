"""A stage of the stand-in project: reads and writes the files that the real one does, in no time.

Usage: python stand_in_stage.py STAGE. Lines of `behaviour.txt` hold a stage's name and what it shall do: `fail`, `refuse`
(as a user's error), `bad-data` (validate's refusal, with its report), `hang`, `slow` (two seconds) or `die-once` (a killed rank, as
the launcher reports it). Where the variable STAND_IN_LOG names a file, each stage adds its name to it.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import valid_reports as reports  # the project fixture copies it here

BEHAVIOUR, DIED = Path("behaviour.txt"), Path("work/died")


def write(path: str, value: object) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def validate(*, passed: bool = True) -> None:
    pairs = Path("data/pairs.jsonl").read_text(encoding="utf-8").splitlines()
    bad = {"file": "videos.jsonl", "line": 4, "reason": "truncated", "detail": "<script>alert(1)</script> | [x](http://evil.example)"}
    write("reports/quarantine.jsonl", f"{json.dumps(bad)}\n")
    write("reports/data_docs/index.html", "<html></html>")
    counts = {"lines": len(pairs), "good": len(pairs), "by_split_and_kind": {"train": {"text_to_video": len(pairs)}}}
    quarantined = {"records": 1, "fraction": 0.1, "allowed_fraction": 0.2, "by_reason": {"<b>videos</b>|": {"<!channel>": 1}}}
    expectation = reports.expectation(suite="pairs", description="x | `y`", observed="<script>")
    content = reports.validation(passed=passed, pairs=counts, quarantined=quarantined, expectations=[expectation])
    write("reports/validation.json", content)


def preprocess() -> None:
    write("prepared/pairs.txt", Path("data/pairs.jsonl").read_text(encoding="utf-8"))
    write("reports/preprocessing.json", reports.preprocessing())


def train() -> None:
    progress = {"stage": "train", "epoch": 1, "epochs": 1, "steps": 3, "loss": 0.5, "pairs_per_second": 9}
    for step in (1, 3):
        write("work/progress.json", {**progress, "step": step})
    params = Path("params.yaml").read_text(encoding="utf-8")
    write("models/candidate/weights.txt", params + Path("prepared/pairs.txt").read_text(encoding="utf-8"))
    write("models/candidate/run.json", {"run_id": "r1", "tracking_uri": "http://mlflow.example/", "experiment": "e"})
    write("reports/training.json", reports.training(epochs=1))
    write("reports/training.csv", "epoch,step,loss\n" + "".join(f"1,{step},{1 / step}\n" for step in range(1, 101)))


def evaluate() -> None:
    behaviour = reports.behaviour(passed_by_kind={"16": {"direction": 0.75}})
    write("reports/evaluation.json", reports.evaluation(behaviour=behaviour))


def register() -> None:
    flow_run = {"id": os.environ.get("REELNEST_FLOW_RUN_ID"), "url": os.environ.get("REELNEST_FLOW_RUN_URL")}
    origins = reports.origins(flow_run=flow_run if flow_run["id"] else None)
    content = reports.registration(aliases=["champion"], reason="better at dim 16", lineage=origins)
    write("reports/registration.json", content)


def main() -> int:
    stage = sys.argv[1]
    what = dict(line.split() for line in BEHAVIOUR.read_text(encoding="utf-8").splitlines()).get(stage) if BEHAVIOUR.exists() else None
    if what == "refuse":
        sys.stderr.write("reelnest: error: data/pairs.jsonl: line 3: not JSON\n")
        return 1
    if what == "bad-data":
        validate(passed=False)
        sys.stderr.write("reelnest: error: data: 1 of 4 records are bad <http://evil.example|look>\n")
        return 1
    if what == "fail":
        raise RuntimeError("a bug")
    if what == "die-once" and not DIED.exists():
        write(str(DIED), "")
        sys.stderr.write(f"reelnest: error: {stage}: rank 0 was ended by SIGKILL.\n")
        return 137
    if what == "hang":
        # As torch's launcher does: a worker in a session of its own.
        worker = "import pathlib, time; pathlib.Path('worker-ready').touch(); time.sleep(600)"
        subprocess.Popen([sys.executable, "-c", worker], start_new_session=True)
        time.sleep(600)
    if what == "slow":
        time.sleep(2)
    if log := os.environ.get("STAND_IN_LOG"):
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(f"{stage}\n")
    globals()[stage]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
