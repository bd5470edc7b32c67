"""How well scores separate bad from good, and how well maps find defects.

Scores and maps are raw margins, higher is worse; labels are 0 (good) and 1 (bad). AUROC, average
precision and F1 come from scikit-learn; AUPRO, which no maintained library of ours has, is here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from appliance.errors import ConfigError

AUPRO_LIMIT = 0.3
"""Largest false positive rate of the AUPRO, as both papers use it."""

RESAMPLES = 1000
COVERAGE = 0.95

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.uint8]


def image_metrics(labels: npt.ArrayLike, scores: npt.ArrayLike) -> dict[str, float]:
    """`auroc`, `ap`, `f1max` and `fpr95` (share of good images at or above the bad scores' 5 %
    quantile).

    Both (N,). Raises ConfigError unless both classes are present and every score is finite.
    """
    truth, values = np.asarray(labels), np.asarray(scores, np.float64)
    if not np.isfinite(values).all():
        raise ConfigError("scores", "finite margins", f"{(~np.isfinite(values)).sum()} others")
    bad, good = values[truth == 1], values[truth == 0]
    if not bad.size or not good.size:
        raise ConfigError("labels", "good and bad images", f"{good.size} good, {bad.size} bad")
    precision, recall, _ = precision_recall_curve(truth, values)
    both = precision + recall
    return {
        "auroc": float(roc_auc_score(truth, values)),
        "ap": float(average_precision_score(truth, values)),
        "f1max": float((2 * precision * recall / np.where(both > 0, both, 1)).max()),
        "fpr95": fpr95_of(truth, values),
    }


def pixel_metrics(maps: Floats, masks: Mask) -> dict[str, float]:
    """`pixel_auroc`, `pixel_ap` (AP-loc) and `aupro` of (N, H, W) maps; masks uint8 of 0 and 1.

    Raises ConfigError where no pixel is defective or none is normal.
    """
    truth, values = masks.ravel(), maps.ravel()
    if not truth.any() or truth.all():
        raise ConfigError("masks", "defective and normal pixels", f"{int(truth.sum())} defective")
    return {
        "pixel_auroc": float(roc_auc_score(truth, values)),
        "pixel_ap": float(average_precision_score(truth, values)),
        "aupro": aupro(maps, masks),
    }


def aupro(maps: Floats, masks: Mask, limit: float = AUPRO_LIMIT) -> float:
    """Area under the per-region overlap up to a false positive rate of `limit`, divided by it.

    The overlap of a threshold is the mean over all defects (8-connected) of the share of their
    pixels above it; the rate is the share of normal pixels above it (MVTec AD, section 5).
    """
    share = np.zeros(masks.shape, np.float64)
    regions = 0
    for index, mask in enumerate(masks):
        count, found = cv2.connectedComponents(np.ascontiguousarray(mask), connectivity=8)
        labels = found.astype(np.intp)
        area = np.bincount(labels.ravel(), minlength=count)
        share[index] = np.where(labels > 0, 1 / area[labels], 0)
        regions += count - 1
    order = np.argsort(-maps.ravel(), kind="stable")
    values = maps.ravel()[order]
    overlap = np.cumsum(share.ravel()[order]) / regions
    normal = masks.ravel()[order] == 0
    rate = np.cumsum(normal) / normal.sum()
    # Equal values pass a threshold together: only the last of each run is a point of the curve.
    last = np.flatnonzero(np.append(values[1:] != values[:-1], True))
    rate, overlap = np.append(0, rate[last]), np.append(0, overlap[last])
    inside = rate <= limit
    at_limit = np.interp(limit, rate, overlap)
    return float(
        np.trapezoid(np.append(overlap[inside], at_limit), np.append(rate[inside], limit)) / limit
    )


class Interval(NamedTuple):
    """A figure and where it may lie."""

    value: float
    low: float
    high: float


def interval(
    metric: Callable[[npt.NDArray[np.int64], npt.NDArray[np.float64]], float],
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    parts: Sequence[str],
    seed: int = 0,
) -> Interval:
    """A metric of (N,) scores with its 95 % percentile interval, bootstrapped over parts.

    parts: the physical part of each image; all pictures of a part are drawn together, because they
    err together. Draws that hold one class alone are drawn again.
    """
    truth, values = np.asarray(labels, np.int64), np.asarray(scores, np.float64)
    _, group = np.unique(np.asarray(parts), return_inverse=True)
    members = [np.flatnonzero(group == number) for number in range(int(group.max()) + 1)]
    if len(np.unique(truth)) < 2:
        raise ConfigError("labels", "good and bad images", "one of them alone")
    rng = np.random.default_rng(seed)
    drawn: list[float] = []
    while len(drawn) < RESAMPLES:
        chosen = np.concatenate(
            [members[number] for number in rng.integers(0, len(members), len(members))]
        )
        if 0 < truth[chosen].sum() < len(chosen):
            drawn.append(metric(truth[chosen], values[chosen]))
    low, high = np.quantile(drawn, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Interval(metric(truth, values), float(low), float(high))


def auroc_of(labels: npt.NDArray[np.int64], scores: npt.NDArray[np.float64]) -> float:
    """For `interval`, thirty times as fast as scikit-learn's, which counts the same pairs."""
    good = np.sort(scores[labels == 0])
    bad = scores[labels == 1]
    below = np.searchsorted(good, bad, "left") + np.searchsorted(good, bad, "right")
    return float(below.sum() / (2 * len(good) * len(bad)))


def fpr95_of(labels: npt.NDArray[np.int64], scores: npt.NDArray[np.float64]) -> float:
    """Share of good images at or above the 5 % quantile of the bad ones' scores."""
    return float((scores[labels == 0] >= np.quantile(scores[labels == 1], 0.05)).mean())


def ap_of(labels: npt.NDArray[np.int64], scores: npt.NDArray[np.float64]) -> float:
    """For `interval`."""
    return float(average_precision_score(labels, scores))
