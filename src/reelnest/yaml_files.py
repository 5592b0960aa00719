"""YAML 1.2, as DVC reads it: `no` is a word, and 1e-3 is a number."""

from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

__all__ = ["YAMLError", "dump_yaml", "load_yaml"]


def load_yaml(text: str) -> Any:
    """The value. Raises YAMLError, also for a key that occurs twice in one mapping."""
    return YAML(typ="safe", pure=True).load(text)


def dump_yaml(value: Any) -> str:
    """A value of mappings, lists and scalars in block style, its keys in their order."""
    yaml: Any = YAML(typ="safe", pure=True)  # its own annotations allow no settings but None
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.width = 4096
    file = StringIO()
    yaml.dump(value, file)
    return file.getvalue()
