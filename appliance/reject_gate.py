"""The reject gate as the PLC reports it: every reject confirmed, and nothing else. Pure.

Enters: verdicts, GateStatus and ConfirmedTag. Leaves: whether a reject was not confirmed in time (a
fault), and whether the gate needs a person (a warning). Only where the PLC says that a confirmation
is fitted; without that nobody can know whether a part really left the line.
"""

from collections import deque
from collections.abc import Callable

from appliance.codes import GateStatus, Word
from appliance.messages import Verdict
from appliance.words import PlcInput

_MUST_LEAVE = (Word.NG, Word.ERROR)
_MAY_LEAVE = (Word.UNCERTAIN,)
"""A line may have a rework lane for these."""
_REMEMBERED = 64


class Gate:
    """Of one line, since `begun_ns`. `count(name)`: one more of a counter for life."""

    def __init__(self, timeout_ms: int, count: Callable[[str], None], begun_ns: int) -> None:
        self._timeout_ns, self._count = timeout_ms * 1_000_000, count
        self._known_ns = begun_ns + self._timeout_ns
        """Until then rejects leave that an earlier life gave, or nobody while there was none."""
        self._heard_ns = begun_ns
        self._awaited: deque[tuple[int, int]] = deque()
        """Until when a reject must be confirmed, and its tag; oldest first, tags may repeat."""
        self._optional: list[int] = []
        self._status: GateStatus | None = None
        self.missing = 0
        """Rejects that were not confirmed in time, since the last ClearError."""
        self.unexpected = 0
        """Confirmations of parts that were no rejects, since the last ClearError."""
        self.untagged = 0
        """Rejects whose tag nobody knew, since the last ClearError: none can say that they left."""

    @property
    def is_warning(self) -> bool:
        """Blocked, full, no air, something left that was no reject, or a reject had no tag."""
        status = self._status or GateStatus(0)
        is_fitted = GateStatus.CONFIRM_FITTED in status
        is_airless = is_fitted and GateStatus.AIR_OK not in status
        is_stuck = bool(status & (GateStatus.BLOCKED | GateStatus.BIN_FULL))
        return is_stuck or is_airless or self.unexpected > 0 or self.untagged > 0

    def verdict(self, verdict: Verdict, now_ns: int, is_tag_told: bool = True) -> None:
        """A part that must leave the line, or may.

        is_tag_told: False where it ended before the PLC could say which part it is.
        """
        if self._status is None or GateStatus.CONFIRM_FITTED not in self._status:
            return
        if verdict.word in _MUST_LEAVE and not is_tag_told:
            self.untagged += 1
            self._count("rejects_untagged")
        elif verdict.word in _MUST_LEAVE:
            self._awaited.append((now_ns + self._timeout_ns, verdict.part_tag))
        elif verdict.word in _MAY_LEAVE:
            self._optional = [*self._optional, verdict.part_tag][-_REMEMBERED:]

    def wrote(self, plc: PlcInput, now_ns: int) -> None:
        """RejectConfirmed toggled: ConfirmedTag left the line, the oldest one with this tag."""
        self._heard_ns = now_ns
        before, self._status = self._status, plc.gate_status
        if before is None or not (before ^ plc.gate_status) & GateStatus.REJECT_CONFIRMED:
            return
        awaited = next((one for one in self._awaited if one[1] == plc.confirmed_tag), None)
        if awaited is not None:
            self._awaited.remove(awaited)
        elif plc.confirmed_tag in self._optional:
            self._optional.remove(plc.confirmed_tag)
        elif now_ns >= self._known_ns:
            self.unexpected += 1

    def check(self) -> bool:
        """True while a reject was not confirmed in time: after that the PLC wrote without it. What
        it wrote in time may lie unread while nobody reads."""
        while self._awaited and self._heard_ns >= self._awaited[0][0]:
            self._awaited.popleft()
            self.missing += 1
        return self.missing > 0

    def clear(self, is_reject_known: bool) -> None:
        """ClearError: somebody has looked; at the fault only where it was shown."""
        self.unexpected = self.untagged = 0
        if is_reject_known:
            self.missing = 0
