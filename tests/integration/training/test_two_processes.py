"""Two processes with half a batch each compared with one process, with the real encoder, DDP and loss."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from reelnest.backbones.tiny import build_tiny
from reelnest.launch.command import launch_command
from reelnest.settings import Tiny, load_params
from tests.integration.training.sharded_steps import temperatures, uneven_videos
from tests.integration.training.training_steps import CASES, figures, keep, mined_figures, searched
from tests.integration.training.training_workspace import COLOURS, ROOT, TINY, training_report, write_workspace

# float32 sums in another order. Errors are relative to the parameter's largest gradient.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    build_tiny(folder, [f"show me the {colour} number clip" for colour in COLOURS], Tiny.model_validate(TINY), seed=0)
    return folder


@pytest.fixture(scope="module")
def checkouts(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three equal checkouts for two processes: one trained to the end, one repeated, one resumed after a process was killed."""
    folder = tmp_path_factory.mktemp("checkouts")
    model: dict[str, object] = {"lora": {"r": 4, "dropout": 0.2}}
    mining: dict[str, object] = {"negatives_per_pair": 1, "every_steps": 20, "ranks": [1, 3]}
    return {
        name: write_workspace(folder / name, prepared, model=model, mining=mining, launch="cpu-2", epochs=5)
        for name in ("unbroken", "again", "killed")
    }


@pytest.fixture(scope="module")
def killed(checkouts: dict[str, Path]) -> int:
    """Returns the launcher's exit status after one of its two processes was killed during training."""
    root = checkouts["killed"]
    params = load_params(root / "params.yaml")
    command, environment = launch_command(params, root / "params.yaml", "reelnest.stages.train")
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
    """The results of two processes, one file per case. They also train in all checkouts."""
    output = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "configs/accelerate/cpu-2.yaml")]
    command += ["--module", "tests.integration.training.run_on_two_processes"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "TOKENIZERS_PARALLELISM": "false"}
    arguments = [str(path) for path in (prepared, base, output, *checkouts.values())]
    done = subprocess.run([*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-5000:]
    return output


def load(folder: Path, case: str) -> dict[str, Tensor]:
    results: dict[str, Tensor] = torch.load(folder / f"{case}.pt", weights_only=True)
    return results


@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_the_loss_and_gradients_of_one(case: str, of_two: Path, prepared: Path, base: Path) -> None:
    expected, two = figures(case, prepared, base), load(of_two, case)
    assert expected.keys() == two.keys()
    torch.testing.assert_close(two["losses"], expected["losses"], rtol=TOLERANCE, atol=0)
    torch.testing.assert_close(two["loss"], expected["loss"], rtol=TOLERANCE, atol=0)
    check_gradients(two, expected)


def check_gradients(two: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    largest = max(float(value.abs().max()) for name, value in expected.items() if name.startswith("gradient"))
    for name in expected:
        if name.startswith("gradient"):
            error = float((two[name] - expected[name]).abs().max())
            assert error <= TOLERANCE * max(float(expected[name].abs().max()), 0.01 * largest), (name, error)


def test_the_temperature_is_trained(of_two: Path) -> None:
    assert float(load(of_two, "all_trained")["gradient objective.loss.log_scale"].abs()) > 0


def test_a_sharded_model_gives_what_an_unsharded_one_does_and_resumes(of_two: Path, prepared: Path, base: Path) -> None:
    unsharded, sharded = load(of_two, "all_trained"), load(of_two, "sharded")
    torch.testing.assert_close(sharded["losses"], unsharded["losses"], rtol=TOLERANCE, atol=0)
    assert {name for name in sharded if name.startswith("gradient")} == {name for name in unsharded if name.startswith("gradient")}
    check_gradients(sharded, unsharded)
    assert 0 < float(sharded["mrr"]) <= 1
    assert torch.equal(sharded["resumed second losses"], sharded["second losses"])
    assert torch.equal(sharded["resumed third losses"], sharded["third losses"])
    assert not torch.equal(sharded["second losses"], sharded["losses"])


def test_a_sharded_tower_with_adapters_is_trained_by_processes_of_which_one_has_no_video(of_two: Path, base: Path) -> None:
    expected, two = uneven_videos(base), load(of_two, "uneven_videos")
    assert expected.keys() == two.keys()
    assert sum("visual" in name for name in expected) == sum("lora" in name and "visual" in name for name in expected) > 0
    check_gradients(two, expected)


def test_two_processes_mine_the_negatives_that_one_does(of_two: Path, prepared: Path, base: Path) -> None:
    expected = mined_figures(prepared, base)
    for rank in (0, 1):
        two = load(of_two, f"mined-{rank}")
        assert torch.equal(two.pop("table"), expected["table"])
        for name, value in two.items():
            torch.testing.assert_close(value, expected[name], rtol=TOLERANCE, atol=TOLERANCE)


def test_two_processes_search_a_corpus_together_and_find_what_one_does_to_the_last_bit(of_two: Path) -> None:
    expected = searched()
    for rank in (0, 1):
        two = load(of_two, f"searched-{rank}")
        assert all(torch.equal(two[name], value) for name, value in expected.items())


def test_two_processes_cache_what_one_does_of_a_frozen_tower(of_two: Path, prepared: Path, base: Path, tmp_path: Path) -> None:
    keep(prepared, base, tmp_path)
    [expected], [two] = list(tmp_path.iterdir()), list((of_two / "frozen").iterdir())
    assert expected.name == two.name
    assert (expected / "rows.bin").stat().st_size > 0
    assert (expected / "rows.bin").read_bytes() == (two / "rows.bin").read_bytes()


def test_a_sharded_model_in_bfloat16_can_mine_before_its_first_step_and_keeps_float32_where_sums_are_made(of_two: Path) -> None:
    results = load(of_two, "sharded_precision")
    assert results["bf16 vectors"].dtype == results["bf16 gradient"].dtype == torch.float32
    assert not torch.equal(results["bf16 losses"], results["no losses"])
    torch.testing.assert_close(results["bf16 losses"], results["no losses"], rtol=0.02, atol=0)
    error = (results["bf16 gradient"] - results["no gradient"]).abs().max() / results["no gradient"].abs().max()
    assert float(error) < 0.05


def test_a_sharded_temperature_is_not_rounded_and_follows_that_of_one_process(of_two: Path, prepared: Path, base: Path) -> None:
    expected = temperatures(prepared, base)
    first, second = (load(of_two, f"temperatures-{rank}") for rank in (0, 1))
    assert torch.equal(first["held"], second["held"])
    for results in (first, second, expected):
        assert torch.equal(results["held"][:-1], results["used"])
    moved = (expected["held"] - expected["held"][0]).abs()
    assert float(moved[-1]) < 0.0002  # bfloat16 would hold 0.05 for all of them
    torch.testing.assert_close(first["held"], expected["held"], rtol=0, atol=0.05 * float(moved[-1]))


def test_a_sharded_training_saves_a_shard_for_each_process_and_resumes_to_the_last_bit(of_two: Path, base: Path) -> None:
    results = load(of_two, "sharded_training")
    assert torch.equal(results["resumed"], results["rest"])
    assert torch.equal(results["average again"], results["average"])
    assert not torch.equal(results["first"], results["rest"][:1])
    folder = of_two / "checkpoints" / "sharded"
    assert sorted(path.name for path in folder.glob("step-*")) == [f"step-00000001.{end}" for end in ("pt", "shard-0-of-2", "shard-1-of-2")]
    # Weights, two moments and an average of each, in float32: half of them in each shard.
    unsharded_bytes = 4 * sum(tensor.numel() * 4 for tensor in load_file(base / "model.safetensors").values())
    for shard in folder.glob("*.shard-*"):
        assert 0.4 * unsharded_bytes < shard.stat().st_size < 0.7 * unsharded_bytes


def test_processes_save_and_stop_after_the_same_step_whoever_wants_it(of_two: Path) -> None:
    first, second = (torch.load(of_two / f"decisions-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first == second
    assert [step for step, (_, checkpoint) in enumerate(first, 1) if checkpoint] == [4]
    assert [step for step, (stop, _) in enumerate(first, 1) if stop] == [8, 9, 10]


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
