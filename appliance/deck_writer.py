"""The thread that writes a recording: jobs, in their order, into segments of bounded size.

Enters: messages and pixels that `deck.py` chose. Leaves: segments of recording.py. A disk that
takes nothing costs what was to be written, counted, and is tried again; nobody waits for it.
"""

import os
import queue
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy.typing as npt

from appliance.config import Config, is_simulated
from appliance.recording import Entry, SegmentWriter, unfinished
from appliance.recording_repair import repair, set_aside

SEGMENT_BYTES = 64_000_000
SEGMENT_NS = 30_000_000_000
QUEUE_BYTES = 256 << 20
QUEUE_ENTRIES = 50_000
_FLUSH_S = 0.1
_RETRY_NS = 1_000_000_000
GRADES = ("ok", "uncertain", "error", "ng")
"""The worst part of a segment, in its file name: retention deletes from the left."""


class Job(NamedTuple):
    """One message on its way to the disk."""

    entry: Entry
    pixels: npt.NDArray[Any] | None = None
    key: str = ""
    note: Mapping[str, str] | None = None
    grade: int = 0
    keep: bool = False


class _Finished(NamedTuple):
    path: Path
    ended_ns: int
    is_kept: bool


class Writer:
    """The thread: jobs in their order into segments of bounded size and length."""

    def __init__(self, config: Config, schemas: Mapping[str, type[msgspec.Struct]]) -> None:
        self._config, self._schemas = config, schemas
        self._folder = config.recordings_dir
        self._about = about_recording(config)
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._held_bytes = 0
        self._lock = threading.Lock()
        self._segment: SegmentWriter | None = None
        self._begun_ns = 0
        self._grade = 0
        self._keeps = False
        self._retry_ns = 0
        self._notes: dict[str, Mapping[str, str]] = {}
        self._finished: deque[_Finished] = deque()
        rings = [camera for camera in config.camera if camera.record == "ring"]
        others = [c for c in config.camera if c.record not in ("ring", "none")]
        minutes = max((camera.record_minutes for camera in rings), default=0.0)
        self._ring_ns = 0 if others else int(minutes * 60e9)
        self.note = ""
        self._standing_note = ""
        """What a new segment does not mend."""
        self._is_dead = False
        self.lost = 0
        """Messages and pictures that could not be written; segments that were set aside."""
        self.segments = 0
        self._thread = threading.Thread(target=self._run, name="deck", daemon=True)
        self._thread.start()

    def put(self, job: Job) -> bool:
        """Queue it, or say that there is no room, or nobody to write it."""
        nbytes = len(job.entry.data) + (job.pixels.nbytes if job.pixels is not None else 0)
        with self._lock:
            is_full = self._is_dead or self._queue.qsize() >= QUEUE_ENTRIES
            if is_full or (job.pixels is not None and self._held_bytes + nbytes > QUEUE_BYTES):
                self.lost += job.pixels is None
                return False
            self._held_bytes += nbytes
            self._queue.put(job)
        return True

    def close(self, timeout_s: float) -> None:
        """Write what waits, finish the segment."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as err:  # a bug: told by the threads' own hook, but never in silence
            with self._lock:
                self._is_dead = True
                self.lost += 1 + self._queue.qsize()
            self.note = f"recording ended until the next start: {type(err).__name__}: {err}"
            if self._segment is not None:
                self._segment.abandon()
            raise

    def _work(self) -> None:
        self._repair()
        while True:
            try:
                job = self._queue.get(timeout=_FLUSH_S)
            except queue.Empty:
                self._guarded(self._flush)
                continue
            if job is None:
                self._guarded(self._finish)
                return
            nbytes = len(job.entry.data) + (job.pixels.nbytes if job.pixels is not None else 0)
            if not self._guarded(lambda job=job, nbytes=nbytes: self._write(job, nbytes)):
                self.lost += 1
            with self._lock:
                self._held_bytes -= nbytes

    def _guarded(self, action: Callable[[], None]) -> bool:
        """A disk that takes nothing costs what was to be written, and is tried again."""
        if time.monotonic_ns() < self._retry_ns:
            return False
        try:
            action()
        except OSError as err:
            self.note = f"recording: {err}"
            self._retry_ns = time.monotonic_ns() + _RETRY_NS
            if self._segment is not None:
                self._segment.abandon()
                self._segment = None
            return False
        return True

    def _repair(self) -> None:
        for path in unfinished(self._folder):
            try:
                self._repair_or_keep(path)
            except OSError as err:  # the disk: the next start tries again
                self.note = f"recording: {path}: {err}"

    def _repair_or_keep(self, path: Path) -> None:
        try:
            repaired = repair(path)
        except OSError:
            raise
        except Exception as err:  # noqa: BLE001 - whatever a damaged file does to its reader
            self.lost += 1
            kept, cause = set_aside(path), f"{type(err).__name__}: {err}"
            self.note = self._standing_note = f"recording: {kept}: cannot be repaired: {cause}"
        else:
            if repaired.damaged:
                self.lost += repaired.damaged
                told = f"{repaired.damaged} damaged places, {repaired.messages} messages saved"
                self.note = self._standing_note = f"recording: {repaired.path}: {told}"

    def _write(self, job: Job, nbytes: int) -> None:
        segment = self._segment
        if segment is not None and (
            segment.bytes + nbytes > SEGMENT_BYTES
            or time.monotonic_ns() - self._begun_ns > SEGMENT_NS
        ):
            self._finish()
            segment = None
        if job.note is not None:
            self._notes[job.entry.topic] = job.note
        if segment is None:
            segment = self._begin()
        elif job.note is not None:
            segment.note(job.entry.topic, job.note)
        if job.note is not None:
            return
        if job.pixels is not None:
            segment.add_image(job.entry, job.pixels, job.key)
        else:
            segment.add(job.entry)
        self._grade = max(self._grade, job.grade)
        if job.keep:
            self._keep()
        if self._queue.empty():
            segment.flush()

    def _begin(self) -> SegmentWriter:
        number = self.segments + 1
        name = f"{self._about['begun']}/{number:06d}.mcap"
        self._segment = SegmentWriter(
            self._folder / name,
            self._about,
            self._schemas,
            self._config.record.compression == "zstd",
        )
        for topic, facts in self._notes.items():  # each segment can be read by itself
            self._segment.note(topic, facts)
        self.segments, self._begun_ns = number, time.monotonic_ns()
        self._grade, self._keeps, self.note = 0, False, self._standing_note
        return self._segment

    def _flush(self) -> None:
        if self._segment is not None:
            self._segment.flush()
            if time.monotonic_ns() - self._begun_ns > SEGMENT_NS:
                self._finish()

    def _finish(self) -> None:
        segment = self._segment
        if segment is None:
            return
        self._segment = None
        path = segment.finish(f"{segment.path.stem}.{GRADES[self._grade]}.mcap")
        self._finished.append(_Finished(path, time.monotonic_ns(), self._keeps))
        self._turn_ring()

    def _keep(self) -> None:
        """Something went wrong: what the ring holds now, and this segment, stay."""
        self._keeps = True
        self._finished = deque(finished._replace(is_kept=True) for finished in self._finished)

    def _turn_ring(self) -> None:
        if not self._ring_ns:
            self._finished.clear()
            return
        horizon = time.monotonic_ns() - self._ring_ns
        while self._finished and self._finished[0].ended_ns < horizon:
            finished = self._finished.popleft()
            if not finished.is_kept:
                finished.path.unlink(missing_ok=True)


def about_recording(config: Config) -> dict[str, str]:
    """What the readers of a recording must know."""
    begun = datetime.now(timezone.utc)
    policies = {
        camera.name: {"record": camera.record, "record_every": camera.record_every}
        for camera in config.camera
    }
    return {
        "begun": f"{begun:%Y%m%dT%H%M%S}.{begun.microsecond // 1000:03d}Z-{os.getpid()}",
        "box": socket.gethostname(),
        "trigger": config.trigger,
        "word_order": config.plc.word_order,
        "deadline_ms": str(config.deadline_ms),
        "engine": config.engine.kind,
        "precision": config.engine.precision,
        "simulated": "true" if is_simulated(config) else "false",
        "policies": msgspec.json.encode(policies).decode(),
        "maps": "true" if config.record.maps else "false",
    }
