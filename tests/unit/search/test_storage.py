"""Storage types, compared with the floats that they store and with a plain count of bits."""

import numpy as np
import pytest
import torch

from reelnest.evaluation.configurations import configurations
from reelnest.search.binary import BinaryVectors
from reelnest.search.storage import Int8Vectors, sign_bits, stored, unit
from reelnest.search.storage_types import STORAGE_TYPES, StorageType, bytes_per_vector, index_bytes
from reelnest.search.topk import prefix_topk
from reelnest.settings import Evaluate


def some(rows: int, seed: int, width: int = 40) -> torch.Tensor:
    spread = torch.linspace(0.1, 3.0, width)  # it differs between the dimensions of trained vectors
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * spread


def test_int8_is_off_by_half_a_step_of_its_dimension_at_most() -> None:
    vectors = some(200, 0)
    codes = Int8Vectors.calibrated(vectors)
    unit = torch.nn.functional.normalize(vectors, dim=1)
    step = unit.abs().amax(dim=0) / 127
    assert ((codes[torch.arange(200)] - unit).abs() <= step / 2 + 1e-7).all()
    assert codes.codes.dtype == torch.int8
    assert int(codes.codes.abs().max()) == 127


def test_the_codes_of_a_prefix_are_the_prefix_of_the_codes() -> None:
    codes = Int8Vectors.calibrated(some(30, 1))
    rows = torch.tensor([3, 29])
    assert torch.equal(codes.prefix(8)[rows], codes[rows][:, :8])
    assert torch.equal(codes.prefix(8).contiguous()[rows], codes[rows][:, :8])
    bits = sign_bits(some(30, 1), 40)
    assert np.array_equal(sign_bits(some(30, 1), 16), bits[:, :2])


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_stored_vectors_are_searched_as_the_floats_that_they_decode_to(storage: str) -> None:
    queries, corpus = some(7, 2), stored(some(50, 3), storage)
    ranking = prefix_topk(queries, corpus, [8, 40], 10)
    expected = prefix_topk(queries, corpus[torch.arange(50)].float(), [8, 40], 10)
    for dim in (8, 40):
        assert torch.equal(ranking[dim].indices, expected[dim].indices)
        assert torch.equal(ranking[dim].scores, expected[dim].scores)


def test_vectors_of_any_length_and_zero_vectors_are_stored() -> None:
    vectors = torch.stack([torch.full((8,), 3e38), torch.zeros(8), torch.full((8,), -1e-30)])
    for storage in ("float16", "int8"):
        decoded = stored(vectors, storage)[torch.arange(3)].float()
        torch.testing.assert_close(decoded, torch.tensor([[8**-0.5], [0.0], [-(8**-0.5)]]).expand(3, 8), atol=3e-4, rtol=0)
    assert len(stored(vectors[:0], "int8")) == 0


@pytest.mark.parametrize("dim", [7, 8, 40])
@pytest.mark.parametrize("with_codes", [False, True])
def test_binary_search_reranks_the_nearest_signs_by_the_float_query(dim: int, with_codes: bool) -> None:
    queries, corpus = some(6, 4), some(70, 5)
    codes = Int8Vectors.calibrated(corpus).prefix(dim) if with_codes else None
    ranking = BinaryVectors(sign_bits(corpus, dim), dim, codes).topk(queries, shortlist=12, k=5)
    for query, rows in zip(queries[:, :dim], ranking.indices.tolist(), strict=True):
        distances = ((corpus[:, :dim] > 0) != (query > 0)).sum(dim=1).tolist()
        nearest = sorted(range(70), key=lambda row: (distances[row], row))[:12]
        decoded = codes[torch.tensor(nearest)][:, :dim] if codes else (corpus[nearest, :dim] > 0).float() * 2 - 1
        cosines = torch.nn.functional.cosine_similarity(query[None], decoded)
        ranked = sorted(range(12), key=lambda index: (-round(float(cosines[index]), 5), nearest[index]))
        assert rows == [nearest[index] for index in ranked[:5]]


def test_among_equal_distances_the_lower_rows_are_shortlisted() -> None:
    ranking = BinaryVectors(sign_bits(torch.ones(9, 8), 8), 8).topk(torch.ones(1, 8), shortlist=4, k=4)
    assert ranking.indices.tolist() == [[0, 1, 2, 3]]
    torch.testing.assert_close(ranking.scores, torch.ones(1, 4))


def test_an_empty_corpus_and_no_queries_give_no_results() -> None:
    assert BinaryVectors(sign_bits(torch.ones(0, 8), 8), 8).topk(torch.ones(2, 8), 4, 4).indices.shape == (2, 0)
    assert BinaryVectors(sign_bits(torch.ones(3, 8), 8), 8).topk(torch.ones(0, 8), 4, 4).indices.shape == (0, 3)


def test_sizes_are_those_of_the_arrays() -> None:
    vectors = some(10, 6, width=20)
    sizes = {storage: bytes_per_vector(20, storage) for storage in STORAGE_TYPES}
    assert sizes == {"float32": 80, "float16": 40, "int8": 20, "binary": 3, "binary_int8": 23}
    half, codes = stored(vectors, "float16"), Int8Vectors.calibrated(vectors)
    assert isinstance(half, torch.Tensor)
    assert index_bytes(10, 20, "float16") == half.nbytes
    assert index_bytes(10, 20, "int8") == codes.codes.nbytes + codes.scales.nbytes
    assert index_bytes(10, 20, "binary") == sign_bits(vectors, 20).nbytes


def test_signs_are_not_searched_by_cosine() -> None:
    with pytest.raises(ValueError, match="Hamming"):
        stored(some(3, 7), "binary")


def test_a_new_storage_type_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STORAGE_TYPES, "bfloat16", StorageType(lambda dim: 2 * dim, lambda vectors: unit(vectors).bfloat16()))
    settings = Evaluate.model_validate({"storage": ["bfloat16"]})
    [configuration] = configurations([40], settings)
    assert (configuration.name, configuration.bytes_per_vector, configuration.is_exact) == ("40 bfloat16", 80, True)
    corpus = some(50, 3)
    ranking = prefix_topk(some(7, 2), stored(corpus, "bfloat16"), [40], 10)[40]
    expected = prefix_topk(some(7, 2), corpus, [40], 10)[40]
    torch.testing.assert_close(ranking.scores, expected.scores, atol=0.02, rtol=0)
