"""Training of the forest, the held-out gate and the limits that it proposes.

In: features and raw scores of labelled images that the network never saw. Out: a forest, which
score should decide, and two limits in raw margins. The forest's own margins are judged out of
fold: every image by a forest that was fitted without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedKFold

from appliance import forest
from appliance.bundle import Suggested
from appliance.errors import ConfigError
from appliance.scores import Decides, Heard, Unit, average, unit_of
from models import gate
from models.metrics import image_metrics

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
SCORES = gate.SCORES

FOLDS = 5

LIMIT_SHARE = 0.05
"""Declared before any margin is seen: T1 leaves this share of the bad images below it, T2 this
share of the good ones at or above it."""

_ROWS, _COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")

_COLOURS = (
    (230, 25, 75), (60, 180, 75), (0, 130, 200), (245, 130, 48), (145, 30, 180), (70, 240, 240),
    (240, 50, 230), (210, 245, 60), (170, 110, 40),
)  # fmt: skip


def grid_segments(size: tuple[int, int]) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    """Static segment map for aligned parts without one: 3x3 equal fields, (H, W) uint8, names."""
    rows = np.arange(size[0]) * 3 // size[0]
    columns = np.arange(size[1]) * 3 // size[1]
    labels = (rows[:, None] * 3 + columns[None, :]).astype(np.uint8)
    return labels, tuple(f"{row} {column}" for row in _ROWS for column in _COLUMNS)


def segment_colours(names: Sequence[str]) -> list[dict[str, str]]:
    """Contents of segments.json: name and colour of each label, in order."""
    return [
        {"name": name, "colour": "#{:02x}{:02x}{:02x}".format(*_COLOURS[i % len(_COLOURS)])}
        for i, name in enumerate(names)
    ]


class Fitted(NamedTuple):
    """A forest on all images, and what forests that did not know an image say about it."""

    forest: forest.Forest
    margins: Floats
    """(N,) out of fold."""
    folds: Labels
    """(N,) which forest has judged the image: margins of two forests have no common zero."""


def fit_with_margins(
    features: Floats,
    labels: Labels,
    columns: Sequence[str],
    seed: int,
    progress: Callable[[float], None] = lambda done: None,
) -> Fitted:
    """A forest on all images, and the margin of each image out of fold.

    features: (N, n) float32; labels: (N,) 0 or 1. Raises ConfigError where a class has fewer
    images than there are folds.
    """
    least = int(np.bincount(labels, minlength=2).min())
    if least < FOLDS:
        raise ConfigError("images for the forest", f"at least {FOLDS} of each class", str(least))
    margins, folds = np.empty(len(labels), np.float32), np.empty(len(labels), np.int64)
    splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for number, (known, unseen) in enumerate(splitter.split(features, labels)):
        folds[unseen] = number
        fold = forest.fit(features[known], labels[known], columns, seed)
        for index in unseen:
            margins[index] = fold.margin(features[index])
        progress((number + 1) / (FOLDS + 1))
    fitted = forest.fit(features, labels, columns, seed)
    progress(1.0)
    return Fitted(fitted, margins, folds)


def with_average(
    scores: Mapping[str, Floats], labels: Labels
) -> tuple[dict[str, Floats], dict[Heard, Unit]]:
    """The scores and, where there are those that it hears, their average; and what it counts in.

    scores: name → (N,) raw margins of parts that no score was fitted on; labels: (N,).
    """
    units: dict[Heard, Unit] = {}
    for name in get_args(Heard):
        unit = unit_of(scores[name][labels == 0]) if name in scores else None
        if unit is None:
            return dict(scores), {}
        units[name] = unit
    return {**scores, "average": average(scores, units)}, units


def suggest(
    scores: Mapping[str, Floats],
    labels: Labels,
    *,
    folds: Labels | None = None,
    usual: gate.Usual | None = None,
    force: Decides | None = None,
    seed: int = 0,
) -> Suggested:
    """Which score should decide, and its limits, from labelled images that no score was fitted on.

    scores: name → (N,) raw margins, forest margins out of fold; labels: (N,). The choice is that
    of `gate.choose` with `usual` and `folds`; `force` overrules it, which is recorded. Only the
    AUROC and its interval compare within folds; `ap`, `f1max`, `fpr95`, the limits and their
    `escapes`, `overkill` and `uncertain` take the margins of all folds together. Without bad images
    the map maximum decides, T1 is the good images' upper order statistic and T2 their maximum.
    """
    good = labels == 0
    evidence = {"images_good": float(good.sum()), "images_bad": float((~good).sum())}
    if good.all():
        decides: Decides = force or "map_max"
        ordered = np.sort(_margins(scores, decides))
        t1, t2 = ordered[len(ordered) - 1 - int(LIMIT_SHARE * len(ordered))], ordered[-1]
        evidence["overkill"] = float((ordered >= t2).mean())
        return Suggested(
            decides=decides, t1=float(t1), t2=float(t2), evidence=evidence,
            why="no bad images: nothing to compare the scores on", is_forced=force is not None,
        )  # fmt: skip
    choice = gate.choose(scores, labels, seed, usual, folds)
    for name, row in choice.rows.items():
        for metric, value in image_metrics(labels, scores[name]).items():
            evidence[f"{name}_{metric}"] = value
        evidence[f"{name}_auroc"] = row.auroc
        evidence[f"{name}_auroc_low"], evidence[f"{name}_auroc_high"] = row.low, row.high
    decides, why = choice.decides, choice.why
    if force is not None and force != decides:
        why = f"forced to {force}; the gate would have taken {decides}: {why}"
    decides = force or decides
    margins = _margins(scores, decides)
    t1, t2 = limits(margins[good], margins[~good])
    evidence["escapes"] = float((margins[~good] < t1).mean())
    evidence["overkill"] = float((margins[good] >= t2).mean())
    evidence["uncertain"] = float(((margins >= t1) & (margins < t2)).mean())
    evidence["limit_share"] = LIMIT_SHARE
    return Suggested(
        decides=decides, t1=float(t1), t2=float(t2), evidence=evidence, why=why,
        is_forced=force is not None,
    )  # fmt: skip


def _margins(scores: Mapping[str, Floats], name: Decides) -> Floats:
    if name not in scores:
        raise ConfigError("--force", f"one of {', '.join(scores)}", name)
    return scores[name]


def limits(good: Floats, bad: Floats) -> tuple[np.float32, np.float32]:
    """T1 and T2 as order statistics of float32 margins; T1 <= T2.

    T1: the bad margin that has floor(share · n) bad ones below it. T2: just above the good margin
    that has floor(share · n) good ones above it. Where the classes are so far apart that T1 would
    pass T2, both stand in the middle: every margin between satisfies both shares.
    """
    t1 = np.sort(bad)[int(LIMIT_SHARE * len(bad))]
    good = np.sort(good)
    t2 = np.nextafter(good[len(good) - 1 - int(LIMIT_SHARE * len(good))], np.float32(np.inf))
    if t1 > t2:
        t1 = t2 = np.float32((np.float64(t1) + np.float64(t2)) / 2)
    return np.float32(t1), np.float32(t2)


def held_out_metrics(
    scores: dict[str, npt.NDArray[np.float32]], labels: list[int], suggested: Suggested
) -> dict[str, float]:
    """Metrics on images that nothing has seen; empty where a class is missing among them.

    `SCORE_auroc`, `SCORE_ap`, `SCORE_fpr95`; `image_auroc`, `escapes`, `overkill` and `uncertain`
    of the suggested score and limits.
    """
    truth = np.array(labels)
    if len(set(labels)) < 2:
        return {}
    metrics: dict[str, float] = {}
    for name, margins in scores.items():
        for metric, value in image_metrics(truth, margins).items():
            metrics[f"{name}_{metric}"] = value
    deciding = scores[suggested.decides]
    metrics["image_auroc"] = metrics[f"{suggested.decides}_auroc"]
    metrics["escapes"] = float((deciding[truth == 1] < suggested.t1).mean())
    metrics["overkill"] = float((deciding[truth == 0] >= suggested.t2).mean())
    uncertain = (deciding >= suggested.t1) & (deciding < suggested.t2)
    metrics["uncertain"] = float(uncertain.mean())
    return metrics
