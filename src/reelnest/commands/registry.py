"""`reelnest models`, `promote` and `rollback`."""

from datetime import UTC, datetime

from reelnest.commands.columns import in_columns
from reelnest.errors import NothingTracked
from reelnest.registry.promotion import aliases
from reelnest.settings import Params

LONGEST_REASON = 100


def table(params: Params) -> str:
    """Returns a table of all versions, newest first. Raises RegistryError if MLflow is unreachable."""
    name, metric = params.registration.name, params.registration.metric
    try:
        entries = aliases.versions_table(params)
    except NothingTracked as error:
        return str(error)
    if not entries:
        return f"MLflow has no version of '{name}' yet. Run `reelnest register`."
    lines: list[tuple[str, ...]] = [("version", "aliases", metric, "data", "commit", "made (UTC)", "why")]
    for entry in entries:
        created = datetime.fromtimestamp(entry.created / 1000, UTC).strftime("%Y-%m-%d %H:%M")
        reason = entry.reason if len(entry.reason) <= LONGEST_REASON else entry.reason[: LONGEST_REASON - 1] + "…"
        value = "" if entry.value is None else f"{entry.value:.4f}"
        dirty = "*" if entry.commit.endswith("-dirty") else ""
        lines.append((str(entry.version), " ".join(entry.aliases), value, entry.data, entry.commit[:8] + dirty, created, reason))
    return in_columns(lines)


def promote(params: Params, version: str) -> str:
    """Makes `version` (number or alias) champion. Raises RegistryError if it cannot be promoted."""
    return f"models:/{params.registration.name}@{aliases.CHAMPION} is now version {aliases.promote(params, version)}."


def rollback(params: Params) -> str:
    """Makes the previous champion champion again. Raises RegistryError if there is none."""
    before, now = aliases.rollback(params)
    return f"models:/{params.registration.name}@{aliases.CHAMPION} is version {now} again, and no longer version {before}."
