"""What goes when the disk fills or things grow old: OK before UNCERTAIN before ERROR before NG.

Images and segments of recordings, the oldest of a grade first. What is protected never goes: a file
`NAME.keep` beside it, or a file `keep` in its folder. Works in small steps between two turns of the
recorder, so that rows and pictures go on while the line runs. Rows stay.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from appliance.archive import Archive, is_protected
from appliance.codes import Word
from appliance.config import Record

STEP = 20
"""Files that one step removes at most."""
_LOOK_NS = 10_000_000_000
_ROOM = 1.5
"""Deleting begins at so many times `min_free_gb`, where keeping would end."""
_GRADES = ("ok", "uncertain", "error", "ng")
_DAY_S = 86_400


class _Item(NamedTuple):
    grade: int
    made_s: float
    path: Path
    image: str
    """Path below the data directory; "" for a segment."""


class Retention:
    """On behalf of the recorder's loop.

    words: part ids → words, as far as they have rows. Times are wall-clock: age is for people.
    """

    def __init__(
        self,
        folder: Path,
        policy: Record,
        archive: Archive,
        words: Callable[[Sequence[int]], Mapping[int, Word]],
        clock: Callable[[], int],
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._policy, self._archive = folder, policy, archive
        self._words, self._clock, self._wall_s = words, clock, wall_s
        self._items: deque[_Item] = deque()
        self._looked_ns: int | None = None
        self.removed = 0

    def step(self) -> int:
        """Remove what must go now, a few files at most; how many went. Raises DeviceError."""
        removed = 0
        while removed < STEP and (item := self._next()) is not None:
            if self._remove(item):
                removed += 1
                if self._is_full():
                    self._archive.check_disk(is_now=True)
        self.removed += removed
        return removed

    def _is_full(self) -> bool:
        return self._archive.free_bytes < _ROOM * self._policy.min_free_gb * 1e9

    def _next(self) -> _Item | None:
        """The first that must go: the oldest of the lowest grade, or one that is too old."""
        self._look()
        if not self._items:
            return None
        if self._is_full():
            return self._items.popleft()
        if self._policy.max_age_days:
            horizon = self._wall_s() - self._policy.max_age_days * _DAY_S
            for item in self._items:
                if item.made_s < horizon:
                    self._items.remove(item)
                    return item
        return None

    def _look(self) -> None:
        """What there is, at most every ten seconds, and only where something may have to go.

        On a full disk again and again: what is OK and came since goes before an older NG. For age
        alone a list serves until it is empty: what came since is younger.
        """
        now_ns = self._clock()
        if not (self._is_full() or (self._policy.max_age_days and not self._items)):
            return
        if self._looked_ns is not None and now_ns - self._looked_ns < _LOOK_NS:
            return
        self._looked_ns = now_ns
        found = [*self._segments(), *self._images()]
        self._items = deque(sorted(item for item in found if not is_protected(item.path)))

    def _segments(self) -> list[_Item]:
        items: list[_Item] = []
        for path in (self._folder / "recordings").glob("*/*.mcap"):
            grade = path.name.split(".")[-2]
            known = _GRADES.index(grade) if grade in _GRADES else len(_GRADES)
            try:
                items.append(_Item(known, path.stat().st_mtime, path, ""))
            except OSError:
                continue  # the ring of the recordings took it
        return items

    def _images(self) -> list[_Item]:
        kept = self._archive.kept()
        words: dict[int, Word] = {}
        ids = list(kept.values())
        for first in range(0, len(ids), 500):
            words.update(self._words(ids[first : first + 500]))
        items: list[_Item] = []
        for name, part_id in kept.items():
            path = self._folder / name
            word = words.get(part_id)
            grade = len(_GRADES) if word is None else _GRADES.index(word.name.lower())
            try:
                items.append(_Item(grade, path.stat().st_mtime, path, name))
            except OSError:
                continue  # a person took it
        return items

    def _remove(self, item: _Item) -> bool:
        if is_protected(item.path):
            return False
        if item.image:
            return self._archive.remove(item.image)
        try:
            item.path.unlink(missing_ok=True)
        except OSError as err:
            self._archive.note = str(err)
            return False
        return True
