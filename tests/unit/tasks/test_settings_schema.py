"""The schema by which Prefect's server checks settings, compared with the check of params.yaml."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from prefect.utilities.callables import parameter_schema

from flows.sweep import sweep
from reelnest.settings import is_setting
from tasks.workspaces.settings_schema import settings_schema

PARAMS: dict[str, Any] = yaml.safe_load((Path(__file__).parents[3] / "params.yaml").read_text(encoding="utf-8"))


def test_a_key_is_allowed_if_it_is_a_setting() -> None:
    schema = settings_schema()
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    keys = [key.strip("^$").replace("\\", "") for key in schema["patternProperties"]]
    assert {f"{section}.{name}" for section, values in PARAMS.items() for name in values} < set(keys)
    assert {"model.tiny.layers", "model.lora.r", "loss.temperature", "register.behaviour_passed.direction"} < set(keys)
    assert all(is_setting(PARAMS, key) for key in keys)
    for key in ("train.epohcs", "epochs", "trains.epochs", "model.lora.rnk", ""):
        assert not is_setting(PARAMS, key)
        assert not validator.is_valid({key: None})


@pytest.mark.parametrize(("space", "valid"), [({"train.epochs": [1, 2]}, True), ({"train.epohcs": [1, 2]}, False), ({}, True)])
def test_a_sweep_takes_the_same_keys(space: dict[str, Any], valid: bool) -> None:
    schema = parameter_schema(sweep).model_dump()
    validator = Draft202012Validator({**schema["properties"]["space"], "definitions": schema["definitions"]})
    assert validator.is_valid(space) is valid
