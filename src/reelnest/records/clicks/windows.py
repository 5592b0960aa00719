"""Splits a click log by time, so that a test asks about what came after the training data.

Two times cut the sessions into windows: the first 80 % are for training, the next 10 % for validation, the last 10 % for test. A session
belongs to the window in which it starts. Each query belongs to one split too, and only rows count whose session and query have the same
split. So no session and no query is in two splits, and no grade of a training query uses later clicks.
"""

import numpy as np
from numpy.typing import NDArray

from reelnest.records.captioned_clips import HELD_OUT, group_split
from reelnest.records.clicks.click_log import Rows
from reelnest.records.formats import SPLITS
from reelnest.records.splits import normalised

SESSION_GAP_SECONDS = 30 * 60
"""Without sessions, a user's session ends after half an hour without a row."""

Splits = NDArray[np.int8]
"""Indices in SPLITS."""


def split_log(rows: Rows, queries: list[str]) -> tuple[Rows, Splits]:
    """Returns the rows that count, and the split of each query.

    A query's split depends on a hash of its text, so that some frequent queries are held out. If the query does not occur in that window,
    it has the split of the next window in which it does, or else of the last. In a log without sessions, users and times there are no
    windows, and the hash alone decides.
    """
    by_name = np.array([SPLITS.index(group_split(normalised(query))) for query in queries], dtype=np.int8)
    window = _windows(rows)
    if window is None:
        return rows, by_name
    occurs = np.zeros((len(queries), len(SPLITS)), dtype=bool)
    occurs[rows.query, window] = True
    later = occurs & (np.arange(len(SPLITS)) >= by_name[:, None])
    last = len(SPLITS) - 1 - occurs[:, ::-1].argmax(axis=1)
    splits = np.where(later.any(axis=1), later.argmax(axis=1), last).astype(np.int8)
    return rows.of(window == splits[rows.query]), splits


def _windows(rows: Rows) -> Splits | None:
    """Returns the window of each row; None if there are neither times nor sessions."""
    has_times, has_sessions = not np.isnan(rows.time).any(), bool(rows.session.any())
    if not has_times and not has_sessions:
        return None
    session = sessions(rows)
    if has_times:
        start = np.full(int(session.max()) + 1, np.inf)
        np.minimum.at(start, session, rows.time)
        place, cuts = start, np.quantile(start, [1 - 2 * HELD_OUT, 1 - HELD_OUT])
    else:
        place, cuts = _uniform(rows.session, session), np.array([1 - 2 * HELD_OUT, 1 - HELD_OUT])
    return np.sum(place[:, None] > cuts, axis=1).astype(np.int8)[session]


def sessions(rows: Rows) -> NDArray[np.int64]:
    """Returns the number of each row's session. Rows without a session and a user are sessions of their own."""
    session: NDArray[np.int64]
    if not rows.session.any():
        return np.arange(len(rows))
    _, session = np.unique(rows.session, return_inverse=True)
    if np.isnan(rows.time).any() or not np.array_equal(rows.user, rows.session):
        return session
    ordered = np.lexsort((rows.time, session))  # the sessions are users: divide them where nothing happens for long
    starts = (np.diff(session[ordered]) != 0) | (np.diff(rows.time[ordered]) > SESSION_GAP_SECONDS)
    session[ordered] = np.concatenate([[0], np.cumsum(starts)])
    return session


def _uniform(hashes: NDArray[np.uint64], session: NDArray[np.int64]) -> NDArray[np.float64]:
    place = np.zeros(int(session.max()) + 1)
    place[session] = hashes / 2**64
    return place
