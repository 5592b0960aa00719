"""The page that shows an evaluation, read back as a browser would."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reelnest.report.evaluation_page import TEMPLATE, write_evaluation_page
from reelnest.report.gallery import GalleryAnswer, GalleryQuery

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\" ' {{ 7 * 7 }}"


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def evaluation(kinds: tuple[str, ...] = ("text_to_video", "video_to_text", "all"), dims: tuple[int, ...] = (16, 32, 64)) -> dict[str, Any]:
    results = [
        {
            "pair_kind": kind,
            "dim": dim,
            "storage": "float32",
            "metrics": {
                "recall@1": 0.4123 + dim / 1000,
                "recall@5": 0.7,
                "recall@10": 0.9 + dim / 1000,
                "mrr": 0.6,
                "ndcg@10": 0.7,
                "map": 0.6,
                "median_rank": 1.5,
            },
            "intervals": {"recall@10": [0.88 + dim / 1000, 0.92 + dim / 1000]},
            "queries": 40,
            "corpus": 20,
            "bytes_per_vector": 4 * dim,
            "queries_per_second": 12345.6,
        }
        for kind in kinds
        for dim in dims
    ]
    outranked = [{"pair_kind": "text_to_video", "dim": dim, "value": 0.5 + dim / 200, "queries": 30} for dim in dims if kinds]
    return {
        "split": "test",
        "dims": list(dims),
        "width": dims[-1],
        "queries": 80,
        "corpus": 40,
        "confidence": 0.95,
        "choice": {
            "dim": 16,
            "metric": "recall@10",
            "margin": 0.01,
            "value": 0.916,
            "best_dim": 64,
            "best_value": 0.92,
            "low": -0.008,
            "bytes_per_vector": 64,
        },
        "results": results,
        "negatives_outranked": outranked,
        "model": {"hash": "c0ffee" * 10, "base": "tiny", "embedding_width": 64},
        "data": {},
    }


def query(text: str = "a red star rising", rank: int | None = 2, fields: tuple[tuple[str, str], ...] = ()) -> GalleryQuery:
    frames = np.random.default_rng(0).integers(60, 196, (2, 1, 1, 3), np.uint8).repeat(28, 1).repeat(56, 2)  # two frames of one colour
    answers = tuple(GalleryAnswer(f"clip-{place}", 0.9 - place / 10, float(place == rank), fields, frames) for place in range(1, 6))
    return GalleryQuery(text, rank, answers)


def written(tmp_path: Path, *gallery: GalleryQuery, **what: Any) -> Page:
    path = tmp_path / "evaluation.html"
    write_evaluation_page(path, evaluation(**what), gallery)
    return Page(path)


def test_the_page_is_one_file_that_asks_for_nothing(tmp_path: Path) -> None:
    page = written(tmp_path, query())
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "base", "form"}
    addresses = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href", "srcset")]
    assert addresses
    assert all(value is not None and value.startswith("data:image/jpeg;base64,") for value in addresses)
    assert not re.search(r"url\(|@import|https?:", page.source)
    policy = next(attributes["content"] for attributes in page.all("meta") if "http-equiv" in attributes)
    assert policy is not None
    assert "default-src 'none'" in policy


def test_hostile_texts_are_shown_and_do_nothing(tmp_path: Path) -> None:
    report = evaluation()
    report["model"]["base"] = HOSTILE
    path = tmp_path / "evaluation.html"
    write_evaluation_page(path, report, [query(HOSTILE, fields=(("title", HOSTILE),))])
    page = Page(path)
    assert not page.all("script")
    assert all((attributes["src"] or "").startswith("data:") for attributes in page.all("img"))
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.text.count(HOSTILE) == 7  # the model, the query and five titles


def test_every_figure_of_the_evaluation_stands_in_the_table(tmp_path: Path) -> None:
    page = written(tmp_path)
    cells = re.findall(r"<td>([^<]*)</td>", page.source)
    for result in evaluation()["results"]:
        for metric, value in result["metrics"].items():
            assert (f"{value:g}" if metric == "median_rank" else f"{value:.3f}") in cells
    assert "12,346" in cells
    assert "256" in cells


def test_the_headline_is_text_to_video_at_the_full_and_the_smallest_width(tmp_path: Path) -> None:
    page = written(tmp_path, kinds=("all", "video_to_text", "text_to_video"))
    tiles = re.findall(r'<dd class="number">([^<]*)</dd><dd class="note">([^<]*)<', page.source)
    assert [(value, note.split(":")[0]) for value, note in tiles[:3]] == [
        ("0.964", "text→video, 64 dims"),
        ("0.916", "text→video, 16 dims"),
        ("0.476", "text→video, 64 dims"),
    ]
    assert tiles[3][0] == "0.820"


def test_each_chart_has_a_named_line_for_each_pair_kind(tmp_path: Path) -> None:
    page = written(tmp_path)
    charts = re.findall(r"<figure.*?</figure>", page.source, re.DOTALL)
    assert [re.findall(r"<figcaption>(.*?)</figcaption>", chart)[0] for chart in charts] == [
        "Recall@1",
        "Recall@10",
        "MRR",
        "nDCG@10",
        "Named wrong answers outranked",
    ]
    for chart in charts[:4]:
        assert chart.count("<polyline") == 2
        assert "text→video <tspan" in chart
        assert "video→text <tspan" in chart


def test_intervals_are_bands_and_stand_beside_the_headline(tmp_path: Path) -> None:
    page = written(tmp_path)
    charts = {re.findall(r"<figcaption>(.*?)<", chart)[0]: chart for chart in re.findall(r"<figure.*?</figure>", page.source, re.DOTALL)}
    assert charts["Recall@10"].count("<polygon") == 2
    assert "<polygon" not in charts["MRR"]
    assert "Bands: where 95 % of such figures would lie" in page.source
    assert "text→video, 64 dims: 0.944 to 0.984" in page.source


def test_right_answers_are_marked_in_words(tmp_path: Path) -> None:
    page = written(tmp_path, query(rank=3), query("another", rank=None))
    assert page.source.count("✓ right") == 1
    assert re.search(r"3 ✓ right", page.source)
    assert "The first right answer stands at 3." in page.text
    assert "No right answer was found." in page.text


def test_frames_are_in_the_page_in_order(tmp_path: Path) -> None:
    shown = query()
    page = written(tmp_path, shown)
    pictures = [base64.b64decode((attributes["src"] or "").split(",")[1]) for attributes in page.all("img")]
    assert len(pictures) == 10
    for picture, frame in zip(pictures, shown.answers[0].frames, strict=False):
        decoded = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
        assert decoded.shape == frame.shape
        assert np.abs(decoded.astype(int) - frame).max() <= 4


@pytest.mark.parametrize("what", [{"kinds": ()}, {"dims": (64,)}, {"kinds": ("video_to_video",)}, {"kinds": ("sound_to_video", "all")}])
def test_less_or_other_than_usual_still_gives_a_page(tmp_path: Path, what: dict[str, Any]) -> None:
    assert "Search quality by dim" in written(tmp_path, **what).text


def test_the_same_evaluation_gives_the_same_bytes(tmp_path: Path) -> None:
    assert written(tmp_path, query()).source == written(tmp_path, query()).source


def test_a_page_that_cannot_be_made_leaves_the_one_before(tmp_path: Path) -> None:
    before = written(tmp_path).source
    with pytest.raises(KeyError):
        write_evaluation_page(tmp_path / "evaluation.html", {}, [])
    assert (tmp_path / "evaluation.html").read_text(encoding="utf-8") == before
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.html"]


def luminance(colour: str) -> float:
    digits = "".join(2 * digit for digit in colour) if len(colour) == 3 else colour
    channels = (int(digits[start : start + 2], 16) / 255 for start in (0, 2, 4))
    linear = [channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4 for channel in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1])
def test_text_and_lines_have_the_contrast_that_wcag_asks_for(scheme: int) -> None:
    template = (Path(__file__).parents[3] / "src" / "reelnest" / "report" / TEMPLATE).read_text(encoding="utf-8")
    colours = dict(re.findall(r"--([\w-]+): #([0-9a-f]+);", re.findall(r":root \{(.*?)\}", template, re.DOTALL)[scheme]))
    for name, behind in [*((f"k{number}", "page") for number in range(5)), ("text", "page"), ("quiet", "page"), ("quiet", "panel"),
                         ("right", "right-panel"), ("quiet", "right-panel")]:  # fmt: skip
        lighter, darker = sorted((luminance(colours[name]), luminance(colours[behind])), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (name, behind)


def test_the_smallest_dim_that_is_as_good_is_named_with_the_evidence(tmp_path: Path) -> None:
    words = " ".join(written(tmp_path).text.split())
    assert "16 dims are enough: Recall@10 over all queries is 0.916, against 0.920 at 64 dims" in words
    assert "the difference, -0.004, is above -0.008 with 95 % confidence" in words
    assert "64 bytes a vector, 0.064 GB for a million videos" in words
