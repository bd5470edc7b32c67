"""Counters of verdicts and triggers: for life (in the journal) and since the last reset. Pure."""

from collections.abc import Mapping

from appliance.codes import Word
from appliance.messages import Verdict

_WORDS = {Word.OK: "ok", Word.NG: "ng", Word.UNCERTAIN: "uncertain", Word.ERROR: "error_reject"}
NAMES = (
    "triggers",
    "frames_ok",
    "frames_incomplete",
    "missed_triggers",
    "ok",
    "ng",
    "uncertain",
    "error_reject",
    "late",
    "overruns",
    "archived",
    "archive_dropped",
    "frames_lost",
    "orphans",
    "challenges",
    "challenges_failed",
    "challenges_answered",
    "unread",
    "journal_lost",
    "associations_lost",
    "rejects_untagged",
)
_SHIFT = "shift_start."
_LIFE = "life."
_TOTAL = "total."


class Tally:
    """Lifetime counts, and where each stood when the shift's counters were last reset."""

    def __init__(self, restored: Mapping[str, int]) -> None:
        self._life = {name: restored.get(name, 0) for name in NAMES}
        self._start = {name: restored.get(_SHIFT + name, 0) for name in NAMES}
        # How far each followed counter was taken over, by which life: survives our own restart.
        self._seen = {
            (name := key.removeprefix(_LIFE)): (life, restored.get(_TOTAL + name, 0))
            for key, life in restored.items()
            if key.startswith(_LIFE)
        }

    def add(self, name: str, count: int = 1) -> None:
        """One more."""
        self._life[name] += count

    def follow(self, name: str, life: int, total: int, of: str = "") -> None:
        """Take over a counter that another process keeps: `total` since that process's start.

        life: which life of the process counts (its pid); a new one counts from 0. of: which of
        several processes that keep one of this name.
        """
        key = f"{name}:{of}" if of else name
        old_life, old_total = self._seen.get(key, (life, 0))
        if old_life != life:
            old_total = 0
        self._seen[key] = (life, total)
        self._life[name] += max(0, total - old_total)

    def verdict(self, verdict: Verdict) -> None:
        """Count one verdict; challenge parts are counted apart."""
        if verdict.is_challenge:
            self._life["challenges"] += 1
        elif verdict.word in _WORDS:
            self._life[_WORDS[verdict.word]] += 1
        if verdict.is_late:
            self._life["late"] += 1

    def reset_shift(self) -> None:
        """ResetCounters: what the PLC shows starts at 0, lifetime counters stay."""
        self._start = dict(self._life)

    def total(self, name: str) -> int:
        """For life."""
        return self._life[name]

    @property
    def shift(self) -> dict[str, int]:
        """Since the last reset."""
        return {name: count - self._start[name] for name, count in self._life.items()}

    @property
    def persistent(self) -> dict[str, int]:
        """For the journal."""
        seen = self._seen.items()
        return {
            **self._life,
            **{_SHIFT + name: count for name, count in self._start.items()},
            **{_LIFE + name: life for name, (life, _) in seen},
            **{_TOTAL + name: total for name, (_, total) in seen},
        }
