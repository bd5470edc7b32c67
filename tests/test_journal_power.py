"""Power that fails at any moment of the journal: no id and no epoch comes again.

Of what was written since the last sync of a file any sector may be on the disk or not, in any
order; what was synced is there. The line goes on while the files take turns, however long the disk
takes for that.
"""

import os
import random
import shutil
from pathlib import Path

import pytest

from appliance.journal import Journal
from tests.journals import closed, folder, opened

__all__ = ["folder"]
SIZE = 1 << 15
_SECTOR = 512
_TURNS = 60


class Power:
    """A journal whose writes and syncs are watched, on a disk that forgets."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
        self._random, self._folder, self._monkeypatch = random.Random(seed), folder, monkeypatch
        self.journal = Journal(folder, SIZE)
        self.journal._stopping.set()  # here one thread does it all, so that a seed says it all
        self.journal._dirty.set()
        self.journal._hurry.set()
        self.journal._thread.join()
        self._paths = {path.stat().st_ino: path for path in self.journal._paths}
        self._on_disk = {path: path.read_bytes() for path in self.journal._paths}
        self._is_turning = False
        self._overrun = 0
        self._open: list[int] = []
        self._closed: list[int] = []
        self.newest = 0
        self.failures = 0
        self._watch()

    def _watch(self) -> None:
        write = os.pwrite

        def pwrite(handle: int, data: bytes, offset: int) -> int:
            written = write(handle, data, offset)
            if self._random.random() < 0.01:
                self._fail()
            return written

        self._monkeypatch.setattr(os, "pwrite", pwrite)
        for call in ("fdatasync", "fsync"):
            self._monkeypatch.setattr(os, call, self._synced)

    def _synced(self, handle: int) -> None:
        if self._is_turning:
            self._is_turning = False  # a sync that the line itself waits for lets nothing happen
            for _ in range(self._meanwhile()):
                self.step()
            self._is_turning = True
        if self._random.random() < 0.05:
            self._fail()
        path = self._paths.get(os.fstat(handle).st_ino)
        if path is not None:
            self._on_disk[path] = path.read_bytes()

    def _meanwhile(self) -> int:
        """How much happens: now and then more than a file holds, but once for each, or its room for
        ids comes to an end, too."""
        if self._random.random() < 0.3 and self._overrun != self.journal._generation:
            self._overrun = self.journal._generation
            return 600
        return self._random.randrange(20)

    def _fail(self) -> None:
        """The power fails here, and comes back: elsewhere, so that this line can go on."""
        self.failures += 1
        copy = self._folder.parent / "after"
        copy.mkdir()
        share = self._random.choice((0.0, 0.5, 1.0))
        for path, synced in self._on_disk.items():
            found, written = bytearray(synced), path.read_bytes()
            for at in range(0, SIZE, _SECTOR):
                if self._random.random() < share:
                    found[at : at + _SECTOR] = written[at : at + _SECTOR]
            (copy / path.name).write_bytes(found)
        with self._monkeypatch.context() as undisturbed:
            undisturbed.setattr(os, "pwrite", _PWRITE)
            undisturbed.setattr(os, "fdatasync", _FDATASYNC)
            undisturbed.setattr(os, "fsync", _FDATASYNC)
            again = Journal(copy, SIZE)
            again.close()
        shutil.rmtree(copy)
        assert again.first_id > self.newest
        assert again.epoch > self.journal.epoch

    def step(self) -> None:
        """One of the things that a line does."""
        journal, chance = self.journal, self._random.random()
        if chance < 0.45 and len(self._open) < 15:
            self.newest = journal.take_id()
            journal.opened(opened(self.newest))
            self._open.append(self.newest)
        elif chance < 0.75 and self._open:
            self._closed.append(self._open.pop(0))
            journal.closed(closed(self._closed[-1]))
        elif chance < 0.9:
            journal.stored(tuple(self._closed))
            self._closed.clear()
        elif chance < 0.95:
            journal.count({"ok": self.newest, "of a name" * self._random.randrange(9): 1})
        else:
            journal.reserve_ahead()
            # Most ids of a block are never seen here, so that blocks come to their end.
            journal._next_id = min(journal._next_id + 80, journal._reserved_to)
            journal.sync()

    def turn(self) -> None:
        """Until the files have taken turns."""
        while self.journal._offset <= SIZE * 3 // 4:
            self.step()
        draft = self.journal._draft = self.journal._drafted()
        self._is_turning = True
        self.journal._take_turns(draft)
        self._is_turning = False


_PWRITE, _FDATASYNC = os.pwrite, os.fdatasync


@pytest.mark.parametrize("seed", range(8))
def test_power_fails(folder: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    power = Power(folder, monkeypatch, seed)
    for _ in range(_TURNS):
        power.turn()
    assert power.failures > 50
    monkeypatch.undo()
    power.journal.close()
