"""Moments of long videos: a query for the second half of a clip finds that half, and the page plays it and stops at its end."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import yaml

import reelnest
from reelnest.commands import index as stage
from reelnest.commands import search
from reelnest.commands.search_inputs import Query
from reelnest.encoder.batches import Batcher
from reelnest.encoder.encoder import load_encoder
from reelnest.encoder.saved import save_model
from reelnest.engines.folder import FolderEngine
from reelnest.records.segments import Segment
from reelnest.settings import Index, Model, Params, Preprocess, Validate
from reelnest.store.entries import Entry
from reelnest.video.decoder import Decoder, Limits
from reelnest.video.frames import FrameSettings
from tests.integration.serving.served_corpus import ROOT, Served, write_videos
from tests.integration.serving.test_server import query, wait_for

PARAMS = Params(index=Index(window_seconds=2.0))
COLOURS = {"red": (200, 20, 20), "blue": (20, 20, 200), "green": (20, 160, 20), "yellow": (220, 220, 30)}
CLIPS = {"one": ("red", "blue"), "two": ("green", "yellow")}
"""What fills the first and the last two seconds of each clip."""
PREPROCESS = Preprocess(frames=4, min_pixels=3136, max_pixels=3200)


def write_clip(file: Path, *colours: str) -> None:
    """A clip with two seconds of each colour."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"threads": "1"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for colour in colours:
            picture = np.broadcast_to(np.uint8(COLOURS[colour]), (64, 64, 3))
            for _ in range(48):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())


def write_trained_model(folder: Path, base: Path, data: Path) -> None:
    """A model that has learnt which colour each half of the clips has."""
    settings = Model(dims=(16, 128), pooling="mean")
    torch.manual_seed(0)
    encoder, tokenizer = load_encoder(settings, base, training=True)
    with Decoder(Limits.of(Validate())) as decoder:
        frames = FrameSettings(PREPROCESS, encoder.vision)
        videos = [
            Entry("target", "", decoder.frames([data / f"{clip}.mp4"], frames, Segment(2.0 * half, 2.0 * half + 2)))
            for clip in CLIPS
            for half in range(2)
        ]
    texts = [Entry("query", colour, None) for clip in CLIPS.values() for colour in clip]
    batcher = Batcher(tokenizer, settings, encoder.family)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3)
    for _ in range(30):
        queries, targets = (torch.nn.functional.normalize(encoder(batcher(entries)), dim=-1) for entries in (texts, videos))
        loss = torch.nn.functional.cross_entropy(queries @ targets.T / 0.05, torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_model(folder, encoder, tokenizer, settings, PREPROCESS, None)


@pytest.fixture(scope="module")
def moments(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """Two clips of four seconds, a short one and a segment of a file, indexed in windows of two seconds."""
    corpus = Served(tmp_path_factory.mktemp("moments"))
    corpus.data.mkdir()
    for clip, colours in CLIPS.items():
        write_clip(corpus.data / f"{clip}.mp4", *colours)
    write_clip(corpus.data / "short.mp4", "green")
    videos: list[dict[str, object]] = [{"video_id": name, "path": f"{name}.mp4"} for name in (*CLIPS, "short")]
    videos += [{"video_id": "named", "path": "two.mp4", "start": 1, "end": 3, "title": "a named segment"}]
    write_videos(corpus.data, videos)
    (corpus.root / "configs").symlink_to(ROOT / "configs")
    settings = yaml.safe_load((ROOT / "params.yaml").read_text())
    settings["index"]["window_seconds"] = 2.0
    (corpus.root / "params.yaml").write_text(yaml.safe_dump(settings))
    write_trained_model(corpus.root / "models" / "one", tiny_base, corpus.data)
    build(corpus)
    return corpus


def build(corpus: Served, params: Params = PARAMS, to: str = "index") -> stage.Indexed:
    return stage.run(corpus.workspace, params, str(corpus.root / "models" / "one"), corpus.data, str(corpus.root / to))


def found(corpus: Served, words: str, to: str = "index") -> list[dict[str, Any]]:
    text = search.run(corpus.workspace, PARAMS, str(corpus.root / to), Query(words), as_json=True)
    return list(json.loads(text)["hits"])


def test_a_query_for_the_second_half_of_a_clip_finds_that_half(moments: Served) -> None:
    for clip, colours in CLIPS.items():
        for half, colour in enumerate(colours):
            best = found(moments, colour)[0]
            if colour != "green":  # which the short clip shows too
                assert (best["video_id"], best["start"], best["end"]) == (clip, 2.0 * half, 2.0 * half + 2), colour
    table = search.run(moments.workspace, PARAMS, str(moments.root / "index"), Query("blue", 1))
    header, best, *_ = table.splitlines()
    assert header.split() == ["rank", "score", "video_id", "moment", "title", "path"]
    assert best.split()[2:] == ["one", *["2", "s", "to", "4", "s"], "one.mp4"]


def test_an_index_has_a_row_for_each_window_and_none_is_encoded_again(moments: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted(path.name for path in moments.data.iterdir())
    rows = {hit["id"]: (hit["video_id"], hit["start"], hit["end"], hit["title"]) for hit in found(moments, "red")}
    assert rows == {
        "one#t=0,2": ("one", 0.0, 2.0, ""),
        "one#t=2,4": ("one", 2.0, 4.0, ""),
        "two#t=0,2": ("two", 0.0, 2.0, ""),
        "two#t=2,4": ("two", 2.0, 4.0, ""),
        "short": ("short", None, None, ""),
        "named": ("named", 1.0, 3.0, "a named segment"),
    }
    engine = FolderEngine(str(moments.root / "index"))
    assert (engine.manifest.videos, engine.manifest.windows) == (6, 4)
    for name in ("inspect", "frames"):
        monkeypatch.delattr(Decoder, name)
    assert build(moments).encoded == 0
    assert sorted(path.name for path in moments.data.iterdir()) == files


def test_without_windows_an_index_has_a_row_for_each_record(moments: Served) -> None:
    build(moments, Params(), "whole")
    engine = FolderEngine(str(moments.root / "whole"))
    assert (engine.manifest.videos, engine.manifest.windows) == (4, 0)
    assert [video.segment for video in engine.get(["one", "named"])] == [None, Segment(1.0, 3.0)]


def test_a_loaded_model_encodes_a_segment_as_the_index_does(moments: Served) -> None:
    model = reelnest.load(moments.root / "models/one", device="cpu")
    clip = moments.data / "one.mp4"
    vectors = model.encode_videos([clip, clip, clip.read_bytes()], segments=[(2, 4), None, (2, None)])
    blue = model.encode_texts(["blue"])[0]
    scores = {hit["id"]: hit["score"] for hit in found(moments, "blue")}
    assert vectors[0] @ blue == pytest.approx(scores["one#t=2,4"], abs=1e-4)
    np.testing.assert_allclose(vectors[0], vectors[2], atol=1e-5)
    np.testing.assert_allclose(vectors[1], model.encode_videos([clip])[0], atol=1e-5)
    inputs = reelnest.videos_for_sentence_transformers(moments.root / "models/one", [clip], segments=[(2, 4)])
    assert inputs[0]["video"]["array"].mean(axis=(0, 2, 3)) == pytest.approx(COLOURS["blue"], abs=12)
    for wrong, words in (([(4, 2)], "start is 4 and end is 2"), ([3], "segments[0] is 3; expected"), ([], "but segments of 0")):
        with pytest.raises(ValueError, match=words.replace("[", r"\[")):
            model.encode_videos([clip], segments=wrong)  # type: ignore[arg-type]  # it has to be refused
    model.close()


@pytest.fixture(scope="module")
def server(moments: Served) -> Iterator[str]:
    program = str(Path(sys.executable).with_name("reelnest"))
    with subprocess.Popen([program, "serve", "--port", "0"], cwd=moments.root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split(" ")[0]
        os.kill(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def test_the_page_plays_the_moment_and_stops_at_its_end(server: str, browser: Any) -> None:
    page = browser.new_page()
    page.goto(f"{server}?{query(q='red')}")
    page.wait_for_selector(".results li")
    assert page.inner_text(".results li:first-child .id") == "0:00–0:02"
    clip = "document.querySelector('.results li:first-child video')"
    wait_for(page, f"{clip}.currentTime > 1.9 && {clip}.paused")
    assert page.evaluate(f"{clip}.currentTime") < 3  # of four seconds
    page.evaluate(f"{clip}.play()")  # again from its start
    wait_for(page, f"{clip}.currentTime < 1.5 && !{clip}.paused")
    page.fill("#q", "blue")
    page.keyboard.press("Enter")
    wait_for(page, "document.querySelector('.results .id').textContent === '0:02–0:04'")
    assert page.evaluate(f"new URL({clip}.src).hash") == "#t=2,4"
    wait_for(page, f"{clip}.currentTime > 2.1")
    assert page.evaluate(f"{clip}.played.start(0)") >= 2
    wait_for(page, f"{clip}.ended || {clip}.paused")
    assert page.evaluate(f"{clip}.currentTime") == pytest.approx(4, abs=0.1)
    page.close()
