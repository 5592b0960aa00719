"""The sections `loss` and `mining`: what a pair is compared with, and how.

`loss.name` chooses the loss. Each loss has a class of settings here, which adds its own keys to those that all losses share. A loss from
another package registers its class in the same way.
"""

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, ModelWrapValidatorHandler, SerializeAsAny, ValidationError, WrapValidator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from reelnest.settings.section import Positive, Section

ENTRY_POINTS = "reelnest.losses"
"""The group of entry points by which an installed package brings losses: each names a module that registers some."""


class LossSettings(Section):
    """What the settings of all losses share."""

    name: str
    """Of the loss. A subclass gives it its default, and is registered under that."""
    dim_weights: Literal["equal", "learnt", "random"] | Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(strict=False)] = "equal"
    """One weight for each of `model.dims`; equal; learnt, by uncertainty; or random: each step counts some of the dims and the last one."""

    @property
    def needs_intra_modal_relations(self) -> bool:
        """Whether batches have to say which queries, and which targets, are related to each other."""
        return False


Settings = TypeVar("Settings", bound=LossSettings)

_registered: dict[str, type[LossSettings]] = {}


def register_loss_settings(settings: type[Settings]) -> type[Settings]:
    """Makes a loss known to `params.yaml`, under its class's default `name`. For use as a decorator."""
    _registered[settings.model_fields["name"].default] = settings
    return settings


@register_loss_settings
class NestedInfoNceSettings(LossSettings):
    """InfoNCE of each prefix, in both directions."""

    name: str = "nested_infonce"
    temperature: Annotated[float, Field(gt=0, le=1)] = 0.05
    """What cosines are divided by."""
    learn_temperature: bool = False
    """Train it too, from `temperature` on, never below 0.01."""
    intra_modal_negatives: bool = False
    """Other queries are a query's negatives too, and other targets a target's."""
    false_negative_margin: Annotated[float, Field(ge=0, le=2)] | None = None
    """What is more similar than a pair's own target, by more than this (cosines), counts as relevant too; null: nothing does."""
    graded_relevance: bool = False
    """A pair counts as much as its `relevance`."""

    @property
    def needs_intra_modal_relations(self) -> bool:
        """Related items must not become each other's negatives."""
        return self.intra_modal_negatives

    @model_validator(mode="after")
    def _temperature_is_in_its_range(self) -> Self:
        if self.learn_temperature and self.temperature < 0.01:
            raise ValueError(f"learn_temperature keeps the temperature at 0.01 or above; found temperature {self.temperature}")
        return self


def loss_settings_class(section: object) -> type[LossSettings]:
    """The class of settings that the contents of the section `loss` are for. Raises pydantic's ValidationError for an unknown name."""
    name = section.get("name", NestedInfoNceSettings().name) if isinstance(section, Mapping) else NestedInfoNceSettings().name
    if name not in _registered:
        for entry_point in entry_points(group=ENTRY_POINTS):
            entry_point.load()
    if not isinstance(name, str) or name not in _registered:
        problem = PydanticCustomError("unknown_loss", "There is no such loss; known: {known}", {"known": ", ".join(sorted(_registered))})
        raise ValidationError.from_exception_data("loss", [InitErrorDetails(type=problem, loc=("name",), input=name)])
    return _registered[name]


def _of_its_class(section: object, _handler: ModelWrapValidatorHandler[LossSettings]) -> LossSettings:
    return section if isinstance(section, LossSettings) else loss_settings_class(section).model_validate(section)


LossSection = Annotated[SerializeAsAny[LossSettings], WrapValidator(_of_its_class)]
"""The section `loss`, checked by the class of the loss that its `name` chooses."""


class Mining(Section):
    """Extra negatives: irrelevant items that are encoded beside a batch, in addition to the other pairs' targets in it."""

    negatives_per_pair: Annotated[int, Field(ge=0)] = 0
    """So many of each pair; 0 for none, and then nothing is mined."""
    listed: Literal["first", "only", "never"] = "first"
    """A pair's own `negatives`: before mined ones, instead of them, or left out."""
    start_epoch: Annotated[int, Field(ge=0)] = 0
    """Epochs before the first mining: a model that begins from nothing has first to learn what is similar."""
    every_steps: Positive | None = None
    """Optimizer steps from one mining to the next; null for an epoch's."""
    ranks: Annotated[tuple[Positive, Positive], Field(strict=False)] = (1, 2)
    """The first and the last rank that negatives are drawn from, relevant items not counted."""
    relative_margin: Annotated[float, Field(gt=0)] | None = None
    """Share of the positive's score. What scores above it is not drawn, since it may be relevant: 0.95 keeps negatives at least 5 % below
    the score of the pair's own target. null for no such limit."""
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
