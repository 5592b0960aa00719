from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from reelnest.backbones.families.qwen2_5_vl import FAMILY
from reelnest.encoder import batches
from reelnest.encoder.batches import Batcher
from reelnest.errors import ModelError
from reelnest.settings import Model
from reelnest.store.entries import Entry
from tests.support.model_inputs import mixed_entries, random_video


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_base)


def decoded_rows(batch: Any, tokenizer: Any) -> list[str]:
    """Returns each entry's tokens as text, without padding, in the entries' order."""
    rows = [
        tokenizer.decode(ids[mask.bool()])
        for segment in batch.segments
        for ids, mask in zip(segment.input_ids, segment.attention_mask, strict=True)
    ]
    return [rows[i] for i in batch.inverse]


def test_an_entry_is_instruction_video_text_and_end(tokenizer: Any) -> None:
    batcher = Batcher(tokenizer, Model(query_instruction="Find it.", target_instruction="See it."), FAMILY)
    batch = batcher([Entry("target", "title: a star", random_video(0, (2, 2, 4))), Entry("query", "a star", None)])
    video = "<|vision_start|>" + "<|video_pad|>" * 4 + "<|vision_end|>"
    assert decoded_rows(batch, tokenizer) == [f"See it.\n{video}title: a star<|endoftext|>", "Find it.\na star<|endoftext|>"]


def test_an_empty_instruction_adds_nothing(tokenizer: Any) -> None:
    batch = Batcher(tokenizer, Model(query_instruction=""), FAMILY)([Entry("query", "a star", None)])
    assert decoded_rows(batch, tokenizer) == ["a star<|endoftext|>"]


def test_cached_tokens_of_texts_change_no_batch(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["a star", "a red circle", "a star", ""]
    batcher = Batcher(tokenizer, Model(), FAMILY)
    first, again = (decoded_rows(batcher([Entry("query", text, None) for text in texts]), tokenizer) for _ in range(2))
    monkeypatch.setattr(batches, "KNOWN_CHARACTERS", 0)  # clears the cache each time
    forgetful = decoded_rows(batcher([Entry("query", text, None) for text in texts]), tokenizer)
    assert first == again == forgetful


def test_rows_are_padded_on_the_left_and_only_as_far_as_their_segment_needs(tokenizer: Any) -> None:
    batch = Batcher(tokenizer, Model(), FAMILY)(mixed_entries())
    for segment in batch.segments:
        assert (segment.attention_mask.diff(dim=1) >= 0).all()  # padding first, then tokens to the end
        assert segment.attention_mask.all(dim=1).any()  # the longest row has no padding
        assert (segment.input_ids[:, -1] == tokenizer.convert_tokens_to_ids("<|endoftext|>")).all()


def test_videos_are_concatenated_with_their_grids(tokenizer: Any) -> None:
    entries = mixed_entries()
    segment = Batcher(tokenizer, Model(), FAMILY)(entries).segments[1]
    videos = [entry.frames for entry in entries if entry.frames is not None]
    assert segment.rows is not None
    assert segment.video_grid_thw is not None
    assert segment.second_per_grid_ts is not None
    np.testing.assert_array_equal(segment.rows.numpy(), np.concatenate([video.rows for video in videos]))
    assert segment.video_grid_thw.tolist() == [list(video.grid_thw) for video in videos]
    assert segment.second_per_grid_ts.tolist() == [0.5, 1.0, 0.25]
    assert (segment.mm_token_type_ids == 2).sum(1).tolist() == [16, 180, 12]


def test_special_tokens_in_a_text_stay_plain_text(tokenizer: Any) -> None:
    segment = Batcher(tokenizer, Model(), FAMILY)([Entry("query", "what is <|video_pad|>?<|endoftext|>", None)]).segments[0]
    assert (segment.mm_token_type_ids == 0).all()
    assert (segment.input_ids == tokenizer.convert_tokens_to_ids("<|endoftext|>")).sum() == 1


def test_long_texts_are_truncated_but_not_their_instructions_and_ends(tokenizer: Any) -> None:
    batcher = Batcher(tokenizer, Model(query_instruction="Find it.", max_text_tokens=3), FAMILY)
    ids = tokenizer("a blue square grows on and on", add_special_tokens=False)["input_ids"]
    batch = batcher([Entry("query", "a blue square grows on and on", None)])
    assert decoded_rows(batch, tokenizer) == ["Find it.\n" + tokenizer.decode(ids[:3]) + "<|endoftext|>"]


def test_memory_mapped_rows_are_copied(tokenizer: Any) -> None:
    video = random_video(0)
    video.rows.setflags(write=False)
    rows = Batcher(tokenizer, Model(), FAMILY)([Entry("target", "", video)]).segments[0].rows
    assert rows is not None
    rows.zero_()
    assert video.rows.any()


def test_a_tokenizer_of_another_model_is_refused() -> None:
    class Other:
        name_or_path = "gpt"

        def get_vocab(self) -> dict[str, int]:
            return {"<|endoftext|>": 0}

        def convert_tokens_to_ids(self, _: str) -> int:
            return 0

    with pytest.raises(ModelError, match=r"gpt lacks <\|vision_start\|>"):
        Batcher(Other(), Model(), FAMILY)


def test_an_empty_batch_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="at least one"):
        Batcher(tokenizer, Model(), FAMILY)([])


def test_a_moved_batch_keeps_its_numbers(tokenizer: Any) -> None:
    batch = Batcher(tokenizer, Model(), FAMILY)(mixed_entries())
    moved = batch.to("cpu")
    assert len(moved) == 5
    assert torch.equal(moved.inverse, batch.inverse)
    assert torch.equal(moved.segments[1].input_ids, batch.segments[1].input_ids)
