"""When a shift begins and ends, by the clock on the wall. Pure.

Starts are local times such as "06:00", in any order. A shift lasts to the next start, so the one
that holds a change to summer time is an hour shorter.
"""

from collections.abc import Sequence
from datetime import datetime, time, timedelta
from typing import NamedTuple

USUAL = ("06:00", "14:00", "22:00")
"""Where the configuration names none."""


class Shift(NamedTuple):
    """[begin, end), local times with their zone."""

    begin: datetime
    end: datetime


def shift_at(moment: datetime, starts: Sequence[str] = ()) -> Shift:
    """The shift that holds this moment, which must know its zone."""
    local = moment.astimezone()
    days = [local.date() + timedelta(days=days) for days in (-1, 0, 1)]
    edges = sorted(
        datetime.combine(day, time.fromisoformat(text)).astimezone()
        for day in days
        for text in starts or USUAL
    )
    begin = max(edge for edge in edges if edge <= local)
    return Shift(begin, min(edge for edge in edges if edge > local))


def earlier(shift: Shift, count: int, starts: Sequence[str] = ()) -> Shift:
    """`count` shifts before this one; a negative count goes on in time."""
    for _ in range(abs(count)):
        moment = shift.begin - timedelta(seconds=1) if count > 0 else shift.end
        shift = shift_at(moment, starts)
    return shift
