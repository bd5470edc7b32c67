"""Alarms at a rate: more of the last thousand parts late, incomplete, unhealthy or rejected than
may be. Pure.

A count over a window that is always the same needs no table of probabilities: where 0.5 % of the
parts are rejected in good times, more than 13 of 1000 come by chance once in a thousand windows
(binomial), and 2 % are noticed with 94 %.
"""

from collections import deque

from appliance import config
from appliance.codes import Reason, Word
from appliance.messages import Verdict

WINDOW = 1000
_WORDS = {
    "late": "late",
    "incomplete": "without a whole picture",
    "image_health": "with a picture that failed a gate",
    "rejects": "rejected",
}
_REASONS = {
    Reason.LATE: "late",
    Reason.NO_IMAGE: "incomplete",
    Reason.INCOMPLETE_IMAGE: "incomplete",
    Reason.IMAGE_HEALTH: "image_health",
    Reason.FIXTURE: "image_health",
}


class Alarms:
    """The parts of one recipe; challenge parts, which are bad on purpose, do not count."""

    def __init__(self, limits: config.Alarms) -> None:
        self._limits = {name: int(getattr(limits, name)) for name in _WORDS}
        self._recent: deque[tuple[str, ...]] = deque()
        self._counts = dict.fromkeys(_WORDS, 0)

    def verdict(self, verdict: Verdict) -> None:
        """One more part."""
        if verdict.is_challenge:
            return
        names = _names(verdict)
        self._recent.append(names)
        for name in names:
            self._counts[name] += 1
        if len(self._recent) > WINDOW:
            for name in self._recent.popleft():
                self._counts[name] -= 1

    def restart(self) -> None:
        """Another recipe, or another shift: nothing is remembered."""
        self._recent.clear()
        self._counts = dict.fromkeys(_WORDS, 0)

    @property
    def raised(self) -> tuple[str, ...]:
        """Those that hold now."""
        return tuple(name for name, limit in self._limits.items() if self._counts[name] > limit)

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence for each; the same one as long as it holds."""
        return tuple(
            f"alarm: more than {self._limits[name]} of the last {WINDOW} parts {_WORDS[name]}"
            for name in self.raised
        )


def _names(verdict: Verdict) -> tuple[str, ...]:
    """What the part counts for, each once. Of several views every one is looked at: the reason of
    the whole is that of the worst alone, and only says that a view is missing, not why."""
    reasons = {verdict.reason, *(view.reason for view in verdict.views)}
    names = {name for reason, name in _REASONS.items() if reason in reasons}
    return (*sorted(names), *(("rejects",) if verdict.word != Word.OK else ()))
