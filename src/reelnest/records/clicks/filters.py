"""Removes rows that say more about one visitor than about relevance: bots and floods."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reelnest.records.clicks.click_log import Rows

BOT_ROWS, BOT_TIMES_MEDIAN = 200, 50
"""A user with more than 200 rows, and more than 50 times the median, is a bot."""
CLICKER_ROWS, CLICKER_SHARE = 50, 0.8
"""A user with at least 50 rows who clicked more than 0.8 of them clicks everything."""
MOST_REPEATS = 3
"""Rows of a user for one query and item that count, the first in the file. More would let one user decide a grade."""


@dataclass(frozen=True)
class Removed:
    """How many rows do not count."""

    bots: int
    """Number of users whose rows were all removed."""
    bot_rows: int
    repeated_rows: int


def without_floods(rows: Rows) -> tuple[Rows, Removed]:
    """Returns the rows without bots, and with at most MOST_REPEATS of a user for one query and item; and what was removed.

    Rows without a user or a session, such as those of an aggregated table, all count.
    """
    known = np.flatnonzero(rows.user != 0)
    if not len(known):
        return rows, Removed(0, 0, 0)
    _, user = np.unique(rows.user[known], return_inverse=True)
    count = np.bincount(user)
    share = np.bincount(user, rows.clicks[known] > 0) / count
    is_bot = (count > max(BOT_ROWS, BOT_TIMES_MEDIAN * float(np.median(count)))) | ((count >= CLICKER_ROWS) & (share > CLICKER_SHARE))
    of_bots = np.zeros(len(rows), dtype=bool)
    of_bots[known] = is_bot[user]
    repeated = np.zeros(len(rows), dtype=bool)
    repeated[known] = _place_in_group(user, rows.query[known], rows.item[known]) >= MOST_REPEATS
    return rows.of(~of_bots & ~repeated), Removed(int(is_bot.sum()), int(of_bots.sum()), int((repeated & ~of_bots).sum()))


def _place_in_group(*keys: NDArray[np.integer]) -> NDArray[np.int64]:
    """Returns the place of each row, from 0, among the rows that have the same keys."""
    by_keys = np.lexsort(keys)
    is_first = np.ones(len(by_keys), dtype=bool)
    is_first[1:] = np.any([np.diff(key[by_keys]) != 0 for key in keys], axis=0)
    starts = np.flatnonzero(is_first)
    places = np.empty(len(by_keys), dtype=np.int64)
    places[by_keys] = np.arange(len(by_keys)) - np.repeat(starts, np.diff(starts, append=len(by_keys)))
    return places
