"""Recognises texts that look like personal data: e-mail addresses, international phone numbers, payment cards and bank accounts.

Numbers of cards and accounts count only if their check digits are right, so a long number by chance is rarely one.
"""

import re
from collections.abc import Callable

EMAIL = re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)+")
PHONE = re.compile(r"(?<![\w.])\+\d(?:[ ()./-]{0,2}\d){7,14}(?!\d)")
CARD = re.compile(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)")
ACCOUNT = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}(?![A-Za-z0-9])")
ANY = re.compile(r"[@+]|\d(?:[ -]?[A-Z0-9]){11}")
"""A part of each of them. Most texts are found to be without it by one search."""


def personal_data(text: str) -> str | None:
    """Returns what the text seems to contain, such as `e-mail address`; None for nothing."""
    if ANY.search(text) is None:
        return None
    return next((name for name, pattern, is_right in _KINDS if any(is_right(match.group()) for match in pattern.finditer(text))), None)


def _has_luhn_digit(number: str) -> bool:
    """Returns whether the last digit is the check digit of a payment card (ISO/IEC 7812-1)."""
    digits = [int(character) for character in number if character.isdigit()][::-1]
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[1::2]]
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def _has_iban_digits(account: str) -> bool:
    """Returns whether the third and fourth characters are the check digits of an account (ISO 13616)."""
    letters = account.replace(" ", "")
    return int("".join(str(int(character, 36)) for character in letters[4:] + letters[:4])) % 97 == 1


_KINDS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("e-mail address", EMAIL, lambda _: True),
    ("phone number", PHONE, lambda _: True),
    ("bank account", ACCOUNT, _has_iban_digits),
    ("payment card", CARD, _has_luhn_digit),
)
