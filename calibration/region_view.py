"""What each region says of the calibrate parts: its q99.5, good against bad. Pure, but for the SVG.

Enters: features as the line stored them with every part, in the order of a bundle's columns.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from calibration.limits import GOOD
from calibration.region_map import apart

_BINS = 48
_WIDTH, _HEIGHT = 260, 34


class RegionRow(NamedTuple):
    """One region."""

    name: str
    auroc: float | None
    """Share of pairs of a good and a bad part that this region alone puts in order."""
    good: npt.NDArray[np.float32]
    bad: npt.NDArray[np.float32]

    def svg(self) -> str:
        """Good above the line, bad below it, on the region's own scale."""
        both = np.concatenate([self.good, self.bad])
        low, high = float(both.min()), float(both.max())
        span = (low, high) if high > low else (low - 1, high + 1)
        middle, width = _HEIGHT / 2, _WIDTH / _BINS
        shapes: list[str] = []
        for values, tone, sign in ((self.good, "good", -1), (self.bad, "bad", 1)):
            counts = np.histogram(values, _BINS, span)[0]
            for place in np.flatnonzero(counts):
                height = max(1.5, middle * counts[place] / counts.max())
                top = middle - height if sign < 0 else middle
                shapes.append(
                    f'<rect class="bar-{tone}" x="{place * width:.1f}" y="{top:.1f}" '
                    f'width="{0.85 * width:.1f}" height="{height:.1f}"/>'
                )
        line = f'<line class="chart-base" x1="0" x2="{_WIDTH}" y1="{middle}" y2="{middle}"/>'
        return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{line}{"".join(shapes)}</svg>'


def region_rows(
    columns: Sequence[str],
    detector: str,
    features: npt.NDArray[np.float32],
    kinds: Sequence[str],
) -> list[RegionRow]:
    """The regions that tell good from bad best first.

    columns: names of `features` (N, n); detector: the one that leads; kinds: "good" or a defect.
    """
    ending = f"/{detector}/q99.5"
    places = [place for place, column in enumerate(columns) if column.endswith(ending)]
    if not (places and len(features)):
        return []
    scores = features[:, places]
    is_good = np.array([kind == GOOD for kind in kinds], bool)
    rows = [
        RegionRow(columns[place].removesuffix(ending), auroc, values[is_good], values[~is_good])
        for place, auroc, values in zip(places, apart(scores, kinds), scores.T, strict=True)
    ]
    return sorted(rows, key=lambda row: -(row.auroc or 0.0))
