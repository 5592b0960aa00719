"""The colours that all pages share."""

import re

import pytest

from reelnest.report.template import STYLE


def luminance(colour: str) -> float:
    digits = "".join(2 * digit for digit in colour) if len(colour) == 3 else colour
    channels = (int(digits[start : start + 2], 16) / 255 for start in (0, 2, 4))
    linear = [channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4 for channel in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1])
def test_text_and_lines_have_the_contrast_that_wcag_asks_for(scheme: int) -> None:
    style = STYLE.read_text(encoding="utf-8")
    colours = dict(re.findall(r"--([\w-]+): #([0-9a-f]+);", re.findall(r":root \{(.*?)\}", style, re.DOTALL)[scheme]))
    for name, behind in [*((f"k{number}", "page") for number in range(6)), ("text", "page"), ("quiet", "page"), ("quiet", "panel"),
                         ("right", "right-panel"), ("quiet", "right-panel"), ("wrong", "page"), ("accent", "page"),
                         ("accent", "accent-panel"), ("quiet", "accent-panel")]:  # fmt: skip
        lighter, darker = sorted((luminance(colours[name]), luminance(colours[behind])), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (name, behind)
