"""What is written can be read in both schemes: text has WCAG's contrast of 4.5 to 1."""

import re
from pathlib import Path

import pytest

CSS = (Path(__file__).parent.parent / "appliance" / "hmi.css").read_text(encoding="utf-8")
GROUNDS = ("ground", "panel", "raised", "well")
WRITTEN = (
    *((ink, ground) for ground in GROUNDS for ink in ("text", "dim", "ink-ok", "ink-ng")),
    *((f"ink-{tone}", ground) for ground in GROUNDS for tone in ("uncertain", "warn", "error")),
    *(("accent", ground) for ground in ("ground", "panel", "raised")),
    ("on-accent", "accent"),
    ("#fff", "ok"), ("#fff", "ng"), ("#fff", "error"), ("#1d1500", "uncertain"),
)  # fmt: skip
"""Ink and what it stands on."""


def colours(scheme: str) -> dict[str, str]:
    blocks = re.findall(rf':root(?:\[data-theme="{scheme}"\])? \{{(.*?)\}}', CSS, re.DOTALL)
    return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{3,6});", " ".join(blocks)))


def luminance(colour: str) -> float:
    """Of WCAG 2.2, "relative luminance"."""
    digits = colour.removeprefix("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    shares = (int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4))
    red, green, blue = (
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_every_ink_stands_out_from_its_ground(scheme: str) -> None:
    known = colours(scheme)
    assert {"text", "panel", "ok", "accent"} <= known.keys()
    faint: list[str] = []
    for ink, ground in WRITTEN:
        low, high = sorted(luminance(known.get(name, name)) for name in (ink, ground))
        contrast = (high + 0.05) / (low + 0.05)
        if contrast < 4.5:
            faint.append(f"{ink} on {ground}: {contrast:.2f}")
    assert faint == []
