"""What goes when the disk fills or things grow old: OK before UNCERTAIN before ERROR before NG.

Images and segments of recordings, the oldest of a grade first. What is protected never goes: a file
`NAME.keep` beside it, or a file `keep` in its folder. Works in small steps between two turns of the
recorder, so that rows and pictures go on while the line runs. Rows stay.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from appliance.archive import Archive, is_protected
from appliance.codes import Word
from appliance.config_record import Record

STEP = 20
"""Files that one step removes at most."""
LOOK = 500
"""Files that one step looks at: tens of thousands at once would keep rows and pictures waiting."""
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
        self._looking: Iterator[_Item] | None = None
        self._found: list[_Item] = []
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
        if self._looking is None:
            if not (self._is_full() or (self._policy.max_age_days and not self._items)):
                return
            if self._looked_ns is not None and now_ns - self._looked_ns < _LOOK_NS:
                return
            self._looked_ns = now_ns
            self._looking, self._found = chain(self._segments(), self._images()), []
        try:
            some = list(islice(self._looking, LOOK))
        except BaseException:
            self._looking = None  # half a list would let an NG go before an OK
            raise
        self._found += [item for item in some if not is_protected(item.path)]
        if len(some) < LOOK:
            self._items, self._looking = deque(sorted(self._found)), None

    def _segments(self) -> Iterator[_Item]:
        for path in (self._folder / "recordings").glob("*/*.mcap"):
            grade = path.name.split(".")[-2]
            known = _GRADES.index(grade) if grade in _GRADES else len(_GRADES)
            try:
                yield _Item(known, path.stat().st_mtime, path, "")
            except OSError:
                continue  # the ring of the recordings took it

    def _images(self) -> Iterator[_Item]:
        kept = list(self._archive.kept().items())
        for first in range(0, len(kept), LOOK):
            block = kept[first : first + LOOK]
            words = self._words([part_id for _, part_id in block])
            for name, part_id in block:
                path, word = self._folder / name, words.get(part_id)
                grade = len(_GRADES) if word is None else _GRADES.index(word.name.lower())
                try:
                    yield _Item(grade, path.stat().st_mtime, path, name)
                except OSError:
                    continue  # a person took it

    def _remove(self, item: _Item) -> bool:
        if is_protected(item.path) or not item.path.exists():
            return False
        if item.image:
            return self._archive.remove(item.image)
        try:
            item.path.unlink(missing_ok=True)
        except OSError as err:
            self._archive.note = str(err)
            return False
        return True
