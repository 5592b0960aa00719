"""The script of a text: Latin, Cyrillic, Han and so on, from the Unicode names of its letters.

A script is known for each text with a letter. A language is not: statistics of letters name the language of a query of two words wrongly
as often as not.
"""

import unicodedata
from collections.abc import Sequence

import numpy as np

BLOCK = 2000
"""Texts whose characters are in memory at once."""
HAN, JAPANESE = "Han", "Japanese"
NAMES = {"CJK": HAN, "IDEOGRAPHIC": HAN, "HIRAGANA": JAPANESE, "KATAKANA": JAPANESE, "KATAKANA-HIRAGANA": JAPANESE}
"""The scripts whose name is not the first word of their characters' names."""
UNKNOWN = -1


def scripts_of(texts: Sequence[str]) -> list[str]:
    """Returns, for each text, the script of most of its letters; empty if it has no letter. Han characters beside kana are Japanese."""
    names = ["", HAN, JAPANESE]  # numbers of scripts; 0 for characters that are no letters
    numbers = np.full(0x110000, UNKNOWN, np.int16)
    scripts: list[str] = []
    for start in range(0, len(texts), BLOCK):
        block = texts[start : start + BLOCK]
        codes = np.frombuffer("".join(block).encode("utf-32-le"), np.uint32)
        for code in np.unique(codes[numbers[codes] == UNKNOWN]):
            name = script_of_character(chr(code))
            if name not in names:
                names.append(name)
            numbers[code] = names.index(name)
        text = np.repeat(np.arange(len(block)), [len(value) for value in block])
        counts = np.bincount(text * len(names) + numbers[codes], minlength=len(block) * len(names)).reshape(len(block), len(names))
        counts[:, 0] = 0
        counts[:, 2] += counts[:, 1] * (counts[:, 2] > 0)
        scripts += [names[number] for number in counts.argmax(axis=1)]
    return scripts


def script_of_character(character: str) -> str:
    """Returns the script of a letter, such as `Latin`; empty for other characters."""
    if not character.isalpha():
        return ""
    plain = unicodedata.normalize("NFKC", character)[0]  # without width and typeface, which come first in some names
    word = unicodedata.name(plain, "").partition(" ")[0]
    return NAMES.get(word, word.capitalize())
