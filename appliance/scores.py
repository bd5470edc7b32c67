"""The scores that a part can be judged by, and the average of two of them.

The average of forest and map maximum is no choice: both have the same say, in units of how far good
parts spread by each. Which of the two is better cannot be told from ten bad parts; their average is
seldom far behind the better one (docs/segad.md). The classification is not heard: that of a network
which knows good parts alone is as good as the others on one training and far behind on the next.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from appliance.toml_file import Section

Heard = Literal["segad", "map_max"]
Decides = Literal["segad", "average", "map_max", "classification"]


class Unit(Section, frozen=True, kw_only=True):
    """Where good parts lie by one score, in its raw margins."""

    middle: float
    """Their median."""
    spread: Annotated[float, msgspec.Meta(gt=0)]
    """Half the way from 16 % to 84 % of them: a standard deviation that a few parts, wrongly called
    good, hardly move."""


Units = Mapping[Heard, Unit]
"""Of the scores that the average hears, all of them; empty = there is no average."""


def unit_of(good: npt.NDArray[np.float32]) -> Unit | None:
    """Of the (n,) margins of good parts; None where they do not spread, for it says nothing."""
    low, middle, high = np.quantile(good.astype(np.float64), (0.16, 0.5, 0.84))
    spread = float(high - low) / 2
    return Unit(middle=float(middle), spread=spread) if spread > 0 else None


def average(margins: Mapping[str, npt.ArrayLike], units: Units) -> npt.NDArray[np.float32]:
    """Mean of the margins in their units; any shape, the same for all. NaN stays NaN."""
    apart = [
        (np.asarray(margins[name], np.float64) - unit.middle) / unit.spread
        for name, unit in units.items()
    ]
    return np.mean(apart, axis=0).astype(np.float32)
