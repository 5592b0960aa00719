"""Each command that a document names exists, with the subcommands, options, files and targets that it is given there."""

import ast
import importlib.util
import json
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner as ClickRunner
from dvc.cli import DvcParserError
from dvc.cli.parser import get_main_parser
from typer.testing import CliRunner as TyperRunner

from benchmarks.run import BENCHMARKS
from reelnest.cli import cli
from tasks.services.channels import CHANNELS
from tests.unit.documents.documents import OF_THE_SHELL, ROOT, Command, commands, named_paths

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker/compose.yaml").read_text(encoding="utf-8"))
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
LEFT_OUT = "…"
"""Stands for words that the reader knows."""


def resolve_reelnest(command: Command) -> None:
    words = [word.strip("[]") for word in command.words[1:]]
    if words[0] == "deploy":  # it hands its options on
        resolve_module("tasks.services.deploy", words[1:])
    else:
        # Options that are not there come before the help. Arguments may be missing.
        done = TyperRunner().invoke(cli, [*words, "--help"])
        assert done.exit_code == 0, done.output


def resolve_module(module: str, arguments: list[str]) -> None:
    """It exists, and it has the options."""
    found = importlib.util.find_spec(f"{module}.__main__" if (ROOT / module.replace(".", "/")).is_dir() else module)
    assert found is not None
    assert found.origin is not None
    constants = {
        node.value for node in ast.walk(ast.parse(Path(found.origin).read_text(encoding="utf-8"))) if isinstance(node, ast.Constant)
    }
    known = constants | ({f"--{channel.name}" for channel in CHANNELS} if module == "tasks.services.deploy" else set())
    assert [word for word in arguments if word.startswith("--") and word not in known] == []


def resolve_python(command: Command) -> None:
    if command.words[1:2] == ("-m",) and command.words[2:]:
        resolve_module(command.words[2], list(command.words[3:]))


def resolve_make(command: Command) -> None:
    targets = [word for word in command.words[1:] if "=" not in word]
    phony = re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert phony is not None
    assert set(targets) <= set(phony[1].split())
    for word in command.words[1:]:
        if word.startswith("NAME="):
            assert word.removeprefix("NAME=") in BENCHMARKS


def resolve_pytest(command: Command) -> None:
    options = dict(zip(command.words[1::2], command.words[2::2], strict=True))
    assert set(options) == {"-m"}
    assert f'"{options["-m"]}: ' in PYPROJECT


def resolve_dvc(command: Command) -> None:
    arguments = list(command.words[1:])
    if command.is_typed or any(word.startswith("-") for word in arguments):
        assert get_main_parser().parse_args(arguments)
    else:  # in a sentence, `dvc plots` names what `dvc plots show` and `dvc plots diff` have in common
        with pytest.raises(SystemExit, match="0"):
            get_main_parser().parse_args([*arguments, "--help"])


def resolve_mlflow(command: Command) -> None:
    import mlflow.cli

    done = ClickRunner().invoke(mlflow.cli.cli, [*command.words[1:], "--help"])
    assert done.exit_code == 0, done.output


def resolve_git(command: Command) -> None:
    usage = subprocess.run(["git", command.words[1], "-h"], capture_output=True, text=True, check=False)
    text = usage.stdout + usage.stderr
    assert f"usage: git {command.words[1]}" in text
    assert [word for word in command.words if word.startswith("--") and word[2:] not in text] == []


def resolve_prefect(command: Command) -> None:
    words = command.words[1:]
    assert words[:2] in [("deployment", "run"), ("worker", "start"), ("work-pool", "delete"), ("block", "delete")]
    if words[0] == "deployment":
        flow, _, name = words[2].partition("/")
        found = [one for one in yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"] if one["name"] == name]
        sources = [ROOT / one["entrypoint"].partition(":")[0] for one in found]
        assert any(f'name="{flow}"' in source.read_text(encoding="utf-8") for source in sources)
        for option, value in zip(words[3::2], words[4::2], strict=True):
            assert option == "--params"
            assert isinstance(json.loads(value), dict)


def resolve_docker(command: Command) -> None:
    words = list(command.words[1:])
    if words.pop(0) != "compose":
        return
    while "--file" in words:
        place = words.index("--file")
        assert (ROOT / words[place + 1]).is_file()
        del words[place : place + 2]
    if LEFT_OUT in words:
        return
    action, *rest = words
    assert action in ("build", "exec", "ps", "run", "stop", "up")
    if "--env" in rest:
        del rest[rest.index("--env") : rest.index("--env") + 2]
    services = [word for word in rest if not word.startswith("--")]
    named = services[:1] if action in ("exec", "run") else services
    assert set(named) <= set(COMPOSE["services"])
    if "-m" in rest:
        place = rest.index("-m")
        resolve_module(rest[place + 1], rest[place + 2 :])


def resolve_kubectl(command: Command) -> None:
    action, *rest = [word for word in command.words[1:] if word != "--namespace=reelnest"]
    if action == "apply":
        folder = "docker/kubernetes" if rest[1] == "." else rest[1]
        assert rest[0] == "--kustomize"
        assert (ROOT / folder / "kustomization.yaml").is_file()
    elif "--" in rest:
        inner = tuple(rest[rest.index("--") + 1 :])
        RESOLVE[inner[0]](Command(command.document, inner, command.is_typed))
    else:
        assert (action, rest[0].partition("/")[0]) in {("get", "jobs,pods"), ("logs", "job"), ("delete", "job")}


def resolve_copy(command: Command) -> None:
    assert any((folder / command.words[1]).is_file() for folder in (ROOT, ROOT / "docker/kubernetes"))


def resolve_folder(command: Command) -> None:
    assert (ROOT / command.words[1]).is_dir()


def resolve_program_of_the_checkout(command: Command) -> None:
    assert (ROOT / command.words[0]).stat().st_mode & 0o111


def leave(_command: Command) -> None:
    """Other people's programs, which the tests' environment need not have, and the shell's own."""


RESOLVE: Mapping[str, Callable[[Command], None]] = {
    **dict.fromkeys(OF_THE_SHELL, leave),
    **dict.fromkeys(("accelerate", "curl", "pip"), leave),
    "cd": resolve_folder,
    "cp": resolve_copy,
    "docker": resolve_docker,
    "docker/make-secrets": resolve_program_of_the_checkout,
    "dvc": resolve_dvc,
    "git": resolve_git,
    "kubectl": resolve_kubectl,
    "make": resolve_make,
    "mlflow": resolve_mlflow,
    "prefect": resolve_prefect,
    "pytest": resolve_pytest,
    "python": resolve_python,
    "reelnest": resolve_reelnest,
}


@pytest.mark.parametrize("command", commands(), ids=str)
def test_a_command_of_the_documents_resolves(command: Command) -> None:
    RESOLVE[command.words[0]](command)


NONE_OF_THEM = """
reelnest serch words
reelnest search words --dims 64
reelnest deploy --pol x
make tests
make bench NAME=x
python -m flows.pipelines
python -m flows.clean_up --kep 3
dvc reproduce
dvc repro --forced
pytest -m faults
mlflow models sreve -m x
git swtch x
prefect deployment run reelnest-train/weekly
docker compose stop master
kubectl apply --kustomize docker
cp configs/none.yaml params.yaml
"""


@pytest.mark.parametrize("text", NONE_OF_THEM.strip().splitlines())
def test_a_command_that_does_not_exist_is_noticed(text: str) -> None:
    command = Command("text", tuple(text.split()), is_typed=True)
    with pytest.raises((AssertionError, DvcParserError, ImportError)):
        RESOLVE[command.words[0]](command)


@pytest.mark.parametrize(("document", "path"), named_paths())
def test_a_file_that_a_document_names_is_there(document: str, path: str) -> None:
    assert (ROOT / path).exists() or Path(path).is_relative_to("docker/secrets")  # which docker/make-secrets makes


def test_the_readme_quotes_the_measured_ratios() -> None:
    """Each row that names a benchmark has the ratio of its last record, with two decimals."""
    rows = re.findall(r"\| ([\d.]+) × \| `make bench NAME=([\w-]+)` \|", (ROOT / "README.md").read_text(encoding="utf-8"))
    records = json.loads((ROOT / "benchmarks/results/summary.json").read_text(encoding="utf-8"))
    ratios = {record["name"]: f"{record['ratio']:.2f}" for record in records}
    assert rows
    assert {name: ratio for ratio, name in rows} == {name: ratios[name] for _, name in rows}


def test_the_page_on_searching_quotes_the_measured_requests() -> None:
    text = (ROOT / "docs/search.md").read_text(encoding="utf-8")
    quoted = re.search(
        r"64 clients got (\d+) responses a second.*?one client got (\d+) \(`make bench NAME=serve-clients`\)", text, re.DOTALL
    )
    records = json.loads((ROOT / "benchmarks/results/summary.json").read_text(encoding="utf-8"))
    record = next(record for record in records if record["name"] == "serve-clients")
    assert quoted is not None
    assert [int(number) for number in quoted.groups()] == [round(record["ours"]), round(record["theirs"])]
