"""The page that shows an evaluation, read back as a browser would."""

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest

from reelnest.evaluation.metrics import METRICS
from reelnest.report.evaluation_page import write_evaluation_page
from reelnest.report.gallery import GalleryQuery
from tests.unit.report.evaluations import (
    NO_TESTS,
    configuration,
    confused,
    evaluation,
    full_evaluation,
    query,
    report,
    slice_entry,
    video_query,
)
from tests.unit.report.page import Page

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\" ' {{ 7 * 7 }}"


def written(tmp_path: Path, *gallery: GalleryQuery, **what: Any) -> Page:
    path = tmp_path / "evaluation.html"
    write_evaluation_page(path, report(evaluation(**what)), gallery)
    return Page(path)


def test_the_page_is_one_file_that_asks_for_nothing(tmp_path: Path) -> None:
    page = written(tmp_path, query())
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "base"}
    addresses = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "srcset", "action")]
    assert addresses
    assert all(value is not None and value.startswith("data:image/jpeg;base64,") for value in addresses)
    assert all((attributes["href"] or "").startswith("#") for attributes in page.all("a"))
    assert not re.search(r"url\(|@import|https?:", page.source)


def test_the_policy_allows_this_style_and_this_script_alone(tmp_path: Path) -> None:
    page = written(tmp_path, query())
    policy = next(attributes["content"] for attributes in page.all("meta") if "http-equiv" in attributes)
    assert policy is not None
    assert "default-src 'none'" in policy
    for tag in ("style", "script"):
        (source,) = re.findall(f"<{tag}>(.*?)</{tag}>", page.source, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not any(name == "style" or name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_hostile_texts_are_shown_and_are_no_tags(tmp_path: Path) -> None:
    content = full_evaluation()
    content["model"]["base"] = content["not_compared"][0]["reason"] = HOSTILE
    content["behaviour"]["failures"][0]["problem"] = HOSTILE
    for entry in content["slices"]:
        entry["slice"] = "caption" if entry["slice"] == "pair kind" else entry["slice"]
        entry["value"] = HOSTILE if entry["slice"] == "caption" else entry["value"]
    path = tmp_path / "evaluation.html"
    write_evaluation_page(path, report(content), [query(HOSTILE, fields=(("title", HOSTILE),), slices=(HOSTILE,))])
    page = Page(path)
    assert len(page.all("script")) == 1
    assert all((attributes["src"] or "").startswith("data:") for attributes in page.all("img"))
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert len(page.all("bdi")) == 4  # the titles: a direction of writing ends with its text
    assert page.text.count(HOSTILE) == 11  # model, slice, reason, failure, query, four titles, the query's slice and its option


def test_every_figure_of_the_evaluation_stands_in_the_table(tmp_path: Path) -> None:
    page = written(tmp_path)
    cells = re.findall(r"<td>([^<]*)</td>", page.source)
    for result in evaluation()["results"]:
        for metric, value in result["metrics"].items():
            assert (f"{value:g}" if metric == "median_rank" else f"{value:.3f}") in cells
    assert "256" in cells


def test_the_headline_is_the_choice_with_its_evidence_and_its_figures(tmp_path: Path) -> None:
    write_evaluation_page(tmp_path / "evaluation.html", report(full_evaluation()))
    page = Page(tmp_path / "evaluation.html")
    assert "<h1>Recommended: 64 dims, int8</h1>" in page.source
    assert "To build and search this index: reelnest index --dim 64 --storage int8, reelnest search" in page.text
    assert (
        "Recall@10 0.961 (best: 0.964 with 64 dims). The difference, −0.003, is above −0.008 with 95\u00a0% confidence; a loss of less than"
        " 0.01 is accepted."
    ) in page.text
    tiles = re.findall(r'<dt>([^<]*)</dt><dd class="number">([^<]*)</dd><dd class="note">([^<]*)<', page.source)
    assert tiles == [
        ("Recall@10", "0.961", "64 dims, int8; 0.941 to 0.981"),
        ("Recall@1", "0.561", "64 dims, int8"),
        ("A vector", "68 B", "64 dims, int8; 3.76 times smaller than 64 float32; 68 MB for a million videos"),
        (
            "Searches a second",
            "29,412",
            "64 dims, int8; 26,471 to 44,118 in the middle half of repeated runs on one machine, without encoding",
        ),
        ("Above listed negatives", "64\u00a0%", "64 dims, int8; of 30 queries, a relevant item ranks above all of their listed negatives"),
    ]
    assert "Against the champion (version 3), at 64 dims, float32: Recall@10 −0.020 (−0.035 to −0.004)." in page.text


def test_a_tile_of_float32_names_it_too(tmp_path: Path) -> None:
    assert "16 dims, float32; 0.896 to 0.936" in written(tmp_path).text


def test_hit_at_1_and_the_best_possible_recall_at_1_are_shown_where_queries_have_several_relevant_items(tmp_path: Path) -> None:
    assert "Hit@1" not in [caption for caption, _ in captions(written(tmp_path))]
    best = {"text_to_video": {"recall@1": 1.0}, "video_to_text": {"recall@1": 0.25}, "all": {"recall@1": 0.625}}
    every = {kind: dict.fromkeys(METRICS, 1.0) | values for kind, values in best.items()}
    write_evaluation_page(tmp_path / "evaluation.html", report(evaluation() | {"best_possible": every}))
    page = Page(tmp_path / "evaluation.html")
    assert "Hit@1" in [caption for caption, _ in captions(page)]
    assert "Recall@1 of a perfect search: 0.250 for video→text, because queries have several relevant items." in page.text
    assert "16 dims, float32; at most 0.625 is possible" in page.text


def test_a_metric_that_is_no_test_recommends_nothing_and_is_not_drawn(tmp_path: Path) -> None:
    reason = "there are only 8 different candidates, and every search has all of them in its first 10 results"
    reasons = dict.fromkeys(("recall@10",), reason)
    content = evaluation() | {"no_test": dict.fromkeys(("text_to_video", "video_to_text", "all"), reasons), "choice": None}
    write_evaluation_page(tmp_path / "evaluation.html", report(content))
    page = Page(tmp_path / "evaluation.html")
    assert "<h1>No recommendation: Recall@10 is no test on this data</h1>" in page.source
    assert f"T{reason[1:]}. Add test data, or choose another metric" in page.text
    assert 'class="badge">recommended' not in page.source
    assert "Recall@10" not in [caption for caption, _ in captions(page)]
    assert f"Recall@10: no test for video→text: {reason}." in page.text
    assert page.source.count("no test</span>") == 9  # three dims of three pair kinds
    tiles = re.findall(r'<dt>([^<]*)</dt><dd class="number">', page.source)
    assert tiles == ["Recall@1", "A vector", "Searches a second", "Above listed negatives"]


def test_a_metric_that_is_a_test_for_some_pair_kinds_is_drawn_for_these(tmp_path: Path) -> None:
    content = evaluation() | {"no_test": {"video_to_text": dict.fromkeys(METRICS, "there is only one query")}}
    write_evaluation_page(tmp_path / "evaluation.html", report(content))
    page = Page(tmp_path / "evaluation.html")
    assert "Recommended: 16 dims" in page.text
    assert [chart.count("<polyline") for _, chart in captions(page)[:4]] == [1, 1, 1, 1]
    assert "No metric is a test for video→text: there is only one query." in page.text


def test_the_page_of_the_tiny_model_and_of_few_queries_says_what_to_expect(tmp_path: Path) -> None:
    write_evaluation_page(tmp_path / "evaluation.html", report(evaluation() | {"queries": 12}))
    text = Page(tmp_path / "evaluation.html").text
    assert "The model 'tiny' is for trying the workflow." in text
    assert "12 queries are few: the intervals are unreliable." in text
    real = {"hash": "m", "base": "Qwen/Qwen2.5-VL-3B", "embedding_width": 64}
    write_evaluation_page(tmp_path / "evaluation.html", report(evaluation() | {"model": real}))
    text = Page(tmp_path / "evaluation.html").text
    assert "tiny" not in text
    assert "are few" not in text


@pytest.mark.parametrize(
    ("name", "best", "title", "evidence"),
    [
        ("64", "64", "64 dims", "with 64 dims, the best. Smaller configurations lose, or may lose, more than 0.01."),
        ("16", "64", "16 dims", "(best: 0.920 with 64 dims)."),
        ("funnel 16→64", "64", "funnel 16→64", "(best: 0.920 with 64 dims)."),
        ("funnel 16→64 int8", "64", "funnel 16→64, int8", "(best: 0.920 with 64 dims)."),
    ],
)
def test_the_title_names_the_recommended_configuration(tmp_path: Path, name: str, best: str, title: str, evidence: str) -> None:
    content = evaluation()
    content["choice"] |= {"name": name, "best_name": best}
    content["configurations"] += [configuration(name, 64, "float32", 0.96, 256), configuration("4", 4, "float32", 0.5, 1)]
    write_evaluation_page(tmp_path / "evaluation.html", report(content))
    assert f"<h1>Recommended: {title}</h1>" in (tmp_path / "evaluation.html").read_text()
    assert evidence in (tmp_path / "evaluation.html").read_text()


def test_the_smallest_configuration_is_not_compared_with_smaller_ones(tmp_path: Path) -> None:
    content = evaluation()
    content["choice"] |= {"name": "16", "best_name": "16", "bytes_per_vector": 1}
    write_evaluation_page(tmp_path / "evaluation.html", report(content))
    text = Page(tmp_path / "evaluation.html").text
    assert "the best. No measured configuration is smaller." in text
    assert "Smaller configurations" not in text


def test_each_chart_has_a_named_line_for_each_pair_kind(tmp_path: Path) -> None:
    page = written(tmp_path)
    charts = [chart for _, chart in captions(page)]
    assert [caption for caption, _ in captions(page)] == [
        "Recall@1",
        "Recall@10",
        "MRR",
        "nDCG@10",
        "Recall@10 against size",
        "Recall@10 against speed",
        "Relevant item above the listed negatives",
    ]
    for chart in charts[:4]:
        assert chart.count("<polyline") == 2
        assert "text→video <tspan" in chart
        assert "video→text <tspan" in chart


def test_intervals_are_bands_and_stand_beside_the_headline(tmp_path: Path) -> None:
    page = written(tmp_path)
    charts = dict(captions(page))
    assert charts["Recall@10"].count("<polygon") == 2
    assert "<polygon" not in charts["MRR"]
    assert "Bands: 95\u00a0% confidence intervals." in page.source


def test_a_chart_names_the_ends_of_its_axis(tmp_path: Path) -> None:
    for _, chart in captions(written(tmp_path)):
        low, high = re.findall(r'<span class="axis">(.*?) to (.*?)</span>', chart)[0]
        ticks = re.findall(r'text-anchor="end">([\d.]+)</text>', chart)
        assert (ticks[0], ticks[-1]) == (low, high)


def captions(page: Page) -> list[tuple[str, str]]:
    """The caption and the source of each chart."""
    charts = re.findall(r"<figure.*?</figure>", page.source, re.DOTALL)
    return [(re.findall(r"<figcaption>(.*?) <", chart)[0], chart) for chart in charts]


def row(page: Page, start: str) -> str:
    """The table row whose text begins so, in one line."""
    rows = [" ".join(re.sub(r"<[^>]*>", " ", found).split()) for found in re.findall(r"<tr.*?</tr>", page.source, re.DOTALL)]
    return next(found for found in rows if found.startswith(start))


def full_page(tmp_path: Path, *gallery: GalleryQuery) -> Page:
    write_evaluation_page(tmp_path / "evaluation.html", report(full_evaluation()), gallery, [confused()])
    return Page(tmp_path / "evaluation.html")


def test_each_configuration_is_a_row_and_a_mark_and_the_choice_is_marked_in_both(tmp_path: Path) -> None:
    page = full_page(tmp_path)
    assert row(page, "64 int8") == "64 int8 recommended 68 68 MB 29,412 26,471 to 44,118 0.561 0.961 0.941 to 0.981 0.700"
    assert row(page, "64 best").startswith("64 best 256 256 MB")
    for chart in re.findall(r'<figure class="chart scatter">.*?</figure>', page.source, re.DOTALL):
        assert re.findall(r"<title>(.*?):", chart) == [
            "16", "32", "64", "16 int8", "32 int8", "64 int8", "64 binary", "funnel 16→64",
        ] or "against speed" in chart  # fmt: skip
        assert chart.count('class="whisker"') == (16 if "against speed" in chart else 8)  # of the metric, and of repeated runs
        assert chart.count("recommended: 64 int8") == 1


def test_the_page_says_what_each_of_its_storage_types_is(tmp_path: Path) -> None:
    assert "A dimension takes 32 bits as float32, 8 bits as int8, 1 bit as binary." in full_page(tmp_path).text


def test_a_difference_is_called_better_or_worse_only_where_its_interval_says_so(tmp_path: Path) -> None:
    page = full_page(tmp_path)
    assert "Against the champion, version 3" in page.text
    assert row(page, "16 +0.030") == "16 +0.030 better +0.010 to +0.050"
    assert row(page, "32 +0.005") == "32 +0.005 no difference shown −0.010 to +0.020"
    assert row(page, "64 −0.020") == "64 −0.020 worse −0.035 to −0.004"
    assert "No comparison with the previous run: it was evaluated on other queries." in page.text


def test_each_part_of_the_queries_is_a_row_with_its_figure_at_each_dim(tmp_path: Path) -> None:
    page = full_page(tmp_path)
    assert row(page, "pair kind") == "pair kind: text→video 50 0.900 0.850 to 0.940 0.950 0.900 to 0.990"
    assert row(page, "query words: 8+") == "query words: 8+ few 12 0.600 0.550 to 0.640 0.800 0.750 to 0.840"


def test_behaviour_tests_are_summed_up_by_kind_and_failures_listed(tmp_path: Path) -> None:
    page = full_page(tmp_path)
    assert row(page, "direction") == "direction 4 25 % 100 %"
    assert row(page, "all 12") == "all 12 75 % 100 %"
    words = " ".join(page.text.split())
    assert "direction, “a star moving left”, at 16 dims: clip-2 is above and 2 more, in evaluation.json." in words
    write_evaluation_page(tmp_path / "evaluation.html", report({**full_evaluation(), "behaviour": NO_TESTS}))
    assert "Behaviour tests" not in Page(tmp_path / "evaluation.html").text


def test_segments_are_called_what_a_search_lead_calls_them(tmp_path: Path) -> None:
    content = full_evaluation()
    content["slices"] = [slice_entry("direction", "target → query", 16, 0.9, 50), slice_entry("relevant items", "2-3", 16, 0.9, 50)]
    write_evaluation_page(tmp_path / "evaluation.html", report(content), [query(slices=("direction: query → target",))])
    page = Page(tmp_path / "evaluation.html")
    assert row(page, "direction: target → query 50")
    assert row(page, "relevant items: 2-3 50")
    assert page.source.count("direction: query → target") == 2  # the example's segment, and its option


def test_a_search_shows_a_relevant_item_and_its_rank_at_each_dim(tmp_path: Path) -> None:
    page = written(tmp_path, query(rank=3), query("another", rank=700), video_query())
    words = " ".join(page.text.split())
    assert page.source.count("✓ expected") == 3
    assert page.source.count("✓ relevant") == 2
    assert "relevant item at rank 3 · text→video · among the hardest · rank by dim: 16: 6, 32: 4, 64: 3" in words
    assert "relevant item at rank 700" in words
    assert "relevant item at rank 1 · video→text · drawn at random" in words
    alternatives = [attributes["alt"] for attributes in page.all("img")]
    assert alternatives[:2] == ["2 frames of right", "2 frames of clip-1"]
    assert len(alternatives) == 9


def test_confused_videos_are_beside_the_relevant_ones(tmp_path: Path) -> None:
    page = full_page(tmp_path)
    assert "Wrongly first for 3 queries" in page.text
    assert [attributes["alt"] for attributes in page.all("img")] == ["2 frames of hub", "2 frames of dog", "2 frames of wolf"]


@pytest.mark.parametrize("what", [{"kinds": ()}, {"dims": (64,)}, {"kinds": ("video_to_video",)}, {"kinds": ("sound_to_video", "all")}])
def test_less_or_other_than_usual_still_gives_a_page(tmp_path: Path, what: dict[str, Any]) -> None:
    title = "Recommended: 64 dims" if "dims" in what else "Recommended: 16 dims"
    assert title in written(tmp_path, **what).text


def test_the_same_evaluation_gives_the_same_bytes(tmp_path: Path) -> None:
    assert written(tmp_path, query()).source == written(tmp_path, query()).source


def test_a_page_that_cannot_be_made_leaves_the_one_before(tmp_path: Path) -> None:
    before = written(tmp_path).source
    nameless = evaluation()
    nameless["choice"]["name"] = "no configuration"
    with pytest.raises(StopIteration):
        write_evaluation_page(tmp_path / "evaluation.html", report(nameless))
    assert (tmp_path / "evaluation.html").read_text(encoding="utf-8") == before
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.html"]


def test_measured_engines_are_a_table_and_without_them_there_is_no_section(tmp_path: Path) -> None:
    loads = [{"clients": clients, "queries_per_second": 1234.4, "p50_ms": 0.52, "p99_ms": 7.26} for clients in (1, 8)]
    rows = [
        {"engine": engine, "storage": "int8", "share": share, "rows": int(20_000 * share), "recall": 0.987, "label_recall": labels,
         "loads": loads, "disk_bytes": disk, "memory_bytes": None}
        for engine, disk in ((HOSTILE, 5_000_000), ("postgresql://db.example/search", None))
        for share, labels in ((1.0, 0.654), (0.001, None))
    ]  # fmt: skip
    path = tmp_path / "engines.html"
    write_evaluation_page(path, report(evaluation() | {"engines": rows}))
    page = Page(path)
    for text in (HOSTILE, "postgresql://db.example/search", "20,000 (100 %)", "20 (0.1 %)", "0.987", "0.654", "1,234", "0.5 / 7.3"):
        assert text in page.text
    assert "Search engines" not in written(tmp_path).text
