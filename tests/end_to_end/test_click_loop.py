"""The loop of the search server: people's taste changes, and the champion that follows from their clicks is better for it.

Nobody starts anything but the services, the server and the schedule of the import.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.schedules import CronSchedule

from reelnest.serving.clicks.journals import finished_files
from tests.support.running_services import ended, start
from tests.support.small_project import COMMIT, change, environment, make_quick_project, run

pytestmark = [pytest.mark.series, pytest.mark.timeout(2400)]

TWINS = {"train": 24, "validation": 1, "test": 1}
BEFORE = {"lovely": "red", "calm": "blue", "wild": "green"}
AFTER = {"lovely": "yellow", "calm": "pink", "wild": "lime"}
"""The colour that people like under a word. No text of the sample has these words."""
MOMENTS = ("morning", "evening", "party", "break", "weekend", "meeting", "lesson", "journey", "birthday", "holiday", "concert", "match")
ENDINGS = ("to watch in the {}", "for a {}", "that fits a {}", "like last {}", "we saw at the {}", "of the {}")
HELD_OUT = ("something {} for my {}", "a {} one, {}")
"""Wordings that nobody searches with before the measurement."""
SEARCHES_EACH, SHOWN, DIMS = 8, 40, (4, 8, 16, 128)
LOOP_SECONDS = 1500


def searches() -> list[tuple[str, str]]:
    """The searches of the population, with the word of taste in each."""
    return [(f"something {word} {ending.format(moment)}", word) for word in AFTER for ending in ENDINGS for moment in MOMENTS]


def liked(data: Path, taste: Mapping[str, str]) -> dict[str, list[str]]:
    """The videos that people like by word: those whose search texts name the colour."""
    colours: dict[str, set[str]] = {colour: set() for colour in taste.values()}
    for pair in records(data / "pairs.jsonl"):
        text, video = pair["query"].get("text", ""), pair["target"].get("video")
        if video is not None:
            for colour, videos in colours.items():
                if f" {colour} " in f" {text.replace(',', ' ')} ":
                    videos.add(video)
    return {word: sorted(colours[colour]) for word, colour in taste.items()}


def records(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def add_earlier_import(data: Path) -> None:
    """Adds the pairs of the taste before, as an earlier import of clicks left them."""
    lines = []
    for number, (text, word) in enumerate(searches()):
        split = "test" if number % 10 == 0 else "validation" if number % 10 == 1 else "train"
        for video in liked(data, BEFORE)[word]:
            lines.append(json.dumps({"query": {"text": text}, "target": {"video": video}, "relevance": 0.5, "split": split}))
    with (data / "pairs.jsonl").open("a") as file:
        file.write("".join(f"{line}\n" for line in lines))
    (data / "clicks.jsonl").write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loop") / "project"
    make_quick_project(folder, TWINS)
    add_earlier_import(folder / "data")
    change(folder, train={"epochs": 6}, serve={"click_log": "work/clicks", "click_log_minutes": 0.2, "click_minutes": 0.1})
    for name, value in (("user.name", "t"), ("user.email", "t@t")):
        run(["git", "config", name, value], folder)
    run(["dvc", "add", "data"], folder)
    run([*COMMIT, "-qam", "What people clicked"], folder)
    return folder


@pytest.fixture(scope="module")
def server(api: SyncPrefectClient, project: Path) -> Iterator[str]:
    """The search server, over an index by the first champion."""
    (first,) = ended(api, [start(api, "reelnest-train/by-hand")])
    assert first.state is not None
    assert first.state.is_completed(), first.state.message
    run(["reelnest", "index", "--model", "models:/reelnest@champion"], project)
    command = [str(Path(sys.executable).with_name("reelnest")), "serve", "--port", "0"]
    log = (project.parent / "server.log").open("w")
    with log, subprocess.Popen(command, cwd=project, env=environment(project), stdout=subprocess.PIPE, stderr=log, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split(" ")[0]
        os.kill(process.pid, signal.SIGTERM)


def search(server: str, text: str, **options: Any) -> dict[str, Any]:
    response = requests.get(f"{server}api/search", params={"q": text, "k": SHOWN, **options}, timeout=60)
    assert response.status_code == 200, response.text
    return dict(response.json())


def recall(server: str, relevant: Mapping[str, list[str]]) -> float:
    """Recall@10 of the held-out wordings."""
    shares = []
    for word, videos in relevant.items():
        for wording in HELD_OUT:
            for moment in MOMENTS[:6]:
                hits = [hit["video_id"] for hit in search(server, wording.format(word, moment))["hits"][:10]]
                shares.append(len(set(hits) & set(videos)) / min(10, len(videos)))
    return sum(shares) / len(shares)


def people_search(server: str, relevant: Mapping[str, list[str]]) -> int:
    """Each person searches once, looks down the results, and clicks on what is to the person's taste. Returns the number of clicks."""
    rng, clicks = random.Random(7), 0
    waiting = searches() * SEARCHES_EACH
    rng.shuffle(waiting)
    for text, word in waiting:
        results = search(server, text, session=f"{rng.getrandbits(64):016x}", dim=rng.choice(DIMS))
        for hit in results["hits"]:
            looks = rng.random() < hit["rank"] ** -0.3
            if looks and rng.random() < (0.9 if hit["video_id"] in relevant[word] else 0.03):
                event = {"search": results["search"], "rank": hit["rank"], "kind": "up" if rng.random() < 0.1 else "click"}
                assert requests.post(f"{server}api/events", json=event, timeout=60).status_code == 202
                clicks += 1
    return clicks


def test_a_taste_that_changed_reaches_the_champion_and_the_running_server(server: str, api: SyncPrefectClient, project: Path) -> None:
    before, after = liked(project / "data", BEFORE), liked(project / "data", AFTER)
    assert min(map(len, (*before.values(), *after.values()))) >= 3
    old_taste, new_taste = recall(server, before), recall(server, after)
    assert old_taste > new_taste + 0.2  # the first champion knows the taste before
    index = requests.get(f"{server}api/indexes", timeout=60).json()["indexes"][0]
    assert people_search(server, after) > 1000
    time.sleep(25)  # until the last file is complete
    assert finished_files(project / "work/clicks", 0)

    deployment = api.read_deployment_by_name("reelnest-clicks/import-clicks").id
    api.create_deployment_schedules(deployment, [(CronSchedule(cron="* * * * *"), True)])
    deadline = time.monotonic() + LOOP_SECONDS
    asked = {json.dumps(search(server, "a red ring")["hits"])}
    while (now := requests.get(f"{server}api/indexes", timeout=60).json()["indexes"][0])["model_hash"] == index["model_hash"]:
        assert time.monotonic() < deadline, (project.parent / "services.log").read_text()[-6000:]
        asked.add(json.dumps(search(server, "a red ring")["hits"]))
        time.sleep(0.2)
    for schedule in api.read_deployment_schedules(deployment):
        api.update_deployment_schedule(deployment, schedule.id, active=False)
    asked.add(json.dumps(search(server, "a red ring")["hits"]))
    assert len(asked) == 2  # each answer was one model's

    assert now["model"] == "models:/reelnest/2"
    measured = {"old taste": recall(server, before), "new taste": recall(server, after)}
    sys.stdout.write(f"held-out recall@10: old taste {old_taste:.2f}, new taste {new_taste:.2f}; after the loop {measured}\n")
    assert measured["new taste"] > new_taste + 0.2
    assert measured["new taste"] > measured["old taste"]
    added, pairs = (records(project / "data" / name) for name in ("clicks.jsonl", "pairs.jsonl"))
    is_liked = [pair["target"]["video"] in after[word] for pair in added for word in AFTER if word in pair["query"]["text"]]
    assert sum(is_liked) > 0.9 * len(is_liked) > 0  # a few accidental clicks
    clicked = {(pair["query"]["text"], pair["target"]["video"]) for pair in added}
    kept = [(pair["query"].get("text", ""), pair["target"].get("video")) for pair in pairs]
    assert {pair for pair in kept if pair[0].startswith("something ")} == clicked  # nothing of the taste before is left
    assert "Data: " in run(["git", "log", "--format=%s"], project)
