"""Mistakes of a person: each is refused in at most two lines that say what to type next, before anything slow is imported."""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

import reelnest
from reelnest import cli
from reelnest.encoder.saved_settings import FORMAT, FORMAT_VERSION
from reelnest.records.content_hash import folder_hash

ROOT = Path(__file__).parents[3]

MANIFEST = {
    **{"format_version": 1, "model": "../model", "model_hash": "0", "base": "tiny", "dims": [16, 128], "data": "../data", "data_hash": "0"},
    **{"storage": "float32", "graph_dim": None, "videos": 1, "skipped": 0},
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with nothing but its settings, an index and the settings file of its model."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    for folder in ("index", "model", "no-model", "clips"):
        (tmp_path / folder).mkdir()
    (tmp_path / "clips/videos.jsonl").touch()
    settings = {"format": FORMAT, "format_version": FORMAT_VERSION, "files": {}, "model": {"dims": [16, 128]}}
    (tmp_path / "model/reelnest.json").write_text(json.dumps(settings))
    manifest = {**MANIFEST, "model_hash": folder_hash(tmp_path / "model")}
    (tmp_path / "index/manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "no-model/manifest.json").write_text(json.dumps({**manifest, "model": "../gone"}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "prepare_process", lambda: None)  # it changes the environment of the tests
    return tmp_path


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[object, str, str]:
    """The status, and what `reelnest` prints."""
    monkeypatch.setattr(sys, "argv", ["reelnest", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.app()
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


COMMAND = (sys.executable, "-c", "from reelnest.cli import app; app()")
REGISTRY = """
CREATE TABLE registered_models (name); INSERT INTO registered_models VALUES ('reelnest');
CREATE TABLE model_versions (name, version, current_stage); INSERT INTO model_versions VALUES ('reelnest', 1, 'None');
CREATE TABLE registered_model_aliases (name, version, alias); INSERT INTO registered_model_aliases VALUES ('reelnest', 1, 'champion');
CREATE TABLE model_version_tags (name, version, key, value);
INSERT INTO model_version_tags VALUES ('reelnest', 1, 'reelnest.model_hash', 'f');
"""
"""The tables of MLflow's database that name versions. tests/integration/registry/test_known_versions.py reads those that MLflow makes."""
NO_ALIAS = "No version of 'reelnest' has the alias 'nobody'. See `reelnest models`."
NO_VERSION = "Model 'reelnest' has no version 99. See `reelnest models`."
SLOW = ("torch", "transformers", "great_expectations", "mlflow", "dvc", "prefect", "sqlalchemy")


def run_alone(arguments: list[str], main: str = "reelnest.cli.app") -> tuple[int, str, list[str]]:
    """The status and the error of a command in a process of its own, and which of the slow modules it imported."""
    module, _, function = main.rpartition(".")
    code = (
        f"import sys; from {module} import {function}\n"
        f"try: status = {function}()\n"
        "except SystemExit as ended: status = ended.code\n"
        f"print(status, *[name for name in {SLOW} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=True)
    status, *imported = done.stdout.split()
    return int(status), done.stderr, imported


MISTAKES = [
    (["tran"], 2, "No such command 'tran'. Did you mean 'train'? Type `reelnest --help` for help."),
    (["search", "x", "--dimm", "3"], 2, "No such option: --dimm (Possible options: --dim). Type `reelnest search --help` for help."),
    (["search"], 2, "Missing argument 'words'. Type `reelnest search --help` for help."),
    (["memory", "--gpu-gb", "abc"], 2, "Invalid value for '--gpu-gb': Input should be a valid number"),
    *(
        (["memory", "--gpu-gb", value], 2, f"expected the memory of a card in GiB, such as 24; found {value}.")
        for value in ("-1", "0", "nan", "inf")
    ),
    (["memory", "--text-tokens", "0"], 2, "Invalid value for '--text-tokens'"),
    (["search", ""], 2, "The search is empty. Enter a text, such as: a red ring"),
    (["search", "!!! …"], 2, "“!!! …” has no letters or digits. Describe what the video shows"),
    (["search", "x" * 5000], 2, "The search has 5,000 characters; the limit is 4,000. Shorten it."),
    (["search", "a", "ring", "-k", "0"], 2, "k is 0; expected 1 to 1000."),
    (["search", "a", "red", "ring", "--dim", "129"], 2, "dim 129: this index has dims 1 to 128. The model was trained for 16, 128"),
    (["search", "a", "--dim", "0"], 2, "dim 0: this index has dims 1 to 128."),
    (["search", "a", "red", "ring", "--index", "no/index"], 1, "no/index: there is no index. Run `reelnest index --to no/index`"),
    (["search", "a", "--index", "no-model"], 1, "gone: no saved model. Set --model"),
    (["search", "a", "--model", "other"], 1, "other: no saved model. Set --model"),
    (["serve", "--index", "no/index"], 1, "no/index: there is no index."),
    (["serve", "--index", "no-model"], 1, "gone: no saved model."),
    (["serve", "--port", "99999"], 2, "Invalid value for '--port': Input should be less than or equal to 65535."),
    (["serve", "--host", "192.0.2.1"], 2, "Cannot listen on 192.0.2.1, port 8000"),
    (["index", "--data", "nowhere"], 1, "nowhere/videos.jsonl: no such file. Set --data"),
    (["search", "a", "-k"], 2, "Option '-k' requires an argument. Type `reelnest --help` for help."),
    (["search", "a", "--index", "model"], 1, "model is not an index. Expected the folder that `reelnest index --to` wrote."),
    (["search", "a", "--index", "index/manifest.json"], 1, "index/manifest.json is not an index."),
    (["index", "--data", "clips", "--model", "model", "--to", "clips"], 2, "clips exists and is not an index, so nothing was written."),
    (["index", "--data", "clips", "--model", "model", "--to", "params.yaml"], 2, "params.yaml exists and is not an index"),
    (["index", "--data", "clips", "--model", "model", "--to", ""], 2, "'.' cannot be replaced by an index. Name a new folder"),
    (["index", "--data", "clips", "--model", "model", "--dim", "0"], 2, "dim 0: the model was trained for 16, 128. Store one of these."),
    (["index", "--data", "clips", "--model", "model", "--storage", "int4"], 2, "storage int4: expected float32, float16, int8, binary"),
    (["index", "--data", "clips"], 1, "models/candidate: no saved model. Run `reelnest train`, or set --model"),
    (["serve", "--allow-origin", "app.example"], 2, "--allow-origin 'app.example': expected a site with its scheme"),
    (["serve", "--allow-host", "https://app.example"], 2, "--allow-host 'https://app.example': expected a host name without scheme"),
    (["register", "--refused", " "], 2, "expected who decided, and why"),
    (["lineage", "--check", "--json"], 2, "use only one of --check, --commands, --json and --from"),
    (["register"], 1, "models/candidate is missing. Run `reelnest train`."),
    (["export", "other"], 1, "models/candidate is missing. Run `reelnest train`."),
    (["export", "index"], 1, "index exists already. Name another folder, or remove it."),
    *((command, 1, "MLflow has no runs and no models yet: no database") for command in (["promote"], ["rollback"], ["lineage"])),
    (["data", "add", "nowhere"], 1, "nowhere: "),
    (["validate"], 1, "data: there is no such folder; expected one with videos.jsonl and pairs.jsonl. See “Your own data” in README.md"),
]


REGISTERED_MISTAKES = [
    (["index", "--data", "model", "--model", "models:/reelnest@nobody"], NO_ALIAS),
    (["index", "--data", "model", "--model", "models:/reelnest/99"], NO_VERSION),
    (["index", "--data", "model", "--model", "models:/reelnst@champion"], "MLflow has no model 'reelnst' yet. Run `reelnest register`."),
    (["index", "--data", "model", "--model", "models:/reelnest"], "is no version of a registered model: expected models:/NAME@ALIAS"),
    (["search", "a", "--model", "models:/reelnest@nobody"], NO_ALIAS),
    (["search", "a", "--model", "models:/reelnest@champion"], "index: this index was built with model "),
    (["search", "a", "--index", "stale"], "stale: this index was built with model 000000000000 (../model), not with "),
    (["serve", "--port", "0", "--index", "stale"], "Run `reelnest index --to stale` again, or search with that model."),
    (["serve", "--port", "0", "--model", "models:/reelnest/99"], NO_VERSION),
    (["lineage", "nobody"], NO_ALIAS),
    (["lineage", "models:/reelnest/99"], NO_VERSION),
    (["lineage", "--from", "abc"], "'abc': give at least 6 characters of a data hash, commit, run, flow run or model hash."),
    (["promote", "99"], NO_VERSION),
]


@pytest.mark.parametrize(("arguments", "words"), REGISTERED_MISTAKES, ids=[" ".join(arguments) for arguments, _ in REGISTERED_MISTAKES])
def test_an_unknown_version_or_a_stale_index_is_named_before_anything_slow_is_imported(
    arguments: list[str], words: str, project: Path
) -> None:
    with closing(sqlite3.connect("mlflow.db")) as database:
        database.executescript(REGISTRY)
    Path("model/videos.jsonl").touch()
    shutil.copytree("index", "stale")
    Path("model/reelnest.json").write_text(Path("model/reelnest.json").read_text() + "\n")
    Path("stale/manifest.json").write_text(json.dumps({**MANIFEST, "model_hash": "0" * 64}))
    status, err, imported = run_alone(arguments)
    assert (status, imported) == (1, [])
    assert err.startswith("reelnest: error: ")
    assert words in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(("arguments", "status", "words"), MISTAKES, ids=[" ".join(arguments)[:40] for arguments, _, _ in MISTAKES])
def test_a_mistake_is_explained_in_one_line(
    arguments: list[str], status: int, words: str, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended, out, err = run(arguments, monkeypatch, capsys)
    assert (ended, out) == (status, "")
    assert err.startswith("reelnest: error: ")
    assert words in err
    assert len(err.splitlines()) == 1


def test_several_wrong_settings_are_named_in_two_lines(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path("params.yaml").read_text()
    for right, wrong in (("  epochs:", "  epoch:"), ("  temperature:", "  temprature:"), ("  decoder:", "  decodr:")):
        text = text.replace(right, wrong)
    Path("params.yaml").write_text(text)
    status, _, err = run(["train"], monkeypatch, capsys)
    assert status == 2
    assert err.splitlines()[0] == "reelnest: error: params.yaml: 3 settings are wrong. Correct them, and check with `reelnest params`."
    for name in ("preprocess.decoder?", "train.epochs?", "loss.temperature?"):
        assert f"did you mean {name}" in err
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize("command", [["data", "diff", "nope"], ["drift", "--revision", "nope"], ["data", "push"], ["runs"]])
def test_outside_a_repository_that_is_said(command: list[str], project: Path) -> None:
    for folder in ("tasks", "src"):
        (project / folder).symlink_to(ROOT / folder)
    done = subprocess.run([*COMMAND, *command], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert f"{project} is not in a git repository. Run this in a clone of the project" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--set", "train.epohcs=2"], 1, "has no train.epohcs; did you mean train.epochs?"),
        (["--set", "train.epochs"], 1, "expected KEY=VALUE, such as --set train.epochs=2."),
        (["--revision", "nope"], 1, "has no commit 'nope'."),
        (["--sett", "a"], 2, "unrecognized arguments: --sett a. Type `reelnest run --help` for help."),
    ],
)
def test_a_run_is_checked_before_prefect_is_imported(arguments: list[str], status: int, words: str, project: Path) -> None:
    for folder in ("tasks", "src"):
        (project / folder).symlink_to(ROOT / folder)
    for command in ("init -q", "add params.yaml", "-c user.name=t -c user.email=t@t commit -qm Settings"):
        subprocess.run(["git", *command.split()], check=True)
    ended, err, imported = run_alone(arguments, "tasks.workspaces.start_run.main")
    assert (ended, imported) == (status, [])
    assert words in err
    assert len(err.splitlines()) == 1


def test_an_unknown_option_of_a_deployment_is_named_without_the_usage(project: Path) -> None:
    (project / "tasks").symlink_to(ROOT / "tasks")
    status, err, _ = run_alone(["--poll", "docker"], "tasks.services.deploy.main")
    assert status == 2
    assert err == "reelnest deploy: error: unrecognized arguments: --poll docker. Type `reelnest deploy --help` for help.\n"


def test_without_dvc_that_is_said(project: Path) -> None:
    for folder in ("tasks", "src"):
        (project / folder).symlink_to(ROOT / folder)
    subprocess.run(["git", "init", "-q"], check=True)
    done = subprocess.run([*COMMAND, "data", "push"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert f"{project} has no .dvc/" in done.stderr
    assert "or run `dvc init`." in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_in_the_c_locale_words_are_read_and_names_are_printed_as_utf_8(project: Path) -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment.pop("PYTHONIOENCODING", None)
    long = subprocess.run([*COMMAND, "search", "ü" * 4001], env=environment, capture_output=True, timeout=120, check=False)
    assert b"The search has 4,001 characters" in long.stderr
    named = subprocess.run([*COMMAND, "search", "…"], env=environment, capture_output=True, timeout=120, check=False)
    assert named.stderr.decode() == ("reelnest: error: “…” has no letters or digits. Describe what the video shows, such as: a red ring\n")


def test_a_port_in_use_is_named(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        status, _, err = run(["serve", "--port", str(port)], monkeypatch, capsys)
    assert (status, err) == (2, f"reelnest: error: Port {port} is in use. Choose another with --port.\n")


def test_the_version_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"], monkeypatch, capsys) == (0, f"reelnest {reelnest.__version__}\n", "")


def test_without_a_database_there_are_no_models(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "--json"], monkeypatch, capsys)[1] == "[]\n"
    assert "MLflow has no runs and no models yet" in run(["models"], monkeypatch, capsys)[1]


def test_no_command_prints_the_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run([], monkeypatch, capsys)
    assert status == 2
    assert err.startswith("Usage: reelnest ")
    assert "reelnest: error" not in err


def test_ctrl_c_says_that_it_interrupted(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "check_data_files", interrupt)
    assert run(["validate"], monkeypatch, capsys) == (130, "", "reelnest: interrupted\n")


@pytest.mark.parametrize("command", ["search a", "search a --index none", "validate", "export other", "register", "promote"])
def test_a_mistake_is_found_before_anything_slow_is_imported(command: str, project: Path) -> None:
    shutil.rmtree("model")
    status, _, imported = run_alone(command.split())
    assert status in (1, 2)
    assert imported == []
