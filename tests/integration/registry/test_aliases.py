"""The alias `champion`: concurrent decisions, manual promotion and rollback."""

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import mlflow
import pytest
from mlflow.utils.file_utils import local_file_uri_to_path

from reelnest.commands import registry
from reelnest.errors import RegistryError
from reelnest.registry.promotion import deciding
from reelnest.registry.promotion.aliases import promote, rollback
from reelnest.registry.promotion.decision import Evidence, decide_version
from reelnest.registry.promotion.evaluation_log import DATA_HASH_TAG
from reelnest.registry.versions import versions
from reelnest.registry.versions.retention import registered
from reelnest.registry.versions.versions import Registration
from tests.integration.registry.candidate_workspace import Project
from tests.integration.registry.test_registration import aliases, another_model, queries_file, registered_as

DECIDE_OFTEN = """
import os, sys, time
import mlflow
from reelnest.registry.promotion.deciding import deciding
mlflow.set_tracking_uri(sys.argv[1])
first = os.fork()  # three processes, of one that has imported MLflow
second = first and os.fork()
for _ in range(4):
    with deciding("reelnest"):
        with open(sys.argv[2], "a") as log:
            log.write(f"in {os.getpid()}\\n")
            log.flush()
            time.sleep(0.05)
            log.write(f"out {os.getpid()}\\n")
if first and second:
    assert [os.waitpid(process, 0)[1] for process in (first, second)] == [0, 0]
"""


def registered_with(project: Project, number: int, value: float) -> Registration:
    return registered_as(project, another_model(project.workspace.candidate, number), value)


def test_processes_decide_one_at_a_time(project: Project, tmp_path: Path) -> None:
    registered_with(project, 1, 0.5)
    log = tmp_path / "log"
    command = [sys.executable, "-c", DECIDE_OFTEN, project.params.tracking.uri, str(log)]
    subprocess.run(command, timeout=120, check=True)
    lines = log.read_text().splitlines()
    assert len(lines) == 2 * 4 * 3
    assert len(set(lines)) == 2 * 3
    for entered, left in zip(lines[::2], lines[1::2], strict=True):
        assert (entered.split()[0], left) == ("in", entered.replace("in", "out"))
    assert mlflow.MlflowClient().get_registered_model("reelnest").tags == {}


def test_a_process_killed_while_deciding_blocks_others_only_briefly(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    registered_with(project, 1, 0.5)
    for tag in ("0", "z"):  # sorted before and after all other tags
        mlflow.MlflowClient().set_registered_model_tag("reelnest", deciding.PREFIX + tag, "waits or decides")
    monkeypatch.setattr(deciding, "ABANDONED_AFTER", 0.5)
    assert registered_with(project, 2, 0.6).decision == "promoted"
    assert mlflow.MlflowClient().get_registered_model("reelnest").tags == {}


def test_only_one_of_two_concurrent_equal_challengers_is_promoted(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    registered_with(project, 1, 0.5)
    # Created, but not decided.
    with monkeypatch.context() as patch:
        patch.setattr(versions, "decide_version", lambda *_: (_ for _ in ()).throw(RegistryError("stopped")))
        for number in (2, 3):
            with pytest.raises(RegistryError, match="stopped"):
                registered_with(project, number, 0.6)
    client = mlflow.MlflowClient()
    pending = [client.get_model_version("reelnest", number) for number in ("2", "3")]
    queries = queries_file(project.reports, 0.6)
    evidence = Evidence(queries, "data", "code", True, None)
    threads = [
        threading.Thread(target=decide_version, args=(version, evidence, project.params.registration, None, {})) for version in pending
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    decisions = [client.get_model_version("reelnest", number).tags["reelnest.decision"] for number in ("2", "3")]
    assert sorted(decisions) == ["not promoted", "promoted"]
    assert aliases()["champion"] == str(2 + decisions.index("promoted"))


def test_a_rollback_goes_back_one_champion_at_a_time(project: Project) -> None:
    for number, value in ((1, 0.5), (2, 0.6), (3, 0.7)):
        registered_with(project, number, value)
    assert rollback(project.params) == (3, 2)
    assert aliases() == {"champion": "2", "challenger": "3"}
    assert rollback(project.params) == (2, 1)
    with pytest.raises(RegistryError, match="Version 1 of 'reelnest' replaced no champion"):
        rollback(project.params)
    assert promote(project.params, "challenger") == 3
    assert aliases()["champion"] == "3"
    assert rollback(project.params) == (3, 1)


def test_rollbacks_after_a_version_was_champion_twice_come_to_an_end(project: Project) -> None:
    for number, value in ((1, 0.5), (2, 0.6)):
        registered_with(project, number, value)
    assert promote(project.params, "1") == 1
    assert [rollback(project.params), rollback(project.params)] == [(1, 2), (2, 1)]
    with pytest.raises(RegistryError, match="Version 1 of 'reelnest' replaced no champion"):
        rollback(project.params)
    assert all(version.stays for version in registered(project.params))  # both were champion


@pytest.mark.parametrize("stopped_at", ["set_model_version_tag", "set_registered_model_alias"])
def test_a_repeated_rollback_after_an_interruption_goes_back_one_step(
    project: Project, monkeypatch: pytest.MonkeyPatch, stopped_at: str
) -> None:
    for number, value in ((1, 0.5), (2, 0.6), (3, 0.7)):
        registered_with(project, number, value)

    def away(*_: object) -> None:
        raise OSError("the server is away")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, stopped_at, away)
        with pytest.raises(RegistryError, match="Run the command again"):
            rollback(project.params)
    assert rollback(project.params) == (3, 2)


def test_the_table_shows_who_is_champion_and_why(project: Project) -> None:
    assert registry.table(project.params) == "MLflow has no version of 'reelnest' yet. Run `reelnest register`."
    registered_with(project, 1, 0.5)
    registered_with(project, 2, 0.4)
    head, second, first = registry.table(project.params).splitlines()
    assert head.split()[:4] == ["version", "aliases", "recall@10", "data"]
    assert second.split()[:3] == ["2", "challenger", "0.4000"]
    assert "may be worse than the champion" in second
    assert first.split()[:3] == ["1", "champion", "0.5000"]
    assert "there was no champion: the first version" in first
    assert registry.promote(project.params, "models:/reelnest/2") == "models:/reelnest@champion is now version 2."
    with pytest.raises(RegistryError, match=r"models:/other/2 is a version of 'other', and register.name in params.yaml is 'reelnest'."):
        registry.promote(project.params, "models:/other/2")
    assert "by hand, in place of version 1" in registry.table(project.params)
    assert registry.rollback(project.params) == "models:/reelnest@champion is version 1 again, and no longer version 2."


def test_versions_on_other_test_data_are_marked_and_not_sorted_among_the_others(project: Project) -> None:
    assert json.loads(registry.as_json(project.params)) == []
    for number, value in ((1, 0.5), (2, 0.4), (3, 0.3)):
        registered_with(project, number, value)
    mlflow.MlflowClient().set_model_version_tag("reelnest", "2", DATA_HASH_TAG, "f" * 64)
    _, *rows, note = registry.table(project.params).splitlines()
    assert [row.split()[0] for row in rows] == ["3", "1", "2"]
    assert ["(other)" in row for row in rows] == [False, False, True]
    assert note == "(other): measured on other test data than version 1, so their recall@10 cannot be compared."
    assert max(map(len, rows)) > 120  # the reasons are complete
    narrow = registry.table(project.params, width=80).splitlines()[1:4]
    assert {len(row) for row in narrow} == {80}
    assert all(row.endswith("…") for row in narrow)
    listed = json.loads(registry.as_json(project.params))
    assert [(entry["version"], entry["comparable"]) for entry in listed] == [(3, True), (1, True), (2, False)]
    assert listed[2]["data"] == "f" * 64
    assert listed[1]["aliases"] == ["champion"]
    assert listed[0]["reason"] in rows[0]


def test_a_missing_version_is_reported(project: Project) -> None:
    with pytest.raises(RegistryError, match=r"MLflow has no model 'reelnest' yet. Run `reelnest register`"):
        promote(project.params, "challenger")
    registered_with(project, 1, 0.5)
    with pytest.raises(RegistryError, match=r"has no version 7. See `reelnest models`"):
        promote(project.params, "7")
    with pytest.raises(RegistryError, match="has the alias 'best'"):
        promote(project.params, "best")


def test_a_version_without_files_does_not_become_champion(project: Project) -> None:
    registered_with(project, 1, 0.5)
    registered_with(project, 2, 0.6)
    source = mlflow.MlflowClient().get_model_version("reelnest", "1").source
    model = mlflow.MlflowClient().get_logged_model(source.removeprefix("models:/"))
    shutil.rmtree(local_file_uri_to_path(model.artifact_location))
    with pytest.raises(RegistryError, match="files of version 1 of 'reelnest' are missing"):
        rollback(project.params)
    assert aliases()["champion"] == "2"
