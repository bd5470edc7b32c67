"""How old a request may be that the decision loop reads just now. Pure; the clock is given.

A request waits in the kernel while the loop is held up: by a write that the disk delays, by a stop,
by a busy machine. Nobody stamps it there. But the loop knows when its next turn was due, and what
it reads later than that may have come then: a trigger that old would photograph another part.
"""

from collections.abc import Callable


class Turns:
    """Of one loop; clock: monotonic nanoseconds."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._due_ns: int | None = None

    def due(self, at_ns: int) -> None:
        """When the next turn must come."""
        self._due_ns = at_ns

    def came_ns(self) -> int:
        """When that which is read now came, at the earliest."""
        now_ns = self._clock()
        return now_ns if self._due_ns is None else min(now_ns, self._due_ns)
