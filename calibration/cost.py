"""What limits cost, drawn: every single limit's cost of 1000 parts, and that of T1 and T2. SVG made
of numbers alone; an estimate from the calibrate parts."""

import numpy as np

from calibration import texts
from calibration.limits import Parts
from calibration.tradeoff import Costs, cost_of, cost_per_1000, curve

_WIDTH, _HEIGHT, _LEFT, _BELOW = 300, 190, 40, 28


def cost_svg(parts: Parts, limits: tuple[float, float], rate: float, costs: Costs) -> str:
    """The curve with its cheapest place and both limits; "" where a class has no part.

    rate: share of bad parts before inspection. The cost axis is logarithmic: an escape may cost
    ten thousand times what a look does.
    """
    if not (len(parts.good) and len(parts.bad)):
        return ""
    line = curve(parts)
    each = cost_per_1000(line, rate, costs)
    two = cost_of(parts, limits, rate, costs)
    cheapest = int(each.argmin())
    low, high = float(line.limits[0]), float(line.limits[-1])
    floor = max(float(each[each > 0].min(initial=1.0)) / 2, 1e-3)
    top = max(float(each.max()), two, 2 * floor)

    def x(margin: float) -> float:
        share = (margin - low) / (high - low or 1)
        return _LEFT + min(1.0, max(0.0, share)) * (_WIDTH - _LEFT - 8)

    def y(cost: float) -> float:
        share = np.log(max(cost, floor) / floor) / np.log(top / floor)
        return 8 + (1 - float(share)) * (_HEIGHT - _BELOW - 8)

    points = " ".join(
        f"{x(float(m)):.1f},{y(float(c)):.1f}" for m, c in zip(line.limits, each, strict=True)
    )
    shapes = [f'<polyline class="roc-line" points="{points}"/>']
    for name, limit in zip(("T1", "T2"), limits, strict=True):
        shapes.append(f'<line class="cost-limit" x1="{x(limit):.1f}" x2="{x(limit):.1f}" y1="8" '
                      f'y2="{_HEIGHT - _BELOW}"/><text x="{x(limit) + 3:.1f}" '
                      f'y="{20 if name == "T1" else 34}">{name}</text>')  # fmt: skip
    best = float(line.limits[cheapest])
    shapes.append(f'<circle class="roc-t1" cx="{x(best):.1f}" cy="{y(float(each[cheapest])):.1f}" '
                  'r="5"/>')  # fmt: skip
    for cost in (floor, float(np.sqrt(floor * top)), top):
        shapes.append(f'<text class="tick" x="{_LEFT - 6}" y="{y(cost) + 4:.1f}" '
                      f'text-anchor="end">{_short(cost)}</text>')  # fmt: skip
    for margin in (low, high):
        anchor = "start" if margin == low else "end"
        shapes.append(f'<text class="tick" x="{x(margin):.1f}" y="{_HEIGHT - 12}" '
                      f'text-anchor="{anchor}">{margin:.2f}</text>')  # fmt: skip
    frame = (f'<rect class="roc-frame" x="{_LEFT}" y="8" width="{_WIDTH - _LEFT - 8}" '
             f'height="{_HEIGHT - _BELOW - 8}"/>')  # fmt: skip
    told = texts.COST_TOLD.format(two=_short(two), one=_short(float(each[cheapest])), limit=best)
    return (
        f'<span class="caps">{texts.COST}</span>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{frame}{"".join(shapes)}</svg>'
        f'<span class="note">{told}</span>'
    )


def _short(cost: float) -> str:
    return f"{cost:.0f}" if cost >= 10 else f"{cost:.2g}"
