"""Texts that look like personal data, with the examples of the standards, and texts that do not."""

import pytest

from reelnest.checks.personal_data import personal_data


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("write to Jo.Doe+news@mail.example.co.uk, please", "e-mail address"),
        ("call +49 (30) 1234-5678 now", "phone number"),
        ("+14155552671", "phone number"),
        ("card 4111 1111 1111 1111", "payment card"),
        ("378282246310005", "payment card"),
        ("GB82 WEST 1234 5698 7654 32", "bank account"),
        ("to DE89370400440532013000.", "bank account"),
    ],
)
def test_personal_data_is_recognised(text: str, kind: str) -> None:
    assert personal_data(text) == kind


@pytest.mark.parametrize(
    "text",
    [
        "a red ring",
        "@home with a cat",
        "meet me @ 5.30",
        "4111 1111 1111 1112",
        "GB83 WEST 1234 5698 7654 32",
        "the year 2024-01-31 12:00:00",
        "1234567890123",
        "+1",
        "3 + 4 = 7",
        "IMG_20240131_120000",
    ],
)
def test_other_texts_are_not(text: str) -> None:
    assert personal_data(text) is None
