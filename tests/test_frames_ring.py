"""The ring's own traps: overwritten and torn frames, restarts, and too little memory."""

import threading
import time
from collections import deque

import msgspec
import numpy as np
import pytest

from appliance.codes import Reason
from appliance.errors import ConfigError, PartError
from appliance.frames import MAX_SLOTS, FrameOverwritten, RingReader, RingWriter, slots_for
from tests.ring_folder import rings

__all__ = ["rings"]


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


@pytest.mark.parametrize(
    "spoil",
    [lambda data: b"no ring" + data[7:], lambda data: data[:-4096], lambda data: data[:40]],
    ids=["another file", "cut short", "a stub"],
)
def test_a_ring_that_is_none_fails_the_part_and_not_the_process(rings, spoil):
    writer = RingWriter(rings, "top", 4, 4096)
    ref = writer.put(np.ones((8, 8), np.uint8))
    writer.path.write_bytes(spoil(writer.path.read_bytes()))
    with pytest.raises(PartError, match=f"{writer.path}: expected a frame ring, got ") as caught:
        RingReader(rings).view(ref)
    assert caught.value.reason is Reason.INTERNAL


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
