"""The sections `loss` and `mining`: the loss function and the negatives of a pair.

`loss.name` selects the loss. Each loss has a settings class here, which adds its keys to those of all losses. Another package can
register its own class in the same way.
"""

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, ModelWrapValidatorHandler, SerializeAsAny, ValidationError, WrapValidator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from reelnest.settings.section import Positive, Section

ENTRY_POINTS = "reelnest.losses"
"""Entry point group for losses of installed packages. Each entry point names a module that registers losses."""


class LossSettings(Section):
    """The settings of all losses."""

    name: str
    """The loss's name. A subclass is registered under its default."""
    dim_weights: Literal["equal", "learnt", "random"] | Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(strict=False)] = "equal"
    """One weight per dim of `model.dims`; equal; learnt, by uncertainty; or random: each step uses some of the dims and the last one."""

    @property
    def needs_intra_modal_relations(self) -> bool:
        """Whether batches must include which queries are related to each other, and which targets."""
        return False


Settings = TypeVar("Settings", bound=LossSettings)

_registered: dict[str, type[LossSettings]] = {}


def register_loss_settings(settings: type[Settings]) -> type[Settings]:
    """Registers the decorated settings class under its default `name`."""
    _registered[settings.model_fields["name"].default] = settings
    return settings


@register_loss_settings
class NestedInfoNceSettings(LossSettings):
    """InfoNCE at each dim, in both directions."""

    name: str = "nested_infonce"
    temperature: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Divisor of the cosine similarities."""
    learn_temperature: bool = False
    """Train the temperature, from `temperature` on, never below 0.01."""
    intra_modal_negatives: bool = False
    """Other queries are also negatives of a query, and other targets of a target."""
    false_negative_margin: Annotated[float, Field(ge=0, le=2)] | None = None
    """Items that are more similar than the pair's target, by more than this cosine, count as relevant and are masked; null: none."""
    graded_relevance: bool = False
    """Weight each pair by its `relevance`."""

    @property
    def needs_intra_modal_relations(self) -> bool:
        """True with intra-modal negatives, because related items must not be negatives of each other."""
        return self.intra_modal_negatives

    @model_validator(mode="after")
    def _temperature_is_in_its_range(self) -> Self:
        if self.learn_temperature and self.temperature < 0.01:
            raise ValueError(f"with learn_temperature, temperature must be at least 0.01; found {self.temperature}")
        return self


def loss_settings_classes() -> list[type[LossSettings]]:
    """Returns the settings classes of all losses, those of installed packages included."""
    _load_installed()
    return list(_registered.values())


def _load_installed() -> None:
    for entry_point in entry_points(group=ENTRY_POINTS):
        entry_point.load()


def loss_settings_class(section: object) -> type[LossSettings]:
    """Returns the settings class for the contents of the section `loss`. Raises pydantic's ValidationError for an unknown name."""
    name = section.get("name", NestedInfoNceSettings().name) if isinstance(section, Mapping) else NestedInfoNceSettings().name
    if isinstance(name, str) and name not in _registered:
        _load_installed()
    if not isinstance(name, str) or name not in _registered:
        problem = PydanticCustomError("unknown_loss", "There is no such loss; known: {known}", {"known": ", ".join(sorted(_registered))})
        raise ValidationError.from_exception_data("loss", [InitErrorDetails(type=problem, loc=("name",), input=name)])
    return _registered[name]


def _of_its_class(section: object, _handler: ModelWrapValidatorHandler[LossSettings]) -> LossSettings:
    return section if isinstance(section, LossSettings) else loss_settings_class(section).model_validate(section)


LossSection = Annotated[SerializeAsAny[LossSettings], WrapValidator(_of_its_class)]
"""The section `loss`, validated by the settings class of its `name`."""


class Mining(Section):
    """Extra negatives: irrelevant items that are encoded with a batch, in addition to in-batch negatives."""

    negatives_per_pair: Annotated[int, Field(ge=0)] = 0
    """Number of extra negatives per pair; 0 for none, and no mining."""
    listed: Literal["first", "only", "never"] = "first"
    """Use a pair's listed `negatives` before mined ones, instead of them, or never."""
    start_epoch: Annotated[int, Field(ge=0)] = 0
    """Epochs before the first mining, because an untrained model cannot find similar items."""
    every_steps: Positive | None = None
    """Optimizer steps between minings; null for one epoch."""
    ranks: Annotated[tuple[Positive, Positive], Field(strict=False)] = (1, 2)
    """First and last rank from which negatives are sampled. Ranks do not count relevant items."""
    relative_margin: Annotated[float, Field(gt=0)] | None = None
    """Maximum score of a negative relative to the positive's. 0.95 excludes items that score above 95 % of the positive's score, because
    they may be relevant. null for no limit."""
    batch_size: Positive = 64
    """Items per embedding batch in each process."""

    @property
    def mines(self) -> bool:
        """Whether the model is used to find negatives."""
        return self.negatives_per_pair > 0 and self.listed != "only"

    @model_validator(mode="after")
    def _window_holds_enough(self) -> Self:
        first, last = self.ranks
        if last < first:
            raise ValueError(f"ranks: the last rank must not be before the first; found {list(self.ranks)}")
        if self.mines and last - first + 1 < self.negatives_per_pair:
            raise ValueError(
                f"ranks: {first} to {last} are fewer than negatives_per_pair ({self.negatives_per_pair}); "
                f"set the last rank to {first + self.negatives_per_pair - 1} or more"
            )
        return self
