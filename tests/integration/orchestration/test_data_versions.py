"""Versions of the data in a real git and DVC repository with a folder as remote: added, compared, pushed, and cut off by a kill."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from reelnest.errors import DataError, RunError
from reelnest.serving.clicks.click_log import ClickLog
from reelnest.settings import Params, Serve, load_params
from reelnest.stages import validate
from tasks.process import dvc_cache
from tasks.process.dvc import DVC
from tasks.process.runner import CommandError, output_of
from tasks.workspaces import click_imports, data_arrival, data_versions

ROOT = Path(__file__).parents[3]
GIT = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]
# Stands still where it is told to, so that the kill meets it there.
HOLD = """
import sys, time
from pathlib import Path
from reelnest.settings import load_params
from reelnest.stages import validate
from tasks.workspaces import data_versions
def hold(*_, **__):
    print("ready", flush=True)
    time.sleep(600)
validate.run = lambda *_: None
module, name = {"validate": (validate, "run"), "record": (data_versions, "output_of")}[sys.argv[1]]
setattr(module, name, hold)
data_versions.add(Path.cwd(), load_params(Path("params.yaml")), [Path(sys.argv[2])], replacing=False, committing=False)
"""


def source(folder: Path, numbers: Sequence[int], title: str = "a title", colour: int = 200) -> Path:
    (folder / "frames").mkdir(parents=True)
    videos, pairs = [], []
    for number in numbers:
        name = f"frames/{number}.png"
        Image.new("RGB", (56, 56), (number * 10, 40, colour)).save(folder / name)
        videos.append({"video_id": f"v{number}", "images": [name] * 4, "title": title})
        pairs.append({"query": f"search {number}", "target": f"v{number}", "split": ("train", "test", "validation")[number % 3]})
    for name, records in (("videos.jsonl", videos), ("pairs.jsonl", pairs)):
        (folder / name).write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return folder


@pytest.fixture
def params() -> Params:
    return load_params(ROOT / "params.yaml")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose data are six videos, committed."""
    folder = tmp_path_factory.mktemp("filled") / "checkout"
    folder.mkdir()
    for name in ("params.yaml", "configs"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)  # type: ignore[operator]  # copy or copytree
    (folder / ".gitignore").write_text("/data/\n/.data.*/\n/work/\n")
    subprocess.run([*GIT, "init", "--quiet"], cwd=folder, check=True)
    for name in ("user.name", "user.email"):
        subprocess.run(["git", "config", name, "t"], cwd=folder, check=True)
    subprocess.run([*DVC, "init", "--quiet"], cwd=folder, check=True)
    (folder / ".dvc" / "config").write_text(
        "[core]\n    analytics = false\n    remote = store\n['remote \"store\"']\n    url = ../../store\n"
    )
    subprocess.run(["git", "add", "."], cwd=folder, check=True)
    subprocess.run(["git", "commit", "--quiet", "--message=A project"], cwd=folder, check=True)
    params = load_params(folder / "params.yaml")
    data_versions.add(folder, params, [source(folder.parent / "first", range(6))], replacing=False, committing=True)
    return folder


@pytest.fixture
def checkout(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "place" / "checkout"
    shutil.copytree(filled, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the data's checks, which take seconds and have tests of their own."""
    monkeypatch.setattr(validate, "run", lambda *_: None)


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def state(checkout: Path) -> dict[str, str]:
    paths = [path for path in sorted((checkout / "data").rglob("*")) if path.is_file()] + [checkout / "data.dvc"]
    return {str(path.relative_to(checkout)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def add(checkout: Path, params: Params, *sources: Path, **options: Any) -> str:
    return data_versions.add(checkout, params, list(sources), **{"replacing": False, "committing": False, **options})


def test_an_addition_is_committed_with_its_counts_and_told_by_diff(checkout: Path, params: Params, tmp_path: Path, unchecked: None) -> None:
    hostile = "$(touch /tmp/x) <script> \n\nReverts: all"
    first = git(checkout, "log", "-1", "--format=%s")
    assert first == "Data: 6 videos and 6 pairs new\n"
    (checkout / ".data.backup").mkdir()  # a copy by hand, which is not the folder of a killed addition
    add(checkout, params, source(tmp_path / "more", [6, 7], title=hostile), committing=True)
    message = git(checkout, "log", "-1", "--format=%B")
    assert message.startswith("Data: 2 videos and 2 pairs new\n")
    assert (checkout / ".data.backup").is_dir()
    assert "text_to_video  train         3    1        0        0" in message
    assert "Reverts" not in message
    assert git(checkout, "status", "--porcelain") == ""
    already = f"No changes: all records of {tmp_path / 'more'} are in data/ already. data/ is the version of data.dvc at HEAD."
    assert add(checkout, params, tmp_path / "more") == already
    assert add(checkout, params, tmp_path / "more", committing=True) == already

    # Edited by hand, and recorded without a source.
    lines = (checkout / "data" / "pairs.jsonl").read_text().splitlines(keepends=True)
    (checkout / "data" / "pairs.jsonl").unlink()
    (checkout / "data" / "pairs.jsonl").write_text("".join(lines[1:]))
    before = state(checkout)["data.dvc"]
    assert "1 pair removed" in add(checkout, params)
    assert state(checkout)["data.dvc"] != before
    uncommitted = "data/ is the version of data.dvc, which is not committed. Commit it: reelnest data add --commit"
    assert add(checkout, params).endswith(uncommitted)
    changes, seconds = data_versions.diff(checkout, params, "HEAD~1", None)
    assert (len(changes.new_videos), len(changes.new_pairs), len(changes.removed_pairs)) == (2, 2, 1)
    assert seconds == {"before": [], "after": []}
    with pytest.raises(RunError, match=r"'HEAD~2' has no data\.dvc"):
        data_versions.diff(checkout, params, "HEAD~2", None)


def test_what_is_refused_leaves_everything_as_it_was(checkout: Path, params: Params, tmp_path: Path) -> None:
    before = state(checkout)
    with pytest.raises(DataError, match=r"videos\.jsonl:1: video \"v1\" has other bytes"):
        add(checkout, params, source(tmp_path / "other", [1], colour=7))
    broken = source(tmp_path / "broken", [8, 9])
    for path in (broken / "frames").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"(?s)Nothing was added.*work/adding/reports/quarantine\.jsonl"):
        add(checkout, params, broken)
    assert (
        "8.png: no image in JPEG, PNG, WEBP, BMP, GIF, TIFF, or damaged" in (checkout / "work/adding/reports/quarantine.jsonl").read_text()
    )
    (checkout / ".dvc" / "config").write_text("[nonsense")
    with pytest.raises(CommandError), data_versions._in_place(checkout / "data", copied(checkout, broken)):
        output_of([*DVC, "add", "data"], folder=checkout)
    assert state(checkout) == before


def copied(checkout: Path, folder: Path) -> Path:
    return Path(shutil.copytree(folder, checkout / ".data.aside"))


@pytest.mark.parametrize("moment", ["validate", pytest.param("record", marks=pytest.mark.slow)])
def test_a_killed_addition_leaves_whole_data_and_the_next_one_completes_it(
    checkout: Path, params: Params, tmp_path: Path, unchecked: None, child_environment: dict[str, str], moment: str
) -> None:
    before, more = state(checkout), source(tmp_path / "more", [6])
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, moment, str(more)], env=child_environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(RunError, match="another `reelnest data add` is running"):
            add(checkout, params, more)
        process.send_signal(signal.SIGKILL)
    left = state(checkout)
    assert left["data.dvc"] == before["data.dvc"]
    if moment == "validate":
        assert left == before
    else:
        assert len((checkout / "data" / "videos.jsonl").read_text().splitlines()) == 7
    assert "1 video and 1 pair new" in add(checkout, params, more)
    assert not list(checkout.glob(".data.*"))


def test_a_clone_compares_versions_with_what_the_remote_has_and_fetches_no_video(
    checkout: Path, params: Params, tmp_path: Path, unchecked: None, prefect_server: None
) -> None:
    from prefect.variables import Variable

    dvc_cache.push(checkout)
    add(checkout, params, source(tmp_path / "more", [6]))
    with pytest.raises(RunError, match="uncommitted changes"):
        data_versions.push(checkout, branch=False)
    subprocess.run([*GIT, "commit", "--quiet", "--all", "--message=More"], cwd=checkout, check=True)
    subprocess.run(["git", "init", "--quiet", "--bare", str(tmp_path / "origin")], check=True)
    subprocess.run(["git", "remote", "add", "origin", str(tmp_path / "origin")], cwd=checkout, check=True)
    told = data_versions.push(checkout, branch=True)
    commit = git(checkout, "rev-parse", "HEAD").strip()
    assert f"Sent the event {data_arrival.EVENT}, at {commit[:12]}" in told
    assert Variable.get(data_arrival.NOTIFIED) == git(checkout, "rev-parse", "HEAD:data.dvc").strip()
    assert "No event was sent" in data_versions.push(checkout, branch=False)

    clone = checkout.with_name("clone")
    subprocess.run(["git", "clone", "--quiet", str(tmp_path / "origin"), str(clone)], check=True)
    changes, _ = data_versions.diff(clone, params, "HEAD~1", "HEAD")
    assert changes.new_videos == ["v6"]
    assert not (clone / "data").exists()
    fetched = [path for path in (clone / ".dvc" / "cache" / "files").rglob("*") if path.is_file()]
    assert not [path for path in fetched if path.read_bytes().startswith(b"\x89PNG")]
    shutil.rmtree(clone / ".dvc" / "cache")
    shutil.rmtree(checkout.with_name("store"))
    with pytest.raises(RunError, match=r"data of HEAD~1 is not in DVC's cache.*Run `dvc push`"):
        data_versions.diff(clone, params, "HEAD~1", "HEAD")


def test_without_a_server_the_push_says_who_finds_the_data(checkout: Path) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert "does not respond; the deployment reelnest-look-for-data will find the data" in data_versions.push(checkout, branch=False)
    (checkout / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    with pytest.raises(RunError, match="no DVC remote to push to"):
        data_versions.push(checkout, branch=False)


def log_clicks(folder: Path, settings: Serve, day: float, wanted: str) -> None:
    """Writes a file of the click log in which ten people search, see two rankings, and choose one video."""
    clock = [time.time() - 86400 * day]
    log = ClickLog(settings, folder, lambda: clock[0])
    for person in range(10):
        shown = ["v0", "v1", "v2"] if person % 2 else ["v2", "v1", "v0"]
        search = log.add_search(f"{person:016x}", "what people like", shown, "index", "hash")
        log.add_mark(search, shown.index(wanted) + 1, "click")
    log.flush()
    clock[0] += 3600
    log.flush()


@pytest.mark.usefixtures("unchecked", "prefect_server")
def test_clicks_replace_the_pairs_of_earlier_clicks_and_no_others(checkout: Path, params: Params) -> None:
    with pytest.raises(RunError, match=r"serve\.click_log is null"):
        click_imports.import_clicks(checkout, params)
    settings = params.serve.model_copy(update={"click_log": "clicks"})
    logging = params.model_copy(update={"serve": settings})
    assert click_imports.import_clicks(checkout, logging) is None

    def liked() -> list[str]:
        pairs = [json.loads(line) for line in (checkout / "data/pairs.jsonl").read_text().splitlines()]
        assert len({pair["query"]["text"] for pair in pairs} - {"what people like"}) == 6
        return [pair["target"]["video"] for pair in pairs if pair["query"]["text"] == "what people like"]

    log_clicks(checkout / "clicks", settings, 40, "v1")  # older than click_log_days
    log_clicks(checkout / "clicks", settings, 20, "v0")
    done = click_imports.import_clicks(checkout, logging)
    assert (done or "").startswith("1 pairs of 1 files.")
    assert liked() == ["v0"]
    assert click_imports.import_clicks(checkout, logging) is None
    newer = logging.model_copy(update={"serve": settings.model_copy(update={"click_log_days": 10.0})})
    log_clicks(checkout / "clicks", settings, 2, "v2")
    click_imports.import_clicks(checkout, newer)
    assert liked() == ["v2"]
    assert git(checkout, "status", "--porcelain", "data.dvc") == ""
    assert not (checkout / "work/click-import").exists()


@pytest.mark.usefixtures("unchecked", "prefect_server")
def test_an_import_of_clicks_leaves_pairs_from_elsewhere_as_they_are(checkout: Path, params: Params) -> None:
    pairs = checkout / "data/pairs.jsonl"
    by_hand = '{"query": "what people like", "target": "v0", "split": "test"}'
    earlier = [*pairs.read_text().splitlines(), by_hand]
    pairs.write_text("".join(f"{line}\n" for line in earlier))
    settings = params.serve.model_copy(update={"click_log": "clicks", "click_log_days": 10.0})
    logging = params.model_copy(update={"serve": settings})
    log_clicks(checkout / "clicks", settings, 3, "v0")  # as the pair by hand
    log_clicks(checkout / "clicks", settings, 2, "v2")
    assert (click_imports.import_clicks(checkout, logging) or "").startswith("1 pairs of 2 files.")
    *others, clicked = pairs.read_text().splitlines()
    assert others == earlier
    assert json.loads(clicked)["target"] == {"video": "v2"}
    assert json.loads(clicked)["split"] == "test"  # as the other pairs of its query

    newer = logging.model_copy(update={"serve": settings.model_copy(update={"click_log_days": 1.0})})
    log_clicks(checkout / "clicks", settings, 0.5, "v0")
    assert (click_imports.import_clicks(checkout, newer) or "").startswith("0 pairs of 1 files.")
    assert pairs.read_text().splitlines() == earlier


@pytest.mark.usefixtures("prefect_server")
def test_a_damaged_file_of_the_click_log_is_named(checkout: Path, params: Params) -> None:
    settings = params.serve.model_copy(update={"click_log": "clicks"})
    log_clicks(checkout / "clicks", settings, 2, "v2")
    (file,) = (checkout / "clicks").glob("*.parquet")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataError, match=rf"^clicks/{file.name}: not readable as Parquet"):
        click_imports.import_clicks(checkout, params.model_copy(update={"serve": settings}))
