"""Changes settings in the text of a `params.yaml` by dotted key, and keeps its comments."""

import difflib
from collections.abc import Mapping
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from reelnest.errors import ConfigError, RunError
from reelnest.settings import check_params, is_setting, setting_errors
from reelnest.yaml_files import load_yaml, yaml_problem


class ParamsText:
    """The `params.yaml` of a commit, whose settings can be changed.

    Raises RunError if the text is not YAML with sections.
    """

    def __init__(self, text: str, commit: str) -> None:
        self._where = f"params.yaml at {commit[:12]}"
        self._yaml = YAML()
        self._yaml.preserve_quotes = True
        self._yaml.width = 4096
        try:
            self.params: dict[str, Any] = self._yaml.load(text)
        except YAMLError as error:
            raise RunError(f"{self._where} is not readable as YAML: {yaml_problem(error)}. Correct it and commit it.") from error
        if not isinstance(self.params, dict):
            raise RunError(f"{self._where} has no sections such as `train:`.")

    def value(self, key: str) -> Any:
        """Returns the value of a setting. Raises RunError, with the nearest known key, if there is no such setting."""
        section, last = self._find(key)
        return section[last]

    def change(self, key: str, value: Any) -> None:
        """Sets a value, also of a setting that the file leaves at its default. Raises RunError as `value` does."""
        if is_setting(self.params, key):
            *sections, last = key.split(".")
            section: Any = self.params
            for name in sections:
                if not isinstance(section.get(name), dict):
                    section[name] = {}
                section = section[name]
        else:  # perhaps one of another version
            section, last = self._find(key)
        section[last] = value

    def change_all(self, settings: Mapping[str, Any]) -> None:
        """Sets values, and checks them as `reelnest params` does. Raises RunError with each unknown key and wrong value."""
        is_of_this_version = not self._errors()
        errors = []
        for key, value in settings.items():
            try:
                self.change(key, value)
            except RunError as error:
                errors.append(str(error))
            else:
                errors += setting_errors(self.params, key)
        errors = errors or (self._errors() if is_of_this_version else [])
        if errors:
            raise RunError(" ".join(errors))

    def _errors(self) -> list[str]:
        """Returns what is wrong in the file as a whole, such as two settings that exclude each other."""
        try:
            check_params(load_yaml(self.text()))
        except ConfigError as error:
            return [str(error)]
        return []

    def text(self) -> str:
        """Returns the text of the file."""
        file = StringIO()
        self._yaml.dump(self.params, file)
        return file.getvalue()

    def _find(self, key: str) -> tuple[dict[str, Any], str]:
        *sections, last = key.split(".")
        section: Any = self.params
        for name in sections:
            section = section.get(name) if isinstance(section, dict) else None
        if not isinstance(section, dict) or last not in section:
            near = difflib.get_close_matches(key, _keys(self.params), n=1, cutoff=0.5)
            advice = f"did you mean {near[0]}?" if near else f"its sections are {', '.join(self.params)}."
            raise RunError(f"{self._where} has no {key}; {advice} Expected dotted keys such as train.epochs.")
        return section, last


def _keys(section: Mapping[str, Any], above: str = "") -> list[str]:
    keys = []
    for name, value in section.items():
        keys.append(f"{above}{name}")
        if isinstance(value, dict):
            keys += _keys(value, f"{above}{name}.")
    return keys
