"""When challenge parts are due, and since when. Pure; wall time is an argument.

What must outlive a restart is a few counters for the journal: when a challenge was passed last,
what has happened since, and which recipe was in force. Shift starts and hours are computed from
these, so that a box that was off at the start of the shift knows it when it is back.
"""

from collections.abc import Mapping
from datetime import date, datetime, timedelta

from appliance.codes import FaultCode
from appliance.config_challenge import ChallengePlan

_PASSED = "challenge.passed_utc_s"
_EVENT = "challenge.event_utc_s"
_PARTS = "challenge.passed_at_part"
_RECIPE = "challenge.recipe"
_CLOCK_S = 60
"""A last challenge that lies further in the future than this was passed by another clock."""


class ChallengeDue:
    """Of one line. Times are whole seconds of UTC."""

    def __init__(self, plan: ChallengePlan, restored: Mapping[str, int]) -> None:
        self._plan = plan
        self._passed_s = restored.get(_PASSED, 0)
        """0 = never."""
        self._event_s = restored.get(_EVENT, 0)
        """The first thing since then that asks for one; 0 = none did."""
        self._passed_at_part = restored.get(_PARTS, 0)
        self._recipe = restored.get(_RECIPE, 0)
        self._fault = FaultCode.NONE
        self._ahead_s: int | None = None
        """Since when the last challenge lies in the future; None = it does not."""
        self.since_s: int | None = None
        """When it fell due; None = it is not."""
        self.is_overdue = False
        """Due for longer than the plan allows: no part but those of a challenge."""

    @property
    def persistent(self) -> dict[str, int]:
        """For the journal; nothing where nothing can fall due."""
        if not self._plan.is_used:
            return {}
        return {
            _PASSED: self._passed_s,
            _EVENT: self._event_s,
            _PARTS: self._passed_at_part,
            _RECIPE: self._recipe,
        }

    def passed(self, now_s: int, parts: int) -> None:
        """A challenge had parts and no wrong one. parts: as in `follow`."""
        self._passed_s, self._event_s, self._passed_at_part = now_s, 0, parts
        self.since_s, self.is_overdue = None, False

    def follow(self, now_s: int, parts: int, recipe: int, fault: FaultCode) -> None:
        """What is known now. parts: accepted for life. recipe: 32 bits of its hash; 0 = none."""
        plan = self._plan
        if not plan.is_used:
            return
        is_asked = not self._passed_s  # a box that never was challenged is due
        if recipe and recipe != self._recipe:
            is_asked |= plan.after_change
            self._recipe = recipe
        if fault not in (self._fault, FaultCode.NONE, FaultCode.DECISION_LATE):
            is_asked |= plan.after_fault
        self._fault = fault
        is_asked |= 0 < plan.every_parts <= parts - self._passed_at_part
        # A clock that is behind after a start, until somebody sets it, asks for nothing that stays,
        # and what it stamped has been due for no longer than the right one knows.
        is_ahead = self._passed_s > now_s + _CLOCK_S
        self._ahead_s = (self._ahead_s or now_s) if is_ahead else None
        if 0 < self._event_s < self._passed_s <= now_s:
            self._event_s = now_s
        if is_asked and not self._event_s:
            self._event_s = now_s
        self.since_s = min(self._reasons(now_s), default=None)
        hold_min = plan.hold_after_min
        self.is_overdue = (
            self.since_s is not None
            and hold_min is not None
            and now_s - self.since_s >= hold_min * 60
        )

    def _reasons(self, now_s: int) -> list[int]:
        """Since when each reason that holds has held."""
        since = [s for s in (self._event_s, self._ahead_s) if s]
        if not self._passed_s:
            return since
        hours_s = self._passed_s + int(self._plan.every_hours * 3600)
        if self._plan.every_hours and hours_s <= now_s:
            since.append(hours_s)
        starts = (_latest(text, now_s) for text in self._plan.shift_starts)
        return since + [start for start in starts if start > self._passed_s]


def _latest(text: str, now_s: int) -> int:
    """The last time that a local clock showed "HH:MM"."""
    today = datetime.fromtimestamp(now_s).date()
    start_s = _at(today, text)
    return start_s if start_s <= now_s else _at(today - timedelta(days=1), text)


def _at(day: date, text: str) -> int:
    hour, minute = map(int, text.split(":"))
    return int(datetime(day.year, day.month, day.day, hour, minute).timestamp())
