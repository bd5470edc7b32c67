"""A file of the journal that is written anew with all that still matters, to count from then on.

Its first record is written last, when everything behind it is on the disk: a file that was cut
short while it was written does not count. What is appended to the journal meanwhile goes into both.
"""

import contextlib
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from appliance.journal_records import END, Begun, Closed, Record, Reserved, framed
from appliance.messages import Verdict

_FOR_IDS = 16
"""One part in so many of a file takes reservations alone: of millions of ids."""


class Draft:
    """before, unstored, after: its records, in this order. Of verdicts that the recorder does not
    have yet the oldest are left out where all would fill more than half of the file."""

    def __init__(
        self,
        path: Path,
        size: int,
        begun: Begun,
        *,
        before: Sequence[Record],
        unstored: Sequence[Verdict],
        after: Sequence[Record],
    ) -> None:
        self._path, self._size, self.begun = path, size, begun
        self._before, self._unstored, self._after = before, unstored, after
        self.handle = -1
        self.offset = 0
        self.dropped = 0
        """Verdicts that were left out: a crash would now forget them."""
        self.is_broken = False
        """It lacks something: it must not count."""
        self._waiting: list[Record] | None = []
        """Appended to the journal and not written here yet; None = they are written at once."""

    @property
    def mirror(self) -> int:
        """Handle of the file, from when on records are written to it at once; else -1."""
        return self.handle if self._waiting is None else -1

    def write(self, lock: AbstractContextManager[object] | None = None) -> None:
        """All of it onto the disk. lock: held while `take` may be called. Raises OSError."""
        head = framed(self.begun, 0)
        self.handle = allocated(self._path, self._size)
        write(self.handle, bytes(len(head)), 0)
        os.fdatasync(self.handle)
        frames = self._frames(self._size // 2 - len(head))
        write(self.handle, frames + END, len(head))
        self.offset = len(head) + len(frames)
        os.fdatasync(self.handle)
        with lock or contextlib.nullcontext():
            waiting, self._waiting = self._waiting or [], None
            for record in waiting:
                self._append(record)
        if waiting:
            os.fdatasync(self.handle)
        if self.is_broken:
            raise OSError("a record could not be written")
        write(self.handle, head, 0)
        os.fsync(self.handle)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def take(self, record: Record) -> None:
        """A record that was appended to the journal meanwhile. With the lock held.

        Into a file that lacks something, too: until it is abandoned a start may find it, and ids
        that it does not know of would come again.
        """
        if self._waiting is not None:
            self._waiting.append(record)
            return
        try:
            self._append(record)
        except OSError:
            self.is_broken = True

    def abandon(self) -> None:
        """It shall not count, now or at a start; the journal goes on in the file that counts."""
        if self.handle >= 0:
            with contextlib.suppress(OSError):
                write(self.handle, bytes(len(framed(self.begun, 0))), 0)
                os.fdatasync(self.handle)

    def close(self) -> None:
        """After `abandon`, when nobody calls `take` any more."""
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1

    def _append(self, record: Record) -> None:
        frame = framed(record, self.begun.generation)
        if self.offset + len(frame) + len(END) > room(record, self._size):
            raise OSError("the journal is full")
        write(self.handle, frame + END, self.offset)
        self.offset += len(frame)

    def _frames(self, room: int) -> bytes:
        generation = self.begun.generation
        before = [framed(record, generation) for record in self._before]
        after = [framed(record, generation) for record in self._after]
        room -= sum(map(len, before)) + sum(map(len, after))
        newest: list[bytes] = []
        for verdict in reversed(self._unstored):
            frame = framed(Closed(verdict), generation)
            room -= len(frame)
            if room < 0:
                self.dropped = len(self._unstored) - len(newest)
                break
            newest.append(frame)
        return b"".join((*before, *reversed(newest), *after))


def room(record: Record, size: int) -> int:
    """How far a file of this size may be filled by this record. The last of it is for ids alone:
    details may be lost, and counted; an id must not repeat."""
    return size if isinstance(record, Reserved) else size - size // _FOR_IDS


def write(handle: int, data: bytes, offset: int) -> None:
    """All of it. Raises OSError, also where the disk took only a part."""
    written = os.pwrite(handle, data, offset)
    if written != len(data):
        raise OSError(f"expected to write {len(data)} bytes, wrote {written}")


def allocated(path: Path, size: int) -> int:
    """A handle of a file that has all its room on the disk. Raises OSError."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError:
        os.close(handle)
        raise
    return handle
