"""`reelnest models`, `promote` and `rollback`."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from reelnest.commands.columns import in_columns
from reelnest.errors import NothingTracked, RegistryError
from reelnest.registry.known_versions import CHAMPION, named_version
from reelnest.registry.promotion import aliases
from reelnest.settings import Params

OTHER_DATA = "(other)"
SHOWN = 8
"""Characters of a hash in the table."""


def table(params: Params, width: int | None = None) -> str:
    """Returns a table of all versions. Those on the champion's test data come first; the others are marked, and grouped by their data.

    Lines longer than `width` are cut; None cuts nothing. Raises RegistryError if MLflow is unreachable.
    """
    name, metric = params.registration.name, params.registration.metric
    try:
        entries = aliases.versions_table(params)
    except NothingTracked as error:
        return str(error)
    if not entries:
        return f"MLflow has no version of '{name}' yet. Run `reelnest register`."
    reference = _reference(entries)
    lines: list[tuple[str, ...]] = [("version", "aliases", metric, "data", "commit", "made (UTC)", "why")]
    for entry in _by_data(entries, reference):
        created = datetime.fromtimestamp(entry.created / 1000, UTC).strftime("%Y-%m-%d %H:%M")
        value = "" if entry.value is None else f"{entry.value:.4f}"
        dirty = "*" if entry.commit.endswith("-dirty") else ""
        data = entry.data[:SHOWN] if entry.data == reference.data else f"{entry.data[:SHOWN]} {OTHER_DATA}".strip()
        lines.append((str(entry.version), " ".join(entry.aliases), value, data, entry.commit[:SHOWN] + dirty, created, entry.reason))
    text = in_columns(lines)
    if width is not None:
        text = "\n".join(line if len(line) <= width else line[: width - 1] + "…" for line in text.splitlines())
    if any(entry.data != reference.data for entry in entries):
        text += f"\n{OTHER_DATA}: measured on other test data than version {reference.version}, so their {metric} cannot be compared."
    return text


def as_json(params: Params) -> str:
    """Returns all versions as a JSON list in the order of `table`, with whole hashes and reasons. Raises as `table` does."""
    try:
        entries = aliases.versions_table(params)
    except NothingTracked:
        return "[]"
    if not entries:
        return "[]"
    reference = _reference(entries)
    versions = [
        {
            "name": params.registration.name,
            "version": entry.version,
            "aliases": list(entry.aliases),
            "metric": params.registration.metric,
            "value": entry.value,
            "data": entry.data,
            "comparable": entry.data == reference.data,
            "commit": entry.commit,
            "created": datetime.fromtimestamp(entry.created / 1000, UTC).isoformat(timespec="seconds"),
            "reason": entry.reason,
        }
        for entry in _by_data(entries, reference)
    ]
    return json.dumps(versions, indent=2, ensure_ascii=False)


def _reference(entries: Sequence[aliases.Entry]) -> aliases.Entry:
    """Returns the champion, or else the newest version: others are comparable if they have its test data."""
    return next((entry for entry in entries if CHAMPION in entry.aliases), entries[0])


def _by_data(entries: Sequence[aliases.Entry], reference: aliases.Entry) -> list[aliases.Entry]:
    """Groups the versions by test data: the reference's first, then the data of the newest version. Newest first in each group."""
    groups = dict.fromkeys([reference.data, *(entry.data for entry in entries)])
    return [entry for data in groups for entry in entries if entry.data == data]


def promote(params: Params, version: str) -> str:
    """Makes `version` champion: a number, an alias, or `models:/NAME/3`. Raises RegistryError if it cannot be promoted."""
    name, which = named_version(version, params.registration.name)
    if name != params.registration.name:
        raise RegistryError(f"{version} is a version of '{name}', and register.name in params.yaml is '{params.registration.name}'.")
    return f"models:/{name}@{CHAMPION} is now version {aliases.promote(params, which)}."


def rollback(params: Params) -> str:
    """Makes the previous champion champion again. Raises RegistryError if there is none."""
    before, now = aliases.rollback(params)
    return f"models:/{params.registration.name}@{CHAMPION} is version {now} again, and no longer version {before}."
