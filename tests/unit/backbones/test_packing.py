"""Packing compared with a loop over rows and tokens."""

import numpy as np
import pytest

from reelnest.backbones.packing import MOST_PADDING, Packing

LENGTHS = [[3, 1, 7], [20, 9, 21, 8]]


def masks(lengths: list[list[int]], skipped: int) -> list[np.ndarray]:
    """Returns one mask per segment, padded on the left, without each row's first `skipped` tokens (but with its last)."""
    masks = []
    for segment in lengths:
        mask = np.zeros((len(segment), max(segment)), dtype=np.int64)
        for row, length in enumerate(segment):
            mask[row, max(segment) - length + min(skipped, length - 1) :] = 1
        masks.append(mask)
    return masks


@pytest.fixture
def packing() -> Packing:
    return Packing.of(masks(LENGTHS, 0), masks(LENGTHS, 2))


def test_tokens_are_those_of_all_rows_one_after_the_other_without_padding(packing: Packing) -> None:
    expected, before = [], 0
    for mask in masks(LENGTHS, 0):
        expected += [before + place for place, real in enumerate(mask.reshape(-1)) if real]
        before += mask.size
    assert packing.tokens.tolist() == expected
    assert packing.ends.tolist() == [0, 3, 4, 11, 31, 40, 61, 69]
    assert packing.last.tolist() == [2, 3, 10, 30, 39, 60, 68]
    assert packing.longest == 21


def test_rows_of_like_length_share_a_group_and_each_token_is_found_again(packing: Packing) -> None:
    numbers = np.arange(len(packing.tokens))
    laid_out = np.concatenate([numbers[group.numpy()].reshape(-1) for group in packing.groups])
    assert laid_out[packing.inverse.numpy()].tolist() == numbers.tolist()
    assert sorted(len(group) for group in packing.groups) == [1, 1, 2, 3]
    lengths = np.diff(packing.ends.numpy())
    for group in packing.groups:
        rows = np.searchsorted(packing.ends.numpy(), group[:, 0].numpy(), side="right") - 1
        assert group.shape[1] == lengths[rows].max() <= MOST_PADDING * lengths[rows].min()
        for places, row in zip(group.tolist(), rows, strict=True):
            first, length = int(packing.ends[row]), lengths[row]
            assert places == [first + min(step, length - 1) for step in range(group.shape[1])]


def test_pooling_reads_its_mask_and_no_padding(packing: Packing) -> None:
    read = [
        sorted(group[row][mask[row]].tolist())
        for group, mask in zip(packing.groups, packing.pooled, strict=True)
        for row in range(len(group))
    ]
    in_order = [read[place] for place in packing.row_order.tolist()]
    assert in_order == [
        list(range(end - max(1, length - 2), end)) for end, length in zip(packing.ends[1:].tolist(), np.diff(packing.ends), strict=True)
    ]


def test_one_row_is_one_group() -> None:
    packing = Packing.of([np.ones((1, 1), dtype=np.int64)], [np.ones((1, 1), dtype=np.int64)])
    assert [group.tolist() for group in packing.groups] == [[[0]]]
    assert packing.inverse.tolist() == packing.row_order.tolist() == packing.last.tolist() == [0]
