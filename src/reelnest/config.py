"""`params.yaml` as frozen, typed models.

Each section is named after the part that it sets. An unknown key, a wrong type or a combination that cannot work is refused here,
before anything runs, with the key's path and what is allowed. No other module reads settings or the environment.
"""

import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from reelnest.errors import ConfigError

PARAMS_FILE = Path("params.yaml")
ACCELERATE_CONFIGS = Path("configs/accelerate")

# Hidden sizes of the published Qwen2.5-VL checkpoints (their config.json), so that a dim that is too wide is refused without a download.
QWEN_HIDDEN_SIZES = {"3B": 2048, "7B": 3584, "32B": 5120, "72B": 8192}

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Metric = Literal["recall@1", "recall@5", "recall@10", "mrr", "ndcg@10", "map"]
ValidationMetric = Metric | Literal["median_rank"]
Storage = Literal["float32", "float16", "int8", "binary", "binary_int8"]
"""How an index keeps a vector. `binary` are the signs alone; `binary_int8` both, the shortlist ordered by the int8 codes."""


class Section(BaseModel):
    """A part of `params.yaml`: frozen, strict about types and about names."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)


class Data(Section):
    """What of the data is used, and how it is divided."""

    text_fields: tuple[Literal["title", "caption", "text", "ocr", "asr"], ...] | None = Field(None, strict=False)
    """Fields of a video that the encoder reads after its frames; null for all that are present."""
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    test_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Shares of the pair graph's connected components, for pairs without a `split` of their own."""

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> Self:
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("validation_fraction + test_fraction must stay below 1, or nothing is left to train on")
        return self


class Validate(Section):
    """What counts as a bad record, and how many are too many."""

    max_quarantined_fraction: Fraction = 0.05
    max_text_characters: Positive = 4000
    max_video_megabytes: Positive = 2000
    max_video_frames: Positive = 50_000
    max_video_seconds: Annotated[float, Field(gt=0)] = 3600.0
    decode_timeout_seconds: Annotated[float, Field(gt=0)] = 60.0


class Preprocess(Section):
    """Which frames of a video are kept, and at what size."""

    sampling: Literal["uniform", "fps"] = "uniform"
    frames: Annotated[int, Field(ge=2, le=768)] = 4
    """`uniform`: so many, evenly spread over the video. `fps`: at most so many."""
    fps: Annotated[float, Field(gt=0)] = 2.0
    """`fps`: frames a second."""
    min_pixels: Positive = 3136
    max_pixels: Positive = 3200
    """A frame's area, in pixels, after Qwen's smart resize (both sides become multiples of 28)."""
    shard_megabytes: Positive = 256
    scheduler: str | None = None
    """Address of a Dask scheduler that shares this file system; null for processes of this machine."""

    @model_validator(mode="after")
    def _can_be_sampled(self) -> Self:
        if self.frames % 2:
            raise ValueError(f"frames must be even (Qwen2.5-VL joins two frames into one step); found {self.frames}, use {self.frames + 1}")
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels ({self.min_pixels}) must not be above max_pixels ({self.max_pixels})")
        return self


class Tiny(Section):
    """Sizes of the small, randomly initialised Qwen2.5-VL that `name_or_path: tiny` builds."""

    hidden_size: Positive = 128
    layers: Positive = 3
    heads: Positive = 4
    vision_hidden_size: Positive = 96
    vision_layers: Positive = 3
    vision_heads: Positive = 4
    vocabulary: Annotated[int, Field(ge=300)] = 2048
    initializer_range: Annotated[float, Field(gt=0)] = 0.12
    """About 1/sqrt(width): with the usual 0.02 a model this narrow never learns to see the order of frames."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.heads or self.vision_hidden_size % self.vision_heads:
            raise ValueError("hidden_size must be a multiple of heads, and vision_hidden_size of vision_heads")
        if (self.hidden_size // self.heads) % 16 or (self.vision_hidden_size // self.vision_heads) % 4:
            raise ValueError("a text head (hidden_size / heads) must be a multiple of 16 wide and a vision head a multiple of 4")
        return self


class Lora(Section):
    """Low-rank adapters (Hu et al. 2021, https://arxiv.org/abs/2106.09685) on the language model, through peft."""

    r: Positive = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    vision: bool = False
    """Also adapt the vision tower's attention and MLP."""
    merge: bool = True
    """Save merged weights (one folder that needs nothing else), or, if false, the adapter and its base model's name and revision."""


class Model(Section):
    """The encoder."""

    name_or_path: str = "tiny"
    """A Hub name, a folder in Hugging Face format, or `tiny`."""
    revision: str | None = None
    """Commit of the Hub repository; required for a Hub name."""
    tiny: Tiny = Tiny()
    dtype: Literal["float32", "bfloat16"] = "float32"
    load_in_4bit: bool = False
    """Quantise the frozen base weights to 4-bit NF4 (bitsandbytes, on a GPU); for LoRA only."""
    attention: Literal["auto", "flash_attention_2", "sdpa", "eager"] = "auto"
    pooling: Literal["last", "mean"] = "mean"
    """The end token's state, or the mean over all tokens but the instruction's."""
    projection: Positive | None = None
    """Width of a linear layer after pooling; null for none."""
    dims: Annotated[tuple[Positive, ...], Field(min_length=1, strict=False)] = (16, 32, 64, 128)
    """The nested dims, rising. The last one is the width that is searched as `full`."""
    query_instruction: str = ""
    target_instruction: str = ""
    """What an entry of that role begins with, for a base that follows instructions."""
    max_text_tokens: Positive = 256
    freeze: Literal["none", "vision", "backbone"] = "none"
    lora: Lora | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if any(a >= b for a, b in zip(self.dims, self.dims[1:], strict=False)):
            raise ValueError(f"dims must rise, each above the one before; found {list(self.dims)}")
        if self.freeze == "backbone" and self.lora is not None:
            raise ValueError(
                "freeze: backbone and lora ask for opposite things: set lora to null, or freeze to none or vision "
                "(the base weights under LoRA are frozen in any case)"
            )
        if self.freeze == "backbone" and self.projection is None:
            raise ValueError("freeze: backbone without a projection leaves nothing to train: set projection to a width")
        if self.freeze == "vision" and self.lora is not None and self.lora.vision:
            raise ValueError("freeze: vision and lora.vision: true ask for opposite things: change one")
        if self.load_in_4bit and (self.lora is None or self.lora.merge):
            raise ValueError("load_in_4bit needs lora with merge: false (4-bit weights can neither be trained nor be merged into)")
        if self.lora is not None and not self.lora.merge and self.name_or_path == "tiny":
            raise ValueError("lora.merge: false saves the base by name, and a tiny base has none: set merge to true")
        if self.name_or_path != "tiny" and not Path(self.name_or_path).is_dir() and self.revision is None:
            raise ValueError(
                f"'{self.name_or_path}' is no folder here, so it is taken as a Hub name, and a Hub name needs a revision "
                "(a commit hash), so that the weights cannot change under you"
            )
        return self


class Train(Section):
    """The training loop."""

    seed: Annotated[int, Field(ge=0)] = 0
    epochs: Positive = 5
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Pairs in one contrastive batch, over all processes."""
    accumulation_steps: Positive = 1
    """Contrastive batches to one optimizer step."""
    micro_batch_size: Positive | None = None
    """Pairs that each process embeds at once; the rest of the batch waits its turn (gradient caching). null: all of them."""
    adaptive_batch_size: bool = False
    """Where memory does not suffice, halve micro_batch_size in all processes and repeat the step. batch_size stays."""
    group_negatives: bool = False
    """Put pairs whose listed `negatives` are each other's answers into one batch, where they count as in-batch negatives."""
    no_duplicates: bool = False
    """Let no item stand twice in a batch: the second one would be masked, and the batch one negative short."""
    optimizer: Literal["adamw", "muon"] = "muon"
    """muon steps along orthogonalised momentum in weight matrices, and is AdamW for all else."""
    learning_rate: Annotated[float, Field(gt=0)] = 8e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.4
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_fraction: Fraction = 0.1
    max_gradient_norm: Annotated[float, Field(gt=0)] | None = 1.0
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    gradient_checkpointing: bool = False
    compile: bool = False
    """torch.compile of the language model's MLPs and norms. Needs a C++ compiler (CPU) or Triton (GPU), and a minute at the start."""
    evaluate_every_epochs: Positive = 2
    best_metric: ValidationMetric = "ndcg@10"
    """The metric on the validation split by which the best checkpoint is chosen; of median_rank the lowest, of others the highest."""
    best_dim: Positive | None = None
    """The one of `model.dims` at which it is taken; null for the last."""
    patience: Positive | None = None
    """Stop when so many evaluations in a row were no better than one before; null to train to the end."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Evaluate and save a moving average of the weights that keeps so much of itself each step (0.99, 0.999); null for the weights."""
    keep_checkpoints: Positive = 2
    trackers: tuple[Literal["mlflow", "tensorboard", "wandb"], ...] = Field(("mlflow", "tensorboard"), strict=False)
    log_every_steps: Positive = 10
    profile_steps: Annotated[tuple[Positive, Positive], Field(strict=False)] | None = None
    """First and last optimizer step (from 1) to profile: a trace for TensorBoard and MLflow, and where the time of a step went."""

    @model_validator(mode="after")
    def _profiles_forward(self) -> Self:
        if self.profile_steps is not None and self.profile_steps[0] > self.profile_steps[1]:
            raise ValueError(f"profile_steps must be [first, last], the first no later than the last; found {list(self.profile_steps)}")
        return self


class Loss(Section):
    """The contrastive loss of all dims, in both directions."""

    temperature: Annotated[float, Field(gt=0, le=1)] = 0.05
    """What cosines are divided by."""
    learn_temperature: bool = False
    """Train it too, from `temperature` on, never below 0.01."""
    dim_weights: Literal["equal", "learnt", "random"] | Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(strict=False)] = "equal"
    """One weight for each of `model.dims`; equal; learnt, by uncertainty; or random: each step counts some of the dims and the last one."""
    same_side_negatives: bool = False
    """Other queries are a query's negatives too, and other targets a target's."""
    false_negative_margin: Annotated[float, Field(ge=0, le=2)] | None = None
    """Whatever is more alike than a pair's own answer, by more than this (cosines), is taken for an answer too; null: nothing is."""
    graded_relevance: bool = False
    """A pair counts as much as its `relevance`."""

    @model_validator(mode="after")
    def _temperature_is_in_its_range(self) -> Self:
        if self.learn_temperature and self.temperature < 0.01:
            raise ValueError(f"learn_temperature keeps the temperature at 0.01 or above; found temperature {self.temperature}")
        return self


class Mining(Section):
    """Extra negatives: wrong answers that are encoded beside a batch, besides all others' answers in it."""

    negatives_per_pair: Annotated[int, Field(ge=0)] = 0
    """So many of each pair; 0 for none, and then nothing is mined."""
    listed: Literal["first", "only", "never"] = "first"
    """A pair's own `negatives`: before mined ones, instead of them, or left out."""
    start_epoch: Annotated[int, Field(ge=0)] = 0
    """Epochs before the first mining: a model that begins from nothing has first to learn what is alike."""
    every_steps: Positive | None = None
    """Optimizer steps from one mining to the next; null for an epoch's."""
    ranks: Annotated[tuple[Positive, Positive], Field(strict=False)] = (1, 2)
    """The first and the last rank that negatives are drawn from, known answers not counted."""
    max_share_of_positive: Annotated[float, Field(gt=0)] | None = None
    """Nothing is drawn that scores above this share of the pair's own answer, since it may be an answer too; null for no such limit."""
    batch_size: Positive = 64
    """Items embedded at once by each process."""

    @property
    def mines(self) -> bool:
        """Whether anything is looked for with the model."""
        return self.negatives_per_pair > 0 and self.listed != "only"

    @model_validator(mode="after")
    def _window_holds_enough(self) -> Self:
        first, last = self.ranks
        if last < first:
            raise ValueError(f"ranks: the last rank must not be before the first; found {list(self.ranks)}")
        if self.mines and last - first + 1 < self.negatives_per_pair:
            raise ValueError(
                f"ranks: {first} to {last} hold fewer than negatives_per_pair ({self.negatives_per_pair}); "
                f"set the last rank to {first + self.negatives_per_pair - 1} or more"
            )
        return self


class Funnel(Section):
    """A search by the first of `dims` whose best answers are ordered anew by the next one, and so on."""

    dims: Annotated[tuple[Positive, ...], Field(min_length=2, strict=False)]
    shortlists: Annotated[tuple[Positive, ...], Field(strict=False)]
    """How many answers go from each dim to the next."""

    @model_validator(mode="after")
    def _narrows(self) -> Self:
        if any(a >= b for a, b in zip(self.dims, self.dims[1:], strict=False)):
            raise ValueError(f"dims must rise, each above the one before; found {list(self.dims)}")
        if len(self.shortlists) != len(self.dims) - 1:
            raise ValueError(f"{len(self.dims)} dims need {len(self.dims) - 1} shortlists; found {list(self.shortlists)}")
        if any(a < b for a, b in zip(self.shortlists, self.shortlists[1:], strict=False)):
            raise ValueError(f"shortlists must not grow; found {list(self.shortlists)}")
        return self


class Evaluate(Section):
    """Retrieval evaluation on the test split."""

    batch_size: Positive = 64
    """Items embedded at once by each process."""
    depth: Annotated[int, Field(ge=10)] = 1000
    """Answers kept for each query; MAP is taken over these, as in TREC."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the interval around each figure, by resampling the queries, and of the choice."""
    extra_dims: Annotated[tuple[Positive, ...], Field(strict=False)] = ()
    """Prefixes that the model was not trained for, to be evaluated beside its own; below the largest of these."""
    storage: Annotated[tuple[Storage, ...], Field(min_length=1, strict=False)] = ("float32", "int8", "binary")
    """Each is evaluated at each dim."""
    shortlist: Positive = 100
    """Answers that binary search, and the funnel of `funnels: null`, order anew."""
    funnels: Annotated[tuple[Funnel, ...], Field(strict=False)] | None = None
    """Each is evaluated with each storage type but the binary ones. null: one, from the smallest dim to the largest; [] for none."""
    index_videos: Positive = 1_000_000
    """Videos that the index sizes in the report are for."""
    slice_fields: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Tags of videos, or text fields that the encoder reads, by whose values the report divides the queries."""
    choice_metric: Metric = "recall@10"
    """Chooses the smallest of these configurations that is as good as the best one, over all queries;"""
    choice_margin: Annotated[float, Field(gt=0)] = 0.01
    """in the metric's unit: by less than this, worse is as good."""
    gallery_queries: Annotated[int, Field(ge=0)] = 20
    """Queries that the page shows with their best answers; 0 for a page without pictures."""


class BehaviourPassed(Section):
    """The share of the behaviour tests of each kind that has to pass, at each dim; 0 for a kind that only informs."""

    invariance: Fraction = 0.9
    direction: Fraction = 0.6
    minimum: Fraction = 0.9


class Register(Section):
    """The registry's entry."""

    name: str = "reelnest"
    metric: Metric = "recall@10"
    """The metric by which a challenger becomes champion: nowhere worse, at the dims that the champion serves, and somewhere better."""
    margin: Annotated[float, Field(ge=0)] = 0.01
    """In the metric's unit: by less than this, worse is as good."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """At which both have to be shown: of challengers that are no better, at most 1 - confidence are promoted."""
    behaviour_passed: BehaviourPassed = BehaviourPassed()
    approval: Literal["none", "prefect"] = "none"
    """prefect: the flow pauses until a person approves what fulfils all else, or refuses it; without the flow it waits."""
    approval_hours: Annotated[float, Field(gt=0)] = 24.0
    """Without an answer in this time it is refused."""


class Drift(Section):
    """How far new data may be from what the champion was trained on."""

    sample: Annotated[int, Field(ge=20, le=2000)] = 500
    """Texts, and videos, of each of the two that are encoded, and videos that are opened for their duration."""
    confidence: Annotated[float, Field(gt=0.5, le=0.999)] = 0.95
    """At which a difference has to be shown, all measures taken together; and of the intervals."""
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Of the effect, between 0 and 1: by less than this, other data is the same. For retrieval it is `register.margin`."""


class Tracking(Section):
    """MLflow: where runs, metrics, checkpoints and models are kept. No DVC stage depends on it."""

    uri: str = "sqlite:///mlflow.db"
    """The environment's MLFLOW_TRACKING_URI goes before this."""
    experiment: str = "reelnest"


class Runs(Section):
    """Where the runs of deployments go, beside this repository."""

    push: str | None = None
    """The git remote that gets each completed run's ref, such as `origin`; null: nothing leaves this machine."""
    push_outputs: str | None = None
    """The DVC remote that gets the outputs of pushed runs; null: DVC's default remote, if there is one."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.push_outputs is not None and self.push is None:
            raise ValueError("push_outputs needs push: outputs without the run's ref have no name. Set runs.push, such as origin")
        return self


class Launch(Section):
    """How training and embedding processes are started."""

    config: str = "cpu-2"
    """A file of `configs/accelerate/`, without its ending."""


class Params(Section):
    """All settings. `validate` and `register` are Python attributes `validation` and `registration`: pydantic keeps the other names."""

    data: Data = Data()
    validation: Validate = Field(Validate(), alias="validate")
    preprocess: Preprocess = Preprocess()
    model: Model = Model()
    train: Train = Train()
    loss: Loss = Loss()
    mining: Mining = Mining()
    evaluate: Evaluate = Evaluate()
    registration: Register = Field(Register(), alias="register")
    drift: Drift = Drift()
    runs: Runs = Runs()
    launch: Launch = Launch()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.train.best_dim is not None and self.train.best_dim not in self.model.dims:
            raise ValueError(f"train.best_dim: {self.train.best_dim} is none of model.dims, {list(self.model.dims)}")
        width = embedding_width(self.model)
        if width is not None and self.model.dims[-1] > width:
            source = "model.projection" if self.model.projection else f"the hidden size of {self.model.name_or_path}"
            raise ValueError(
                f"model.dims: {self.model.dims[-1]} is above the embedding's width, {width} ({source}); "
                f"the largest dim may be at most {width}"
            )
        weights = self.loss.dim_weights
        if not isinstance(weights, str) and (len(weights) != len(self.model.dims) or not any(weights)):
            raise ValueError(
                f"loss.dim_weights: needs one weight for each of the {len(self.model.dims)} model.dims, not all 0; found {list(weights)}"
            )
        return self


def embedding_width(model: Model) -> int | None:
    """Width of the vectors that a model of these settings gives; None where only the Hub knows."""
    if model.projection is not None:
        return model.projection
    if model.name_or_path == "tiny":
        return model.tiny.hidden_size
    config = Path(model.name_or_path) / "config.json"
    if config.is_file():
        found = json.loads(config.read_text(encoding="utf-8"))
        size = found.get("hidden_size") or found.get("text_config", {}).get("hidden_size")
        return int(size) if size else None
    size_name = re.search(r"Qwen2\.5-VL-(\d+B)", model.name_or_path)
    return QWEN_HIDDEN_SIZES.get(size_name[1]) if size_name else None


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Reads and checks a params file. Raises ConfigError, which names each wrong key, what was found and what is allowed."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file. Run this in the project's folder, or copy one of configs/presets/ to {path}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: expected sections such as `train:`, found {type(found).__name__}.")
    try:
        params = Params.model_validate(found)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {line}" for line in _explain(error.errors(include_url=False)))) from None
    _check_processes(params, path)
    return params


def setting_errors(found: Mapping[str, Any], key: str) -> list[str]:
    """What is wrong with the value of one setting (a dotted key) by itself, in the contents of a params file.

    Not whether it fits the others, which may change with it, nor whether this version knows it: the file may be another version's.
    """
    path = tuple(key.split("."))
    try:
        Params.model_validate(found)
    except ValidationError as error:
        details = error.errors(include_url=False)
        return _explain([one for one in details if one["loc"][: len(path)] == path and one["type"] != "extra_forbidden"])
    return []


def launch_config_path(params: Params, params_path: Path = PARAMS_FILE) -> Path:
    """The accelerate config file that `launch.config` names."""
    return params_path.parent / ACCELERATE_CONFIGS / f"{params.launch.config}.yaml"


def launch_processes(params: Params, params_path: Path = PARAMS_FILE) -> int:
    """How many processes `launch.config` starts, over all machines."""
    path = launch_config_path(params, params_path)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
        raise ConfigError(f"{params_path}: launch.config: there is no {path}; known: {known}.")
    return int(yaml.safe_load(path.read_text(encoding="utf-8"))["num_processes"])


def tracking_uri(params: Params) -> str:
    """MLflow's address: the environment's, so that one checkout can log to a team's server, or else the file's."""
    return os.environ.get("MLFLOW_TRACKING_URI") or params.tracking.uri


def flow_run() -> tuple[str, str | None] | None:
    """The id of the flow run that this process works for, and the address of its page; None where no flow started it."""
    found = os.environ.get("REELNEST_FLOW_RUN_ID")
    return (found, os.environ.get("REELNEST_FLOW_RUN_URL") or None) if found else None


def wandb_mode() -> Literal["online", "offline", "disabled", "shared"]:
    """Weights & Biases' mode: the environment's, or else offline, so that nothing leaves this machine unasked."""
    return cast("Literal['online', 'offline', 'disabled', 'shared']", os.environ.get("WANDB_MODE", "offline"))


def launch_uses_cpu(params: Params, params_path: Path = PARAMS_FILE) -> bool:
    """Whether `launch.config` asks for CPUs even where there are GPUs."""
    return bool(yaml.safe_load(launch_config_path(params, params_path).read_text(encoding="utf-8")).get("use_cpu"))


def launch_shards(params: Params, params_path: Path = PARAMS_FILE) -> bool:
    """Whether `launch.config` divides the model among the processes (FSDP)."""
    return yaml.safe_load(launch_config_path(params, params_path).read_text(encoding="utf-8")).get("distributed_type") == "FSDP"


def _check_processes(params: Params, path: Path) -> None:
    processes = launch_processes(params, path)
    if params.train.batch_size < processes or params.train.batch_size % processes:
        raise ConfigError(
            f"{path}: train.batch_size: {params.train.batch_size} pairs cannot be shared evenly by the {processes} processes "
            f"of launch.config '{params.launch.config}'; use a multiple of {processes}."
        )


def _explain(errors: Sequence[ErrorDetails]) -> list[str]:
    lines = []
    for detail in errors:
        # pydantic adds the names of union members to the path; only keys of the file help the reader.
        keys = [str(part) for part in detail["loc"] if not _is_union_tag(part)]
        where = ".".join(keys)
        if detail["type"] == "extra_forbidden":
            known = _known_keys(keys[:-1])
            near = difflib.get_close_matches(keys[-1], known, n=1, cutoff=0.5)
            advice = f"did you mean {'.'.join([*keys[:-1], near[0]])}?" if near else f"known here: {', '.join(known)}."
            lines.append(f"{where}: unknown setting; {advice}")
        elif detail["type"] == "value_error":
            text = str(detail["ctx"]["error"])
            lines.append(f"{where}: {text}." if where else f"{text}.")
        else:
            lines.append(f"{where}: {detail['msg']}; found {detail['input']!r}.")
    return lines


def _is_union_tag(part: Any) -> bool:
    return isinstance(part, str) and ("[" in part or "(" in part or part in ("int", "float", "str", "tuple"))


def _known_keys(path: list[str]) -> list[str]:
    section: type[BaseModel] = Params
    for key in path:
        for name, field in section.model_fields.items():
            if key in (name, field.alias):
                kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
                section = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
    return [field.alias or name for name, field in section.model_fields.items()]
