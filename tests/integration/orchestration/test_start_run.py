"""`reelnest run` with a real Prefect server: it checks the settings, and starts a run of a deployment with them."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.scheduled import scheduled_pipeline
from tasks.workspaces.start_run import main

ROOT = Path(__file__).parents[3]


@pytest.fixture
def _checkout(template_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository with the settings of the project, as the current folder."""
    folder = tmp_path / "project"
    shutil.copytree(template_repository, folder)
    shutil.copy(ROOT / "params.yaml", folder)
    shutil.copytree(ROOT / "configs", folder / "configs")
    for command in ("add params.yaml configs", "-c user.name=t -c user.email=t@t commit --quiet --message=Settings"):
        subprocess.run(["git", *command.split()], cwd=folder, check=True)
    monkeypatch.chdir(folder)


@pytest.mark.usefixtures("_checkout")
@pytest.mark.parametrize(
    ("assignments", "says"),
    [
        (["train.epohcs=2"], "no train.epohcs; did you mean train.epochs?"),
        (["train.epochs=five"], "train.epochs: Input should be a valid integer; found 'five'."),
        (["train.batch_size=63"], "train.batch_size: 63 pairs cannot be shared evenly by the 2 processes"),
        (["model.dims=[8, 16]", "train.best_dim=64"], "train.best_dim: 64 is not in model.dims, [8, 16]"),
        (["train.epochs"], "--set 'train.epochs': expected KEY=VALUE"),
    ],
)
def test_wrong_settings_are_refused_before_a_server_is_asked(assignments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert main([text for assignment in assignments for text in ("--set", assignment)]) == 1
    printed = capsys.readouterr().err
    assert says in printed
    assert len(printed.splitlines()) == 1


@pytest.mark.usefixtures("_checkout")
def test_without_a_server_the_error_names_the_command_that_starts_one(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
        assert main([]) == 1
    assert "No Prefect server responds" in (printed := capsys.readouterr().err)
    assert "make up" in printed


@pytest.fixture
def _by_hand(prefect_server: None) -> Iterator[None]:
    """The deployment, removed afterwards: the server is that of other files' tests too."""
    deployment = scheduled_pipeline.to_deployment("by-hand").apply()
    yield
    with get_client(sync_client=True) as client:
        client.delete_deployment(deployment)


@pytest.mark.usefixtures("_checkout", "_by_hand")
def test_a_run_starts_with_the_settings_and_warns_of_uncommitted_ones(capsys: pytest.CaptureFixture[str]) -> None:
    # A setting that params.yaml leaves at its default can be set too.
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("accumulation_steps", "# accumulation_steps"))
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "--all", "--message=Less"], check=True)
    Path("params.yaml").write_text(text)
    assert main(["--set", "train.epochs=2", "--set", "train.accumulation_steps=2", "--deployment", "by-hand"]) == 0
    printed = capsys.readouterr()
    assert "train.epochs: 2, train.accumulation_steps: 2" in printed.out
    assert "without your changes to params.yaml" in printed.err
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(printed.out.split("/")[-1].strip())  # type: ignore[arg-type]  # an id as text
    assert run.parameters == {"revision": "HEAD", "settings": {"train.epochs": 2, "train.accumulation_steps": 2}}
    assert main(["--deployment", "by-hnad"]) == 1
    assert "did you mean reelnest-train/by-hand?" in capsys.readouterr().err


@pytest.mark.usefixtures("_by_hand")
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"epochs": 2}, "'epochs' does not match '^(data|validate|preprocess|model|train|"),
        ({"train.epohcs": 2}, "'train.epohcs' is not one of ['train.seed', 'train.epochs', "),
        ({"train.epochs": "five"}, "settings['train.epochs']"),
        ({"train.epochs": 0}, "0 is less than the minimum of 1"),
        ({"model.lora": {"rnk": 8}}, "'rnk' was unexpected"),
        ({"model.tiny.layers": 1.5}, "1.5 is not of type 'integer'"),
        ({"loss.temprature": 0.1}, "'loss.temprature' is not one of ['loss.name', "),
    ],
)
def test_the_server_refuses_wrong_settings_before_there_is_a_run(settings: dict[str, object], says: str) -> None:
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("reelnest-train/by-hand")
        before = client.read_flow_runs()
        with pytest.raises(PrefectHTTPStatusError) as refused:
            client.create_flow_run_from_deployment(deployment.id, parameters={"settings": settings})
        assert says in refused.value.response.json()["detail"]
        assert len(client.read_flow_runs()) == len(before)


@pytest.mark.usefixtures("_by_hand")
def test_the_server_accepts_each_setting_of_params_yaml_and_none() -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    settings = {f"{section}.{name}": value for section, values in params.items() for name, value in values.items()}
    more = {"model.lora": {"r": 8}, "model.tiny.layers": 2, "train.profile_steps": [1, 2], "train.learning_rate": 1}
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("reelnest-train/by-hand")
        for accepted in (settings | more, {}, None):
            run = client.create_flow_run_from_deployment(deployment.id, parameters={"settings": accepted})
            client.delete_flow_run(run.id)
