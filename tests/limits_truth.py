"""How often what is promised of limits is true, where the truth is known: `python -m
tests.limits_truth` prints the table of docs/calibration.md.

Parts are drawn from known distributions, limits are chosen with the functions under test, and the
distribution itself is asked how many parts would escape. Each row is the share of the runs in which
a stated 95 % bound covers the truth, the choice of the limit included.
"""

import argparse
import sys
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from calibration.bounds import CONFIDENCE, confidence_of
from calibration.limits import (
    Parts,
    Target,
    conformal_limit,
    escape_limit,
    outcome,
    overkill_limit,
    propose,
)
from calibration.tradeoff import false_alarms_at

RUNS = 10_000
TYPES = {"scratch": (3.0, 1.0), "dent": (2.0, 1.5), "stain": (4.0, 2.0)}
"""Type of defect → mean and spread of its normal margins; good parts are N(0, 1)."""


def least(runs: int) -> float:
    """Three standard errors below 95 %: 0.943 of 10,000 runs."""
    return CONFIDENCE - 3 * float(np.sqrt(CONFIDENCE * (1 - CONFIDENCE) / runs))


def draw(
    rng: np.random.Generator, good: int, each: int, types: tuple[str, ...] = tuple(TYPES)
) -> Parts:
    """Parts of one run."""
    bad = [rng.normal(*TYPES[name], each) for name in types]
    kinds = ("good",) * good + tuple(name for name in types for _ in range(each))
    return Parts(np.concatenate([rng.normal(0, 1, good), *bad]).astype(np.float32), kinds)


def below(limit: npt.ArrayLike, name: str) -> npt.NDArray[np.float64]:
    """True share of a type below a limit."""
    mean, spread = TYPES[name]
    return ndtr((np.asarray(limit, np.float64) - mean) / spread)


def above(limit: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """True share of the good at or above a limit."""
    return ndtr(-np.asarray(limit, np.float64))


def escape(runs: int, count: int, rate: float) -> float:
    """`escape_limit` on `count` bad parts."""
    bad = np.random.default_rng(1).normal(*TYPES["dent"], (runs, count)).astype(np.float32)
    limit = escape_limit(bad, rate, CONFIDENCE)
    assert limit is not None and limit.shape == (runs,)
    return float((below(limit, "dent") <= rate).mean())


def overkill(runs: int, count: int, rate: float) -> float:
    """`overkill_limit` on `count` good parts."""
    good = np.random.default_rng(2).normal(0, 1, (runs, count)).astype(np.float32)
    limit = overkill_limit(good, rate, CONFIDENCE)
    assert limit is not None
    return float((above(limit) <= rate).mean())


def conformal(runs: int, count: int, rate: float) -> tuple[float, float]:
    """`conformal_limit`: mean share of the good that is rejected, and three standard errors."""
    good = np.random.default_rng(3).normal(0, 1, (runs, count)).astype(np.float32)
    limit = conformal_limit(good, rate)
    assert limit is not None
    rejected = above(limit)
    return float(rejected.mean()), float(3 * rejected.std() / np.sqrt(runs))


def proposal(runs: int, *, per_type: bool) -> dict[str, float]:
    """`propose` with a guard band: three types of defect, T1 the lowest of their limits, or of
    their mix."""
    rng = np.random.default_rng(4)
    target = Target(max_escape=0.1, max_overkill=0.05, per_type=per_type)
    holds = {"escapes": 0, "overkill": 0}
    for _ in range(runs):
        made = propose(draw(rng, 80, 60), target, guard_band=0.5)
        assert made.t1 is not None and made.t2 is not None and made.proved_overkill is not None
        true = {name: float(below(made.t1, name)) for name in TYPES}
        if not per_type:
            true = {"all": float(np.mean(list(true.values())))}
        holds["escapes"] += all(true[name] <= bound for name, bound in made.proved_escape.items())
        holds["overkill"] += bool(above(made.t2) <= made.proved_overkill)
    return {name: count / runs for name, count in holds.items()}


def alarms(runs: int, recall: float) -> float:
    """`false_alarms_at`, the choice of its limit by the bad parts included."""
    rng = np.random.default_rng(8)
    holds = 0
    for _ in range(runs):
        parts = draw(rng, 200, 60, ("dent",))
        bad = np.sort(parts.bad)
        limit = bad[len(bad) - int(np.ceil(round(recall * len(bad), 9)))]
        seen = false_alarms_at(parts, recall, CONFIDENCE)
        holds += bool(above(limit) <= seen.upper)
    return holds / runs


def fresh(runs: int, looks: int) -> dict[str, float]:
    """Limits picked by eye from few calibrate parts, judged by the verify parts. With several
    planned looks (each another score of the same parts) the best-looking outcome is taken, as an
    impatient person would."""
    rng = np.random.default_rng(5)
    holds = dict.fromkeys(("escapes", "types", "overkill", "ppm", "review"), 0)
    for _ in range(runs):
        tried = []
        for _ in range(looks):
            t1, t2 = _by_eye(rng)
            tried.append((outcome(draw(rng, 60, 30), t1, t2, CONFIDENCE, looks), t1, t2))
        seen, t1, t2 = min(tried, key=lambda one: one[0].escapes_all.upper)
        true = {name: float(below(t1, name)) for name in TYPES}
        mix = float(np.mean(list(true.values())))
        holds["escapes"] += mix <= seen.escapes_all.upper
        holds["types"] += all(true[name] <= seen.escapes[name].upper for name in TYPES)
        holds["overkill"] += bool(above(t2) <= seen.overkill.upper)
        holds["ppm"] += 1e6 * 0.01 * mix / (1 - 0.01 * (1 - mix)) <= seen.escape_ppm(0.01)[1]
        good_band = float(above(t1) - above(t2))
        bad_band = float(np.mean([below(t2, name) - below(t1, name) for name in TYPES]))
        holds["review"] += 0.9 * good_band + 0.1 * bad_band <= seen.review_load(0.1)[1]
    return {name: count / runs for name, count in holds.items()}


def opened_again(runs: int, openings: int = 4) -> float:
    """The same verify parts opened for one proposal after the other, as the page does it: the
    share of the runs in which **every** opening's escape bound covers the truth."""
    rng = np.random.default_rng(7)
    holds = 0
    for _ in range(runs):
        parts = draw(rng, 0, 60, ("dent",))
        covered = True
        for look in range(1, openings + 1):
            t1, t2 = _by_eye(rng)
            seen = outcome(parts, t1, t2, confidence_of(look))
            covered = covered and bool(below(t1, "dent") <= seen.escapes_all.upper)
        holds += covered
    return holds / runs


def _by_eye(rng: np.random.Generator) -> tuple[float, float]:
    bad = np.sort(rng.normal(*TYPES["dent"], 20)).astype(np.float32)
    return float(bad[rng.integers(0, 4)]), float(bad[rng.integers(4, 12)])


def rows(runs: int) -> Mapping[str, Callable[[], dict[str, float]]]:
    """Method → what it promises → in which share of the runs that is true."""
    return {
        "T1, order statistic, 59 bad parts, 5 %": lambda: {"escapes": escape(runs, 59, 0.05)},
        "T1, order statistic, 150 bad parts, 5 %": lambda: {"escapes": escape(runs, 150, 0.05)},
        "T1, order statistic, 300 bad parts, 1 %": lambda: {"escapes": escape(runs, 300, 0.01)},
        "T2, order statistic, 59 good parts, 5 %": lambda: {"overkill": overkill(runs, 59, 0.05)},
        "T2, order statistic, 1000 good parts, 1 %": lambda: {
            "overkill": overkill(runs, 1000, 0.01)
        },
        "both, every type by itself, guard band": lambda: proposal(runs, per_type=True),
        "both, types pooled, guard band": lambda: proposal(runs, per_type=False),
        "false alarms where 95 % of the bad are found": lambda: {"alarms": alarms(runs, 0.95)},
        "any limits, judged by fresh parts": lambda: fresh(runs, 1),
        "the best of three planned looks": lambda: fresh(runs, 3),
        "four openings of the same verify parts, all": lambda: {"escapes": opened_again(runs)},
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    runs = parser.parse_args().runs
    sys.stdout.write(f"| method ({runs} runs) | covered |\n|---|---|\n")
    for name, measure in rows(runs).items():
        told = ", ".join(f"{what} {share:.2%}" for what, share in measure().items())
        sys.stdout.write(f"| {name} | {told} |\n")
        sys.stdout.flush()
    for count, rate in ((19, 0.05), (50, 0.05), (333, 0.01)):
        mean, errors = conformal(runs, count, rate)
        sys.stdout.write(
            f"| conformal T2, {count} good parts, {rate:.0%} | "
            f"rejects {mean:.3%} of the good (± {errors:.3%}) |\n"
        )


if __name__ == "__main__":
    main()
