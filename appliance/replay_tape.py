"""The tape of a recording, read ahead of whoever judges it, with the pictures that belong to it.

Enters: a recording. Leaves: what decide heard, in its order; a score comes with the frame it is
about and, where they were kept, its pixels and the map of that day. Reading, checking and decoding
are done by a thread of its own, so that neither the engine nor the book of parts waits for a disk.
"""

import queue
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy.typing as npt

from appliance.messages import FrameReady, InferFailed, Scored, Verdict
from appliance.recording import CAMERA, MAP, TAPE, Entry, Recording
from appliance.wire import decode

_DEPTH = 512
"""How far frames are looked for: decide hears of scores and frames on two sockets, so a score may
stand before the frame that it belongs to."""
_FRAMES = 8192
_READY = 12
"""Messages that wait for the engine, two or three pictures among them."""
T = TypeVar("T")


class Seen(NamedTuple):
    """A frame as decide heard of it."""

    frame: FrameReady
    log_ns: int
    """What its picture is found by."""
    has_picture: bool


class Heard(NamedTuple):
    """One entry of the tape."""

    entry: Entry
    message: object
    """Decoded; None for what the PLC wrote."""
    is_after_gap: bool = False
    """A part of the recording was removed just before it."""
    seen: Seen | None = None
    """Of a score or a verdict: its frame, where the tape holds it."""
    pixels: npt.NDArray[Any] | None = None
    """Of a score: the picture, where it was kept."""
    map: npt.NDArray[Any] | None = None
    """Of a score: the map of that day, where it was kept."""


def read(recording: Recording) -> Generator[Heard]:
    """All of the tape. Raises ArtefactError where the recording is damaged."""
    return ahead(_read(recording), _READY)


def ahead(items: Iterable[T], depth: int) -> Generator[T]:
    """The same items, made by a thread of their own that is at most `depth` ahead.

    What the items raise is raised here, in their order.
    """
    ready: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(depth)
    stopping = threading.Event()

    def make() -> None:
        end: BaseException | None = None
        try:
            for item in items:
                ready.put((item,))
                if stopping.is_set():
                    return
        except BaseException as err:  # noqa: BLE001 - raised again by whoever asks for the item
            end = err
        ready.put(end)

    thread = threading.Thread(target=make, name="ahead", daemon=True)
    thread.start()
    try:
        while (got := ready.get()) is not None:
            if isinstance(got, BaseException):
                raise got
            yield got[0]
    finally:
        stopping.set()
        while thread.is_alive():  # it may wait for room
            while not ready.empty():
                ready.get_nowait()
            thread.join(0.01)


def _read(recording: Recording) -> Iterator[Heard]:
    frames: dict[tuple[str, int], Seen] = {}
    waiting: deque[tuple[Entry, object]] = deque()
    gaps = deque(recording.gaps)

    def first() -> Heard:
        entry, message = waiting.popleft()
        is_after_gap = bool(gaps) and entry.log_ns >= gaps[0]
        if is_after_gap:
            gaps.popleft()
        return _with_picture(recording, Heard(entry, message, is_after_gap), frames)

    for entry in recording.entries():
        message = None if entry.topic == f"{TAPE}plc" else decode(entry.data)
        if isinstance(message, FrameReady):
            kept = recording.has_image(CAMERA + message.camera, entry.log_ns)
            frames[message.camera, message.frame_id] = Seen(message, entry.log_ns, kept)
            if len(frames) > _FRAMES:
                del frames[next(iter(frames))]
        waiting.append((entry, message))
        if len(waiting) > _DEPTH:
            yield first()
    while waiting:
        yield first()


def _with_picture(recording: Recording, heard: Heard, frames: dict[tuple[str, int], Seen]) -> Heard:
    message = heard.message
    if not isinstance(message, Scored | InferFailed | Verdict):
        return heard
    seen = frames.get((message.camera, message.frame_id))
    if seen is None or not seen.has_picture or isinstance(message, Verdict):
        return heard._replace(seen=seen)
    _, pixels = recording.image(CAMERA + message.camera, seen.log_ns)
    amap = None
    if recording.has_image(MAP + message.camera, heard.entry.log_ns):
        _, amap = recording.image(MAP + message.camera, heard.entry.log_ns)
    return heard._replace(seen=seen, pixels=pixels, map=amap)
