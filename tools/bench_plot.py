"""The budgets as a picture: every figure as a share of what it must be. Pure: rows → SVG."""

import math
from collections.abc import Sequence
from html import escape

from tools.bench_row import Row

_LABEL, _PLOT, _VALUE, _LANE, _TOP = 520, 400, 130, 24, 52
_DECADES = (-3, 1)
"""Axis from a thousandth of the budget to ten times of it, logarithmic."""
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1f2937}.card{fill:#fff;stroke:#d1d5db}"
    ".met{fill:#2563eb}.missed{fill:#dc2626}.must{stroke:#1f2937;stroke-width:2}"
    ".grid{stroke:#e5e7eb}.ambition{stroke:#059669;stroke-width:2;stroke-dasharray:3 2}"
    ".small{font-size:11px;fill:#6b7280}"
    "@media(prefers-color-scheme:dark){text{fill:#e5e7eb}.card{fill:#111827;stroke:#374151}"
    ".met{fill:#60a5fa}.missed{fill:#f87171}.must{stroke:#e5e7eb}.grid{stroke:#374151}"
    ".ambition{stroke:#34d399}.small{fill:#9ca3af}}"
)


def svg(rows: Sequence[Row]) -> str:
    """All rows with a budget above 0 that were measured, in their order."""
    shown = [row for row in rows if row.must and row.value is not None]
    width, height = _LABEL + _PLOT + _VALUE, _TOP + _LANE * len(shown) + 16
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        "<title>Measured figures as a share of their budgets</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="card" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"/>',
        '<text x="16" y="22">share of the budget: left of the line is within it</text>',
        '<text class="small" x="16" y="39">dashed: the ambition</text>',
    ]
    for decade in range(_DECADES[0], _DECADES[1] + 1):
        x = _x(10.0**decade)
        style = "must" if decade == 0 else "grid"
        name = "budget" if decade == 0 else f"{10.0**decade:g}x"
        parts.append(f'<text class="small" x="{x:.0f}" y="39" text-anchor="middle">{name}</text>')
        parts.append(f'<line class="{style}" x1="{x:.0f}" y1="44" x2="{x:.0f}" y2="{height - 8}"/>')
    for index, row in enumerate(shown):
        parts += _lane(row, _TOP + _LANE * index)
    return "\n".join([*parts, "</svg>", ""])


def _lane(row: Row, top: int) -> list[str]:
    assert row.must and row.value is not None
    base, end = top + 15, _x(_share(row, row.value))
    style = "met" if row.is_met else "missed"
    bar = f'x="{_LABEL}" y="{top + 4}" width="{end - _LABEL:.1f}" height="{_LANE - 9}"'
    parts = [
        f'<text x="{_LABEL - 10}" y="{base}" text-anchor="end">{escape(_short(row.what))}</text>',
        f'<rect class="{style}" {bar} rx="2"/>',
    ]
    if row.ambition:
        at = _x(_share(row, row.ambition))
        parts.append(
            f'<line class="ambition" x1="{at:.1f}" y1="{top + 1}" x2="{at:.1f}" y2="{top + 19}"/>'
        )
    figure = f"{row.value:.4g} {row.unit}"
    where = _LABEL + _PLOT + 8
    parts.append(f'<text class="small" x="{where}" y="{base}">{escape(figure)}</text>')
    return parts


def _share(row: Row, value: float) -> float:
    """1 = just the budget, smaller is better, for floors too."""
    assert row.must
    if row.is_floor:
        return row.must / value if value > 0 else math.inf
    return value / row.must


def _x(share: float) -> float:
    low, high = _DECADES
    at = math.log10(share) if share > 0 else -math.inf
    return _LABEL + _PLOT * (min(max(at, low), high) - low) / (high - low)


def _short(text: str) -> str:
    return text if len(text) <= 74 else f"{text[:73]}…"
