"""The sections `register` and `drift`: promotion to champion, and detection of data drift."""

from typing import Annotated, Literal

from pydantic import Field

from reelnest.settings.section import ComparableMetric, Fraction, Section, Text


class BehaviourPassed(Section):
    """Minimum share of passed behaviour tests by kind, at each dim; 0 for no minimum."""

    invariance: Fraction = 0.9
    direction: Fraction = 0.6
    minimum: Fraction = 0.9


class Register(Section):
    """Registration and promotion of a model."""

    name: Text = "reelnest"
    metric: ComparableMetric = "recall@10"
    """The metric for promotion: the challenger must not be worse at any of the champion's dims, and must be better at one of them."""
    margin: Annotated[float, Field(ge=0)] = 0.01
    """In the metric's unit: a difference below this is not worse."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Confidence level of both conditions: of challengers that are not better, at most 1 - confidence are promoted."""
    behaviour_passed: BehaviourPassed = BehaviourPassed()
    approval: Literal["none", "prefect"] = "none"
    """prefect: the flow pauses until a person approves or rejects a model that meets all conditions. Without a flow it stays pending."""
    approval_hours: Annotated[float, Field(gt=0)] = 24.0
    """Without a decision in this time, the model is rejected."""


class Drift(Section):
    """Limits for the difference between new data and the champion's training data."""

    sample: Annotated[int, Field(ge=20, le=2000)] = 500
    """Number of texts and of videos to encode from each data version, and of videos to open for their duration."""
    confidence: Annotated[float, Field(gt=0.5, le=0.999)] = 0.95
    """Confidence level of a detected difference, over all measures together, and of the intervals."""
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Minimum effect size, between 0 and 1, that counts as drift. For retrieval it is `register.margin`."""
