"""YAML 1.2, as DVC reads it: `no` is a string, and 1e-3 is a number."""

from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

__all__ = ["YAMLError", "dump_yaml", "load_yaml", "yaml_problem"]

OPENED = ("while scanning a quoted", "while parsing a flow")
"""What ruamel.yaml reads when it misses a closing quote or bracket, which it notices lines after the opening one."""


def load_yaml(text: str) -> Any:
    """Parses YAML. Raises YAMLError, also for duplicate keys."""
    return YAML(typ="safe", pure=True).load(text)


def yaml_problem(error: YAMLError) -> str:
    """Returns what is wrong in a text that is not YAML, and where, in one line."""
    if not isinstance(error, MarkedYAMLError):
        return " ".join(str(error).split())
    mark = error.problem_mark or error.context_mark
    where = "" if mark is None else f"line {mark.line + 1}: "
    problem = str(error.problem or error.context)
    if problem.startswith("but "):
        problem = f"{error.context}, {problem}"
    if error.context_mark is not None and mark is not error.context_mark and str(error.context).startswith(OPENED):
        problem += f", in what line {error.context_mark.line + 1} opens with a quote or a bracket"
    return where + " ".join(problem.split())


def dump_yaml(value: Any) -> str:
    """Formats mappings, lists and scalars in block style, with keys in their order."""
    yaml: Any = YAML(typ="safe", pure=True)  # Any, because its annotations declare these settings as None
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.width = 4096
    file = StringIO()
    yaml.dump(value, file)
    return file.getvalue()
