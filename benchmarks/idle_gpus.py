"""How much of the time in which a nightly run holds GPUs it uses them: as jobs of a cluster, and on a machine with GPUs.

The project is the tests' (`tests/support/small_project.py`), with a training of EPOCHS epochs. Jobs run on a real SLURM, with simulated
nodes that count GPUs but have none. A GPU counts as used while a process of a training or an evaluation is there, its imports included.
On a machine with GPUs, a run holds them from its start to its end. On the cluster, jobs hold them while SLURM shows them as running.
"""

import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.side_by_side import Benchmark, Figures

EPOCHS = 12
SAMPLE_SECONDS = 0.25
RANK, LAUNCHER = "reelnest.launch.rank", "reelnest.launch.launcher"


def _used_share(backend: str) -> Figures:
    """The share of the time in which GPUs were held that they were used, over the whole flow."""
    import yaml

    from tests.support.simulated_slurm import simulated_cluster
    from tests.support.small_project import COMMIT, change, environment, make_quick_project, run

    with TemporaryDirectory() as folder, simulated_cluster(gpus=1) if backend == "slurm" else nullcontext() as cluster:
        project = Path(folder) / "project"
        make_quick_project(project)
        shape = project / "configs" / "accelerate" / "cpu-2.yaml"
        shape.write_text(yaml.safe_dump(yaml.safe_load(shape.read_text()) | {"same_network": True, "rdzv_backend": "static"}))
        change(project, train={"epochs": EPOCHS})
        change(project, launch={"backend": backend, "config": "cpu-2", "slurm": {"poll_seconds": 1.0, "gpus_per_node": 1}})
        run(["git", "add", "."], project)
        run([*COMMIT, "-m", "A cluster"], project)
        variables = environment(project) | (cluster.environment if cluster else {}) | {"OMP_NUM_THREADS": "1"}
        held = used = samples = 0
        with subprocess.Popen([sys.executable, "-m", "flows.pipeline"], cwd=project, env=variables, stderr=subprocess.DEVNULL) as flow:
            while flow.poll() is None:
                samples += 1
                is_held = not cluster or any(state in ("RUNNING", "COMPLETING") for _, state, _ in cluster.jobs())
                held += is_held
                used += is_held and _computes(project)
                time.sleep(SAMPLE_SECONDS)
        if flow.returncode:
            raise RuntimeError(f"the run failed with status {flow.returncode}")
    sys.stderr.write(f"  {backend}: {samples} samples, GPUs held in {held / samples:.1%}, used in {used / samples:.1%}\n")
    return {"share": used / held}


def _computes(project: Path) -> bool:
    """Whether a process of a training or an evaluation of the project is there."""
    import psutil

    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = process.info["cmdline"] or []
        if RANK in words and LAUNCHER not in words and process.info["cwd"] == str(project):
            return True
    return False


BENCHMARKS = {
    "used-gpus": Benchmark(
        what="the share of the time in which a nightly run holds GPUs that it uses them, with trainings and evaluations as SLURM jobs",
        against="the same run on a machine with GPUs, which it holds from its start to its end",
        at_least=1.2,
        ours=lambda: lambda: _used_share("slurm"),
        theirs=lambda: lambda: _used_share("local"),
        runs=1,
        unit="share",
    ),
}
