"""Triggers between their arrival and their picture. Pure; time is an argument.

A trigger that is fired late photographs another part. So it is fired at once or not at all: one
that was asked for longer ago than `stale_ns`, wherever it waited, is refused; where it does not say
since when, one that may have waited so long while nobody looked into the inbox (the device was
being opened, the process was stopped). One picture is awaited at a time; with two on their way, a
lost one would hand its picture to the wrong part.
"""

from collections import deque
from typing import NamedTuple

from appliance.messages import Trigger

_SETTLE_NS = 20_000_000
"""After a long silence of our own, old messages may still be on their way through the socket; how
long, nobody knows where the machine is busy. So the age of a trigger counts where it is told."""


class Asked(NamedTuple):
    """A trigger that was fired and has no picture yet."""

    part_id: int
    fired_ns: int


class Triggers:
    """The triggers of one camera.

    patience_ns: longest wait for a picture. stale_ns: longest wait of a trigger.
    """

    def __init__(self, patience_ns: int, stale_ns: int) -> None:
        self._patience_ns, self._stale_ns = patience_ns, stale_ns
        self._waiting: deque[tuple[Trigger, int]] = deque()
        self._looked_ns: int | None = None
        self._awake_ns = 0
        """The first look after a long silence."""
        self.asked: Asked | None = None

    def looked(self, now_ns: int) -> None:
        """The inbox was emptied just now; call before `take` of what was in it."""
        last, self._looked_ns = self._looked_ns, now_ns
        if last is None or now_ns - last > self._stale_ns:
            self._awake_ns = now_ns

    def take(self, trigger: Trigger, now_ns: int) -> bool:
        """Keep a trigger that came just now; False where it may be too old to be fired."""
        if trigger.asked_ns:
            is_old = now_ns - trigger.asked_ns > self._stale_ns
        else:
            is_old = now_ns < self._awake_ns + _SETTLE_NS
        if is_old:
            return False
        self._waiting.append((trigger, trigger.asked_ns or now_ns))
        return True

    def stale(self, now_ns: int) -> list[Trigger]:
        """Triggers that waited too long behind another picture; they are forgotten here."""
        old: list[Trigger] = []
        while self._waiting and now_ns - self._waiting[0][1] > self._stale_ns:
            old.append(self._waiting.popleft()[0])
        return old

    def next(self) -> Trigger | None:
        """The trigger to fire now; None while a picture is awaited."""
        if self.asked is not None or not self._waiting:
            return None
        return self._waiting.popleft()[0]

    def fired(self, trigger: Trigger, now_ns: int) -> None:
        """Its picture is awaited from now on."""
        self.asked = Asked(trigger.part_id, now_ns)

    def answered(self) -> Asked | None:
        """The picture (or none) came for this one; None where nobody had asked."""
        asked, self.asked = self.asked, None
        return asked

    def overdue(self, now_ns: int) -> bool:
        """The awaited picture did not come in time."""
        return self.asked is not None and now_ns - self.asked.fired_ns > self._patience_ns

    def drop(self) -> list[Trigger]:
        """All that wait to be fired, forgotten here."""
        waiting = [trigger for trigger, _ in self._waiting]
        self._waiting.clear()
        return waiting
