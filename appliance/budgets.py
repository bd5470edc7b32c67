"""Which processes crash too often, as the supervisor says, and when that is over. Pure.

The supervisor takes its word back as soon as the process serves again. One that crashes a moment
later, every time, would have the PLC see the fault come and go: it stays until the process has
given signs of life for 5 s.
"""

from collections.abc import Collection

_HEALTHY_NS = 5_000_000_000
_FRESH_NS = 1_000_000_000
_NUMBERED = ("camera-", "infer-")
"""Kinds of which a line has those that its configuration names."""


class Budgets:
    """Restart budgets that are spent."""

    def __init__(self, watched: Collection[str]) -> None:
        """watched: labels of those whose signs of life are heard; of the others the word of the
        supervisor alone counts."""
        self._watched = {label.replace(":", "-") for label in watched}
        self._spent: set[str] = set()
        self._lives: dict[str, tuple[int, int, int]] = {}
        """Which life, since when and until when it gave signs without a gap."""

    def heard(self, process: str, life: int, now_ns: int) -> None:
        """A sign of life."""
        label = process.replace(":", "-")
        old_life, since_ns, seen_ns = self._lives.get(label, (0, 0, 0))
        if life != old_life or now_ns - seen_ns > _FRESH_NS:
            since_ns = now_ns
        self._lives[label] = (life, since_ns, now_ns)

    def look(self, named: Collection[str], now_ns: int) -> tuple[str, ...]:
        """Labels as in file names, now that the supervisor names these."""
        # A camera or a worker that the line has no more may have left its file.
        named = [one for one in named if one in self._watched or not one.startswith(_NUMBERED)]
        self._spent |= set(named)
        for label in self._spent - set(named):
            if label not in self._watched or self._is_healthy(label, now_ns):
                self._spent.discard(label)
        return tuple(sorted(self._spent))

    def _is_healthy(self, label: str, now_ns: int) -> bool:
        if label not in self._lives:
            return False
        _, since_ns, seen_ns = self._lives[label]
        return now_ns - seen_ns <= _FRESH_NS and seen_ns - since_ns >= _HEALTHY_NS
