"""Colours: contrast of text and marks in both themes, and that the sheet and the charts agree."""

from __future__ import annotations

import re

import pytest

from llmbench.report.page import style_sheet
from llmbench.report.palette import DARK, LIGHT

PAIRS = {
    name: (light, dark)
    for name, light, dark in re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)", style_sheet())
}


def luminance(colour):
    """Relative luminance, WCAG 2.2."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_black_and_white():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("text", "back"),
    [
        *((text, back) for text in ("ink", "quiet", "link") for back in ("page", "card", "sunken")),
        ("bad", "bad-back"),
        ("bad", "card"),
        ("quiet", "bad-back"),
        ("warn", "warn-back"),
        ("good", "good-back"),
        ("ink", "muted-back"),
        ("ink", "r1"),
        ("ink", "r2"),
        ("ink", "r3"),
        ("r4-ink", "r4"),
        ("r4-ink", "r5"),
    ],
)
def test_text_can_be_read(theme, text, back):
    assert contrast(PAIRS[text][theme], PAIRS[back][theme]) >= 4.5


@pytest.mark.parametrize("slot", range(6))
def test_marks_stand_out_and_the_sheet_repeats_the_palette(slot):
    assert PAIRS[f"c{slot}"] == (LIGHT[slot], DARK[slot])
    assert contrast(LIGHT[slot], PAIRS["card"][0]) >= 3
    assert contrast(DARK[slot], PAIRS["card"][1]) >= 3
