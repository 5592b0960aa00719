from pathlib import Path

import numpy as np
import pytest

from reelnest.backbones.families.qwen2_5_vl import VISION
from reelnest.errors import DataError
from reelnest.records.formats import Pair, Side
from reelnest.store.frame_cache import FrameCache
from reelnest.store.frame_store_writing import write_store
from reelnest.store.prepared import Fields, Item, Prepared, write_tables
from reelnest.video.frames import Frames


def text(value: str) -> Side:
    return Side("text", value)


def video(value: str) -> Side:
    return Side("video", value)


PAIRS = [
    Pair(text("zebra"), video("b"), 1.0, None, (video("a"), text("ant")), 1),
    Pair(text("zebra"), video("a"), 2.5, None, (), 2),
    Pair(video("b"), text("zebra"), 1.0, None, (), 3),
    Pair(text("ant"), text("bee"), 0.5, None, (text("zebra"),), 4),
    Pair(video("a"), video("b"), 1.0, None, (), 5),
]
SPLITS = ["train", "test", "train", "train", "validation"]
VIDEOS: dict[str, Fields] = {"b": (("title", "Bé"), ("ocr", "two\nlines")), "a": (), "unpaired": (("caption", "in no pair"),)}


def rows_of(number: int) -> Frames:
    return Frames.of(np.full((16, 1176), number, dtype=np.uint8), (1, 4, 4), 0.5, VISION)


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    cache = FrameCache(tmp_path / "work")
    for number in range(len(VIDEOS)):
        cache.add(f"{number:04d}", rows_of(number))
    folder = tmp_path / "prepared"
    write_store(folder / "store", [(video_id, f"{number:04d}") for number, video_id in enumerate(VIDEOS)], cache, 1, VISION)
    write_tables(folder, VIDEOS, PAIRS, SPLITS, {"b": (("language", "fr"),)})
    return Prepared.open(folder)


def test_items_are_numbered_by_kind_and_key(prepared: Prepared) -> None:
    items = [prepared.item(index) for index in range(len(prepared))]
    assert items == [
        Item(0, "text", "ant", ()),
        Item(1, "text", "bee", ()),
        Item(2, "text", "zebra", ()),
        Item(3, "video", "a", ()),
        Item(4, "video", "b", (("title", "Bé"), ("ocr", "two\nlines")), (("language", "fr"),)),
        Item(5, "video", "unpaired", (("caption", "in no pair"),)),
    ]
    with pytest.raises(IndexError):
        prepared.item(6)
    with pytest.raises(IndexError):
        prepared.item(-1)


def test_pairs_come_by_split_in_their_order(prepared: Prepared) -> None:
    train = prepared.pairs("train")
    assert len(train) == 3
    assert train.queries.tolist() == [2, 4, 0]
    assert train.targets.tolist() == [4, 2, 1]
    assert train.relevance.tolist() == [1.0, 1.0, 0.5]
    assert [listed.tolist() for listed in train.negatives] == [[0, 3], [], [2]]
    assert (train.queries.dtype, train.relevance.dtype, train.negatives[1].dtype) == (np.int64, np.float32, np.int64)
    assert prepared.pairs("test").relevance.tolist() == [2.5]
    assert [listed.tolist() for listed in prepared.pairs("test").negatives] == [[]]
    with pytest.raises(ValueError, match="train, validation, test"):
        prepared.pairs("dev")


def test_relations_are_symmetric_over_all_splits(prepared: Prepared) -> None:
    expected: dict[int, set[int]] = {index: set() for index in range(len(prepared))}
    index = {(prepared.item(number).kind, prepared.item(number).key): number for number in range(len(prepared))}
    for pair in PAIRS:
        query, target = index[pair.query.kind, pair.query.value], index[pair.target.kind, pair.target.value]
        expected[query].add(target)
        expected[target].add(query)
    for number, partners in expected.items():
        related = prepared.related(number)
        assert related.tolist() == sorted(partners)
        assert related.dtype == np.int64


def test_what_shows_the_same_moment_as_a_related_item_is_related(prepared: Prepared, tmp_path: Path) -> None:
    folder = tmp_path / "prepared"
    pairs = [Pair(text("ant"), video("a"), 1.0, None, (), 1), Pair(video("b"), text("bee"), 1.0, None, (), 2)]
    write_tables(folder, VIDEOS, pairs, ["train", "test"], overlaps={"a": ["unpaired"], "unpaired": ["a"]})
    overlapping = Prepared.open(folder)
    keys = [overlapping.item(index).key for index in range(len(overlapping))]
    related = {key: {keys[other] for other in overlapping.related(index).tolist()} for index, key in enumerate(keys)}
    assert related == {
        "ant": {"a", "unpaired"},
        "bee": {"b"},
        "a": {"ant", "unpaired"},
        "b": {"bee"},
        "unpaired": {"ant", "a"},
    }


def test_a_video_is_encoded_with_its_frames_and_its_fields(prepared: Prepared) -> None:
    entry = prepared.entry(4, "target")
    assert (entry.role, entry.text) == ("target", "title: Bé\nocr: two\nlines")
    assert entry.frames is not None
    assert np.array_equal(entry.frames.rows, rows_of(0).rows)
    bare = prepared.entry(3, "query")
    assert (bare.role, bare.text) == ("query", "")
    assert bare.frames is not None
    assert np.array_equal(bare.frames.rows, rows_of(1).rows)


def test_a_text_is_encoded_as_it_is(prepared: Prepared) -> None:
    entry = prepared.entry(2, "query")
    assert (entry.role, entry.text, entry.frames) == ("query", "zebra", None)


def test_a_split_without_pairs_is_empty(tmp_path: Path) -> None:
    cache = FrameCache(tmp_path / "work")
    write_store(tmp_path / "store", [], cache, 1, VISION)
    write_tables(tmp_path, {}, [PAIRS[3]], ["train"])
    prepared = Prepared.open(tmp_path)
    assert len(prepared.pairs("test")) == 0
    assert prepared.pairs("test").negatives == ()
    assert (len(prepared), len(prepared.store)) == (3, 0)
    assert prepared.item(2).kind == "text"


def test_an_incomplete_folder_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"items\.parquet.*reelnest preprocess"):
        Prepared.open(tmp_path)
    write_tables(tmp_path, {}, [PAIRS[3]], ["train"])
    with pytest.raises(DataError, match="no readable frame store"):
        Prepared.open(tmp_path)
    (tmp_path / "pairs.parquet").write_bytes(b"PAR1 incomplete")
    with pytest.raises(DataError, match=r"pairs\.parquet"):
        Prepared.open(tmp_path)
