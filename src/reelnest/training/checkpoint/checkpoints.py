"""Checkpoints to resume from: written atomically, and read only by the same training.

`work/checkpoints/<key>/` holds
- `step-00000120.pt`: everything that a resumed training needs to continue exactly, of the last `train.keep_checkpoints` periods;
- `step-00000120.shard-0-of-4`, …: the shard of each process of a sharded training, written before the file above;
- `best.safetensors`: the trainable weights of the best evaluation so far;
- `runs.json`: the trackers' runs, which a resumed training continues.

States of random generators are not saved: a step's random numbers depend only on seed, step and rank (`step_gradients.seed_step`).
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
from reelnest.messages import some_of
from reelnest.settings import Params
from reelnest.store.frame_store import INDEX_FILE
from reelnest.store.prepared import ITEMS_FILE, PAIRS_FILE, STORE_FOLDER
from reelnest.training.checkpoint.copies import CheckpointCopies
from reelnest.training.distributed import all_agree, on_all, world

log = logging.getLogger(__name__)

FORMAT = 1
RUNS_FILE = "runs.json"
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "tokenizers")
# These settings do not change the trained weights.
UNSEEN_TRAIN_SETTINGS = {
    *("trackers", "log_every_steps", "profile_steps"),
    *("keep_checkpoints", "checkpoint_every_minutes", "checkpoint_address"),
}


def training_key(params: Params, prepared: Path) -> str:
    """Returns a digest of a training's settings, data, code and libraries.

    Code is part of the key, so that a training is not resumed under other code. Only code that decides the weights counts
    (`code_closure.TRAINING`): after a change elsewhere, such as in a page or a profiler, a training still resumes. Whether a code change
    alters a number is unknown, so even a changed comment starts a new training. Old checkpoints remain, and old code resumes from them.
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
    """Returns a digest of the tables and the store's index. The index has a digest of each video, so the shards need not be read."""
    digest = hashlib.sha256()
    for name in (ITEMS_FILE, PAIRS_FILE, f"{STORE_FOLDER}/{INDEX_FILE}"):
        with (prepared / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Returns the trainable parameters, unsharded and on the CPU. Every process calls it; only the main process gets the values.

    `model` is the module without its DDP wrapper; it may be sharded (FSDP2).
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    trainable = _trainable_names(model)
    state: dict[str, Any] = get_model_state_dict(model, options=options)
    # The state includes buffers, which training does not change. Clone it, since on a CPU it shares the model's memory.
    return {name: value.clone() for name, value in state.items() if name in trainable}


def load_trainable_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Loads the result of `trainable_state`, sharded or not. Raises TrainingError if the names differ from the model's."""
    differing = sorted(set(state) ^ _trainable_names(model))
    if differing:
        raise TrainingError(
            f"checkpoint: its parameters differ from those of the model ({some_of(differing)}). Delete work/checkpoints/ and train again."
        )
    set_model_state_dict(model, dict(state), options=StateDictOptions(full_state_dict=True, strict=False))


def optimizer_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Returns the optimizer's state by parameter name, unsharded and on the CPU. Every process calls it; only the main process gets it."""
    return get_optimizer_state_dict(model, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def load_optimizer_state(model: nn.Module, optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Loads the result of `optimizer_state`, sharded or not."""
    set_optimizer_state_dict(model, optimizer, state, options=StateDictOptions(full_state_dict=True))


def _shard_name(step: int, rank: int, processes: int) -> str:
    return f"step-{step:08}.shard-{rank}-of-{processes}"


def _load(path: Path) -> dict[str, Any] | None:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile, UnpicklingError) as error:
        # torch's advice for a file that is no checkpoint is to open it without its check for code.
        reason = "" if isinstance(error, UnpicklingError) else str(error).partition("\n")[0]
        log.warning("checkpoint: %s cannot be read (%s); using the previous one", path, reason or "not a checkpoint")
        return None
    return state


def _trainable_names(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


class Checkpoints:
    """The checkpoint folder of one training. Only the main process writes shared files."""

    def __init__(self, root: Path, key: str, address: str | None = None) -> None:
        """`address` for copies, see `train.checkpoint_address`. Raises ConfigError if it cannot be used."""
        self._root = root
        self.folder = root / key
        self._copies = None if address is None else CheckpointCopies(address, self.folder)

    @property
    def best(self) -> Path:
        """The file of the best weights."""
        return self.folder / "best.safetensors"

    def fetch(self, *, is_local_main: bool) -> None:
        """Gets the files that this machine lacks from the copies, each process its shards. The other processes wait for it.

        Raises TrainingError if the address does not respond.
        """
        if self._copies is None:
            return
        rank, processes = world()
        newest = max((path.name for path in self._steps()), default="")
        names = self._copies.names()
        fetched = [name for name in names if name.endswith(f".shard-{rank}-of-{processes}") and not (self.folder / name).exists()]
        newer = [name for name in names if name.endswith(".pt") and name > newest]
        if is_local_main and newer:  # of another machine, like the best weights and the runs then
            fetched += [name for name in names if name in (self.best.name, RUNS_FILE)] + newer
        for name in fetched:
            self._copies.fetch(name)
        if fetched:
            log.info("checkpoint: copied to %s from train.checkpoint_address: %s", self.folder, ", ".join(fetched))

    def wait_for_copies(self) -> None:
        """Waits until all files are copied to the address. Each process calls it before it ends."""
        if self._copies is not None:
            self._copies.wait()

    def save(self, step: int, state: dict[str, Any], keep: int) -> None:
        """Writes the state after `step`, then removes all but the last `keep` checkpoints."""
        with atomic_write(self.folder / f"step-{step:08}.pt") as file:
            torch.save(state, file)
        for old in self._steps()[:-keep]:
            old.unlink()
        remaining = {path.stem for path in self._steps()}
        for shard in self.folder.glob("step-*.shard-*"):
            if shard.stem not in remaining:
                shard.unlink()
        self._copy(f"step-{step:08}.pt")
        if self._copies is not None:
            self._copies.keep(remaining)

    def save_shard(self, step: int, shard: dict[str, Any]) -> None:
        """Writes this process's shard of a sharded training. Every process calls it before `save`."""
        rank, processes = world()
        with atomic_write(self.folder / _shard_name(step, rank, processes)) as file:
            torch.save(shard, file)
        self._copy(_shard_name(step, rank, processes))

    def load_last(self) -> dict[str, Any] | None:
        """Returns the newest readable state, or None. Broken files (full disk, truncated copy) are skipped and logged.

        Every process calls it. In a sharded training each also gets its own shard, as `shard`. All use the same step, so all skip a step
        with a broken shard, and one that another machine lacks. Raises TrainingError if another number of processes wrote the shards.
        """
        rank, processes = world()
        names = {path.name for path in self._steps()}
        on_each = on_all(names)
        if names - on_each:
            log.warning("checkpoint: other machines lack %s; train.checkpoint_address copies them", ", ".join(sorted(names - on_each)))
        for path in [self.folder / name for name in sorted(on_each, reverse=True)]:
            state = _load(path)
            if state is not None and (shards := state.get("shards")) is not None:
                if shards != processes:
                    raise TrainingError(
                        f"checkpoint: {path} was written by {shards} processes of a sharded training, but {processes} run now. Set"
                        " launch.config to the same number, or delete the folder and train again."
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
        self._copy(self.best.name)

    def best_weights(self) -> dict[str, Tensor]:
        """Returns the weights that `save_best` wrote. Raises TrainingError if the file is missing or broken."""
        try:
            return load_file(self.best)
        except (OSError, SafetensorError) as error:
            raise TrainingError(f"checkpoint: {self.best} cannot be read: {error}. Delete {self.folder} and train again.") from error

    def load_best_into(self, model: nn.Module) -> None:
        """Loads the best weights into an unsharded model. Raises TrainingError if the file is missing, broken or of another model."""
        load_trainable_state(model, self.best_weights())

    def write_runs(self, runs: dict[str, str]) -> None:
        """Writes the trackers' runs before the first step, so that a resumed training can continue them."""
        write_json(self.folder / RUNS_FILE, runs)
        self._copy(RUNS_FILE)

    def read_runs(self) -> dict[str, str]:
        """Returns the trackers' runs; empty without an earlier training of this key. A broken file is logged, and counts as none."""
        path = self.folder / RUNS_FILE
        try:
            runs: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:  # of the encoding, or of JSON
            log.warning("checkpoint: %s cannot be read (%s); the trackers start new runs", path, error)
            return {}
        return runs

    def finish(self) -> None:
        """Marks this training as finished and removes the folders of other finished ones. Unfinished ones can still be resumed."""
        (self.folder / "finished").touch()
        for marker in self._root.glob("*/finished"):
            if marker.parent != self.folder:
                shutil.rmtree(marker.parent, ignore_errors=True)  # another finishing training may be removing it too
        if self._copies is not None:
            self._copies.finish()

    def _copy(self, name: str) -> None:
        if self._copies is not None:
            self._copies.push(name)

    def _steps(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.pt"))
