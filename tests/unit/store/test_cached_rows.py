"""The feature cache of frozen modules."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reelnest.backbones.families.qwen2_5_vl import VISION
from reelnest.errors import DataError
from reelnest.store.cached_rows import CachedRows, CachedRowsWriter, Rows

COUNTS = np.array([2, 0, 3, 1])


def rows_of(number: int, dtype: str) -> Rows:
    rows: Rows = np.arange(COUNTS[number] * 4, dtype=dtype).reshape(-1, 4) + np.asarray(10 * number, dtype=dtype)
    return rows


@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_two_writers_fill_one_file_in_any_order(dtype: str, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "key"
    aside = CachedRowsWriter.begin(folder)
    writers = [CachedRowsWriter(aside, COUNTS, 4, dtype) for _ in range(2)]
    for turn, number in enumerate((3, 0, 2)):
        writers[turn % 2].put(number, rows_of(number, dtype))
    for writer in writers:
        writer.close()
    assert not folder.exists()
    writers[0].finish(aside, folder, VISION, {"what": "a test"})
    assert [path.name for path in folder.parent.iterdir()] == ["key"]
    cached = CachedRows(folder, VISION)
    assert [number in cached for number in range(4)] == [True, False, True, True]
    for number in (0, 2, 3):
        assert cached[number].dtype == dtype
        assert np.array_equal(cached[number], rows_of(number, dtype))
    with pytest.raises(KeyError):
        cached[1]
    with pytest.raises(DataError, match=r"another model family \(patch_size 14, not 16\)"):
        CachedRows(folder, replace(VISION, patch_size=16))


def test_orphans_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    orphan = CachedRowsWriter.begin(tmp_path / "key")
    writer = CachedRowsWriter(orphan, COUNTS, 4, "float32")
    writer.put(0, rows_of(0, "float32"))
    aside = CachedRowsWriter.begin(tmp_path / "key")
    assert list(tmp_path.iterdir()) == [aside]
    writer.close()


def test_rows_of_another_shape_or_type_are_rejected(tmp_path: Path) -> None:
    writer = CachedRowsWriter(CachedRowsWriter.begin(tmp_path / "key"), COUNTS, 4, "float32")
    for wrong in (rows_of(0, "float64"), rows_of(2, "float32"), np.zeros((2, 5), dtype=np.float32)):
        with pytest.raises(ValueError, match=r"entry 0.*expected 2 rows of \(4,\)"):
            writer.put(0, wrong)
    writer.close()
