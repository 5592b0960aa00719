"""The sections `loss` and `mining`: what a pair is compared with, and how."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from reelnest.settings.section import Positive, Section


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
