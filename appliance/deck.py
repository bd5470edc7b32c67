"""What record does with the tape: which pictures are kept, and the segments they go into.

Enters: the tape in its order, pixels and maps from the rings, words and health for people. Leaves:
segments of recording.py. Pixels are copied out of the ring at once, because their slot will be
given away; writing is the business of deck_writer.py. Whatever could not be kept is counted, with
the cause, and told in the recording itself. Never waits for the disk.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from appliance.codes import Reason, Word
from appliance.config import Config
from appliance.config_camera import Camera
from appliance.deck_writer import GRADES, Job, Writer
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
from appliance.recording import CAMERA, MAP, TAPE, Entry
from appliance.wire import decode

_PEOPLE_NS = 1_000_000_000
_WAITING = 4096
"""Frames whose verdict decides whether they are kept."""


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
        self._writer = Writer(config, SCHEMAS) if config.is_taped else None

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
        self._put(Job(entry, grade=grade, keep=keep))
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
        """The policy "ng": its pictures, of all views, wait in the ring for the verdict."""
        for view in verdict.views or (verdict,):
            key = view.camera, view.frame_id
            waiting = self._waiting.pop(key, None)
            if waiting is None or verdict.word is Word.OK:
                continue
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
                if self._put(Job(entry, pixels, f"{camera}/{frame_id}")):
                    self.counters["recorded"] += 1
                    return True
                cause = "pictures come faster than the disk takes them"
        self.counters["record_dropped"] += 1
        lost = Lost(camera=camera, frame_id=frame_id, what=what, cause=cause)
        self._put(Job(self._entry("/lost", entry.at_ns, 0, msgspec.json.encode(lost))))
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
        self._put(Job(entry, note=facts))

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
        self._put(Job(entry._replace(topic="/verdict", data=msgspec.json.encode(seen))))

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
            self._put(Job(self._entry(topic, now_ns, 0, msgspec.json.encode(message)), keep=keep))

    def _entry(self, topic: str, at_ns: int, sequence: int, data: bytes) -> Entry:
        self._last_log_ns = max(time.time_ns(), self._last_log_ns + 1)
        return Entry(topic, self._last_log_ns, at_ns, sequence, data)

    def _put(self, job: Job) -> bool:
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
    return GRADES.index(word.name.lower()) if word is not Word.NONE else 0
