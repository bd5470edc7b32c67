"""What survives a crash of the decision process: epochs, reserved ids, opened and closed parts.

An append-only file of frames `length u32, crc32 u32, MessagePack`, preallocated so that a full
disk does not stop it. Two files take turns: when one is full the other is written anew with all
that still matters, and a higher generation makes it the one that counts. write() at once, fsync
within a second in a thread of its own; ids are reserved in fsynced blocks, so that none repeats
after a power cut.
"""

import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import msgspec

from appliance.errors import ConfigError
from appliance.messages import Verdict

BLOCK = 256
"""Ids per reservation."""
ID_WRAP = 65_535
_FRAME = struct.Struct("<II")
_SIZE = 16 << 20
_UNSTORED_MAX = 5_000


class Begun(msgspec.Struct, frozen=True, tag=True):
    """First record of a file, and of every start."""

    generation: int
    epoch: int
    next_id: int
    counters: dict[str, int]


class Reserved(msgspec.Struct, frozen=True, tag=True):
    """Ids below this number may have been given out."""

    next_id: int


class Opened(msgspec.Struct, frozen=True, tag=True):
    """A part was accepted."""

    part_id: int
    part_tag: int
    part_text: str
    lot: str
    opened_utc_ns: int
    deadline_ns: int
    recipe: str
    recipe_hash: str
    is_challenge: bool = False


class Closed(msgspec.Struct, frozen=True, tag=True):
    """A part got its verdict; kept whole until the recorder has it."""

    verdict: Verdict


class StoredIds(msgspec.Struct, frozen=True, tag=True):
    """The recorder has these."""

    part_ids: tuple[int, ...]


class Counters(msgspec.Struct, frozen=True, tag=True):
    """Lifetime counters as of now."""

    counters: dict[str, int]


Record: TypeAlias = Begun | Reserved | Opened | Closed | StoredIds | Counters
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)


def acq_id(part_id: int) -> int:
    """The 16-bit id that the PLC sees: 1 … 65535, then 1; never 0."""
    return (part_id - 1) % ID_WRAP + 1


class Journal:
    """Opens (and repairs) the journal, begins a new epoch; afterwards appends.

    After a failed write it goes on from memory: `lost` counts what a crash would now forget.
    Raises ConfigError where the folder cannot hold it at all.
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
        self._next_id = 1
        self._reserved_to = 1
        self._generation = 0
        self._dirty = threading.Event()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        old_epoch = 0
        try:
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            for record in self._newest():
                old_epoch = self._replay(record, old_epoch)
            self.epoch = old_epoch % 0xFFFF + 1
            # Whatever was reserved may have been given out: the next block starts after it.
            self._next_id = self._reserved_to
            self._reserved_to = self._next_id + BLOCK
            self._rewrite()
        except OSError as err:
            raise ConfigError(folder, "a writable folder for the journal", str(err)) from err
        self._thread = threading.Thread(target=self._sync_forever, name="journal", daemon=True)
        self._thread.start()

    # ---- appending -------------------------------------------------------------------------

    def take_id(self) -> int:
        """A part id that was never given before; its block is on disk."""
        if self._next_id >= self._reserved_to:
            self._reserve()
        part_id = self._next_id
        self._next_id += 1
        return part_id

    def reserve_ahead(self) -> None:
        """Between parts: extend the block before it is used up, so that no part waits for fsync."""
        if self._reserved_to - self._next_id < BLOCK // 2:
            self._reserve()

    def opened(self, record: Opened) -> None:
        """Append before TriggerAck."""
        self.open_parts[record.part_id] = record
        self._append(record)

    def closed(self, verdict: Verdict) -> None:
        """Append before the verdict is published."""
        self.open_parts.pop(verdict.part_id, None)
        self.unstored[verdict.part_id] = verdict
        while len(self.unstored) > _UNSTORED_MAX:
            self.unstored.pop(next(iter(self.unstored)))
            self.unstored_dropped += 1
        self._append(Closed(verdict))

    def stored(self, part_ids: tuple[int, ...]) -> None:
        """The recorder acknowledged these."""
        for part_id in part_ids:
            self.unstored.pop(part_id, None)
        self._append(StoredIds(part_ids))

    def count(self, counters: dict[str, int]) -> None:
        """Remember the lifetime counters."""
        if counters != self.counters:
            self.counters = dict(counters)
            self._append(Counters(self.counters))

    def close(self) -> None:
        """Sync and let go."""
        self._stopping.set()
        self._dirty.set()
        self._thread.join(timeout=2)
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def _reserve(self) -> None:
        self._reserved_to = max(self._reserved_to, self._next_id) + BLOCK
        self._append(Reserved(self._reserved_to))
        try:
            os.fdatasync(self._file)
        except OSError:
            self.lost += 1

    def _append(self, record: Record) -> None:
        data = _encoder.encode(record)
        frame = _FRAME.pack(len(data), zlib.crc32(data, self._generation)) + data
        try:
            if self._offset + len(frame) + _FRAME.size > self._size:
                self._rewrite()
                if not isinstance(record, Reserved | Counters | StoredIds):
                    return  # the new file already holds what this record says
            with self._lock:
                os.pwrite(self._file, frame, self._offset)
                self._offset += len(frame)
        except OSError:
            self.lost += 1
        self._dirty.set()

    def _sync_forever(self) -> None:
        while not self._stopping.is_set():
            self._dirty.wait()
            self._dirty.clear()
            with self._lock:
                handle = os.dup(self._file) if self._file >= 0 else -1
            if handle >= 0:
                try:
                    os.fdatasync(handle)
                except OSError:
                    self.lost += 1
                finally:
                    os.close(handle)
            self._stopping.wait(0.5)

    # ---- files -----------------------------------------------------------------------------

    def _rewrite(self) -> None:
        """Write the other file anew with all that matters, then let it count."""
        self._generation += 1
        path = self._paths[self._generation % 2]
        head: list[Record] = [
            Begun(self._generation, self.epoch, self._next_id, self.counters),
            Reserved(self._reserved_to),
            *self.open_parts.values(),
            *(Closed(verdict) for verdict in self.unstored.values()),
        ]
        frames: list[bytes] = []
        total = 0
        for record in head:
            data = _encoder.encode(record)
            if total + len(data) + _FRAME.size > self._size // 2:
                break
            salt = self._generation if frames else 0
            frames.append(_FRAME.pack(len(data), zlib.crc32(data, salt)) + data)
            total += len(frames[-1])
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            # Begun is written last: a file that was cut short while written does not count.
            os.posix_fallocate(handle, 0, self._size)
            os.pwrite(handle, bytes(len(frames[0])), 0)
            os.fdatasync(handle)
            os.pwrite(handle, b"".join(frames[1:]) + bytes(_FRAME.size), len(frames[0]))
            os.fdatasync(handle)
            os.pwrite(handle, frames[0], 0)
            os.fsync(handle)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError:
            os.close(handle)
            raise
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
            self._file = handle
            self._offset = total

    def _newest(self) -> list[Record]:
        best: list[Record] = []
        for path in self._paths:
            records = list(_read(path))
            first = records[0] if records else None
            if isinstance(first, Begun) and first.generation > self._generation:
                best, self._generation = records, first.generation
        return best

    def _replay(self, record: Record, epoch: int) -> int:
        match record:
            case Begun():
                self._next_id = self._reserved_to = record.next_id
                self.counters = dict(record.counters)
                return record.epoch
            case Reserved():
                self._reserved_to = max(self._reserved_to, record.next_id)
            case Opened():
                self.open_parts[record.part_id] = record
                self._reserved_to = max(self._reserved_to, record.part_id + 1)
            case Closed():
                self.open_parts.pop(record.verdict.part_id, None)
                self.unstored[record.verdict.part_id] = record.verdict
            case StoredIds():
                for part_id in record.part_ids:
                    self.unstored.pop(part_id, None)
            case Counters():
                self.counters = dict(record.counters)
        return epoch


def _read(path: Path) -> Iterator[Record]:
    """All whole records; the first damaged or empty frame is the end."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    offset = salt = 0
    while offset + _FRAME.size <= len(data):
        length, crc = _FRAME.unpack_from(data, offset)
        body = data[offset + _FRAME.size : offset + _FRAME.size + length]
        # Salted with the generation: behind the end lie whole frames of an older generation.
        if length == 0 or len(body) != length or zlib.crc32(body, salt) != crc:
            return
        try:
            record = _decoder.decode(body)
        except (msgspec.ValidationError, msgspec.DecodeError):
            return
        if isinstance(record, Begun):
            salt = record.generation
        yield record
        offset += _FRAME.size + length


def utc_ns() -> int:
    """A wall-clock label for people; never compared with a deadline."""
    return time.time_ns()
