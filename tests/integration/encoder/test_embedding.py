"""`embed` on one process and on two gloo ranks, with unsharded and with sharded weights."""

import socket
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from reelnest.backbones.families.qwen2_5_vl import FAMILY
from reelnest.encoder.batches import Batcher
from reelnest.encoder.embedding import batches_by_length, embed
from reelnest.encoder.encoder import COMPUTE_DTYPES, load_encoder
from reelnest.settings import Model
from reelnest.store.entries import Entry
from tests.support.model_inputs import mixed_entries, random_video

ROOT = Path(__file__).parents[3]
WORKER = """
import sys
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.fsdp import fully_shard
from tests.support.model_inputs import mixed_entries
from reelnest.settings import Model
from reelnest.encoder.batches import Batcher
from reelnest.encoder.embedding import embed
from reelnest.encoder.encoder import load_encoder

base, rank, port, out = sys.argv[1], int(sys.argv[2]), *sys.argv[3:]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
encoder, tokenizer = load_encoder(Model(), base, training=True)
batcher = Batcher(tokenizer, Model(), encoder.family)
results = {"whole": embed(encoder, batcher, mixed_entries(), 1, "items")}
assert encoder.training
for layer in [*encoder.backbone.visual.blocks, *encoder.backbone.language_model.layers]:
    fully_shard(layer)
fully_shard(encoder)
results["sharded"] = embed(encoder, batcher, mixed_entries(), 1, "items")
# One rank has text alone, the other video alone: their layers still have to run in step, forwards and backwards.
vectors = encoder(batcher([mixed_entries()[rank]]))
vectors.square().mean().backward()
results["step"] = vectors.detach()
results["gradient"] = encoder.backbone.visual.merger.mlp[2].weight.grad.full_tensor()
save_file(results, f"{out}/rank{rank}.safetensors")
dist.barrier()
dist.destroy_process_group()
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def on_two_ranks(base: Path, out: Path) -> list[dict[str, torch.Tensor]]:
    port = str(free_port())
    command = [sys.executable, "-c", WORKER, str(base)]
    ranks = [subprocess.Popen([*command, str(rank), port, str(out)], cwd=ROOT, stderr=subprocess.PIPE, text=True) for rank in range(2)]
    try:
        for rank in ranks:
            _, errors = rank.communicate(timeout=120)
            assert rank.returncode == 0, errors
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    return [load_file(out / f"rank{rank}.safetensors") for rank in range(2)]


def test_vectors_are_in_order_and_the_mode_does_not_change(tiny_base: Path) -> None:
    encoder, tokenizer = load_encoder(Model(), tiny_base, training=True)
    batcher, entries = Batcher(tokenizer, Model(), FAMILY), mixed_entries()
    vectors = embed(encoder, batcher, entries, batch_size=2, progress="items")
    assert encoder.training
    assert not vectors.requires_grad
    with torch.no_grad():
        expected = torch.cat([encoder(batcher([entry])) for entry in entries])
    torch.testing.assert_close(vectors, expected, atol=2e-5, rtol=1e-4)
    assert embed(encoder, batcher, [], batch_size=2, progress="nothing").shape == (0, 128)


def test_products_have_the_precision_of_the_training(tiny_base: Path) -> None:
    encoder, tokenizer = load_encoder(Model(), tiny_base, training=False)
    batcher, entries = Batcher(tokenizer, Model(), FAMILY), mixed_entries()
    exact = embed(encoder, batcher, entries, 2, "items")
    encoder.autocast_dtype = COMPUTE_DTYPES["bf16"]
    rounded = embed(encoder, batcher, entries, 2, "items")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for chunk in batches_by_length(entries, 2):
            assert torch.equal(rounded[chunk], encoder(batcher([entries[index] for index in chunk])))
    assert not torch.equal(rounded, exact)
    assert float(torch.cosine_similarity(rounded, exact).min()) > 0.999


def test_entries_are_built_only_on_access(tiny_base: Path) -> None:
    class Lazy:
        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int) -> Entry:
            return mixed_entries()[index]

    encoder, tokenizer = load_encoder(Model(), tiny_base, training=False)
    batcher = Batcher(tokenizer, Model(), FAMILY)
    assert torch.equal(embed(encoder, batcher, Lazy(), 2, "items"), embed(encoder, batcher, mixed_entries(), 2, "items"))


def test_batches_hold_like_lengths_and_the_longest_go_first() -> None:
    entries = [
        Entry("query", "x" * 40, None),
        Entry("target", "", random_video(0)),
        Entry("query", "x", None),
        Entry("target", "", random_video(1, (8, 4, 4))),
    ]
    assert batches_by_length(entries, 2) == [[3, 1], [0, 2]]


def test_two_ranks_give_what_one_gives_with_unsharded_and_sharded_weights(tiny_base: Path, tmp_path: Path) -> None:
    encoder, tokenizer = load_encoder(Model(), tiny_base, training=True)
    batcher, entries = Batcher(tokenizer, Model(), FAMILY), mixed_entries()
    results = on_two_ranks(tiny_base, tmp_path)
    expected = embed(encoder, batcher, entries, 1, "items")
    steps = [encoder(batcher([entries[rank]])) for rank in range(2)]
    torch.stack([step.square().mean() for step in steps]).mean().backward()
    for result, step in zip(results, steps, strict=True):
        torch.testing.assert_close(result["whole"], expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(result["sharded"], expected, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(result["step"], step.detach(), atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(result["gradient"], encoder.backbone.visual.merger.mlp[2].weight.grad, atol=1e-5, rtol=1e-3)
