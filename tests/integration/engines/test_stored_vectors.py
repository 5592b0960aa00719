"""An index in a folder stores and searches vectors as the evaluation that recommends it did."""

from pathlib import Path

import numpy as np
import pytest
import torch

from reelnest.engines.engine import Item, open_engine, write_version
from reelnest.errors import DataError
from reelnest.evaluation.configurations import Configuration, _search
from reelnest.records.formats import Video
from reelnest.search.filters import parse_filter
from reelnest.search.storage import stored, unit
from reelnest.search.storage_types import index_bytes
from tests.integration.engines.test_engines import manifest

COUNT, WIDTH, SHORTLIST = 400, 128, 20
RNG = np.random.default_rng(2)
FULL = unit(torch.from_numpy((RNG.normal(size=(COUNT, WIDTH)) * RNG.uniform(0.1, 3, WIDTH)).astype(np.float32)))
FULL[300:] = FULL[:100]  # ties
QUERIES = torch.from_numpy(RNG.normal(size=(20, WIDTH)).astype(np.float32))
IDS = [f"v{number:03}" for number in range(COUNT)]


def write(folder: Path, storage: str, dim: int, vectors: torch.Tensor = FULL) -> None:
    engine = open_engine(str(folder))
    about = manifest(len(vectors)).model_copy(update={"storage": storage, "dims": (16, dim), "tags": {"half": {}}})
    rows = (
        Item(Video(IDS[at], f"{at}.mp4", (), {}, at + 1, {"half": str(at % 2)}), IDS[at], vectors[at, :dim].numpy())
        for at in range(len(vectors))
    )
    write_version(engine, about, rows, batch_size=64)
    engine.close()


@pytest.mark.parametrize("dim", [128, 36])
@pytest.mark.parametrize("storage", ["float32", "float16", "int8", "binary", "binary_int8"])
def test_results_and_size_are_those_of_the_evaluated_configuration(tmp_path: Path, storage: str, dim: int) -> None:
    write(tmp_path / "index", storage, dim)
    engine = open_engine(str(tmp_path / "index"))
    has_signs = engine.manifest.has_signs
    shortlists = (SHORTLIST,) if has_signs else ()
    corpora = {name: stored(FULL, name) for name in ("float32", "float16", "int8")}
    for searched_dim in (dim, 16, 21):
        evaluated = _search(Configuration(searched_dim, storage, shortlists=shortlists), FULL, corpora)(QUERIES, 10)
        for query, rows, scores in zip(QUERIES, evaluated.indices.tolist(), evaluated.scores, strict=True):
            hits = engine.search(query[:dim].numpy(), 10, dim=searched_dim, shortlist=SHORTLIST if has_signs else None)
            assert list(hits.ids) == [IDS[row] for row in rows]
            # float16 is rounded from vectors of unit length here, and there from vectors that are normalised once more.
            assert hits.scores == pytest.approx(scores.tolist(), abs=1e-4 if storage == "float16" else 1e-6)
            assert hits.dims == (searched_dim,)
    if not has_signs:
        funnel = _search(Configuration(dim, storage, (16, dim), (SHORTLIST,)), FULL, corpora)(QUERIES, 10)
        hits = engine.search(QUERIES[0, :dim].numpy(), 10, dim=16, shortlist=SHORTLIST)
        assert list(hits.ids) == [IDS[row] for row in funnel.indices[0].tolist()]
    engine.close()
    arrays = [np.load(file) for file in (tmp_path / "index").glob("*.npy")]
    assert sum(array.nbytes for array in arrays) == index_bytes(COUNT, dim, storage)


@pytest.mark.parametrize("storage", ["int8", "binary", "binary_int8"])
def test_a_filter_selects_rows_of_codes_and_signs(tmp_path: Path, storage: str) -> None:
    write(tmp_path / "index", storage, 36)
    write(tmp_path / "odd", "float32", 36, FULL[1::2])
    engine = open_engine(str(tmp_path / "index"))
    condition = parse_filter("half == 1", ["half"])
    for query in QUERIES:
        found = engine.search(query[:36].numpy(), 200, dim=36, shortlist=200 if engine.manifest.has_signs else None, condition=condition)
        everything = engine.search(query[:36].numpy(), COUNT, dim=36, shortlist=COUNT if engine.manifest.has_signs else None)
        assert list(found.ids) == [video_id for video_id in everything.ids if int(video_id[1:]) % 2]
    engine.close()


def test_stored_vectors_are_of_the_opened_version_after_another_has_replaced_it(tmp_path: Path) -> None:
    write(tmp_path / "index", "float32", 36)
    engine = open_engine(str(tmp_path / "index"))
    assert engine.manifest.videos == COUNT
    write(tmp_path / "index", "float32", 36, -FULL[:7])
    kept = engine.vectors([IDS[3], "unknown"])
    assert kept.keys() == {IDS[3]}
    np.testing.assert_array_equal(kept[IDS[3]], FULL[3, :36].numpy())
    engine.close()


def test_an_index_that_lacks_a_file_or_has_a_wrong_one_is_damaged(tmp_path: Path) -> None:
    write(tmp_path / "index", "binary_int8", 36)
    for name in ("vectors.npy", "scales.npy", "signs.npy"):
        file = tmp_path / "index" / name
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(DataError, match="incomplete or damaged"):
            _ = open_engine(str(tmp_path / "index")).manifest
        np.save(file, np.load(tmp_path / "index" / ("signs.npy" if name != "signs.npy" else "vectors.npy"))[:7])
        with pytest.raises(DataError, match=r"do not match|has the shape"):
            _ = open_engine(str(tmp_path / "index")).manifest
        file.write_bytes(content)


def test_an_empty_corpus_of_signs_finds_nothing(tmp_path: Path) -> None:
    write(tmp_path / "index", "binary_int8", 36, FULL[:0])
    assert open_engine(str(tmp_path / "index")).search(QUERIES[0, :36].numpy(), 5, dim=36, shortlist=5).ids == []
