"""The held-out gate: which score decides, from labelled parts that none of the scores has seen.

SegAD can make things worse (an unlucky region, few bad parts, heavy-tailed maps), so the forest is
never taken on trust: its margins out of fold stand beside the map maximum, the classification logit
and the average of the first two on the same parts, with intervals, and what was chosen is kept
together with why.

To choose the best of several estimates is to choose the luckiest. From ten bad parts the difference
of two AUROCs is known to 0.04, and the true ones seldom lie more than 0.01 apart: so the average,
which chooses nothing, decides unless another score is ahead beyond doubt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from appliance.scores import Decides

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Folds = npt.NDArray[np.int64]

SCORES: tuple[Decides, ...] = get_args(Decides)
"""Every score; where two are equally good, the later, simpler one is taken."""

DRAWS = 2000
LEVEL = 0.95
Usual = Literal["average", "classification"]
LEAD: dict[Usual, float] = {"average": 0.95, "classification": 0.8}
"""Share of the draws in which another score must be ahead of the usual one to take its place.

Of the average almost all: it is seldom far behind, and the draws know nothing of how folds and
fitting vary. The classification can be far behind, where too few epochs or another product made it
so.
"""


class Comparison(NamedTuple):
    """One score on the parts of the gate."""

    auroc: float
    low: float
    high: float
    """Two-sided 95 % interval of the AUROC, parts drawn with replacement within each class."""


class Choice(NamedTuple):
    """What decides, and the sentence that says why."""

    decides: Decides
    why: str
    rows: dict[Decides, Comparison]


def usual_score(provenance: Mapping[str, str]) -> Usual:
    """The score that decides unless another is clearly ahead, by how a bundle was trained.

    A network that learnt from bad parts, too, tells them best by its classification logit (both
    papers of SuperSimpleNet, and docs/segad.md). A classifier beside it is another matter: it knows
    what it was shown and is blind to the rest.
    """
    learnt_bad = provenance.get("regime") in ("weak", "mixed", "supervised")
    return "classification" if learnt_bad and "classifier" not in provenance else "average"


def choose(
    scores: Mapping[str, Floats],
    labels: Labels,
    seed: int = 0,
    usual: Usual | None = None,
    folds: Folds | None = None,
) -> Choice:
    """The score with the highest AUROC; where there is a usual one, that one unless the highest is
    ahead of it in its `LEAD` of the draws. The same parts are drawn for all of them.

    scores: name → (N,) raw margins, the forest's out of fold; labels: (N,) 0 or 1, both present.
    folds: (N,) which of its forests has judged each part; only parts of one fold are compared by
    the forest's margins and the average that hears them, because each forest has a zero of its own.
    Without a usual score the estimates are compared and not bounds of them: with few bad parts
    every interval holds every other estimate.
    """
    known: list[Decides] = [name for name in SCORES if name in scores]
    pairs = [
        _Pairs.of(scores[name], labels, folds if name in ("segad", "average") else None)
        for name in known
    ]
    drawn = _draws(pairs, labels, seed)
    tail = (1 - LEVEL) / 2
    rows: dict[Decides, Comparison] = {
        name: Comparison(of_all.share(), *(float(q) for q in np.quantile(row, (tail, 1 - tail))))
        for name, of_all, row in zip(known, pairs, drawn, strict=True)
    }
    by_auroc = sorted(known, key=lambda name: (-rows[name].auroc, -SCORES.index(name)))
    decides = by_auroc[0]
    bad = int(labels.sum())
    sentences = [f"{_described(name, rows[name])}" for name in known]
    why = f"highest AUROC on {len(labels) - bad} good and {bad} bad parts not seen in training: "
    why += "; ".join(sentences)
    for second in by_auroc[1:2]:
        ahead = drawn[known.index(decides)] > drawn[known.index(second)]
        why += f"; {decides} ahead of {second} in {ahead.mean():.0%} of {DRAWS} draws"
    if usual in rows and decides != usual:
        lead = float((drawn[known.index(decides)] > drawn[known.index(usual)]).mean())
        why += f"; ahead of {usual}, the usual score of such a network, in {lead:.0%}"
        if lead < LEAD[usual]:
            decides, why = usual, f"{why}, less than {LEAD[usual]:.0%}: {usual} decides"
    return Choice(decides, why, rows)


def auroc(scores: Floats, labels: Labels) -> float:
    """Share of pairs of a bad and a good part in which the bad one has the higher score."""
    return _Pairs.of(scores, labels).share()


class _Pairs(NamedTuple):
    """Every bad part against every good one, by one score; both (bad, good)."""

    wins: npt.NDArray[np.float64]
    """1 where the bad part's score is higher, 0.5 where equal; 0 where they are not compared."""
    compared: npt.NDArray[np.float64]
    """1 where they are."""

    @classmethod
    def of(cls, scores: Floats, labels: Labels, folds: Folds | None = None) -> _Pairs:
        folds = np.zeros(len(labels), np.int64) if folds is None else folds
        bad, good = scores[labels == 1][:, None], scores[labels == 0][None, :]
        compared = folds[labels == 1][:, None] == folds[labels == 0][None, :]
        return cls(((bad > good) + 0.5 * (bad == good)) * compared, compared.astype(np.float64))

    def share(self) -> float:
        return float(self.wins.sum() / self.compared.sum())


def _draws(scores: Sequence[_Pairs], labels: Labels, seed: int) -> npt.NDArray[np.float64]:
    """(S, DRAWS) AUROC of each score on parts drawn with replacement, class by class."""
    rng = np.random.default_rng(seed)
    bad, good = int((labels == 1).sum()), int((labels == 0).sum())
    of_bad = rng.multinomial(bad, np.full(bad, 1 / bad), DRAWS) / bad
    of_good = rng.multinomial(good, np.full(good, 1 / good), DRAWS) / good
    drawn: list[npt.NDArray[np.float64]] = []
    for pairs in scores:
        won, compared = (((of_bad @ each) * of_good).sum(axis=1) for each in pairs)
        # Few parts in small folds: a draw may hold no two that were judged by the same forest.
        drawn.append(np.divide(won, compared, out=np.full(DRAWS, 0.5), where=compared > 0))
    return np.clip(np.stack(drawn), 0.0, 1.0)  # the weights add up to 1 but for the last digit


def _described(name: Decides, row: Comparison) -> str:
    return f"{name} {row.auroc:.3f} ({row.low:.3f} to {row.high:.3f})"
