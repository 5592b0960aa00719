"""The files in configs/accelerate, read as `accelerate launch` does."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

FOLDER = Path(__file__).parents[3] / "configs" / "accelerate"
FILES = sorted(FOLDER.glob("*.yaml"))
SHARDED = [path for path in FILES if "fsdp2" in path.stem]
MULTI_NODE = [path for path in FILES if path.stem.startswith("multi-node")]


def worker_settings(path: Path, *options: str) -> tuple[Any, dict[str, str]]:
    """The arguments and the environment of the workers."""
    arguments = launch_command_parser().parse_args(
        ["--config_file", str(path), *options, "-m", "reelnest.launch.rank", "reelnest.stages.train"]
    )
    arguments, _, _ = _validate_launch_command(arguments)
    return arguments, prepare_multi_gpu_env(arguments)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_accelerate_knows_every_key(path: Path) -> None:
    config = load_config_from_file(str(path))  # raises for unknown ones
    assert config.num_processes == yaml.safe_load(path.read_text())["num_processes"]
    assert config.mixed_precision == "no"  # train.mixed_precision decides


@pytest.mark.parametrize("path", SHARDED, ids=lambda path: path.stem)
def test_sharded_shapes_are_fsdp2_over_layers_that_the_model_family_names(path: Path) -> None:
    _, environment = worker_settings(path)
    assert environment["ACCELERATE_USE_FSDP"] == "true"
    assert environment["FSDP_VERSION"] == "2"
    assert environment["FSDP_RESHARD_AFTER_FORWARD"] == "true"
    assert environment["FSDP_AUTO_WRAP_POLICY"] == "TRANSFORMER_BASED_WRAP"
    assert "FSDP_TRANSFORMER_CLS_TO_WRAP" not in environment  # or another family could not be trained with this file


@pytest.mark.parametrize("path", MULTI_NODE, ids=lambda path: path.stem)
def test_each_machine_starts_its_share_and_finds_the_first_one(path: Path) -> None:
    arguments, environment = worker_settings(path, "--machine_rank", "1", "--main_process_ip", "10.1.2.3")
    assert (arguments.nnodes, arguments.nproc_per_node, int(arguments.node_rank)) == ("2", "8", 1)
    assert (arguments.rdzv_backend, arguments.rdzv_endpoint) == ("static", "10.1.2.3:29500")
    assert "ACCELERATE_USE_CPU" not in environment or environment["ACCELERATE_USE_CPU"] == "false"
