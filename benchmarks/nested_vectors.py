"""Wide nested vectors of a trained model, for `funnel`: what its weights give for the clips and their texts, and likenesses of these.

Nobody publishes 200,000 videos with nested vectors of 3,584 numbers, and a model of that width trains on no such machine as this one. So a
tiny Qwen2.5-VL 1,024 wide is built, a projection to 3,584 is trained on the clips at five dims by `reelnest train`'s own stage (frozen
backbone), and the clips are encoded. The rest of the corpus are likenesses: a clip's vector, moved along the difference of two other
vectors of the model's. A sum of nested vectors is one, so importance falls from the first numbers to the last as the model was taught.
Queries are texts that the model was trained on.
"""

import shutil
from typing import Any

from benchmarks import training
from benchmarks.peers.training import BATCH_SIZE, clips
from benchmarks.side_by_side import ROOT

WIDTH, HIDDEN = 3584, 1024
DIMS = (256, 512, 1024, 2048, WIDTH)
CORPUS, QUERIES = 200_000, 1000
EPOCHS = 30
MOVED = 0.7
"""Length of the difference that a likeness is moved by: of unit vectors."""
BLOCK = 5000


def make() -> None:
    """Trains and encodes, once for each data folder: into work/benchmarks/."""
    from reelnest.atomic_files import atomic_folder, atomic_write
    from reelnest.backbones.tiny import build_tiny
    from reelnest.encoder.saved import load as load_model
    from reelnest.evaluation.split_evaluation import embed_split
    from reelnest.settings import Params, Tiny
    from reelnest.stages import preprocess, train
    from reelnest.store.prepared import Prepared

    if _file().is_file():
        return
    import torch

    training.export_tiny()
    workspace, params = training.workspace_of("frozen", EPOCHS, [])
    preprocess.run(workspace, params)
    prepared = Prepared.open(workspace.prepared)
    pairs = prepared.pairs("train")
    texts = sorted({prepared.item(int(item)).key for item in pairs.queries if prepared.item(int(item)).kind == "text"})
    base = workspace.root / "base"
    with atomic_folder(base) as aside:
        build_tiny(aside, texts, Tiny(hidden_size=HIDDEN, layers=2, heads=16, initializer_range=HIDDEN**-0.5), seed=0)
    settings = params.model_dump(mode="json", by_alias=True)
    settings["model"] |= {"name_or_path": str(base), "projection": WIDTH, "dims": list(DIMS)}
    train.run(workspace, Params.model_validate(settings))
    model = load_model(workspace.candidate, device="cpu")
    split = embed_split(prepared, "train", model.encoder, model.batcher, BATCH_SIZE)
    searched = next(retrieval for retrieval in split.sets if retrieval.pair_kind == "text_to_video")
    chosen = torch.randperm(len(searched.queries), generator=torch.Generator().manual_seed(0))[:QUERIES].tolist()
    vectors = {
        "queries": split.queries.of(searched.queries[chosen]),
        "clips": split.targets.of(searched.corpus),
        "all": split.targets.vectors,
    }
    with atomic_write(_file()) as aside:
        torch.save(vectors, aside)
    shutil.rmtree(workspace.root)


def load() -> tuple[Any, Any]:
    """Queries (QUERIES, WIDTH), and the corpus (CORPUS, WIDTH), clips first."""
    import torch
    from torch.nn.functional import normalize

    torch.set_num_threads(2)
    saved = torch.load(_file(), weights_only=True)
    clip_vectors, everything = normalize(saved["clips"], dim=1), normalize(saved["all"], dim=1)
    corpus = torch.empty(CORPUS, WIDTH)
    corpus[: len(clip_vectors)] = clip_vectors
    numbers = torch.Generator().manual_seed(0)
    for start in range(len(clip_vectors), CORPUS, BLOCK):
        rows = corpus[start : start + BLOCK]
        like = clip_vectors[torch.randint(len(clip_vectors), (len(rows),), generator=numbers)]
        first, second = (everything[torch.randint(len(everything), (len(rows),), generator=numbers)] for _ in range(2))
        rows.copy_(normalize(like + MOVED * normalize(first - second, dim=1), dim=1))
    return saved["queries"], corpus


def _file() -> Any:
    return ROOT / "work" / "benchmarks" / f"nested-{clips().name}.pt"
