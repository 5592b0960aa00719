"""Reads `params.yaml`, and the accelerate config that it names. Errors name the wrong key."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from reelnest.errors import ConfigError
from reelnest.settings.loss import LossSettings, loss_settings_class
from reelnest.settings.params import Params
from reelnest.yaml_files import YAMLError, load_yaml, yaml_problem

PARAMS_FILE = Path("params.yaml")

ACCELERATE_CONFIGS = Path("configs/accelerate")
SHOWN = 8
"""How many errors a message has; it counts all."""
SHOULD_BE = "Input should be "
LONGEST_VALUE = 200
"""Characters of a wrong value in a message."""
STARTS_WITH_KEY = re.compile(r"[a-z_]+(\.[a-z_0-9]+)*: ")
"""A section's error that is about one of its settings."""


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Reads and checks a params file. Raises ConfigError with each wrong key, its value and the allowed values."""
    try:
        return check_params(_contents(path), path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file. Run this in the project's folder, or copy one of configs/presets/ to {path}.") from None


def current_params() -> Params:
    """Returns the settings of the project in the current folder; the defaults outside a project."""
    return load_params() if PARAMS_FILE.is_file() else Params()


def check_params(contents: Any, path: Path = PARAMS_FILE) -> Params:
    """Checks the contents of a params file. Raises ConfigError as `load_params` does; `path` is for its messages and the launch configs."""
    if not isinstance(contents, dict):
        kind = {type(None): "an empty file", list: "a list"}.get(type(contents), "a single value")
        raise ConfigError(f"{path}: expected sections such as `train:`, found {kind}. Copy one of configs/presets/ to {path}.")
    try:
        params = Params.model_validate(contents)
    except ValidationError as error:
        raise ConfigError(_listed(path, _explain(error.errors(include_url=False), contents))) from None
    _check_processes(params, path)
    return params


def setting_errors(contents: Mapping[str, Any], key: str) -> list[str]:
    """Returns the errors of one setting's value (`key` is dotted), in the contents of a params file.

    Ignores conflicts with other settings, and unknown keys, because the file may be from another version.
    """
    path = tuple(key.split("."))
    try:
        Params.model_validate(contents)
    except ValidationError as error:
        details = error.errors(include_url=False)
        chosen = [detail for detail in details if detail["loc"][: len(path)] == path and detail["type"] != "extra_forbidden"]
        return _explain(chosen, contents)
    return []


def is_setting(contents: Mapping[str, Any], key: str) -> bool:
    """Returns whether a dotted key names a setting, which the contents of a params file need not have."""
    path = key.split(".")
    changed: dict[str, Any] = dict(contents)
    section = changed
    for name in path[:-1]:
        within = section.get(name)
        section[name] = section = dict(within) if isinstance(within, Mapping) else {}
    section[path[-1]] = None
    try:
        Params.model_validate(changed)
    except ValidationError as error:
        unknown = [_keys(detail) for detail in error.errors() if detail["type"] == "extra_forbidden"]
        return not any(keys == path[: len(keys)] for keys in unknown)
    return True


def launch_config_path(params: Params, params_path: Path = PARAMS_FILE) -> Path:
    """Returns the accelerate config file that `launch.config` names."""
    return params_path.parent / ACCELERATE_CONFIGS / f"{params.launch.config}.yaml"


def launch_processes(params: Params, params_path: Path = PARAMS_FILE) -> int:
    """Returns the number of processes that `launch.config` starts, over all machines."""
    path, config = _launch_config(params, params_path)
    processes = config.get("num_processes")
    if not isinstance(processes, int) or processes < 1:
        raise ConfigError(f"{path}: num_processes: expected the number of processes to start, at least 1; found {processes!r}.")
    return processes


def launch_uses_cpu(params: Params, params_path: Path = PARAMS_FILE) -> bool:
    """Returns whether `launch.config` uses CPUs even if there are GPUs."""
    return bool(_launch_config(params, params_path)[1].get("use_cpu"))


def launch_shards(params: Params, params_path: Path = PARAMS_FILE) -> bool:
    """Returns whether `launch.config` shards the model over the processes (FSDP)."""
    return _launch_config(params, params_path)[1].get("distributed_type") == "FSDP"


def _launch_config(params: Params, params_path: Path) -> tuple[Path, dict[str, Any]]:
    """Returns the file that `launch.config` names, and its contents."""
    path = launch_config_path(params, params_path)
    try:
        config = _contents(path)
    except FileNotFoundError:
        folder = params_path.parent / ACCELERATE_CONFIGS  # the setting may contain slashes
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml"))) or "none"
        raise ConfigError(f"{params_path}: launch.config: there is no {path}; known: {known}.") from None
    if not isinstance(config, dict):
        raise ConfigError(
            f"{path}: expected accelerate's settings, such as `num_processes: 2`. Run `accelerate config --config_file {path}`."
        )
    return path, config


def _contents(path: Path) -> Any:
    """Returns the contents of a YAML file. Raises FileNotFoundError, and ConfigError if it cannot be read."""
    try:
        return load_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}). Expected a file with settings.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error}). Save it as UTF-8.") from error
    except YAMLError as error:
        raise ConfigError(f"{path}: not readable as YAML: {yaml_problem(error)}. Correct that line, or the ones above it.") from error
    except ValueError as error:  # of a value that has the form of a date or a number, and is none
        raise ConfigError(
            f"{path}: not readable as YAML: {_shortened(str(error))}. Put texts that look like dates or numbers in quotes."
        ) from error
    except RecursionError:
        raise ConfigError(f"{path}: its values are nested too deep.") from None


def _check_processes(params: Params, path: Path) -> None:
    processes = launch_processes(params, path)
    if params.train.batch_size < processes or params.train.batch_size % processes:
        raise ConfigError(
            f"{path}: train.batch_size: {params.train.batch_size} pairs cannot be shared evenly by the {processes} processes "
            f"of launch.config '{params.launch.config}'; use a multiple of {processes}."
        )


def _listed(path: Path, errors: Sequence[str]) -> str:
    """Returns all errors in at most two lines."""
    if len(errors) == 1:
        return f"{path}: {errors[0]}"
    more = f" And {len(errors) - SHOWN} more." if len(errors) > SHOWN else ""
    return f"{path}: {len(errors)} settings are wrong. Correct them, and check with `reelnest params`.\n{' '.join(errors[:SHOWN])}{more}"


def _explain(errors: Sequence[ErrorDetails], contents: Mapping[str, Any]) -> list[str]:
    lines = []
    messages: dict[str, tuple[Any, list[str]]] = {}  # a setting of several types has an error for each
    for detail in errors:
        keys = _keys(detail)
        where = ".".join(keys)
        if detail["type"] == "extra_forbidden":
            lines.append(f"{where}: unknown setting; {_advice(keys, contents)}")
        elif detail["type"] == "value_error":
            text = str(detail["ctx"]["error"])
            joint = "." if STARTS_WITH_KEY.match(text) else ": "
            lines.append(f"{where}{joint}{text}." if where else f"{text}.")
        else:
            where = ".".join(keys[:-1]) if _lacks_element(detail) else where
            messages.setdefault(where, (detail["input"], []))[1].append(_expected(detail))
    # A setting of several types also has errors of the types that its value was not meant for. The errors of its elements say more.
    outer = {where for where in messages if any(longer.startswith(f"{where}.") for longer in messages)}
    inner = {where: messages[where] for where in messages if where not in outer}
    return lines + [f"{where}: {_joined(texts)}; found {_shown(value)}." for where, (value, texts) in inner.items()]


def _advice(keys: Sequence[str], contents: Mapping[str, Any]) -> str:
    """Returns what an unknown setting may mean: the same name in another section, a similar one in this section, or any of this section."""
    known = _known_keys(keys[:-1], contents)
    own = ".".join(keys)  # which the default loss may have, but not this one
    same = [where for where in _names(Params().model_dump(by_alias=True)) if where.rpartition(".")[2] == keys[-1] and where != own]
    if same:
        return f"did you mean {' or '.join(same)}? Known here: {', '.join(known)}."
    near = difflib.get_close_matches(keys[-1], known, n=1, cutoff=0.5)
    return f"did you mean {'.'.join([*keys[:-1], near[0]])}?" if near else f"known here: {', '.join(known)}."


def _names(section: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Returns the dotted keys of all settings of a section."""
    names = []
    for key, value in section.items():
        names += [f"{prefix}{key}", *(_names(value, f"{prefix}{key}.") if isinstance(value, dict) else [])]
    return names


def _shown(value: Any) -> str:
    """Returns a value as YAML has it, shortened."""
    return {"None": "nothing", "True": "true", "False": "false"}.get(repr(value), _shortened(repr(value)))


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def _joined(texts: Sequence[str]) -> str:
    """Returns one sentence from the errors of a setting: one for each type that it may have."""
    text = ", or ".join(dict.fromkeys(texts))
    return text if text[0].isupper() else SHOULD_BE + text


def _expected(detail: ErrorDetails) -> str:
    """Returns what a value should be: pydantic's text, with YAML's words for Python's."""
    known = {
        "tuple_type": "a list",
        "model_type": "a section, with a `key: value` on each line",
        "dict_type": "a section, with a `key: value` on each line",
        "string_too_short": "a text that is not empty",
        "string_type": "a text, in quotes if it looks like a number or a date",
        "bool_type": "true or false",
    }
    if detail["type"] in ("too_short", "too_long"):
        limits = {"too_short": ("min_length", "or more"), "too_long": ("max_length", "or fewer")}
        limit, more = limits[detail["type"]]
        return f"a list of {detail['ctx'][limit]} {more}"
    if _lacks_element(detail):
        return "a longer list"
    return known.get(detail["type"], str(detail["msg"]).removeprefix(SHOULD_BE))


def _lacks_element(detail: ErrorDetails) -> bool:
    """Returns whether a list of fixed length is too short."""
    return detail["type"] == "missing" and isinstance(detail["loc"][-1], int)


def _keys(detail: ErrorDetails) -> list[str]:
    """Returns the file's keys in an error's path, without the names of union members that pydantic adds."""
    return [str(key) for key in detail["loc"] if not _is_union_tag(key)]


def _is_union_tag(key: Any) -> bool:
    return isinstance(key, str) and ("[" in key or "(" in key or key in ("int", "float", "str", "tuple") or key.startswith("constrained-"))


def _known_keys(path: Sequence[str], contents: Mapping[str, Any]) -> list[str]:
    section: type[BaseModel] = Params
    for key in (key for key in path if not key.isdigit()):  # the position in a list of sections
        for name, field in section.model_fields.items():
            if key in (name, field.alias):
                section = next(kind for kind in _types(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel))
                if section is LossSettings:
                    section = loss_settings_class(contents[key])
    return [field.alias or name for name, field in section.model_fields.items()]


def _types(annotation: Any) -> Iterator[Any]:
    """Yields a type, and those that it is made of: `Funnel` is one of `tuple[Funnel, ...] | None`."""
    yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _types(argument)
