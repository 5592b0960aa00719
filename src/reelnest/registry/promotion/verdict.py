"""The verdict on a challenger, from the gate's conditions and a person's approval. This module does not use MLflow."""

from dataclasses import dataclass

from reelnest.artifacts.evaluation_report import Difference
from reelnest.artifacts.registration_report import NOT_PROMOTED, PROMOTED, WAITS, ConditionResult
from reelnest.registry.promotion.gate import BETTER, NOT_WORSE, Challenge, check

APPROVAL = "approval"


@dataclass(frozen=True)
class Approval:
    """A person's response to a challenger that meets all other conditions. No response in time is a refusal."""

    granted: bool
    words: str


@dataclass(frozen=True)
class Verdict:
    """A decision."""

    decision: str
    """PROMOTED, NOT_PROMOTED or WAITS."""
    conditions: tuple[ConditionResult, ...]
    reason: str
    """One line of text."""
    differences: tuple[Difference, ...] = ()


def decide(challenge: Challenge, approval: Approval | None) -> Verdict:
    """Promotes a challenger that meets all conditions. Otherwise the first condition that fails is the reason.

    If the settings require approval, it is checked last, so that a person only has to decide on challengers that meet all other conditions.
    """
    results = check(challenge)
    failed = next((result for result in results if not result.passed), None)
    if failed is None and (approval is not None or challenge.settings.approval != "none"):
        results.append(_approval(approval))
        failed = None if results[-1].passed else results[-1]
    decision = PROMOTED if failed is None else WAITS if failed.passed is None else NOT_PROMOTED
    if failed is not None:
        why = failed.why
    else:
        reasons = (NOT_WORSE, BETTER, APPROVAL)
        why = ", ".join(result.why for result in results if result.name in reasons) or "the first version"
    champion = challenge.champion
    against = f"against the champion (version {champion.version})" if champion else "there was no champion"
    differences = challenge.comparison.differences if challenge.comparison else ()
    return Verdict(decision, tuple(results), f"{against}: {why}", differences)


def _approval(approval: Approval | None) -> ConditionResult:
    if approval is None:
        return ConditionResult(name=APPROVAL, passed=None, why="it needs a person's approval")
    words = f"{'approved' if approval.granted else 'not approved'}: {approval.words}"
    return ConditionResult(name=APPROVAL, passed=approval.granted, why=words)
