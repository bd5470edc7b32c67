"""What survives a crash of the decision process: epochs, reserved ids, opened and closed parts.

An append-only file of frames `length u32, crc32 u32, MessagePack`, preallocated so that a full
disk does not stop it. Two files take turns: when one is nearly full the other is written anew with
all that still matters, and a higher generation makes it the one that counts (journal_draft.py).
write() at once; fsync within a second, and the turn of the files, in threads of their own, because
no disk says how long they take. Ids are reserved in fsynced blocks, so that none repeats after a
power cut. Eight zero bytes end a file: where anything else is met, records are missing, and ids
(and the epoch, where the head is damaged) skip further than those records can have reached.
"""

import fcntl
import os
import threading
import time
from pathlib import Path

from appliance.errors import AddressInUse
from appliance.journal_draft import Draft, allocated, room, write
from appliance.journal_records import (
    END,
    Begun,
    Closed,
    Counters,
    Opened,
    Record,
    Reserved,
    StoredIds,
    framed,
    read,
)
from appliance.messages import Verdict

BLOCK = 256
"""Ids per reservation."""
_AHEAD = 4 * BLOCK
"""Ids that are on the disk before they are given, or on their way: a sync may take many seconds."""
ID_WRAP = 65_535
_SKIPPED_IDS = 1 << 20
"""More parts than the records of one file can tell of."""
_TRY_AGAIN = 100
"""A full journal that cannot be written anew tries again after so many lost records."""
_SIZE = 16 << 20
UNSTORED_MAX = 5_000
"""Verdicts that wait for their row; beyond that the oldest are given up, counted."""
_UNCOUNTED_MAX = 4_000
"""Many more than a second holds, after which counters are written anyway."""


def acq_id(part_id: int) -> int:
    """The 16-bit id that the PLC sees: 1 … 65535, then 1; never 0."""
    return (part_id - 1) % ID_WRAP + 1


class Journal:
    """Opens (and repairs) the journal, begins a new epoch; afterwards appends.

    After a failed write it goes on from memory: `lost` counts what a crash would now forget.
    Not 0 after a start: the files could not be read or written, and the epoch may repeat.
    Raises AddressInUse where another live process writes it.
    """

    def __init__(self, folder: Path, size: int = _SIZE) -> None:
        self._size = size
        self._paths = (folder / "journal.0", folder / "journal.1")
        self._file = -1
        self._offset = 0
        self.lost = 0
        self.open_parts: dict[int, Opened] = {}
        """Accepted and without a verdict."""
        self.unstored: dict[int, Verdict] = {}
        """Closed and not known to be stored; oldest first, bounded."""
        self.unstored_dropped = 0
        self.counters: dict[str, int] = {}
        self.uncounted: list[Opened | Closed] = []
        """What happened after `counters` were last written."""
        self._is_head = False
        """While it is read: these records repeat what is counted already."""
        self.epoch = 0
        self._reserved_to = 1
        self._reserved_ahead = 0
        """A reservation that is written but not yet known to be on disk."""
        self._generation = 0
        self._is_stuck = False
        self._draft: Draft | None = None
        """The other file, while it is written anew."""
        self._turn: threading.Thread | None = None
        self._dirty = threading.Event()
        self._hurry = threading.Event()
        self._stopping = threading.Event()
        self._lock = threading.RLock()
        self._folder_lock = -1
        try:
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._folder_lock = _lock(folder / "journal.lock")
            self._restore()
        except OSError:
            self.lost += 1
        self.epoch = self.epoch % 0xFFFF + 1
        # Whatever was reserved may have been given out: the next block starts after it.
        self.first_id = self._next_id = self._reserved_to
        """Lower part ids belong to earlier starts."""
        self._reserved_to = self._next_id + BLOCK
        try:
            self._rewrite()
            # A disk that is full by then must not stop the next turn of the two files.
            handle = allocated(self._paths[(self._generation + 1) % 2], self._size)
            os.close(handle)
        except OSError:
            self.lost += 1
        self._thread = threading.Thread(target=self._sync_forever, name="journal", daemon=True)
        self._thread.start()

    def take_id(self) -> int:
        """A part id that was never given before; its block is on disk."""
        self.reserve_ahead()
        if self._next_id >= self._reserved_to:
            self._reserve()
        part_id = self._next_id
        self._next_id += 1
        return part_id

    def reserve_ahead(self) -> None:
        """Extend the block before it is used up, so that no part waits for fsync."""
        if not self._reserved_ahead and self._reserved_to - self._next_id < _AHEAD:
            ahead = self._reserved_to + BLOCK
            self._append(Reserved(ahead))
            self._reserved_ahead = ahead
            self._hurry.set()

    def make_room(self) -> None:
        """Let the files take turns before the one that counts is full. Waits for no disk."""
        if self._draft is None and self._offset > self._size * 3 // 4:
            draft = self._drafted()
            with self._lock:
                self._draft = draft
            self._turn = threading.Thread(
                target=self._take_turns, args=(draft,), name="journal turn", daemon=True
            )
            self._turn.start()

    def opened(self, record: Opened) -> None:
        """Append before TriggerAck."""
        self.open_parts[record.part_id] = record
        self._remember(record)
        self._append(record)

    def closed(self, verdict: Verdict) -> None:
        """Append before the verdict is published."""
        self.open_parts.pop(verdict.part_id, None)
        self.unstored[verdict.part_id] = verdict
        while len(self.unstored) > UNSTORED_MAX:
            self.unstored.pop(next(iter(self.unstored)))
            self.unstored_dropped += 1
        record = Closed(verdict)
        self._remember(record)
        self._append(record)

    def _remember(self, record: Opened | Closed) -> None:
        if len(self.uncounted) >= _UNCOUNTED_MAX:
            self.uncounted.clear()
        self.uncounted.append(record)

    def stored(self, part_ids: tuple[int, ...]) -> None:
        """The recorder acknowledged these."""
        for part_id in part_ids:
            self.unstored.pop(part_id, None)
        self._append(StoredIds(part_ids))

    def count(self, counters: dict[str, int]) -> None:
        """Remember the lifetime counters."""
        self.uncounted.clear()
        if counters != self.counters:
            self.counters = dict(counters)
            self._append(Counters(self.counters))

    def close(self) -> None:
        """Sync and let go."""
        self._stopping.set()
        self._dirty.set()
        self._hurry.set()
        for thread in (self._turn, self._thread):
            if thread is not None:
                thread.join(timeout=2)
        self.sync()
        with self._lock:
            ended = [self._file]
            if self._draft is None:
                ended.append(self._folder_lock)
            else:
                # The disk hangs: until this process has ended it may still write, over the files
                # of the next one, who therefore must not have them yet.
                self._draft.is_broken = True
            for handle in ended:
                if handle >= 0:
                    os.close(handle)
            self._file = self._folder_lock = -1

    def _reserve(self) -> None:
        self._reserved_to = max(self._reserved_to, self._reserved_ahead, self._next_id) + BLOCK
        self._reserved_ahead = 0
        self._append(Reserved(self._reserved_to))
        self.sync()

    def _append(self, record: Record) -> None:
        with self._lock:
            if self._draft is not None:
                self._draft.take(record)
            try:
                self._write_down(record)
            except OSError:
                self.lost += 1
        self._dirty.set()

    def _write_down(self, record: Record) -> None:
        frame = framed(record, self._generation)
        if self._offset + len(frame) + len(END) > room(record, self._size):
            if self._draft is not None or (self._is_stuck and self.lost % _TRY_AGAIN):
                raise OSError("the journal is full")
            self._is_stuck = True
            self._rewrite()
            self._is_stuck = False
            if not isinstance(record, Reserved | Counters | StoredIds):
                return  # the new file already holds what this record says
            frame = framed(record, self._generation)  # of the new file
        write(self._file, frame + END, self._offset)
        self._offset += len(frame)

    def _sync_forever(self) -> None:
        while not self._stopping.is_set():
            self._dirty.wait()
            self._dirty.clear()
            self.sync()
            self._hurry.wait(0.5)
            self._hurry.clear()

    def sync(self) -> None:
        """What was appended is on the disk, or `lost` counts it. In any thread; waits."""
        ahead = self._reserved_ahead
        handles: list[int] = []
        try:
            with self._lock:
                # What counts next is synced, too: a reservation must be wherever a start looks.
                live = [self._file, self._draft.mirror if self._draft is not None else -1]
                for handle in (one for one in live if one >= 0):
                    handles.append(os.dup(handle))
            for handle in handles:
                os.fdatasync(handle)
        except OSError:
            self.lost += 1
        else:
            if handles and ahead and ahead == self._reserved_ahead:
                self._reserved_to, self._reserved_ahead = ahead, 0
        finally:
            for handle in handles:
                os.close(handle)

    def _rewrite(self) -> None:
        """Write the other file anew with all that matters, then let it count."""
        draft = self._drafted()
        try:
            draft.write()
        except OSError:
            draft.abandon()
            draft.close()
            raise
        self._use(draft)

    def _take_turns(self, draft: Draft) -> None:
        """The same beside the loop; what is appended meanwhile goes into both files."""
        is_written = False
        try:
            draft.write(self._lock)
            is_written = True
        except OSError:
            pass  # the file that counts goes on; the next look tries again
        finally:
            with self._lock:
                is_used = is_written and not draft.is_broken
                if is_used:
                    self._use(draft)
                    self._draft = None
            if not is_used:
                draft.abandon()
                with self._lock:
                    draft.close()
                    self._draft = None
                    self.lost += 1

    def _drafted(self) -> Draft:
        """All that matters, for the other file."""
        generation = self._generation + 1
        since = {r.verdict.part_id if isinstance(r, Closed) else r.part_id for r in self.uncounted}
        return Draft(
            self._paths[generation % 2],
            self._size,
            Begun(generation, self.epoch, self._next_id, dict(self.counters)),
            before=[
                Reserved(max(self._reserved_to, self._reserved_ahead)),
                *(opened for part_id, opened in self.open_parts.items() if part_id not in since),
            ],
            unstored=[v for part_id, v in self.unstored.items() if part_id not in since],
            after=[
                Counters(dict(self.counters)),
                *self.uncounted,
                StoredIds(tuple(p for p in since if p not in self.unstored)),
            ],
        )

    def _use(self, draft: Draft) -> None:
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
            self._file, self._offset = draft.handle, draft.offset
            self._generation = draft.begun.generation
            self.unstored_dropped += draft.dropped

    def _restore(self) -> None:
        found = [read(path) for path in self._paths]
        newest = max(found, key=lambda file: file.generation)
        self._generation = newest.generation
        for record in newest.records:
            self._replay(record)
        is_headless = any(file.is_cut and not file.records for file in found)
        if is_headless or newest.is_cut:
            self._reserved_to += _SKIPPED_IDS
        if is_headless:
            # It may have been the newer of the two, with an epoch of its own.
            self.epoch += 1
            self.lost += not newest.records

    def _replay(self, record: Record) -> None:
        match record:
            case Begun():
                self._reserved_to = record.next_id
                self._is_head = True
                self.counters = dict(record.counters)
                self.epoch = record.epoch
            case Reserved():
                self._reserved_to = max(self._reserved_to, record.next_id)
            case Opened():
                self.open_parts[record.part_id] = record
                self.uncounted += [] if self._is_head else [record]
                self._reserved_to = max(self._reserved_to, record.part_id + 1)
            case Closed():
                self.open_parts.pop(record.verdict.part_id, None)
                self.unstored[record.verdict.part_id] = record.verdict
                self.uncounted += [] if self._is_head else [record]
            case StoredIds():
                for part_id in record.part_ids:
                    self.unstored.pop(part_id, None)
            case Counters():
                self.counters = dict(record.counters)
                self._is_head = False
                self.uncounted.clear()


def _lock(path: Path) -> int:
    """Held until closed. Raises AddressInUse where another process holds it, OSError."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as err:
        os.close(handle)
        # Perhaps ours, which a disk that hangs keeps from ending: tried again, not left down.
        raise AddressInUse(path, "a journal nobody writes", "another live process") from err
    return handle


def utc_ns() -> int:
    """A wall-clock label for people; never compared with a deadline."""
    return time.time_ns()
