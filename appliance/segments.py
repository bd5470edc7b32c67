"""Anomaly maps × segment map → named statistics; pure NumPy, no state but the sorted pixels.

In: maps (K, H, W) float32, one per detector, raw logits. Out: a float32 vector in the order of
`column_names`: per segment, per detector q99.5, skewness, kurtosis, mean; then the maximum per
detector. These are the definitions of the SegAD paper's code: `numpy.quantile` with linear
interpolation, `scipy.stats.skew` and `scipy.stats.kurtosis` with their biased defaults. A forest
may read the classification logit too; it is not a statistic, and its column stands last.

Rules where those definitions give nothing:
- Pixels with label 255 are ignored: no statistic and no maximum sees them.
- A segment without pixels: all four are 0.0, as in the paper's code, so that its forests stay
  valid. In a fixed segment map such a column never changes, and no tree can split on it.
- A segment whose pixels are all equal, one pixel included: skewness and kurtosis are 0.0, those of
  a symmetric distribution without tails; SciPy gives NaN, older SciPy gave 0 and -3, and a feature
  must not depend on a library's version.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from appliance.codes import Reason
from appliance.errors import ArtefactError, PartError

IGNORED = 255
STATISTICS = ("q99.5", "skewness", "kurtosis", "mean")
WHOLE = "*"
"""Stands for the segment in the names of the maxima, which belong to no segment."""

CLASSIFICATION = f"{WHOLE}/classification/logit"
"""The paper's score g of a supervised classifier: the engine's classification logit."""

_QUANTILE = 0.995


def column_names(
    segments: Sequence[str], detectors: Sequence[str], *, classification: bool = False
) -> tuple[str, ...]:
    """The one ordered table of features: "SEGMENT/DETECTOR/STATISTIC", then "*/DETECTOR/max",
    then, where the forest reads it, CLASSIFICATION.

    Raises ArtefactError where a name is empty, doubled or holds a sign that the table or the
    forest's file format needs for itself.
    """
    for kind, names in (("segments", segments), ("detectors", detectors)):
        for name in names:
            if not name or name == WHOLE or set(name) & set("/[]<"):
                raise ArtefactError(kind, "names without / [ ] < and other than *", repr(name))
            if list(names).count(name) > 1:
                raise ArtefactError(kind, "each name once", f"{name!r} twice")
    return (
        *(f"{s}/{d}/{statistic}" for s in segments for d in detectors for statistic in STATISTICS),
        *(f"{WHOLE}/{d}/max" for d in detectors),
        *([CLASSIFICATION] if classification else []),
    )


class SegmentIndex:
    """A segment map made ready: its pixels sorted by segment, once.

    labels: (H, W) uint8, below `n_segments` or 255. Raises ArtefactError on any other label.
    """

    def __init__(self, labels: npt.NDArray[np.uint8], n_segments: int) -> None:
        flat = labels.reshape(-1)
        used = np.flatnonzero(flat != IGNORED)
        if used.size and int(flat[used].max()) >= n_segments:
            raise ArtefactError(
                "segment map", f"labels below {n_segments} or 255", f"label {flat[used].max()}"
            )
        self.shape: tuple[int, int] = (labels.shape[0], labels.shape[1])
        self.n_segments = n_segments
        self._pixels = used[np.argsort(flat[used], kind="stable")]
        counts = np.bincount(flat[used], minlength=n_segments)
        ends = np.cumsum(counts)
        self._bounds = [(int(e - c), int(e)) for c, e in zip(counts, ends, strict=True)]

    def features(self, maps: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Statistics of maps (K, H, W) float32, in the order of `column_names`.

        Raises PartError: INFERENCE_ERROR on another shape, INVALID_NUMBER on NaN or infinity
        anywhere in the maps, ignored pixels included (an engine that makes them is not trusted).
        """
        if maps.ndim != 3 or maps.shape[1:] != self.shape:
            raise PartError(
                Reason.INFERENCE_ERROR,
                f"expected maps (K, {self.shape[0]}, {self.shape[1]}), got {maps.shape}",
            )
        if not np.isfinite(maps).all():
            raise PartError(Reason.INVALID_NUMBER, "an anomaly map holds NaN or infinity")
        count = maps.shape[0]
        table = np.zeros((self.n_segments, count, len(STATISTICS)))
        maxima = np.zeros(count)
        for k in range(count):
            single = maps[k].reshape(-1).take(self._pixels)
            double = single.astype(np.float64)
            if single.size:
                maxima[k] = single.max()
            for row, (start, end) in zip(table, self._bounds, strict=True):
                if start < end:
                    row[k] = _statistics(single[start:end], double[start:end])
        return np.concatenate([table.reshape(-1), maxima]).astype(np.float32)


def _statistics(
    single: npt.NDArray[np.float32], double: npt.NDArray[np.float64]
) -> tuple[float, float, float, float]:
    """Of the same pixels in both precisions; reorders `single`, overwrites `double`."""
    count = single.size
    place = _QUANTILE * (count - 1)
    low = int(place)
    single.partition(low)
    lower = float(single[low])
    upper = float(single[low + 1 :].min()) if low + 1 < count else lower
    quantile = lower + (place - low) * (upper - lower)

    # Relative to one of the pixels, so that equal pixels give exactly 0 and not a rounding rest.
    origin = lower
    double -= origin
    shift = float(double.sum()) / count
    double -= shift
    # einsum, not dot: a BLAS may use threads, and then the last digits depend on the machine.
    squares = double * double
    second = float(squares.sum()) / count
    if second == 0.0:
        return quantile, 0.0, 0.0, origin + shift
    third = float(np.einsum("i,i->", squares, double)) / count
    fourth = float(np.einsum("i,i->", squares, squares)) / count
    return quantile, third / second**1.5, fourth / second**2 - 3.0, origin + shift
