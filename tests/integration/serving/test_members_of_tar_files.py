"""Clips inside tar files are sent as starlette sends files."""

import tarfile
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from reelnest.records.files.tar_members import TarMember
from reelnest.serving.bodies.clips import clip_response

SENT = ("content-length", "content-range", "content-type", "accept-ranges")


RANGES = [None, "bytes=0-9", "bytes=10-", "bytes=-7", "bytes=2990-9999", "bytes=0-0", "bytes=5000-", "bytes=-9999"]


@pytest.mark.parametrize("wanted", RANGES)
def test_a_member_is_sent_as_a_file_is(wanted: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tmp_path / "a.mp4"
    plain.write_bytes(bytes(range(250)) * 12)
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("before.mp4", "a.mp4", "after.mp4"):
            tar.add(plain, name)

    def endpoint(request: Request) -> Response:
        return clip_response(tmp_path / request.path_params["path"], "video/mp4", request)

    client = TestClient(Starlette(routes=[Route("/{path:path}", endpoint)]))
    headers = {} if wanted is None else {"Range": wanted}
    for method in ("GET", "HEAD"):
        if method == "HEAD":
            monkeypatch.setattr(TarMember, "blocks", None)  # nothing of the member is read
        ours, theirs = (client.request(method, f"/{path}", headers=headers) for path in ("x.tar/a.mp4", "a.mp4"))
        assert ours.status_code == theirs.status_code
        if ours.status_code != 416:
            assert ours.content == theirs.content
            assert {name: ours.headers.get(name) for name in SENT} == {name: theirs.headers.get(name) for name in SENT}
        assert ours.headers.get("content-range") == theirs.headers.get("content-range")


def test_a_range_beyond_all_numbers_gets_the_whole_member(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"a video")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "a.mp4", "a.mp4")
    route = Route("/", lambda request: clip_response(tmp_path / "x.tar/a.mp4", "video/mp4", request))
    answer = TestClient(Starlette(routes=[route])).get("/", headers={"Range": f"bytes={'9' * 5000}-"})
    assert (answer.status_code, answer.content) == (200, b"a video")
