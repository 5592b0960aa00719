"""The sections `register` and `drift`: when a model becomes champion, and when data has changed."""

from typing import Annotated, Literal

from pydantic import Field

from reelnest.settings.section import ComparableMetric, Fraction, Section


class BehaviourPassed(Section):
    """The share of the behaviour tests of each kind that has to pass, at each dim; 0 for a kind that only informs."""

    invariance: Fraction = 0.9
    direction: Fraction = 0.6
    minimum: Fraction = 0.9


class Register(Section):
    """The registry's entry."""

    name: str = "reelnest"
    metric: ComparableMetric = "recall@10"
    """The metric by which a challenger becomes champion: not worse at any dim that the champion serves, and better at one of them."""
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
