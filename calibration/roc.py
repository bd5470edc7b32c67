"""Found defects against overkill, zoomed to where a line works, as SVG made of numbers alone."""

import numpy as np

from calibration import texts
from calibration.limits import Parts
from calibration.tradeoff import curve

MOST_OVERKILL = 0.05
_WIDTH, _HEIGHT, _LEFT, _BELOW = 300, 190, 40, 28


def roc_svg(parts: Parts, limits: tuple[float, float]) -> str:
    """The curve, with both limits marked; "" where a class has no part."""
    if not (len(parts.good) and len(parts.bad)):
        return ""
    line = curve(parts)
    # From the highest limit down: both shares only grow.
    across, up = line.overkill[::-1], 1 - line.escape[::-1]

    def x(overkill: float) -> float:
        return _LEFT + min(overkill, MOST_OVERKILL) / MOST_OVERKILL * (_WIDTH - _LEFT - 8)

    def y(found: float) -> float:
        return 8 + (1 - found) * (_HEIGHT - _BELOW - 8)

    inside = across.round(9) <= MOST_OVERKILL  # 5 of 100 are, whatever 1 - 0.95 is in binary
    places = zip(across[inside], up[inside], strict=True)
    points = " ".join(f"{x(false):.1f},{y(found):.1f}" for false, found in places)
    shapes = [f'<polyline class="roc-line" points="{points}"/>']
    for name, limit in zip(("T1", "T2"), limits, strict=True):
        false = float((parts.good >= np.float32(limit)).mean())
        found = float((parts.bad >= np.float32(limit)).mean())
        shapes.append(f'<circle class="roc-{name.lower()}" cx="{x(false):.1f}" '
                      f'cy="{y(found):.1f}" r="5"/>')  # fmt: skip
        # At the right edge the name stands on the other side of its dot.
        beside, anchor = (-7, "end") if x(false) > _WIDTH - 30 else (7, "start")
        shapes.append(f'<text x="{x(false) + beside:.1f}" y="{y(found) + 14:.1f}" '
                      f'text-anchor="{anchor}">{name}</text>')  # fmt: skip
    for tick in (0, 0.01, 0.02, 0.03, 0.04, 0.05):
        shapes.append(f'<text class="tick" x="{x(tick):.1f}" y="{_HEIGHT - 12}" '
                      f'text-anchor="middle">{100 * tick:.0f} %</text>')  # fmt: skip
    for tick in (0, 0.5, 1):
        shapes.append(f'<text class="tick" x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" '
                      f'text-anchor="end">{100 * tick:.0f} %</text>')  # fmt: skip
    frame = (f'<rect class="roc-frame" x="{_LEFT}" y="8" width="{_WIDTH - _LEFT - 8}" '
             f'height="{_HEIGHT - _BELOW - 8}"/>')  # fmt: skip
    body = frame + "".join(shapes)
    return (
        f'<span class="caps">{texts.ROC}</span>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{body}</svg>'
    )
