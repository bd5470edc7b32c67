"""Processes that show and pass on, and judge nothing: page, slow buses, metrics. Pure.

None of them can hold up a part; that one is silent is a Warning, so that somebody looks before the
page or the records of another system are needed.
"""

from collections.abc import Iterable

from appliance.messages import Health

_SILENT_NS = 3_000_000_000
"""More than a busy page needs for a turn, and than the watchdog waits until it kills one."""


class Companions:
    """Those that this box runs beside the line."""

    def __init__(self, processes: Iterable[str]) -> None:
        self._seen_ns: dict[str, int | None] = dict.fromkeys(processes)

    def heard(self, health: Health, now_ns: int) -> bool:
        """A sign of life; False where it is of none of them."""
        if health.process not in self._seen_ns:
            return False
        self._seen_ns[health.process] = now_ns
        return True

    def notes(self, now_ns: int) -> tuple[str, ...]:
        """A sentence for each that was heard once and is silent now."""
        return tuple(
            f"{process}: no sign of life for more than {_SILENT_NS // 1_000_000_000} s"
            for process, seen_ns in self._seen_ns.items()
            if seen_ns is not None and now_ns - seen_ns > _SILENT_NS
        )
