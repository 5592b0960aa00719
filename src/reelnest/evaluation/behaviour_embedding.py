"""Encodes the queries and videos of behaviour tests."""

from collections.abc import Sequence

import numpy as np
import torch

from reelnest.encoder.batches import Batcher
from reelnest.encoder.embedding import embed
from reelnest.encoder.encoder import Encoder
from reelnest.evaluation.behaviour import EmbeddedTests
from reelnest.evaluation.split_evaluation import EmbeddedSplit
from reelnest.records.behaviour_tests import BehaviourTest
from reelnest.store.entries import Entry
from reelnest.store.prepared import Prepared


def embed_tests(
    tests: Sequence[BehaviourTest], prepared: Prepared, split: EmbeddedSplit, encoder: Encoder, batcher: Batcher, batch_size: int
) -> EmbeddedTests:
    """Encodes behaviour tests. Their corpus is every target video of the split and every video that the tests name.

    Videos that the split has encoded are not encoded again. Tests that name a video missing from `prepared/` are left out. Every rank must
    call this.
    """
    tests = [test for test in tests if all(video in prepared.store for video in (*test.video, *test.above))]
    texts = list(dict.fromkeys(text for test in tests for text in test.texts))
    encoded = split.targets.items[split.targets.items >= len(prepared) - len(prepared.store)]
    named = np.array(sorted({prepared.video_item(video) for test in tests for video in (*test.video, *test.above)}), dtype=np.int64)
    missing = np.setdiff1d(named, encoded)
    entries = [Entry("query", text, None) for text in texts] + [prepared.entry(int(item), "target") for item in missing]
    vectors = embed(encoder, batcher, entries, batch_size, "embed behaviour tests")
    videos = np.concatenate([encoded, missing])
    ascending = np.argsort(videos)
    corpus = torch.cat([split.targets.of(encoded), vectors[len(texts) :]])[ascending]
    ids = {prepared.item(int(item)).key: row for row, item in enumerate(videos[ascending])}
    return EmbeddedTests(tests, {text: row for row, text in enumerate(texts)}, vectors[: len(texts)], ids, corpus)
