"""Processes that show and pass on, and judge nothing: page, slow buses, metrics. Pure.

None of them can hold up a part; that one is silent is a Warning, so that somebody looks before the
page or the records of another system are needed.
"""

from collections.abc import Iterable

from appliance.messages import Health

_SILENT_NS = 3_000_000_000
"""More than a busy page needs for a turn, and than the watchdog waits until it kills one."""
_STARTING_NS = 30_000_000_000
"""What a process may take until it serves."""


class Companions:
    """Those that this box runs beside the line."""

    def __init__(self, processes: Iterable[str], now_ns: int) -> None:
        due_ns = now_ns + _STARTING_NS
        self._due_ns = dict.fromkeys(processes, due_ns)
        """When the next sign of life must have come."""

    def heard(self, health: Health, now_ns: int) -> bool:
        """A sign of life; False where it is of none of them."""
        if health.process not in self._due_ns:
            return False
        self._due_ns[health.process] = now_ns + _SILENT_NS
        return True

    def notes(self, now_ns: int) -> tuple[str, ...]:
        """A sentence for each that is silent."""
        return tuple(
            f"{process}: no sign of life"
            for process, due_ns in self._due_ns.items()
            if due_ns < now_ns
        )
