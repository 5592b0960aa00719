"""The decision on a challenger, made of the gate's conditions and of a person's approval. No MLflow here."""

from dataclasses import dataclass

from reelnest.artifacts.evaluation_report import Difference
from reelnest.artifacts.registration_report import NOT_PROMOTED, PROMOTED, WAITS, ConditionResult
from reelnest.registry.promotion.gate import BETTER, NOT_WORSE, Challenge, check

APPROVAL = "approval"


@dataclass(frozen=True)
class Approval:
    """What a person said to a challenger that fulfils all else; a refusal also where nobody responded in time."""

    granted: bool
    words: str


@dataclass(frozen=True)
class Verdict:
    """A decision."""

    decision: str
    """PROMOTED, NOT_PROMOTED or WAITS."""
    conditions: tuple[ConditionResult, ...]
    reason: str
    """In one line."""
    differences: tuple[Difference, ...] = ()


def decide(challenge: Challenge, approval: Approval | None) -> Verdict:
    """Promotes a challenger that fulfils all conditions; the first one that does not hold is the reason of another decision.

    A person is asked last, where the settings want it, so that nobody is asked in vain.
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
        stated = (NOT_WORSE, BETTER, APPROVAL)
        why = ", ".join(result.why for result in results if result.name in stated) or "the first one"
    champion = challenge.champion
    against = f"against the champion (version {champion.version})" if champion else "there was no champion"
    differences = challenge.comparison.differences if challenge.comparison else ()
    return Verdict(decision, tuple(results), f"{against}: {why}", differences)


def _approval(approval: Approval | None) -> ConditionResult:
    if approval is None:
        return ConditionResult(name=APPROVAL, passed=None, why="a person has to approve it")
    words = f"{'approved' if approval.granted else 'not approved'}: {approval.words}"
    return ConditionResult(name=APPROVAL, passed=approval.granted, why=words)
