"""Checkpoints to resume from: written atomically, and read only by the same training.

`work/checkpoints/<key>/` holds
- `step-00000120.pt`: everything that a resumed training needs to go on to the last bit, of the last `train.keep_checkpoints` periods;
- `step-00000120.shard-0-of-4`, …: what each process of a sharded training holds; written before the file above, so that it is last;
- `best.safetensors`: the trainable weights of the best evaluation so far;
- `runs.json`: the trackers' runs, which a resumed training continues.

Nothing is kept of random generators: what a step draws is a function of the seed, the step and the rank (`step_gradients.seed_step`).
"""

import hashlib
import json
import logging
import shutil
import zipfile
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError  # noqa: S403 -- torch raises it instead of unpickling
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from reelnest.atomic_files import atomic_write, write_json
from reelnest.code_closure import TRAINING, code_digest
from reelnest.errors import TrainingError
from reelnest.settings import Params
from reelnest.store.frame_store import INDEX_FILE
from reelnest.store.prepared import ITEMS_FILE, PAIRS_FILE, STORE_FOLDER
from reelnest.training.distributed import all_agree, world

log = logging.getLogger(__name__)

FORMAT = 1
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "tokenizers")
# Settings of these do not change which weights come out.
UNSEEN_TRAIN_SETTINGS = {"trackers", "log_every_steps", "keep_checkpoints", "checkpoint_every_minutes", "profile_steps"}


def training_key(params: Params, prepared: Path) -> str:
    """A name for "this training": its settings, its data, its code and the libraries that compute.

    Code counts, since a training resumed under changed code would be passed off as the changed code's. Only the code that decides the
    weights counts (`code_closure.TRAINING`): after a change elsewhere, such as in a page, in a profiler or in how a model is saved, a long
    training goes on where it stopped. Whether a change in that code changes a number cannot be seen from the code, so a comment there
    begins the training anew too. The old checkpoints stay, and the old code resumes from them.
    """
    facts = {
        "format": FORMAT,
        "model": params.model.model_dump(mode="json"),
        "train": params.train.model_dump(mode="json", exclude=UNSEEN_TRAIN_SETTINGS),
        "loss": params.loss.model_dump(mode="json"),
        "mining": params.mining.model_dump(mode="json"),
        "depth": params.evaluate.depth,
        "data": data_digest(prepared),
        "code": code_digest(TRAINING),
        "libraries": {name: version(name) for name in LIBRARIES},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def data_digest(prepared: Path) -> str:
    """Of the tables and the store's index, which names each video by a digest of its content: the shards need not be read."""
    digest = hashlib.sha256()
    for name in (ITEMS_FILE, PAIRS_FILE, f"{STORE_FOLDER}/{INDEX_FILE}"):
        with (prepared / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """The trainable parameters, unsharded and on the CPU. Every process calls it; only the first gets the values.

    `model` is the module itself, not its DDP wrapper; it may be sharded (FSDP2).
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    trainable = _trainable_names(model)
    state: dict[str, Any] = get_model_state_dict(model, options=options)
    # Buffers come along, but training does not change them. A copy, since the state of a model on the CPU is the model's own memory.
    return {name: value.clone() for name, value in state.items() if name in trainable}


def load_trainable_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Puts `trainable_state` back, sharded or not. Raises TrainingError if the names are not the model's."""
    differing = sorted(set(state) ^ _trainable_names(model))
    if differing:
        names = ", ".join(differing[:5])
        raise TrainingError(
            f"checkpoint: its parameters are not those of the model ({names}, …). Delete work/checkpoints/ and train again."
        )
    set_model_state_dict(model, dict(state), options=StateDictOptions(full_state_dict=True, strict=False))


def optimizer_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """The optimizer's state by parameter name, unsharded and on the CPU. Every process calls it; only the first gets the values."""
    return get_optimizer_state_dict(model, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def load_optimizer_state(model: nn.Module, optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Puts `optimizer_state` back, sharded or not."""
    set_optimizer_state_dict(model, optimizer, state, options=StateDictOptions(full_state_dict=True))


def _shard_name(step: int, rank: int, processes: int) -> str:
    return f"step-{step:08}.shard-{rank}-of-{processes}"


def _load(path: Path) -> dict[str, Any] | None:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile, UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        log.warning("checkpoint: %s cannot be read (%s); taking the one before", path, reason)
        return None
    return state


def _trainable_names(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


class Checkpoints:
    """The folder of one training. Only the main process writes."""

    def __init__(self, root: Path, key: str) -> None:
        self._root = root
        self.folder = root / key

    @property
    def best(self) -> Path:
        """The best weights' file."""
        return self.folder / "best.safetensors"

    def save(self, step: int, state: dict[str, Any], keep: int) -> None:
        """Writes the state after `step`, and then removes all but the last `keep`."""
        with atomic_write(self.folder / f"step-{step:08}.pt") as file:
            torch.save(state, file)
        for old in self._steps()[:-keep]:
            old.unlink()
        remaining = {path.stem for path in self._steps()}
        for shard in self.folder.glob("step-*.shard-*"):
            if shard.stem not in remaining:
                shard.unlink()

    def save_shard(self, step: int, shard: dict[str, Any]) -> None:
        """Writes what this process of a sharded training holds. Every process calls it, and `save` comes after all of them."""
        rank, processes = world()
        with atomic_write(self.folder / _shard_name(step, rank, processes)) as file:
            torch.save(shard, file)

    def load_last(self) -> dict[str, Any] | None:
        """The newest state that can be read, or None. A broken file (a full disk, a copy cut short) is skipped and named in the log.

        Every process calls it. Of a sharded training each gets its own shard too, as `shard`; all take the same step, so all skip a step of
        which one shard is broken. Raises TrainingError if the shards are those of another number of processes.
        """
        rank, processes = world()
        for path in reversed(self._steps()):
            state = _load(path)
            if state is not None and (shards := state.get("shards")) is not None:
                if shards != processes:
                    raise TrainingError(
                        f"checkpoint: {path} was written by {shards} processes of a sharded training, and here are {processes}. Set"
                        " launch.config to as many as before, or delete the folder and train again."
                    )
                state["shard"] = _load(self.folder / _shard_name(int(path.stem.removeprefix("step-")), rank, processes))
            if all_agree(state is not None and (state.get("shards") is None or state["shard"] is not None)):
                return state
        return None

    def save_best(self, weights: dict[str, Tensor], step: int) -> None:
        """Writes the weights of the best evaluation so far."""
        contiguous = {name: value.contiguous() for name, value in weights.items()}
        with atomic_write(self.best) as file:
            file.write(save(contiguous, metadata={"step": str(step)}))

    def best_weights(self) -> dict[str, Tensor]:
        """What `save_best` wrote. Raises TrainingError if the file is missing or broken."""
        try:
            return load_file(self.best)
        except (OSError, SafetensorError) as error:
            raise TrainingError(f"checkpoint: {self.best} cannot be read: {error}. Delete {self.folder} and train again.") from error

    def load_best_into(self, model: nn.Module) -> None:
        """Puts the best weights into an unsharded model. Raises TrainingError if the file is missing, broken or another model's."""
        load_trainable_state(model, self.best_weights())

    def write_runs(self, runs: dict[str, str]) -> None:
        """Notes the trackers' runs, before the first step: a killed training must not leave runs behind that nobody continues."""
        write_json(self.folder / "runs.json", runs)

    def read_runs(self) -> dict[str, str]:
        """The trackers' runs, none if there was no training of this key."""
        try:
            runs: dict[str, str] = json.loads((self.folder / "runs.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return runs

    def finish(self) -> None:
        """Marks this training as finished and removes what other finished ones left. Unfinished ones may still be resumed."""
        (self.folder / "finished").touch()
        for marker in self._root.glob("*/finished"):
            if marker.parent != self.folder:
                shutil.rmtree(marker.parent, ignore_errors=True)  # a training that ends beside this one may be removing it too

    def _steps(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.pt"))
