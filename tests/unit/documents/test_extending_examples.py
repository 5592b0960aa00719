"""The examples of docs/extending.md: each does what its section says, in the module that it is for."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reelnest.artifacts.evaluation_report import BehaviourResults
from reelnest.errors import ArtifactError
from reelnest.evaluation import metrics
from reelnest.evaluation.metrics import METRICS, Hits, Relevance, ScoredQueries
from reelnest.records.importers.importer import IMPORTERS
from reelnest.records.importing import import_data
from reelnest.registry.promotion import gate
from reelnest.registry.promotion.gate import Challenge
from reelnest.registry.promotion.verdict import decide
from reelnest.search import storage_types
from reelnest.search.storage import stored
from reelnest.search.storage_types import STORAGE_TYPES
from reelnest.settings import Evaluate, Preprocess, Register
from reelnest.video import sampling
from reelnest.video.sampling import FRAME_SAMPLERS, Clip
from reelnest.yaml_files import load_yaml
from tests.support import reports

PAGE = Path(__file__).parents[3] / "docs" / "extending.md"


def blocks(heading: str, language: str = "python") -> list[str]:
    """The blocks of code of a section."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def example(heading: str, **names: Any) -> dict[str, Any]:
    """The names that the first Python block of a section defines, with those of the module that it is put into."""
    names["__name__"] = __name__
    exec(blocks(heading)[0], names)  # noqa: S102 (our own document)
    return names


@pytest.fixture
def _same_tables_afterwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(gate, "CONDITIONS", list(gate.CONDITIONS))
    before = dict(METRICS)
    yield
    METRICS.clear()
    METRICS.update(before)


@pytest.mark.usefixtures("_same_tables_afterwards")
def test_the_metric_is_the_share_of_the_first_five_results_that_is_relevant() -> None:
    example("A metric", **vars(metrics))
    hits = Hits(np.array([0, 0, 1]), np.array([1, 6, 5]), np.array([1.0, 1.0, 2.0]))
    found = ScoredQueries(hits, Relevance.of([[1.0, 1.0], [2.0], [1.0]]))
    assert metrics.query_metrics(found)["precision@5"].tolist() == [0.2, 0.2, 0.0]
    assert "precision@5" in metrics.comparable_names()


@pytest.mark.usefixtures("_same_tables_afterwards")
def test_the_condition_keeps_a_model_with_few_tests_from_being_promoted() -> None:
    example("A gate condition", **vars(gate))
    behaviour = BehaviourResults.model_validate(reports.behaviour(passed_by_kind={"16": {"direction": 1.0}}))
    verdict = decide(Challenge(Register(), True, behaviour, champion=None, comparison=None), None)
    assert verdict.reason == "there was no champion: 4 behaviour tests, 100 are required"


def test_the_report_of_a_stage_is_written_and_read_and_refused_in_another_version(tmp_path: Path) -> None:
    names = example("A stage")
    report = names["WordsReport"](by_split={"train": names["WordCounts"](texts=2, words=9)})
    path = report.write(tmp_path)
    assert names["WordsReport"].read(tmp_path) == report
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(ArtifactError, match="Run `dvc repro words` again"):
        names["WordsReport"].read(tmp_path)


def test_the_importer_reads_a_folder_of_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    IMPORTERS.names()  # loads those of the package, so that the copy holds them
    monkeypatch.setattr(IMPORTERS, "_by_name", dict(IMPORTERS._by_name))
    example("An importer")
    clips = tmp_path / "clips"
    clips.mkdir()
    (clips / "a.mp4").write_bytes(b"video")
    (clips / "a.txt").write_text("a ring\n\na red ring\n")
    imported = import_data("clips", clips, tmp_path / "imported")
    assert (imported.videos, imported.pairs) == (1, 2)
    assert [(row.origin.file, row.origin.row, row.reason) for row in imported.skipped] == [("a.txt", 2, "empty_text")]


def test_the_frame_sampler_takes_the_first_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "FRAME_SAMPLERS", dict(FRAME_SAMPLERS))
    names = example("A frame sampler", **vars(sampling))
    assert Preprocess(sampling="first").sampling == "first"
    assert names["FRAME_SAMPLERS"]["first"].choose(Clip(np.arange(9.0), 9.0, 2), 4, 2.0).tolist() == [0, 1, 2, 3]


def test_the_storage_type_rounds_to_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(storage_types, "STORAGE_TYPES", dict(STORAGE_TYPES))
    names = example("A storage type", **vars(storage_types))
    assert Evaluate(storage=("bfloat16",)).storage == ("bfloat16",)
    monkeypatch.setitem(STORAGE_TYPES, "bfloat16", names["STORAGE_TYPES"]["bfloat16"])
    assert stored(torch.eye(3), "bfloat16")[torch.arange(3)].dtype == torch.bfloat16


def test_the_stage_is_found_by_its_name_and_gets_its_code_in_dvc_yaml(tmp_path: Path) -> None:
    root = PAGE.parents[1]
    shutil.copytree(root / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    report, stage, task = blocks("A stage")
    (tmp_path / "src/reelnest/artifacts/words_report.py").write_text(report)
    (tmp_path / "src/reelnest/stages/words.py").write_text(stage)
    text = (root / "dvc.yaml").read_text().replace("\nplots:", f"\n{blocks('A stage', 'yaml')[0]}\nplots:")
    (tmp_path / "dvc.yaml").write_text(text)
    command = [sys.executable, "-m", "reelnest.commands.dvc_yaml"]
    subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "src")}, check=True)
    entry = load_yaml((tmp_path / "dvc.yaml").read_text())["stages"]["words"]
    expected = {"prepared", *(f"src/reelnest/{name}" for name in ("artifacts/words_report.py", "stages/words.py", "store/prepared.py"))}
    assert expected <= set(entry["deps"])
    compile(task, "tasks/stages.py", "exec")
