"""Ends what never returns: a thread that watches how long one call lasts."""

import threading
from collections.abc import Callable

_TICK_NS = 50_000_000


class HangGuard:
    """`with guard:` around a call; `on_hang` is called once, in the guard's thread, if it stays.

    Time is counted in the guard's own ticks of 50 ms, not read from a clock: a process that was
    stopped and continued, or a machine that slept, is no call that hangs.
    limit_ns: may be changed between calls.
    """

    def __init__(self, limit_ns: int, on_hang: Callable[[], None]) -> None:
        self.limit_ns = limit_ns
        self._on_hang = on_hang
        self._call = 0
        """Odd while a call is under way, and another number for every call."""
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hang guard", daemon=True)
        self._thread.start()

    def __enter__(self) -> None:
        self._call += 1

    def __exit__(self, *_: object) -> None:
        self._call += 1

    def step(self) -> None:
        """Inside a call of many steps: one is done, and the next has its own time."""
        self._call += 2

    def close(self) -> None:
        """Stop watching."""
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        watched, ticks = 0, 0
        while not self._is_over.wait(_TICK_NS / 1e9):
            call = self._call
            ticks = ticks + 1 if call == watched else 0
            watched = call
            if call % 2 and ticks * _TICK_NS > self.limit_ns:
                self._on_hang()
                return
