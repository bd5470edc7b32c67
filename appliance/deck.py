"""What record does with the tape: which pictures are kept, and the segments they go into.

Enters: the tape in its order, pixels and maps from the rings, words and health for people. Leaves:
segments of recording.py. Pixels are copied out of the ring at once, because their slot will be
given away; writing happens in one thread with a bounded queue. Whatever could not be kept is
counted, with the cause, and told in the recording itself. Never waits for the disk.
"""

import os
import queue
import socket
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy.typing as npt

from appliance.codes import Reason, Word
from appliance.config import Camera, Config, is_simulated
from appliance.errors import ArtefactError, ConfigError, PartError
from appliance.frames import RingReader
from appliance.messages import (
    FrameReady,
    Health,
    PartOpened,
    PixelRef,
    Scored,
    Taped,
    Verdict,
    Words,
)
from appliance.recipe import load_recipe
from appliance.recording import (
    CAMERA,
    MAP,
    TAPE,
    Entry,
    SegmentWriter,
    repair,
    set_aside,
    unfinished,
)
from appliance.wire import decode

SEGMENT_BYTES = 64_000_000
SEGMENT_NS = 30_000_000_000
QUEUE_BYTES = 256 << 20
QUEUE_ENTRIES = 50_000
_FLUSH_S = 0.1
_RETRY_NS = 1_000_000_000
_PEOPLE_NS = 1_000_000_000
_WAITING = 4096
"""Frames whose verdict decides whether they are kept."""
_GRADES = ("ok", "uncertain", "error", "ng")
"""The worst part of a segment, in its file name: retention deletes from the left."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict for people and viewers; replay reads the whole one from the tape."""

    part_id: int
    word: str
    reason: str
    detail: str
    margin: float | None
    t1: float | None
    t2: float | None
    latency_ms: float
    camera: str
    frame_id: int
    source: str
    recipe: str
    regions: tuple[str, ...] = ()


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    """Something that the policy wanted and the recording does not hold."""

    camera: str
    frame_id: int
    what: str
    cause: str


SCHEMAS: Mapping[str, type[msgspec.Struct]] = {
    "/verdict": Seen,
    "/words": Words,
    "/health": Health,
    "/lost": Lost,
}


class _Job(NamedTuple):
    """One message on its way to the disk."""

    entry: Entry
    pixels: npt.NDArray[Any] | None = None
    key: str = ""
    note: Mapping[str, str] | None = None
    grade: int = 0
    keep: bool = False


class _Waiting(NamedTuple):
    """A frame whose verdict decides."""

    frame: Entry
    pixels: PixelRef
    scored: Entry | None = None
    map: PixelRef | None = None


class Deck:
    """One recording per life of the recorder, on behalf of one loop.

    is_disk_low: asked before pictures are taken. Call `close` at the end.
    """

    def __init__(
        self,
        config: Config,
        rings: RingReader,
        clock: Callable[[], int],
        is_disk_low: Callable[[], bool] = lambda: False,
    ) -> None:
        self._config, self._rings, self._clock = config, rings, clock
        self._is_disk_low = is_disk_low
        self._policies = {camera.name: camera for camera in config.camera}
        self._seen_frames = dict.fromkeys(self._policies, 0)
        self._last_log_ns = 0
        self._waiting: OrderedDict[tuple[str, int], _Waiting] = OrderedDict()
        self._kept: OrderedDict[tuple[str, int], Entry] = OrderedDict()
        self._recipes: set[str] = set()
        self._sequence: int | None = None
        self._people_ns: dict[str, int] = {}
        self._status: tuple[int, ...] = ()
        self._is_faulty = False
        self.dropped_at_ns: int | None = None
        self._told_lost = 0
        self.counters: dict[str, int] = dict.fromkeys(
            ("taped", "tape_gaps", "recorded", "record_dropped"), 0
        )
        self._writer = _Writer(config) if config.is_taped else None

    @property
    def note(self) -> str:
        """The last failure in words; "" while all is well."""
        return self._writer.note if self._writer else ""

    def heard(self, message: object) -> None:
        """The tape, and what else the recorder's sockets bring; others are not looked at."""
        if self._writer is None:
            return
        match message:
            case Taped():
                self._taped(message)
            case Words():
                self._words(message)
            case Health():
                self._people("/health", message.process, message)
            case _:
                pass

    def figures(self) -> dict[str, int]:
        """Counters for everyone; what was lost since the last call sets `dropped_at_ns`."""
        if self._writer is None:
            return {}
        lost = self.counters["record_dropped"] + self.counters["tape_gaps"] + self._writer.lost
        if lost != self._told_lost:
            self._told_lost, self.dropped_at_ns = lost, self._clock()
        return {
            **self.counters,
            "record_dropped": self.counters["record_dropped"] + self._writer.lost,
            "segments": self._writer.segments,
        }

    def close(self, timeout_s: float = 1.5) -> None:
        """Write what waits and finish the segment, within `timeout_s`."""
        if self._writer is not None:
            self._writer.close(timeout_s)

    # ---- the tape --------------------------------------------------------------------------

    def _taped(self, taped: Taped) -> None:
        if self._sequence is not None and taped.sequence > self._sequence + 1:
            self.counters["tape_gaps"] += taped.sequence - self._sequence - 1
        self._sequence = taped.sequence
        self.counters["taped"] += 1
        entry = self._entry(TAPE + taped.topic, taped.at_ns, taped.sequence, taped.data)
        message = decode(taped.data) if taped.topic != "plc" else None
        grade, keep = 0, False
        match message:
            case PartOpened():
                self._remember_recipe(message)
            case Verdict():
                self._decide(message)
                grade = _grade(message.word)
                keep = message.word is Word.ERROR and message.reason is not Reason.RESTART
            case _:
                pass
        self._put(_Job(entry, grade=grade, keep=keep))
        match message:
            case FrameReady():
                self._frame(entry, message)
            case Scored():
                self._map(entry, message)
            case Verdict():
                self._show(entry, message)
            case _:
                pass

    def _frame(self, entry: Entry, frame: FrameReady) -> None:
        camera = self._policies.get(frame.camera)
        if camera is None:
            return
        self._seen_frames[frame.camera] += 1
        if camera.record == "ng":
            self._waiting[frame.camera, frame.frame_id] = _Waiting(entry, frame.pixels)
            if len(self._waiting) > _WAITING:
                self._waiting.popitem(last=False)
        elif _wants(camera, self._seen_frames[frame.camera]):
            self._keep_frame(entry, frame.pixels, frame.camera, frame.frame_id)

    def _map(self, entry: Entry, scored: Scored) -> None:
        key = scored.camera, scored.frame_id
        if not self._config.record.maps:
            return
        if (waiting := self._waiting.get(key)) is not None:
            self._waiting[key] = waiting._replace(scored=entry, map=scored.map)
        elif self._kept.pop(key, None) is not None:
            self._keep_map(entry, scored.map, *key)

    def _decide(self, verdict: Verdict) -> None:
        """The policy "ng": its pictures wait in the ring for the verdict."""
        key = verdict.camera, verdict.frame_id
        waiting = self._waiting.pop(key, None)
        if waiting is None or verdict.word is Word.OK:
            return
        self._keep_frame(waiting.frame, waiting.pixels, *key)
        if waiting.scored is not None and waiting.map is not None:
            self._kept.pop(key, None)
            self._keep_map(waiting.scored, waiting.map, *key)

    def _keep_frame(self, entry: Entry, ref: PixelRef, camera: str, frame_id: int) -> None:
        if self._copy(entry._replace(topic=CAMERA + camera), ref, camera, frame_id, "frame"):
            self._kept[camera, frame_id] = entry
            if len(self._kept) > _WAITING:
                self._kept.popitem(last=False)

    def _keep_map(self, entry: Entry, ref: PixelRef, camera: str, frame_id: int) -> None:
        self._copy(entry._replace(topic=MAP + camera), ref, camera, frame_id, "map")

    def _copy(self, entry: Entry, ref: PixelRef, camera: str, frame_id: int, what: str) -> bool:
        """Out of the ring now, to the disk soon; or counted and told."""
        cause = ""
        if self._is_disk_low():
            cause = "the disk is almost full"
        elif not ref.ring:
            cause = "the pixels did not come over this box's ring"
        else:
            try:
                pixels = self._rings.copy(ref)
            except (PartError, ConfigError) as err:
                cause = str(err)
            else:
                if what == "map":  # (K, h, w): the first detector's map is the one that is shown
                    pixels = pixels.reshape(-1, pixels.shape[-1])
                if self._put(_Job(entry, pixels, f"{camera}/{frame_id}")):
                    self.counters["recorded"] += 1
                    return True
                cause = "pictures come faster than the disk takes them"
        self.counters["record_dropped"] += 1
        lost = Lost(camera=camera, frame_id=frame_id, what=what, cause=cause)
        self._put(_Job(self._entry("/lost", entry.at_ns, 0, msgspec.json.encode(lost))))
        return False

    def _remember_recipe(self, opened: PartOpened) -> None:
        """The recipe's own text, once per recording: replay needs it, versions never change."""
        if opened.recipe in self._recipes:
            return
        self._recipes.add(opened.recipe)
        try:
            loaded = load_recipe(self._config, opened.recipe)
            text = (self._config.recipes_dir / loaded.path).read_text(encoding="utf-8")
        except (ArtefactError, OSError):
            return  # a person moved it meanwhile; replay will say that it is missing
        if loaded.hash != opened.recipe_hash:
            return
        facts = {
            "toml": text,
            "hash": loaded.hash,
            "setup_hash": loaded.setup_hash,
            "bundle": opened.bundle,
            "bundle_dir": loaded.recipe.bundle_dir,
        }
        entry = self._entry(f"recipe:{opened.recipe}", 0, 0, b"")
        self._put(_Job(entry, note=facts))

    # ---- for people ------------------------------------------------------------------------

    def _show(self, entry: Entry, verdict: Verdict) -> None:
        seen = Seen(
            part_id=verdict.part_id,
            word=verdict.word.name,
            reason=verdict.reason.name,
            detail=verdict.detail,
            margin=verdict.margin,
            t1=verdict.t1,
            t2=verdict.t2,
            latency_ms=verdict.latency_ns / 1e6,
            camera=verdict.camera,
            frame_id=verdict.frame_id,
            source=verdict.source,
            recipe=verdict.recipe,
            regions=verdict.reasons,
        )
        self._put(_Job(entry._replace(topic="/verdict", data=msgspec.json.encode(seen))))

    def _words(self, words: Words) -> None:
        """Once a second, and whenever status, state, offline reason or fault change."""
        status = tuple(words.registers.get(register, 0) for register in range(100, 107))
        is_faulty = bool(words.registers.get(106, 0))
        has_begun, self._is_faulty = is_faulty and not self._is_faulty, is_faulty
        is_changed, self._status = status != self._status, status
        self._people("/words", "", words, is_due=is_changed, keep=has_begun)

    def _people(
        self,
        topic: str,
        who: str,
        message: Words | Health,
        is_due: bool = False,
        keep: bool = False,
    ) -> None:
        now_ns = self._clock()
        if is_due or now_ns - self._people_ns.get(topic + who, 0) >= _PEOPLE_NS:
            self._people_ns[topic + who] = now_ns
            self._put(_Job(self._entry(topic, now_ns, 0, msgspec.json.encode(message)), keep=keep))

    # ---- the queue -------------------------------------------------------------------------

    def _entry(self, topic: str, at_ns: int, sequence: int, data: bytes) -> Entry:
        self._last_log_ns = max(time.time_ns(), self._last_log_ns + 1)
        return Entry(topic, self._last_log_ns, at_ns, sequence, data)

    def _put(self, job: _Job) -> bool:
        return self._writer is not None and self._writer.put(job)


def _wants(camera: Camera, count: int) -> bool:
    match camera.record:
        case "all" | "ring":
            return True
        case "sampled":
            return count % camera.record_every == 1 % camera.record_every
        case "none" | "ng":
            return False


def _grade(word: Word) -> int:
    return _GRADES.index(word.name.lower()) if word is not Word.NONE else 0


class _Finished(NamedTuple):
    path: Path
    ended_ns: int
    is_kept: bool


class _Writer:
    """The thread: jobs in their order into segments of bounded size and length."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._folder = config.recordings_dir
        self._about = _about(config)
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
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

    def put(self, job: _Job) -> bool:
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
            repair(path)
        except OSError:
            raise
        except Exception as err:  # noqa: BLE001 - whatever a damaged file does to its reader
            self.lost += 1
            kept, cause = set_aside(path), f"{type(err).__name__}: {err}"
            self.note = self._standing_note = f"recording: {kept}: cannot be repaired: {cause}"

    def _write(self, job: _Job, nbytes: int) -> None:
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
            self._folder / name, self._about, SCHEMAS, self._config.record.compression == "zstd"
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
        path = segment.finish(f"{segment.path.stem}.{_GRADES[self._grade]}.mcap")
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


def _about(config: Config) -> dict[str, str]:
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
        "deadline_ms": str(config.deadline_ms),
        "engine": config.engine.kind,
        "precision": config.engine.precision,
        "simulated": "true" if is_simulated(config) else "false",
        "policies": msgspec.json.encode(policies).decode(),
        "maps": "true" if config.record.maps else "false",
    }
