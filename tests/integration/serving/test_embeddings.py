"""OpenAI's own client asks `reelnest serve` for vectors."""

import base64
import re
import time
from collections.abc import Iterator

import numpy as np
import openai
import pytest
import requests

from reelnest.encoder.saved import SavedModel, load
from tests.integration.serving.served_corpus import Served

TEXTS = ["a red ring", "a pink bar that moves to the right", "水"]


@pytest.fixture
def client(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server}v1", api_key="none", max_retries=0) as opened:
        yield opened


@pytest.fixture(scope="module")
def model(served: Served) -> Iterator[SavedModel]:
    opened = load(served.root / "models" / "two")
    yield opened
    opened.close()


@pytest.mark.parametrize("written", ["float", "base64"])
@pytest.mark.parametrize("dim", [32, 128])
def test_texts_have_the_vectors_of_the_model(client: openai.OpenAI, model: SavedModel, dim: int, written: str) -> None:
    response = client.embeddings.create(model="two", input=TEXTS, dimensions=dim, encoding_format=written)  # type: ignore[arg-type] (one of two words)
    found = [
        np.frombuffer(base64.b64decode(item.embedding), "<f4") if isinstance(item.embedding, str) else item.embedding
        for item in response.data
    ]
    np.testing.assert_allclose(np.stack(found), model.encode_texts(TEXTS, dim=dim), atol=1e-6)
    assert [item.index for item in response.data] == [0, 1, 2]


def test_the_input_type_selects_the_instruction(client: openai.OpenAI, model: SavedModel) -> None:
    response = client.embeddings.create(model="two", input="a red ring", extra_body={"input_type": "document"})
    np.testing.assert_allclose(response.data[0].embedding, model.encode_texts(["a red ring"], role="target")[0], atol=1e-6)


def test_a_video_with_its_title_has_the_vector_of_the_model(server: str, served: Served, model: SavedModel) -> None:
    file = served.data / "videos/07.mp4"
    url = f"data:video/mp4;base64,{base64.b64encode(file.read_bytes()).decode()}"
    video = {"type": "video_url", "video_url": {"url": url}}
    texts = [f"a red ring {number}" for number in range(40)]  # more than are decoded together
    given = [[video], *texts, [{"type": "text", "text": "title: blue triangle"}, video]]
    response = requests.post(f"{server}v1/embeddings", json={"model": "two", "input": given}, timeout=60)
    videos = model.encode_videos([file, file], fields=[{}, {"title": "blue triangle"}])
    expected = np.concatenate([videos[:1], model.encode_texts(texts), videos[1:]])
    np.testing.assert_allclose([item["embedding"] for item in response.json()["data"]], expected, atol=1e-6)
    video["video_url"]["url"] = "data:video/mp4;base64,AAAA"
    refused = requests.post(f"{server}v1/embeddings", json={"model": "two", "input": given}, timeout=60)
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "input")
    assert "41" in requests.post(f"{server}v1/embeddings", json={"model": "two", "input": [*texts, "more", [video]]}, timeout=60).text


def test_the_models_are_listed_and_the_first_is_the_default(client: openai.OpenAI, server: str) -> None:
    assert [model.id for model in client.models.list()] == ["one", "two"]
    assert client.models.retrieve("two").id == "two"
    assert requests.post(f"{server}v1/embeddings", json={"input": "a"}, timeout=60).json()["model"] == "one"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"input": "a", "dimensions": 129}, "16, 64, 128"),
        ({"input": []}, "0 items"),
        ({"input": ["a"] * 2049}, "1 to 2,048"),
        ({"input": ["a", " "]}, "input[1]: The search is empty"),
        ({"input": ["a\ud800b"]}, "Invalid JSON"),
        ({"input": 5}, "input: expected a text or a list (found 5)"),
        ({"input": [1, 2, 3]}, "input[0]: token ids are not supported"),
        ({"input": [[1, 2], [3]]}, "input[0]: token ids are not supported"),
        ({"input": [[]]}, "input[0]: expected a text, or a list of 1 to 64 content parts"),
        ({"input": ["a", [{"type": "image_url"}]]}, "input[1][0]: Input tag 'image_url'"),
        ({"input": "a", "dimensions": True}, "dimensions: "),
        ([], "expected an object"),
        ({"model": "one"}, "Field required"),
        ({"input": [[{"type": "video_url", "video_url": {"url": "http://127.0.0.1/a.mp4"}}]]}, "fetches nothing"),
        ({"input": [[{"type": "video_url", "video_url": {"url": "data:video/mp4;base64,?"}}]]}, "base64"),
        ({"input": [[{"type": "video_url", "video_url": {"url": "data:video/mp4;base64,é"}}]]}, "base64"),
        ({"input": [[{"type": "video_url", "video_url": {"url": "data:video/mp4;base64,bm8="}}]]}, "input[0]: the video"),
    ],
)
def test_an_input_that_cannot_be_encoded_is_named(server: str, given: dict[str, object], words: str) -> None:
    response = requests.post(f"{server}v1/embeddings", json=given, timeout=60)
    assert response.status_code == 422
    error = response.json()["error"]
    assert words in error["message"]
    assert set(error) == {"message", "type", "param", "code"}
    place = re.split(r"[:\[]", error["message"])[0]
    assert error["param"] == (None if place == "body" else place)


def test_a_body_with_many_faults_is_refused_at_once(server: str) -> None:
    started = time.monotonic()
    for item in ("1", "[[],[]]", '[{"type":"text","text":1}]'):
        body = f'{{"input":[{",".join([item] * 500_000)}]}}'
        assert requests.post(f"{server}v1/embeddings", data=body, timeout=60).status_code == 422
    assert time.monotonic() - started < 15  # a description of each fault takes half a minute and gigabytes


def test_openai_s_client_says_that_a_model_does_not_exist(client: openai.OpenAI) -> None:
    for ask in (lambda: client.embeddings.create(model="three", input="a"), lambda: client.models.retrieve("three")):
        with pytest.raises(openai.NotFoundError, match="one, two") as raised:
            ask()
        assert (raised.value.param, raised.value.code) == ("model", "model_not_found")
