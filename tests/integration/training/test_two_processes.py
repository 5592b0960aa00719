"""Two processes with half a batch each against one with all of it, through the real encoder, DDP and loss."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor
from training_steps import CASES, figures
from training_workspace import COLOURS, ROOT, TINY, training_report, write_workspace

from reelnest.config import Tiny, load_params
from reelnest.model.tiny import build_tiny
from reelnest.stages.launch import accelerate_command
from reelnest.stages.workspace import Workspace

# float32, sums in another order. A gradient is compared with the largest of its parameter's.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    build_tiny(folder, [f"show me the {colour} number clip" for colour in COLOURS], Tiny.model_validate(TINY), seed=0)
    return folder


@pytest.fixture(scope="module")
def checkouts(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three of one kind, to be trained in by two processes: to the end, again, and after one of the processes was killed."""
    folder = tmp_path_factory.mktemp("checkouts")
    model: dict[str, object] = {"lora": {"r": 4, "dropout": 0.2}}
    return {
        name: write_workspace(folder / name, prepared, model=model, launch="cpu-2", epochs=10) for name in ("unbroken", "again", "killed")
    }


@pytest.fixture(scope="module")
def killed(checkouts: dict[str, Path]) -> int:
    """The launcher's exit status after one of its two processes was killed in the middle of training."""
    root = checkouts["killed"]
    params = load_params(root / "params.yaml")
    command, environment = accelerate_command(params, Workspace(root), "reelnest.stages.train")
    environment["OMP_NUM_THREADS"] = "1"
    launcher = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(1200):
        if list(root.glob("work/checkpoints/*/step-*.pt")):
            break
        assert launcher.poll() is None
        time.sleep(0.05)
    workers = sorted(psutil.Process(launcher.pid).children(recursive=True), key=lambda process: process.pid)
    workers = [worker for worker in workers if "reelnest.stages.train" in worker.cmdline()]
    assert len(workers) == 2
    workers[1].kill()
    status = launcher.wait(timeout=60)
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
    assert not (root / "models").exists()
    assert not (root / "reports").exists()
    return status


@pytest.fixture(scope="module")
def of_two(killed: int, checkouts: dict[str, Path], prepared: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes found, a file a case. They also train in all checkouts."""
    output = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "configs/accelerate/cpu-2.yaml")]
    script = Path(__file__).with_name("training_steps.py")
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    arguments = [str(path) for path in (script, prepared, base, output, *checkouts.values())]
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-5000:]
    return output


def load(folder: Path, case: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(folder / f"{case}.pt", weights_only=True)
    return found


@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_the_loss_and_gradients_of_one(case: str, of_two: Path, prepared: Path, base: Path) -> None:
    one, two = figures(case, prepared, base), load(of_two, case)
    assert one.keys() == two.keys()
    torch.testing.assert_close(two["losses"], one["losses"], rtol=TOLERANCE, atol=0)
    torch.testing.assert_close(two["loss"], one["loss"], rtol=TOLERANCE, atol=0)
    largest = max(float(value.abs().max()) for name, value in one.items() if name.startswith("gradient"))
    for name in one:
        if name.startswith("gradient"):
            error = float((two[name] - one[name]).abs().max())
            assert error <= TOLERANCE * max(float(one[name].abs().max()), 0.01 * largest), (name, error)


def test_the_temperature_is_trained(of_two: Path) -> None:
    assert float(load(of_two, "all_trained")["gradient log_scale"].abs()) > 0


def test_a_sharded_model_gives_what_a_whole_one_does_and_resumes(of_two: Path, prepared: Path, base: Path) -> None:
    whole, sharded = load(of_two, "all_trained"), load(of_two, "sharded")
    torch.testing.assert_close(sharded["losses"], whole["losses"], rtol=TOLERANCE, atol=0)
    assert {name for name in sharded if name.startswith("gradient")} == {name for name in whole if name.startswith("gradient")}
    assert 0 < float(sharded["mrr"]) <= 1
    assert torch.equal(sharded["resumed second losses"], sharded["second losses"])
    assert torch.equal(sharded["resumed third losses"], sharded["third losses"])
    assert not torch.equal(sharded["second losses"], sharded["losses"])


def test_a_killed_process_ends_the_whole_training_and_leaves_no_outputs(killed: int) -> None:
    assert killed != 0


def test_two_processes_give_the_same_losses_each_time(of_two: Path, checkouts: dict[str, Path]) -> None:
    csvs = [(checkouts[name] / "reports" / "training.csv").read_text() for name in ("unbroken", "again")]
    assert csvs[0] == csvs[1]
    assert training_report(checkouts["unbroken"]) == training_report(checkouts["again"])
    assert training_report(checkouts["unbroken"])["processes"] == 2


def test_a_training_of_which_a_process_was_killed_goes_on_as_if_nothing_had_happened(of_two: Path, checkouts: dict[str, Path]) -> None:
    csvs = [(checkouts[name] / "reports" / "training.csv").read_text() for name in ("unbroken", "killed")]
    assert csvs[0] == csvs[1]
    assert training_report(checkouts["unbroken"]) == training_report(checkouts["killed"])
    weights = [(checkouts[name] / "models" / "candidate" / "model.safetensors").read_bytes() for name in ("unbroken", "killed")]
    assert weights[0] == weights[1]
