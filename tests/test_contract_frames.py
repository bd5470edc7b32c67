"""Pixels between processes: what ring and inline way both owe, then the ring's own traps."""

import shutil
import tempfile
import threading
import time
from collections import deque
from pathlib import Path

import msgspec
import numpy as np
import pytest

from appliance.codes import Reason
from appliance.config import Config
from appliance.config_camera import Camera
from appliance.errors import ConfigError, PartError
from appliance.frames import (
    INLINE,
    MAX_SLOTS,
    FrameOverwritten,
    RingReader,
    RingWriter,
    inline_pixels,
    inline_ref,
    inline_view,
    slots_for,
)
from appliance.landing import Landing
from appliance.messages import FrameReady, InferFailed, NoFrame, Scored
from appliance.wire import Wiring, decode, encode
from tests.waiting import until


@pytest.fixture
def rings():
    folder = Path(tempfile.mkdtemp(prefix="insp", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


class ByRing:
    """One box: the pixels lie in shared memory."""

    def __init__(self, folder):
        self._writer = RingWriter(folder, "frame-top", 6, 60_000)
        self._reader = RingReader(folder)

    def carry(self, array):
        ref = self._writer.put(array)
        view = self._reader.view(ref)
        self._reader.check(ref)
        return ref, view

    def close(self):
        self._writer.close()


class ByMessage:
    """Two boxes: the pixels travel behind the message, through a real pair of sockets."""

    def __init__(self, folder):
        self._wiring = Wiring(folder)
        self._sender = self._wiring.sender("frames", "top")
        self._receiver = self._wiring.receiver("frames", "top")
        self._sequence = 0

    def carry(self, array):
        self._sequence += 1
        whole = inline_pixels(array)
        message = FrameReady(
            camera="top",
            part_id=1,
            frame_id=self._sequence,
            setup_hash="",
            pixels=inline_ref(whole, self._sequence),
            age_ns=0,
        )
        until("taker of the frame", lambda: self._sender.send(message, whole))
        got = until("frame", self._receiver.receive)
        assert isinstance(got, FrameReady)
        return got.pixels, inline_view(got.pixels, self._receiver.inline)

    def close(self):
        self._wiring.close()


class ByLanding:
    """A map of another box: behind its message, then in a ring of this one."""

    def __init__(self, folder):
        self._wiring = Wiring(folder)
        self._receiver = self._wiring.receiver("scored")
        self._sender = self._wiring.sender("scored")
        camera = Camera(name="top", kind="files", folder="x")
        config = Config(root=str(folder), deadline_ms=100, camera=(camera,), rings=str(folder))
        self._landing = Landing(config)
        self._reader = RingReader(folder)

    def carry(self, array):
        whole = inline_pixels(array)
        message = scored(inline_ref(whole, 1))
        until("taker of the map", lambda: self._sender.send(message, whole))
        got = until("map", self._receiver.receive)
        assert isinstance(got, Scored)
        landed = self._landing.take(got, self._receiver.inline, array.shape)
        assert isinstance(landed, Scored)
        assert msgspec.structs.replace(landed, map=message.map) == message
        view = self._reader.view(landed.map)
        self._reader.check(landed.map)
        return landed.map, view

    def close(self):
        self._landing.close()
        self._wiring.close()


def scored(ref):
    return Scored(
        camera="top", part_id=7, frame_id=8, setup_hash="s", map=ref, classification=0.5,
        worker="1", gates={"mean": 4.0},
    )  # fmt: skip


@pytest.fixture(params=[ByRing, ByMessage, ByLanding], ids=["ring", "inline", "landing"])
def way(request, rings):
    way = request.param(rings)
    yield way
    way.close()


def picture(seed, shape, dtype):
    rng = np.random.default_rng(seed)
    if dtype == np.float32:
        return rng.standard_normal(shape).astype(np.float32)
    return rng.integers(0, 4096 if dtype == np.uint16 else 256, shape).astype(dtype)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((48, 64), np.uint8),
        ((48, 64, 3), np.uint8),
        ((48, 64), np.uint16),
        ((1, 1), np.uint8),
        ((2, 64, 64), np.float32),
    ],
)
def test_what_is_put_in_comes_out(way, shape, dtype):
    sent = picture(1, shape, dtype)
    ref, got = way.carry(sent)
    np.testing.assert_array_equal(got, sent)
    assert (got.shape, got.dtype) == (shape, dtype)
    assert (ref.shape, ref.dtype) == (shape, np.dtype(dtype).name)


def test_rows_with_a_stride_and_foreign_byte_order_come_out_whole(way):
    wide = picture(2, (40, 50), np.uint8)
    np.testing.assert_array_equal(way.carry(wide[:, 3:40])[1], wide[:, 3:40])
    np.testing.assert_array_equal(way.carry(wide[::2, ::-1])[1], wide[::2, ::-1])
    deep = picture(3, (10, 12), np.uint16)
    for order in "<>":
        np.testing.assert_array_equal(way.carry(deep.astype(f"{order}u2"))[1], deep)


def test_many_frames_keep_their_order_and_numbers(way):
    for number in range(1, 40):
        ref, got = way.carry(np.full((20, 30), number, np.uint8))
        assert (ref.sequence, int(got[0, 0]), int(got[-1, -1])) == (number, number, number)


def test_readers_cannot_write(way):
    _, got = way.carry(picture(4, (8, 8), np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        got[0, 0] = 1


def test_references_survive_the_wire(way):
    ref, _ = way.carry(picture(5, (8, 8), np.uint8))
    scored = Scored(camera="top", part_id=1, frame_id=2, setup_hash="", map=ref, classification=0.0)
    assert decode(encode(scored)) == scored
    no_frame = NoFrame(camera="top", part_id=1, reason=Reason.NO_IMAGE, detail="none")
    assert decode(encode(no_frame)) == no_frame


# ---- inline ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("payload", "got"), [(None, "none"), (b"", "0"), (bytes(47), "47")])
def test_a_map_that_does_not_come_whole_is_no_score(rings, payload, got):
    camera = Camera(name="top", kind="files", folder="x")
    landing = Landing(Config(root="/x", deadline_ms=100, camera=(camera,), rings=str(rings)))
    ref = inline_ref(np.zeros((1, 4, 3), np.float32), 1)
    failed = landing.take(scored(ref), payload, (1, 4, 3))
    assert isinstance(failed, InferFailed)
    assert (failed.part_id, failed.frame_id, failed.reason) == (7, 8, Reason.INFERENCE_ERROR)
    assert failed.detail == f"the map of infer 1: expected 48 bytes of pixels, got {got}"
    assert not list(rings.iterdir()), "no ring for nothing"


@pytest.mark.parametrize("shape", [(12,), (1, 8, 3), (1,) * 65 + (4, 3)])
def test_a_map_of_another_shape_is_no_score_and_gets_no_room(rings, shape):
    camera = Camera(name="top", kind="files", folder="x")
    landing = Landing(Config(root="/x", deadline_ms=100, camera=(camera,), rings=str(rings)))
    ref = msgspec.structs.replace(inline_ref(np.zeros((1, 4, 3), np.float32), 1), shape=shape)
    for expected in ((1, 4, 3), None):
        failed = landing.take(scored(ref), bytes(4 * int(np.prod(shape))), expected)
        assert isinstance(failed, InferFailed) and failed.reason is Reason.INFERENCE_ERROR
    assert not list(rings.iterdir())


def test_maps_of_another_size_leave_those_of_the_other_camera_alone(rings):
    cameras = tuple(Camera(name=name, kind="files", folder="x") for name in ("top", "side"))
    landing = Landing(Config(root="/x", deadline_ms=100, camera=cameras, rings=str(rings)))
    landed = []
    for name, side in (("top", 8), ("side", 64)):
        amap = np.full((1, side, side), side, np.float32)
        message = msgspec.structs.replace(scored(inline_ref(amap, 1)), camera=name)
        landed.append(landing.take(message, amap.tobytes(), amap.shape))
    reader = RingReader(rings)
    assert [float(reader.copy(each.map).max()) for each in landed] == [8, 64]
    landing.close()
    assert not list(rings.iterdir())


def test_no_room_for_maps_is_no_score(rings):
    camera = Camera(name="top", kind="files", folder="x")
    config = Config(root="/x", deadline_ms=100, camera=(camera,), rings=str(rings / "file"))
    (rings / "file").write_text("no directory")
    amap = np.zeros((1, 4, 3), np.float32)
    failed = Landing(config).take(scored(inline_ref(amap, 1)), amap.tobytes(), (1, 4, 3))
    assert isinstance(failed, InferFailed)
    assert failed.reason is Reason.INFERENCE_ERROR


@pytest.mark.parametrize(("payload", "got"), [(None, "none"), (b"", "0"), (bytes(47), "47")])
def test_missing_or_cut_pixels_are_an_incomplete_image(payload, got):
    ref = inline_ref(np.zeros((6, 8), np.uint8), 1)
    assert ref.ring == INLINE
    with pytest.raises(PartError, match=f"expected 48 bytes of pixels, got {got}") as err:
        inline_view(ref, payload)
    assert err.value.reason == Reason.INCOMPLETE_IMAGE


@pytest.mark.parametrize("shape", [(), (48,), (0, 8), (1, 1, 6, 8), (1,) * 65 + (6, 8)])
def test_pixels_in_a_shape_that_no_frame_has_are_refused(shape):
    ref = msgspec.structs.replace(inline_ref(np.zeros((6, 8), np.uint8), 1), shape=shape)
    with pytest.raises(PartError, match=r"expected a frame or a map, got \S+"):
        inline_view(ref, bytes(48))


# ---- ring -----------------------------------------------------------------------------------


def a_ring(folder, slots=6, slot_bytes=4096):
    return RingWriter(folder, "frame-top", slots, slot_bytes)


def grey(value):
    return np.full((8, 8), value, np.uint8)


def test_a_frame_outlives_all_but_the_last_few_slots(rings):
    """With n slots a frame is readable until the writer is two slots away from its own."""
    writer, reader = a_ring(rings, slots=6), RingReader(rings)
    refs = [writer.put(grey(value)) for value in range(20)]
    alive = []
    for value, ref in enumerate(refs):
        try:
            assert int(reader.view(ref)[0, 0]) == value
            alive.append(value)
        except FrameOverwritten:
            continue
    assert alive == [16, 17, 18, 19]


def test_a_frame_overwritten_during_use_is_found_out_after_use(rings):
    writer, reader = a_ring(rings, slots=4), RingReader(rings)
    ref = writer.put(grey(1))
    view = reader.view(ref)
    writer.put(grey(2))
    reader.check(ref)
    writer.put(grey(3))  # two slots before its own, the frame is already given up
    assert int(view[0, 0]) == 1
    with pytest.raises(FrameOverwritten, match=r"frame 1 of ring frame-top\..* slot 0") as err:
        reader.check(ref)
    assert err.value.reason == Reason.FRAME_OVERWRITTEN
    with pytest.raises(FrameOverwritten):
        reader.copy(ref)


def test_a_slot_is_invalid_while_it_is_written(rings):
    """A writer that dies in the middle of a copy leaves no frame that passes for whole."""
    writer, reader = a_ring(rings), RingReader(rings)
    first = [writer.put(grey(value)) for value in range(6)]

    class Torn(np.ndarray):
        """Fails when it is copied."""

        def __array_function__(self, *_, **__):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writer.put(grey(7).view(Torn))
    with pytest.raises(FrameOverwritten):
        reader.view(first[0])


def test_no_torn_frame_ever_passes_the_check(rings):
    """One writes as fast as it can, one reads behind it: what passes is of one piece."""
    side = 700
    writer = RingWriter(rings, "frame-top", 4, side * side)
    reader = RingReader(rings)
    fresh: deque = deque(maxlen=4)
    is_done = threading.Event()

    def write():
        frames = [np.full((side, side), value, np.uint8) for value in range(7)]
        count = 0
        while not is_done.is_set():
            fresh.append((writer.put(frames[count % 7]), count % 7))
            count += 1

    thread = threading.Thread(target=write)
    thread.start()
    whole = torn = 0
    end = time.monotonic() + 10
    try:
        while (whole < 50 or torn < 50) and time.monotonic() < end:
            if not fresh:
                continue
            ref, value = fresh[-1]
            try:
                view = reader.view(ref)
            except FrameOverwritten:
                continue
            if torn < 50:
                time.sleep(0.0005)
            copy = view.copy()
            try:
                reader.check(ref)
            except FrameOverwritten:
                torn += 1
                continue
            assert copy.min() == copy.max() == value
            whole += 1
    finally:
        is_done.set()
        thread.join()
    assert whole and torn


def test_a_restart_makes_a_new_epoch_and_removes_the_old_file(rings):
    writer = a_ring(rings)
    old = writer.put(grey(1))
    reader = RingReader(rings)
    np.testing.assert_array_equal(reader.view(old), grey(1))
    again = a_ring(rings)
    assert [path.name for path in rings.iterdir()] == [again.path.name]
    new = again.put(grey(2))
    assert (new.sequence, new.slot) == (old.sequence, old.slot)
    assert new.epoch != old.epoch
    # Whoever had mapped the old file still reads it until the new one is seen.
    np.testing.assert_array_equal(reader.view(old), grey(1))
    np.testing.assert_array_equal(reader.view(new), grey(2))
    with pytest.raises(FrameOverwritten):
        reader.view(old)
    np.testing.assert_array_equal(reader.view(new), grey(2))


def test_an_epoch_that_does_not_fit_is_another_frame(rings):
    writer, reader = a_ring(rings), RingReader(rings)
    ref = writer.put(grey(1))
    for change in ({"epoch": ref.epoch + 1}, {"sequence": 2}, {"slot": 6}, {"slot": -1}):
        with pytest.raises(FrameOverwritten):
            reader.view(msgspec.structs.replace(ref, **change))
    with pytest.raises(FrameOverwritten):
        reader.view(msgspec.structs.replace(ref, ring="../frame-top.ring"))


def test_other_writers_are_left_alone(rings):
    ours, theirs = a_ring(rings), RingWriter(rings, "frame-top2", 6, 4096)
    again = a_ring(rings)
    assert {path.name for path in rings.iterdir()} == {again.path.name, theirs.path.name}
    ours.close()
    theirs.close()
    again.close()
    assert list(rings.iterdir()) == []


def test_a_reader_may_still_hold_a_view_when_the_writer_closes(rings):
    writer, reader = a_ring(rings), RingReader(rings)
    view = reader.view(writer.put(grey(9)))
    writer.close()
    np.testing.assert_array_equal(view, grey(9))


def test_a_frame_that_does_not_fit_is_refused_before_anything_is_touched(rings):
    writer, reader = a_ring(rings, slot_bytes=100), RingReader(rings)
    assert writer.slot_bytes == 4096
    ref = writer.put(grey(1))
    with pytest.raises(PartError, match="a frame of 10000 bytes for slots of 4096"):
        writer.put(np.zeros((100, 100), np.uint8))
    np.testing.assert_array_equal(reader.view(ref), grey(1))


@pytest.mark.parametrize("slots", [0, 3, MAX_SLOTS + 1])
def test_too_few_or_too_many_slots_are_refused(rings, slots):
    with pytest.raises(ConfigError, match=f"ring frame-top: expected 4 to {MAX_SLOTS} slots"):
        a_ring(rings, slots=slots)


def test_too_little_shared_memory_is_a_clear_line_and_leaves_nothing(rings):
    with pytest.raises(ConfigError, match=r"ring frame-top: expected .* bytes of shared memory"):
        a_ring(rings, slots=512, slot_bytes=1 << 40)
    assert list(rings.iterdir()) == []


def test_a_larger_ring_that_cannot_be_made_leaves_the_smaller_one_to_its_readers(rings):
    old = RingWriter(rings, "map-0", 4, 10_000)
    ref = old.put(grey(1))
    with pytest.raises(ConfigError, match="ring map-0: expected"):
        RingWriter(rings, "map-0", 4, 1 << 50, old)
    np.testing.assert_array_equal(RingReader(rings).copy(ref), grey(1))
    larger = RingWriter(rings, "map-0", 4, 20_000, old)
    assert list(rings.iterdir()) == [larger.path]


def test_the_ring_belongs_to_us_alone(rings):
    folder = rings / "line"
    writer = RingWriter(folder, "frame-top", 4, 10)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert writer.path.stat().st_mode & 0o777 == 0o600
    writer.close()


@pytest.mark.parametrize(
    ("deadline_ms", "grace_ms", "rate_hz", "slots"),
    [
        (200, 2000, 10, 26),
        (200, 2000, 30, 70),
        (150, 0, 60, 13),
        (1, 0, 1, 5),
        (500, 2000, 500, 512),
    ],
)
def test_slots_cover_deadline_and_grace(deadline_ms, grace_ms, rate_hz, slots):
    assert slots_for(deadline_ms, grace_ms, rate_hz) == slots
