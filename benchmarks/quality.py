"""Whether a feature of training helps: each switched on alone, beside the same training without it, over several seeds.

Usage: `make demo` (or your own data/), then `.venv/bin/python -m benchmarks.quality` for data/, or `… benchmarks.quality --data folder`;
`--only mined ema`, `--seeds 0 1 2`. A table for docs/training.md goes to standard output, figures to
`work/quality/<folder>/results.jsonl`; those of the table there are in results/quality-*.jsonl.

Each training is `reelnest train` and `reelnest evaluate` with the settings of params.yaml, one process and one thread; as many run beside
each other as there are cores. What is in the results already is not trained again.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from benchmarks.side_by_side import ROOT
from reelnest.artifacts.evaluation_report import EvaluationReport
from reelnest.artifacts.training_report import TrainingReport

SWITCHES: dict[str, dict[str, Any]] = {
    "none": {},
    "mined": {"mining": {"negatives_per_pair": 1, "listed": "never", "start_epoch": 1, "every_steps": 40, "ranks": [1, 2]}},
    "ema": {"train": {"ema_decay": 0.98}},
    "large batch": {"train": {"batch_size": 256, "micro_batch_size": 64}},
    "learnt weights": {"loss": {"dim_weights": "learnt"}},
    "random weights": {"loss": {"dim_weights": "random"}},
}


def main() -> None:
    """Trains what is missing, two folders at a time, then prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT / "data")
    parser.add_argument("--only", nargs="+", choices=SWITCHES, default=list(SWITCHES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    data = arguments.data.resolve()
    folder = ROOT / "work" / "quality" / data.name
    results = folder / "results.jsonl"
    prepared = _prepared(folder / "prepared", data)
    done = [(result["switch"], result["seed"]) for result in _read(results)]
    missing = [(switch, seed) for seed in arguments.seeds for switch in arguments.only if (switch, seed) not in done]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for switch, seed, result in threads.map(lambda run: (*run, _train(folder, prepared, *run)), missing):
            with results.open("a") as file:
                file.write(json.dumps({"switch": switch, "seed": seed, **result}) + "\n")
            sys.stderr.write(f"{switch}, seed {seed}: {result}\n")
    sys.stdout.write(table([result for result in _read(results) if result["switch"] in arguments.only]))


def _prepared(folder: Path, data: Path) -> Path:
    """The data, validated and preprocessed once for all trainings."""
    if not (folder / "prepared").is_dir():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "data").symlink_to(data)
        (folder / "configs").symlink_to(ROOT / "configs")
        shutil.copy(ROOT / "params.yaml", folder)
        for stage in ("validate", "preprocess"):
            _reelnest(folder, stage)
    return folder / "prepared"


def _train(folder: Path, prepared: Path, switch: str, seed: int) -> dict[str, Any]:
    root = folder / f"{switch.replace(' ', '-')}-{seed}"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    (root / "prepared").symlink_to(prepared)
    (root / "configs").symlink_to(ROOT / "configs")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    fixed: dict[str, Any] = {"train": {"seed": seed, "trackers": []}, "launch": {"config": "cpu-1"}}
    for settings in (fixed, SWITCHES[switch]):
        for section, values in settings.items():
            params[section] |= values
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    for stage in ("train", "evaluate"):
        _reelnest(root, stage)
    evaluation, training = EvaluationReport.read(root / "reports"), TrainingReport.read(root / "reports")
    shutil.rmtree(root)
    return _figures(evaluation) | {"seconds": training.speed.seconds}


def _reelnest(root: Path, stage: str) -> None:
    log = root / f"{stage}.log"
    with log.open("w") as file:
        command = [str(Path(sys.executable).with_name("reelnest")), stage]
        if subprocess.run(command, cwd=root, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=file, stderr=file, check=False).returncode:
            raise SystemExit(f"`reelnest {stage}` failed; its log is {log}")


def _figures(evaluation: EvaluationReport) -> dict[str, Any]:
    """Recall@10 over all queries by dim, Recall@1 at the last, and the share of listed opposites that text→video leaves behind, by dim."""
    outranked = {one.dim: one.value for one in evaluation.negatives_outranked if one.pair_kind == "text_to_video"}
    return {
        "recall@10": {str(dim): result.metrics["recall@10"] for dim, result in evaluation.by_dim.items()},
        "recall@1": evaluation.by_dim[evaluation.width].metrics["recall@1"],
        "outranked": {str(dim): value for dim, value in outranked.items()},
    }


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: mean and, after ±, standard deviation over the seeds."""
    dims = list(results[0]["recall@10"])
    opposites = [dim for dim in (dims[0], dims[-1]) if dim in results[0]["outranked"]]
    heads = ["", "seeds", *(f"Recall@10, dim {dim}" for dim in dims), f"Recall@1, dim {dims[-1]}"]
    heads += [*(f"above its opposite, dim {dim}" for dim in opposites), "seconds"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for switch in SWITCHES:
        runs = [result for result in results if result["switch"] == switch]
        if runs:
            columns = [[result["recall@10"][dim] for result in runs] for dim in dims] + [[result["recall@1"] for result in runs]]
            columns += [[result["outranked"][dim] for result in runs] for dim in opposites]
            cells = [f"{statistics.mean(column):.3f} ± {(statistics.stdev(column) if len(column) > 1 else 0.0):.3f}" for column in columns]
            cells.append(f"{statistics.mean(result['seconds'] for result in runs):.0f}")
            lines.append("| " + " | ".join([switch, ", ".join(str(result["seed"]) for result in runs), *cells]) + " |")
    return "\n".join(lines) + "\n"


def _read(results: Path) -> list[dict[str, Any]]:
    results = [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []
    return sorted(results, key=lambda result: (list(SWITCHES).index(result["switch"]), result["seed"]))


if __name__ == "__main__":
    main()
