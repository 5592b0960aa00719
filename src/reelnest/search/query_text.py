"""Checks of what a person types into a search. Nothing here imports torch, which takes seconds."""

import unicodedata

from reelnest.errors import QueryError

MAX_RESULTS = 1000
MOST_SHOWN = 40


def check_query_text(text: str, most_characters: int) -> None:
    """Raises QueryError for a text that is empty, too long, or has nothing to search for, such as `!!!`. Emoji can be searched for."""
    if not text.strip():
        raise QueryError("The search is empty. Enter a text, such as: a red ring")
    if len(text) > most_characters:
        raise QueryError(f"The search has {len(text):,} characters; the limit is {most_characters:,}. Shorten it.")
    if not any(_has_meaning(character) for character in text):
        raise QueryError(f"“{text.strip()[:MOST_SHOWN]}” has no letters or digits. Describe what the video shows, such as: a red ring")


def check_count(k: int) -> None:
    """Raises QueryError for a number of results that cannot be returned."""
    if not 1 <= k <= MAX_RESULTS:
        raise QueryError(f"k is {k}; expected 1 to {MAX_RESULTS}.")


def _has_meaning(character: str) -> bool:
    category = unicodedata.category(character)
    return category[0] in "LN" or category == "So"  # letters, digits, and emoji
