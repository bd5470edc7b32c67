"""The summary object of a run of parts: what `demo --json` and `replay --json` print.

Figures that do not apply are None, never 0.
"""

import importlib.metadata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from appliance.codes import Word
from appliance.messages import Verdict

_PLACES = {"p50": 0.5, "p99": 0.99, "max": 1.0}


def summarise_verdicts(
    verdicts: Sequence[Verdict], truth: Mapping[int, bool], deadline_ms: int | None, engine: str
) -> dict[str, Any]:
    """The object, from the verdicts alone.

    truth: part id → whether the part is bad, where a person knows it.
    """
    words = Counter(verdict.word for verdict in verdicts)
    known = [v for v in verdicts if v.part_id in truth]
    judged = [v for v in known if v.margin is not None]
    return {
        "parts": len(verdicts),
        "verdicts": len(verdicts),
        "unaccounted": None,
        "ok": words[Word.OK],
        "ng": words[Word.NG],
        "uncertain": words[Word.UNCERTAIN],
        "error": words[Word.ERROR],
        "late": sum(verdict.is_late for verdict in verdicts),
        "frames_lost": None,
        "reasons": dict(Counter(verdict.reason.name for verdict in verdicts)),
        "escapes": _count(known, truth, Word.OK, True) if truth else None,
        "overkill": _count(known, truth, Word.NG, False) if truth else None,
        "deadline_ms": deadline_ms,
        "latency_ms": quantiles([v.latency_ns / 1e6 for v in verdicts], "p50", "p99", "max"),
        "stages_ms": stages([verdict.stages_ns for verdict in verdicts]),
        "image_auroc": None,
        "auroc_shown": auroc([truth[v.part_id] for v in judged], [v.margin or 0.0 for v in judged]),
        "bundle": _one(verdict.bundle for verdict in verdicts if verdict.bundle),
        "recipe": _one(verdict.recipe for verdict in verdicts if verdict.recipe),
        "engine": engine,
        "version": importlib.metadata.version("inspectd"),
    }


def quantiles(values: Sequence[float], *names: str) -> dict[str, float | None]:
    """p50, p99, max of some figures; None where there are none."""
    if not len(values):
        return dict.fromkeys(names)
    return {name: round(float(np.quantile(values, _PLACES[name])), 2) for name in names}


def stages(rows: Sequence[Mapping[str, int]]) -> dict[str, dict[str, float | None]]:
    """p50 and p99 in milliseconds of every stage that any part went through."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {
        name: quantiles([row[name] / 1e6 for row in rows if name in row], "p50", "p99")
        for name in names
    }


def auroc(truth: Sequence[bool], margins: Sequence[float]) -> float | None:
    """Area under the ROC curve (Mann–Whitney); None unless both kinds are there."""
    bad = sum(truth)
    good = len(truth) - bad
    if not bad or not good:
        return None
    ranks = rankdata(margins)
    of_bad = float(ranks[np.asarray(truth, bool)].sum())
    return round((of_bad - bad * (bad + 1) / 2) / (bad * good), 4)


def _count(known: Sequence[Verdict], truth: Mapping[int, bool], word: Word, is_bad: bool) -> int:
    return sum(v.word is word and truth[v.part_id] is is_bad for v in known)


def _one(values: Any) -> str | None:
    """The value that all share; several are joined."""
    return ", ".join(sorted(set(values))) or None
