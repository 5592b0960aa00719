"""An index that is built again while it is searched: no search fails, and each answer is one version's."""

import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from reelnest.commands.index import open_searchers
from reelnest.engines.folder_files import MANIFEST_FILE
from reelnest.serving import following as module
from reelnest.serving.app import create_app
from reelnest.serving.following import Followed
from reelnest.serving.guard import Access
from reelnest.serving.searcher import OpenModel, Searcher
from tests.integration.serving.served_corpus import PARAMS, Served, read_videos, write_videos


def followed(copy: Served, monkeypatch: pytest.MonkeyPatch) -> Followed:
    monkeypatch.chdir(copy.root)

    def open_all(locations: Sequence[str], opened: Sequence[OpenModel]) -> list[Searcher]:
        return open_searchers(copy.workspace, PARAMS, locations, opened=opened)

    return Followed(["one"], open_all)


def test_searches_during_new_versions_and_new_models_get_whole_answers(copy: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    following = followed(copy, monkeypatch)
    answers: list[Any] = []
    ended = threading.Event()
    with TestClient(create_app(following.searchers, Access(["testserver"])), raise_server_exceptions=False) as client:

        def ask() -> tuple[int, tuple[tuple[str, float], ...]]:
            response = client.get("/api/search", params={"q": "a red ring", "k": "30"})
            return response.status_code, tuple((hit["video_id"], round(hit["score"], 4)) for hit in response.json().get("hits", ()))

        def search() -> None:
            while not ended.is_set():
                answers.append(ask())

        threads = [threading.Thread(target=search) for _ in range(3)]
        expected = {ask()}
        for thread in threads:
            thread.start()
        videos = read_videos(copy.data)
        for model, kept in (("two", videos), ("one", videos[:10]), ("one", videos), ("two", videos[5:])):
            write_videos(copy.data, kept)
            copy.index("one", model)
            following.look()
            expected.add(ask())
            described = client.get("/api/indexes").json()["indexes"][0]
            assert (described["model"], described["videos"]) == (f"../models/{model}", len(following.searchers["one"].words("a", 30).hits))
        ended.set()
        for thread in threads:
            thread.join()
    assert len(expected) == 4  # the third version is the first again
    assert len(answers) > 20
    assert set(answers) <= expected
    assert {status for status, _ in answers} == {200}
    following.close()


def test_what_cannot_be_opened_leaves_the_old_version_and_one_warning(
    copy: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    following = followed(copy, monkeypatch)
    before = following.searchers["one"]
    (Path("one") / MANIFEST_FILE).write_text("{")
    for _ in range(3):
        following.look()
    assert following.searchers["one"] is before
    assert len([text for text in caplog.messages if "a new version cannot be opened" in text]) == 1
    shutil.rmtree("one")
    following.look()
    assert len(following.searchers["one"].words("a red ring", 3).hits) == 3
    copy.index("one", "two")
    following.look()
    assert following.searchers["one"] is not before
    following.close()


def test_a_model_is_opened_once_and_closed_when_no_request_can_use_it(copy: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    following = followed(copy, monkeypatch)
    first = following.searchers["one"].model
    write_videos(copy.data, read_videos(copy.data)[:10])
    copy.index("one", "one")
    following.look()
    assert following.searchers["one"].model is first
    copy.index("one", "two")
    closed: list[OpenModel] = []
    with monkeypatch.context() as patch:
        patch.setattr(OpenModel, "close", lambda model: closed.append(model))
        following.look()
        following.look()
        assert not closed
        patch.setattr(module, "LONGEST_REQUEST_SECONDS", 0.0)
        following.look()
        assert closed == [first]
    first.close()
    following.close()
