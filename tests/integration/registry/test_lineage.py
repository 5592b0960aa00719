"""The lineage of a version, and the search for versions by their origins."""

import json
import shutil
import subprocess
from pathlib import Path

import mlflow
import pytest
import yaml
from huggingface_hub import ModelCard

import reelnest
from reelnest.commands import lineage
from reelnest.errors import RegistryError
from reelnest.registry.candidate import Candidate
from reelnest.registry.lineage.dvc_lock import dvc_hash
from reelnest.stages import register
from tests.integration.registry.candidate_workspace import Project, workspace_of
from tests.support import reports

DATA_HASH = "0123456789abcdef0123456789abcdef.dir"


@pytest.fixture(scope="module")
def known(evaluated_folder: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A model that a flow registered in a git repository with `data.dvc`, `dvc.lock` and an uncommitted change of a setting."""
    root = tmp_path_factory.mktemp("known") / "project"
    shutil.copytree(evaluated_folder, root, symlinks=True, ignore=shutil.ignore_patterns("mlruns", "mlflow.db", "registration.json"))
    shutil.copy(empty_store, root / "mlflow.db")
    (root / ".gitignore").write_text("/models/\n/prepared/\n/reports/\n/mlflow.db\n/mlruns/\n/work/\n/base/\n/scratch/\n")
    (root / "data.dvc").write_text(f"outs:\n- md5: {DATA_HASH}\n  size: 4000\n  nfiles: 7\n  path: data\n")
    (root / "src").mkdir()
    (root / "src" / "loss.py").write_text("one")
    deps = [{"path": "src/loss.py", "md5": dvc_hash(root / "src" / "loss.py")}, {"path": "data", "md5": DATA_HASH}]
    (root / "dvc.lock").write_text(yaml.safe_dump({"stages": {"train": {"deps": deps}}}))
    videos, pairs = {"good": 15, "lines": 16}, {"good": 40, "lines": 40}
    validation = reports.validation()
    validation |= {"videos": validation["videos"] | videos, "pairs": validation["pairs"] | pairs}
    (root / "reports" / "validation.json").write_text(json.dumps(validation))
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    with (root / "params.yaml").open("a") as file:
        file.write("# tried out\n")
    project = workspace_of(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("REELNEST_FLOW_RUN_ID", "0f1e2d3c-flow")
        patch.setenv("REELNEST_FLOW_RUN_URL", "http://prefect.example/runs/flow-run/0f1e2d3c-flow")
        register.run(project.workspace, project.params)
    return project


def commit_of(project: Project) -> str:
    return subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=project.workspace.root, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_version_shows_run_commit_data_validation_flow_run_and_environment(known: Project) -> None:
    text = lineage.show(known.params, "models:/reelnest@champion", as_json=False)
    for line in (
        "models:/reelnest/1, registered 20",
        "promoted: ",
        f"{commit_of(known)}, with saved changes",
        f"{DATA_HASH}, 7 files",
        "passed, 15 of 16 videos good, 40 of 40 pairs good",
        "0f1e2d3c-flow, http://prefect.example/runs/flow-run/0f1e2d3c-flow",
        "environment  Python 3.",
    ):
        assert line in text
    assert "CHANGED" not in text
    facts = json.loads(lineage.show(known.params, "1", as_json=True))
    assert facts["lineage"]["data"]["hash"] == DATA_HASH
    assert facts["run_id"] in text
    assert facts["rebuild"] == lineage.commands(known.params, "champion").splitlines()[1:]


def test_registration_json_has_the_origins(known: Project) -> None:
    origins = json.loads((known.reports / "registration.json").read_text())["lineage"]
    assert (origins["commit"]["hash"], origins["data"]["hash"], origins["flow_run"]["id"]) == (commit_of(known), DATA_HASH, "0f1e2d3c-flow")


@pytest.mark.parametrize("of", ["data", "commit", "run", "flow run", "model"])
def test_a_version_is_found_by_its_origins(known: Project, of: str) -> None:
    facts = json.loads(lineage.show(known.params, "1", as_json=True))
    text = {
        "data": DATA_HASH,
        "commit": commit_of(known),
        "run": facts["run_id"],
        "flow run": "0f1e2d3c-flow",
        "model": facts["lineage"]["model_hash"],
    }[of]
    assert lineage.versions(known.params, text[:8]).startswith("models:/reelnest/1  ")
    with pytest.raises(RegistryError, match="No version of 'reelnest' comes from"):
        lineage.versions(known.params, f"{text[:8]}!")


def test_a_short_prefix_is_refused(known: Project) -> None:
    with pytest.raises(RegistryError, match="at least 6 characters"):
        lineage.versions(known.params, "0f1")


def test_the_commands_restore_commit_changes_and_data(known: Project) -> None:
    script = lineage.commands(known.params, "champion")
    assert f"git checkout --quiet --detach {commit_of(known)}" in script
    assert 'apply --whitespace=nowarn "$PWD/work/artifacts/lineage/changes.diff"' in script
    assert (
        f"dvc remote add --quiet --local --force original {known.workspace.root}/.dvc/cache\ndvc pull --remote original data.dvc" in script
    )
    assert script.endswith(f"MLFLOW_TRACKING_URI=sqlite:///{known.workspace.root}/mlflow.db reelnest lineage models:/reelnest/1 --check")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_the_rebuilt_project_is_compared_with_the_version(known: Project, tmp_path: Path) -> None:
    text, same = lineage.check(known.workspace, known.params, "1")
    assert same
    assert text.count(" same: ") == 3
    rebuilt = tmp_path / "other"
    shutil.copytree(known.workspace.root, rebuilt, symlinks=True, ignore=shutil.ignore_patterns("mlruns", ".git"))
    evaluation = json.loads((rebuilt / "reports" / "evaluation.json").read_text())
    evaluation["results"][0]["metrics"]["recall@10"] += 0.25
    evaluation["configurations"][0]["queries_per_second"] = 1.0
    (rebuilt / "reports" / "evaluation.json").write_text(json.dumps(evaluation))
    (rebuilt / "models" / "candidate" / "note.txt").write_text("other weights")
    (rebuilt / "dvc.lock").unlink()
    text, same = lineage.check(workspace_of(rebuilt).workspace, known.params, "1")
    assert not same
    assert "inputs   unknown: cannot be compared: there is no dvc.lock here; run `dvc repro`" in text
    assert "model    DIFFERENT: " in text
    assert "metrics  DIFFERENT: 1 of " in text
    assert "recall@10" in text


def test_only_the_version_s_copy_of_the_model_has_the_card_and_no_hash_changes(known: Project, tmp_path: Path) -> None:
    mlflow.set_registry_uri(known.params.tracking.uri)
    mlflow.set_tracking_uri(known.params.tracking.uri)
    copy = Path(mlflow.artifacts.download_artifacts("models:/reelnest/1/artifacts/candidate", dst_path=str(tmp_path)))
    card = ModelCard.load(copy / "README.md")
    assert card.data.eval_results
    assert DATA_HASH in card.text
    assert not (known.workspace.candidate / "README.md").exists()
    assert Candidate.of(copy).hash == Candidate.of(known.workspace.candidate).hash
    assert reelnest.load(copy).encode_texts(["a red circle"]).shape == (1, 32)


def test_a_model_trained_without_git_or_dvc_shows_that(registered: Project) -> None:
    text = lineage.show(registered.params, "champion", as_json=False)
    assert "none: not trained in a git repository" in text
    assert "unknown: there was no data.dvc" in text
    assert "none: DVC did not run the stages" in text
    assert "# It was trained outside a git repository, so its code is unknown." in text


def test_a_missing_lineage_and_a_deleted_run_are_shown_in_a_line(known: Project, tmp_path: Path) -> None:
    mlflow.set_tracking_uri(known.params.tracking.uri)
    mlflow.set_registry_uri(known.params.tracking.uri)
    client = mlflow.MlflowClient()
    run = client.create_run(client.get_experiment_by_name("reelnest").experiment_id)
    version = client.create_model_version("reelnest", source=tmp_path.as_uri(), run_id=run.info.run_id)
    client.delete_run(run.info.run_id)
    text = lineage.show(known.params, str(version.version), as_json=False)
    assert f"{run.info.run_id}, which was deleted from MLflow" in text
    assert "registered without it, or its files are missing" in text
    assert "There are no commands to rebuild it" in text
    with pytest.raises(RegistryError, match="There are no commands to rebuild it"):
        lineage.check(known.workspace, known.params, str(version.version))
    client.delete_model_version("reelnest", version.version)


@pytest.mark.parametrize(
    ("which", "expected"), [("models:/reelnest", "expected models:/NAME@ALIAS"), ("7", "no version 7"), ("best", "alias 'best'")]
)
def test_a_missing_version_is_refused(known: Project, which: str, expected: str) -> None:
    with pytest.raises(RegistryError, match=expected):
        lineage.show(known.params, which, as_json=False)
