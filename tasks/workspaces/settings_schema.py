"""The JSON schema of settings by dotted key. Prefect's server refuses a run whose settings do not match it, in the form too.

Only what a schema can express is checked here: names, types and ranges. The run checks the rest, such as settings that exclude each other.
"""

import re
from typing import Any

from reelnest.settings import Params, loss_settings_classes


def settings_schema() -> dict[str, Any]:
    """Returns the schema of a run's settings: a mapping from dotted keys to values, or null."""
    values = {f"^{re.escape(key)}$": schema for key, schema in _by_key().items()}
    # Not inside `anyOf`, whose message would not name the key. Both keywords hold for objects only.
    return {"anyOf": [{"type": "object"}, {"type": "null"}], "propertyNames": key_schema(), "patternProperties": values}


def key_schema() -> dict[str, Any]:
    """Returns the schema of a dotted key. It is divided by section, so that the server's message lists the keys of one section only."""
    keys = list(_by_key())
    sections = [key for key in keys if "." not in key]
    known = {section: [key for key in keys if key.startswith(f"{section}.")] for section in sections}
    return {
        "pattern": f"^({'|'.join(sections)})([.]|$)",
        "allOf": [{"if": {"pattern": f"^{section}[.]"}, "then": {"enum": of_section}} for section, of_section in known.items()],
    }


def _by_key() -> dict[str, dict[str, Any]]:
    params = Params.model_json_schema()
    sections = _inlined(params, params["$defs"])["properties"]
    for settings in loss_settings_classes():
        own = settings.model_json_schema()
        sections["loss"]["properties"].update(_inlined(own, own.get("$defs", {}))["properties"])
    schemas: dict[str, dict[str, Any]] = {}
    _collect(sections, "", schemas)
    return schemas


def _collect(properties: dict[str, Any], above: str, schemas: dict[str, dict[str, Any]]) -> None:
    for name, schema in properties.items():
        schemas[f"{above}{name}"] = schema
        for option in (schema, *schema.get("anyOf", ())):
            _collect(option.get("properties", {}), f"{above}{name}.", schemas)


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """Returns the schema without references, which would not resolve inside the schema of a flow's parameters."""
    if isinstance(schema, list):
        return [_inlined(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {key: _inlined(value, definitions) for key, value in schema.items() if key != "$defs"}
