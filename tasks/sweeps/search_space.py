"""The search space of a sweep: settings with a range or a list of choices, from which Optuna chooses."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from pydantic import BaseModel, ConfigDict

from reelnest.errors import RunError
from reelnest.settings import setting_errors
from tasks.workspaces.params_text import ParamsText

EXPECTED = 'Expected {"low": 0.001, "high": 0.1, "log": true}, or a list of choices such as ["adamw", "muon"].'


class Range(BaseModel):
    """All numbers from `low` to `high`, both included; integers if both ends are, unless the setting is a float."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: int | float
    high: int | float
    log: bool = False
    """Sample uniformly on a logarithmic scale."""


Space = dict[str, Range | list[Any]]
"""By dotted key of `params.yaml`."""


@dataclass(frozen=True)
class Tried:
    """Settings of an earlier trial. `value` is None while it runs and if it failed."""

    settings: Mapping[str, Any]
    state: TrialState
    value: float | None = None


class SearchSpace:
    """A search space that is valid for the settings of a commit. Raises RunError, which names the first invalid key."""

    def __init__(self, space: Space, params: ParamsText) -> None:
        if not space:
            raise RunError(f"space: no setting to try. {EXPECTED}")
        self._distributions = {key: _distribution(key, requested, params.value(key)) for key, requested in sorted(space.items())}
        for key, requested in space.items():
            before = params.value(key)
            for value in (requested.low, requested.high) if isinstance(requested, Range) else requested:
                params.change(key, value)
                if errors := setting_errors(params.params, key):
                    raise RunError(f"space: {' '.join(errors)}")
            params.change(key, before)

    def choose(self, tried: Sequence[Tried], seed: int) -> dict[str, Any]:
        """Returns the next settings, by Optuna's tree-structured Parzen estimator (Bergstra et al. 2011).

        They depend only on the seed and on `tried`, so a killed sweep continues as it would have without the interruption. (Each choice has
        a new sampler, because a restarted one would repeat its first draws.)
        """
        own_seed = int(np.random.SeedSequence([seed, len(tried)]).generate_state(1)[0])
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=own_seed))
        study.add_trials(
            [
                create_trial(
                    state=earlier.state, value=earlier.value, params=self._as_text(earlier.settings), distributions=self._distributions
                )
                for earlier in tried
            ]
        )
        chosen = study.ask(self._distributions).params
        return {key: json.loads(value) if self._is_choice(key) else value for key, value in chosen.items()}

    def _as_text(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {key: json.dumps(value) if self._is_choice(key) else value for key, value in settings.items()}

    def _is_choice(self, key: str) -> bool:
        return isinstance(self._distributions[key], CategoricalDistribution)


def _distribution(key: str, requested: Range | list[Any], now: Any) -> BaseDistribution:
    if isinstance(requested, list):
        if not requested:
            raise RunError(f"space: {key}: the list of choices is empty. {EXPECTED}")
        # As text: a choice may be a list (`model.dims`), which Optuna does not accept.
        return CategoricalDistribution(list(dict.fromkeys(json.dumps(choice) for choice in requested)))
    if requested.low > requested.high or (requested.log and requested.low <= 0):
        problem = "a logarithmic range must start above 0" if requested.low <= requested.high else "low is above high"
        raise RunError(f"space: {key}: {problem}; found low {requested.low}, high {requested.high}. {EXPECTED}")
    if isinstance(requested.low, int) and isinstance(requested.high, int) and not isinstance(now, float):
        return IntDistribution(requested.low, requested.high, log=requested.log)
    return FloatDistribution(float(requested.low), float(requested.high), log=requested.log)
