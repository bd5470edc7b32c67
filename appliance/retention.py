"""What goes when the disk fills or things grow old: OK before UNCERTAIN before ERROR before NG.

Images and segments of recordings, the oldest of a grade first. What is protected never goes: a file
`NAME.keep` beside it, or a file `keep` in its folder. Works in small steps between two turns of the
recorder, so that rows and pictures go on while the line runs. Rows stay.

A clock that leaps ahead makes everything old. Where nobody keeps it, nothing goes by age that was
made before a hole of a week, until the clock has gone on for a week behind that hole: time for a
person to see the note. Free space needs no clock, and goes on.

A clock that was behind and is set right makes what it dated look old: of what this life of the
recorder made, the date moves along by as much.
"""

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from appliance.archive import Archive, is_protected
from appliance.clock import is_clock_synced
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
_HOLE_S = 7 * _DAY_S
_LEAP_S = 3600
_FRESH_NS = 3_600_000_000_000
"""How long a list of files is evidence of what the clock did."""


class _Item(NamedTuple):
    grade: int
    made_s: float
    path: Path
    image: str
    """Path below the data directory; "" for a segment."""


class _Behind(NamedTuple):
    """What this life dated by a clock that was then set ahead."""

    began_s: float
    ended_s: float
    by_s: float


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
        is_synced: Callable[[], bool] = is_clock_synced,
    ) -> None:
        self._folder, self._policy, self._archive = folder, policy, archive
        self._words, self._clock, self._wall_s, self._is_synced = words, clock, wall_s, is_synced
        self._items: deque[_Item] = deque()
        self._oldest_s = -math.inf
        """None of the list was made before: a million files are not gone through at every turn."""
        self._looked_ns: int | None = None
        self._looking: Iterator[_Item] | None = None
        self._found: list[_Item] = []
        self._offset_s = 0.0
        """Wall clock less monotonic clock when the list was made."""
        self._began_s, self._ahead_s = wall_s(), self._ahead()
        """When this life began, by the clock as it is now; wall clock less monotonic clock."""
        self._behind: list[_Behind] = []
        self._is_doubted = False
        """There is a hole of a week in the list, and less than a week behind it."""
        self.removed = 0
        self.waiting = 0
        """Files that are too old by a clock that is in doubt."""

    def step(self) -> int:
        """Remove what must go now, a few files at most; how many went. Raises DeviceError."""
        self._follow_clock()
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
        return self._too_old() if self._policy.max_age_days else None

    def _too_old(self) -> _Item | None:
        horizon = self._wall_s() - self._policy.max_age_days * _DAY_S
        self.waiting = 0
        if horizon <= self._oldest_s:
            return None
        old = next((item for item in self._items if item.made_s < horizon), None)
        if old is None:
            self._oldest_s = min(item.made_s for item in self._items)
            return None
        if not self._is_synced():
            has_leapt = abs(self._ahead() - self._offset_s) > _LEAP_S
            if has_leapt or self._clock() - (self._looked_ns or 0) > _FRESH_NS:
                self._begin_look()
                return None
            if self._looking is not None:
                return None
            if self._is_doubted:
                self.waiting = sum(item.made_s < horizon for item in self._items)
                return None
        self._items.remove(old)
        for behind in self._behind:
            if behind.began_s <= old.made_s <= behind.ended_s:
                self._move_date(old, old.made_s + behind.by_s)
                return None
        return old

    def _ahead(self) -> float:
        return self._wall_s() - self._clock() / 1e9

    def _follow_clock(self) -> None:
        leap_s = self._ahead() - self._ahead_s
        if abs(leap_s) <= _LEAP_S:
            return
        if leap_s > 0:
            ended_s = self._clock() / 1e9 + self._ahead_s
            self._behind.append(_Behind(self._began_s, ended_s, leap_s))
            if self._policy.max_age_days:
                self._begin_look()  # another life would not know which dates are wrong
        else:  # it was ahead, not behind before
            less = [behind._replace(by_s=behind.by_s + leap_s) for behind in self._behind]
            self._behind = [behind for behind in less if behind.by_s > _LEAP_S]
        self._began_s += leap_s
        self._ahead_s += leap_s

    def _move_date(self, item: _Item, made_s: float) -> None:
        try:
            os.utime(item.path, (made_s, made_s))
        except OSError as err:  # it goes with the next list, if it is there still
            self._archive.note = str(err)
        else:
            self._items.append(item._replace(made_s=made_s))

    @property
    def note(self) -> str:
        """Why nothing goes by age; "" while all is well."""
        if not self.waiting:
            return ""
        return (
            f"{self.waiting} files are older than max_age_days, but nobody keeps the clock, and "
            "it leapt ahead or the line stood still for more than a week: they stay for a week, or "
            "until it is synchronised"
        )

    def _look(self) -> None:
        """What there is, at most every ten seconds, and only where something may have to go.

        On a full disk again and again: what is OK and came since goes before an older NG. For age
        alone a list serves until it is empty: what came since is younger.
        """
        if not self._archive.is_stocked:
            return  # half a list would let an NG go before an OK
        now_ns = self._clock()
        if self._looking is None:
            if not (self._is_full() or (self._policy.max_age_days and not self._items)):
                return
            if self._looked_ns is not None and now_ns - self._looked_ns < _LOOK_NS:
                return
            self._begin_look()
        assert self._looking is not None
        try:
            some = list(islice(self._looking, LOOK))
        except BaseException:
            self._looking = None  # half a list would let an NG go before an OK
            raise
        self._found += [item for item in some if not is_protected(item.path)]
        if len(some) < LOOK:
            self._items, self._looking = deque(sorted(self._found)), None
            self._oldest_s = -math.inf
            self._is_doubted = has_hole([item.made_s for item in self._found], self._wall_s())

    def _begin_look(self) -> None:
        self._looked_ns = self._clock()
        self._offset_s = self._ahead()
        self._looking, self._found = chain(self._segments(), self._images()), []

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


def has_hole(made_s: Sequence[float], now_s: float) -> bool:
    """Nothing was made for a week, and that ended less than a week ago: the line stood still, or
    its clock leapt ahead."""
    edge_s = now_s - _HOLE_S
    before = [made for made in made_s if made <= edge_s]
    after_s = min((made for made in made_s if made > edge_s), default=now_s)
    return bool(before) and after_s - max(before) > _HOLE_S
