"""Reading params.yaml: accepted and rejected settings, and the error messages."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from reelnest.errors import ConfigError
from reelnest.settings import Params, launch_processes, load_params, tracking_uri

ROOT = Path(__file__).parents[3]
PRESETS = sorted((ROOT / "configs" / "presets").glob("*.yaml"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path / "params.yaml"


def change(path: Path, **changes: Any) -> Path:
    """Sets `section__key=value` in a params file."""
    contents = yaml.safe_load(path.read_text())
    for name, value in changes.items():
        *sections, key = name.split("__")
        place = contents
        for section in sections:
            place = place[section]
        place[key] = value
    path.write_text(yaml.safe_dump(contents))
    return path


def error_of(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_params(path)
    return str(caught.value)


SAMPLE_SETTINGS: dict[str, dict[str, Any]] = {
    "validate": {"min_near_duplicate_similarity": 0.95},
    "model": {"dims": [4, 8, 16, 32, 64, 128]},
    "train": {"group_negatives": True},
    "loss": {"intra_modal_negatives": True},
}
"""Settings of params.yaml that are chosen for the sample and differ from the defaults."""


def test_the_file_in_the_repository_has_every_setting_with_its_default_or_the_sample_s(project: Path) -> None:
    expected = Params().model_dump(mode="json", by_alias=True)
    for section, values in SAMPLE_SETTINGS.items():
        assert all(expected[section][key] != value for key, value in values.items())
        expected[section] |= values
    written = yaml.safe_load(project.read_text())
    assert written == expected
    assert Params.model_validate(written) == Params.model_validate(expected)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_every_preset_is_accepted_as_params_yaml(preset: Path, project: Path) -> None:
    shutil.copy(preset, project)
    assert load_params(project)


def test_the_default_is_the_tiny_preset(project: Path) -> None:
    assert (ROOT / "configs/presets/tiny.yaml").read_bytes() == project.read_bytes()


def test_settings_cannot_be_changed_after_reading(project: Path) -> None:
    params = load_params(project)
    with pytest.raises(ValueError, match="frozen"):
        params.train.epochs = 3  # type: ignore[misc]  # it has to be refused


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"train__learning_rat": 1.0}, "train.learning_rat: unknown setting; did you mean train.learning_rate?"),
        ({"trian": {}}, "trian: unknown setting; did you mean train?"),
        ({"model__tiny__depth": 3}, "depth: unknown setting; did you mean evaluate.depth? Known here: hidden_size, layers,"),
        ({"model__lora": {"rank": 8}}, "model.lora.rank: unknown setting; known here: r, alpha,"),
        ({"train__epochs": "many"}, "train.epochs: Input should be a valid integer; found 'many'"),
        ({"train__batch_size": 64.5}, "train.batch_size: Input should be a valid integer"),
        ({"train__schedule": "step"}, "train.schedule: Input should be 'cosine', 'linear' or 'constant'; found 'step'"),
        ({"train__best_metric": "recall@7"}, "train.best_metric: unknown metric 'recall@7'; known: recall@1,"),
        ({"model__dims": [32, 16]}, "dims must increase"),
        ({"model__dims": [16, 16]}, "dims must increase"),
        ({"train__best_dim": 48}, "train.best_dim: 48 is not in model.dims, [4, 8, 16, 32, 64, 128]"),
        ({"model__dtype": "bfloat16", "train__mixed_precision": "fp16"}, "Use mixed_precision: bf16, or dtype: float32"),
        ({"train__ema_decay": 1.0}, "train.ema_decay: Input should be less than 1"),
        ({"model__dims": []}, "model.dims: Input should be a list of 1 or more; found []."),
        ({"model__freeze": "backbone", "model__lora": {}, "model__projection": 128}, "freeze: backbone and lora contradict each other"),
        ({"model__dims": 64}, "model.dims: Input should be a list; found 64."),
        ({"model__name_or_path": ""}, "model.name_or_path: Input should be a text that is not empty; found ''."),
        ({"mining__ranks": []}, "mining.ranks: Input should be a longer list; found []."),
        ({"mining__ranks": [5, 2]}, "mining.ranks: the last rank must not be before the first"),
        ({"train__learning_rate": float("inf")}, "train.learning_rate: Input should be a finite number; found inf."),
        ({"loss__name": ["triplet"]}, "loss.name: There is no such loss; known: nested_infonce; found ['triplet']"),
        ({"loss__dim_weights": 1}, "loss.dim_weights: Input should be 'equal', 'learnt' or 'random', or a list; found 1."),
        (
            {"launch__slurm": {"gpus_per_node": -1}},
            "launch.slurm.gpus_per_node: Input should be a text, in quotes if it looks like a number or a date, or greater than",
        ),
        ({"launch__slurm": None}, "launch.slurm: Input should be a section, with a `key: value` on each line; found nothing."),
        ({"launch__resources": {"train": {"gpu": 1}}}, "launch.resources.train.gpu: unknown setting; launch.slurm has "),
        ({"model__freeze": "backbone"}, "has no weights to train"),
        ({"model__freeze": "vision", "model__lora": {"vision": True}}, "freeze: vision and lora.vision: true contradict each other"),
        ({"model__lora": {"merge": False}}, "set merge to true"),
        ({"model__load_in_4bit": True}, "load_in_4bit needs lora with merge: false"),
        ({"model__name_or_path": "Qwen/Qwen2.5-VL-3B-Instruct"}, "needs a revision"),
        ({"train__batch_size": 63}, "train.batch_size: 63 pairs cannot be shared evenly by the 2 processes"),
        ({"launch__config": "cpu-3"}, "known: cpu-1, cpu-2"),
        ({"loss__dim_weights": [1.0, 1.0]}, "needs one weight for each of the 6 model.dims"),
        ({"loss__name": "triplet"}, "loss.name: There is no such loss; known: nested_infonce; found 'triplet'"),
        ({"loss__temperatur": 0.1}, "loss.temperatur: unknown setting; did you mean loss.temperature?"),
        ({"loss__temperature": 2.0}, "loss.temperature: Input should be less than or equal to 1; found 2.0"),
        ({"loss__learn_temperature": True, "loss__temperature": 0.001}, "loss: with learn_temperature, temperature must be at least 0.01"),
        ({"train__checkpoint_every_minutes": 0}, "train.checkpoint_every_minutes: Input should be greater than 0"),
        ({"mining__ranks": [5, 2]}, "the last rank must not be before the first; found [5, 2]"),
        ({"mining__negatives_per_pair": 4, "mining__ranks": [3, 5]}, "set the last rank to 6 or more"),
        ({"mining__negatives_per_pair": 1, "mining__start_epoch": 5}, "mining.start_epoch: 5 epochs pass before the first mining, and"),
        ({"train__seed": 2**63}, "train.seed: Input should be less than 9223372036854775808"),
        ({"train__trackers": ["mlflow", "mlflow"]}, "train: trackers must name each tracker once; found ['mlflow', 'mlflow']"),
        ({"preprocess__min_pixels": 10_000}, "min_pixels (10000) must not be above max_pixels (3200)"),
        ({"data__test_fraction": 0.95}, "must be below 1"),
        (
            {"evaluate__storage": ["int4"]},
            "evaluate.storage.0: unknown storage type 'int4'; known: float32, float16, int8, binary",
        ),
        ({"evaluate__funnels": [{"dims": [64, 16], "shortlists": [9]}]}, "evaluate.funnels.0: dims must increase"),
        ({"evaluate__funnels": [{"dims": [16, 64], "shortlists": []}]}, "evaluate.funnels.0: 2 dims need 1 shortlists; found []"),
        ({"evaluate__funnels": [{"dims": [8, 16, 64], "shortlists": [5, 9]}]}, "evaluate.funnels.0: shortlists must not increase"),
        ({"model__tiny__heads": 3}, "hidden_size must be a multiple of heads"),
        ({"model__epochs": 3}, "model.epochs: unknown setting; did you mean train.epochs?"),
        ({"train__dims": [4]}, "train.dims: unknown setting; did you mean model.dims?"),
        ({"temperature": 0.1}, "temperature: unknown setting; did you mean loss.temperature?"),
        ({"launch__ports": [1, 2]}, "launch.ports: unknown setting; did you mean launch.slurm.ports or launch.kubernetes.ports?"),
        ({"evaluate__funnels": [{"dim": [16, 64]}]}, "evaluate.funnels.0.dim: unknown setting; did you mean evaluate.funnels.0.dims?"),
        ({"model__tiny__dpt": 3}, "model.tiny.dpt: unknown setting; known here: hidden_size, layers,"),
        ({"evaluate__funnels": [{"size": [16, 64]}]}, "evaluate.funnels.0.size: unknown setting; known here: dims, shortlists."),
        ({"launch__config": "configs/accelerate/cpu-2.yaml"}, "known: cpu-1, cpu-2"),
        ({"train__compile": "yes"}, "train.compile: Input should be true or false; found 'yes'."),
        ({"train__epochs": True}, "train.epochs: Input should be a valid integer; found true."),
        (
            {"model__revision": 1234567},
            "model.revision: Input should be a text, in quotes if it looks like a number or a date; found 1234567.",
        ),
        ({"train__optimizer": "x" * 5000}, f"train.optimizer: Input should be 'adamw' or 'muon'; found '{'x' * 199}…."),
        ({"model__dims": [[4, 8]]}, "params.yaml: model.dims.0: Input should be a valid integer; found [4, 8]."),
        (
            {"loss__dim_weights": [-1, 1, 1, 1, 1, 1]},
            "params.yaml: loss.dim_weights.0: Input should be greater than or equal to 0; found -1.",
        ),
    ],
)
def test_invalid_settings_are_rejected_with_their_path_and_allowed_values(changes: dict[str, Any], expected: str, project: Path) -> None:
    text = error_of(change(project, **changes))
    assert expected in text
    assert text.startswith(str(project))


def test_all_mistakes_are_reported_at_once(project: Path) -> None:
    text = error_of(change(project, train__epochs=0, evaluate__dept=5))
    assert "params.yaml: 2 settings are wrong. Correct them, and check with `reelnest params`." in text
    assert "train.epochs" in text
    assert "did you mean evaluate.depth?" in text
    text = error_of(change(project, **{f"train__wrong_{number}": 1 for number in range(20)}))
    assert "22 settings are wrong" in text
    assert text.endswith("And 14 more.")
    assert len(text.splitlines()) == 2


def test_errors_for_a_missing_or_unreadable_file_have_advice(tmp_path: Path) -> None:
    assert "configs/presets" in error_of(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("train: [")
    assert "params.yaml: not readable as YAML: line 1: " in error_of(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("")
    assert "expected sections such as `train:`, found an empty file. Copy one of configs/presets/" in error_of(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: " + 5000 * "[")
    assert "params.yaml: its values are nested too deep." in error_of(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("tracking:\n  experiment: 2024-02-30\n")
    assert "day is out of range for month. Put texts that look like dates or numbers in quotes." in error_of(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("model:\n  dims: [4, 8\n  dtype: float32\n")
    assert "line 3: expected ',' or ']', but got ':', in what line 2 opens with a quote" in error_of(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: 1\n---\nb: 1\n")
    assert "expected a single document in the stream, but found another document." in error_of(tmp_path / "params.yaml")
    (tmp_path / "folder.yaml").mkdir()
    assert "folder.yaml: cannot be read (Is a directory). Expected a file with settings." in error_of(tmp_path / "folder.yaml")


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ("use_cpu: true", "num_processes: expected the number of processes to start, at least 1; found None."),
        ("num_processes: two", "num_processes: expected the number of processes to start, at least 1; found 'two'."),
        ("num_processes: 0", "num_processes: expected the number of processes to start, at least 1; found 0."),
        ("- 1", "expected accelerate's settings, such as `num_processes: 2`. Run `accelerate config --config_file"),
        ("num_processes: [", "not readable as YAML: line 1: "),
    ],
)
def test_a_wrong_launch_file_is_named(contents: str, expected: str, project: Path) -> None:
    (project.parent / "configs" / "accelerate" / "mine.yaml").write_text(contents)
    assert f"configs/accelerate/mine.yaml: {expected}" in error_of(change(project, launch__config="mine"))


def test_the_number_of_processes_is_that_of_the_launch_file(project: Path) -> None:
    assert launch_processes(load_params(project), project) == 2
    assert launch_processes(load_params(change(project, launch__config="cpu-1")), project) == 1


def test_the_tracking_address_in_the_environment_overrides_the_files(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_params(change(project, tracking__uri="sqlite:///elsewhere.db"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(params) == "sqlite:///elsewhere.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert tracking_uri(params) == "http://mlflow:5000"
