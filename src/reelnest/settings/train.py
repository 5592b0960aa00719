"""The section `train`: the training loop."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from reelnest.settings.section import Fraction, MetricName, Positive, Precision, Section, Text


class Train(Section):
    """The training loop."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    epochs: Positive = 5
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Pairs in one contrastive batch, over all processes."""
    accumulation_steps: Positive = 1
    """Contrastive batches per optimizer step."""
    micro_batch_size: Positive | None = None
    """Pairs that each process embeds at once (gradient caching); null: its whole share of the batch."""
    adaptive_batch_size: bool = False
    """If memory runs out, halve micro_batch_size in all processes and repeat the step. batch_size stays the same."""
    group_negatives: bool = False
    """Put pairs whose listed `negatives` are each other's targets into one batch, as in-batch negatives."""
    no_duplicates: bool = False
    """Allow each item only once per batch. A duplicate would be masked, and the batch would have one negative fewer."""
    optimizer: Literal["adamw", "muon"] = "muon"
    """muon uses orthogonalised momentum for weight matrices, and AdamW for all other parameters."""
    learning_rate: Annotated[float, Field(gt=0)] = 8e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.4
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_fraction: Fraction = 0.1
    max_gradient_norm: Annotated[float, Field(gt=0)] | None = 1.0
    mixed_precision: Precision = "no"
    tf32: bool | None = None
    """Compute float32 products of a step in TF32, with 10 bits of precision, on a GPU. null: with mixed_precision bf16 or fp16, where the
    vectors have no more precision. Evaluation, mining and search never do."""
    gradient_checkpointing: bool = False
    compile: bool = False
    """torch.compile of the language model's MLPs and norms. Needs a C++ compiler (CPU) or Triton (GPU), and a minute at the start."""
    evaluate_every_epochs: Positive = 2
    best_metric: MetricName = "ndcg@10"
    """The metric on the validation split that selects the best checkpoint."""
    best_dim: Positive | None = None
    """The dim of `model.dims` at which it is computed; null for the last."""
    patience: Positive | None = None
    """Stop after this many evaluations without improvement; null to train to the end."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Evaluate and save an exponential moving average of the weights with this decay (0.99, 0.999); null for the weights."""
    keep_checkpoints: Positive = 2
    checkpoint_every_minutes: Annotated[float, Field(gt=0)] | None = 30.0
    """Save a checkpoint at the end of a step if the last one is older; null: only at evaluations and when training is stopped."""
    checkpoint_address: Text | None = None
    """Copy each checkpoint to this address too (`s3://bucket/folder`, `gs://…`, `abfs://…`, a path), and resume from there on a machine
    that lacks it; null: checkpoints are in `work/checkpoints/` only."""
    trackers: tuple[Literal["mlflow", "tensorboard", "wandb"], ...] = Field(("mlflow", "tensorboard"), strict=False)
    log_every_steps: Positive = 10
    profile_steps: Annotated[tuple[Positive, Positive], Field(strict=False)] | None = None
    """First and last optimizer step (from 1) to profile: a trace for TensorBoard and MLflow, and the time of a step by phase."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if len(set(self.trackers)) < len(self.trackers):
            raise ValueError(f"trackers must name each tracker once; found {list(self.trackers)}")
        if self.profile_steps is not None and self.profile_steps[0] > self.profile_steps[1]:
            raise ValueError(f"profile_steps must be [first, last] with first <= last; found {list(self.profile_steps)}")
        return self
