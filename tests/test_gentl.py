"""Our own producer through harvesters and the adapter: formats, triggers, ids, and its faults."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.waiting import NotYet

pytest.importorskip("harvesters")

import itertools

from appliance.camera_genicam import GenicamSource
from appliance.config_camera import Camera
from appliance.errors import DeviceError
from appliance.packing import PACKINGS
from appliance.recipe import View
from appliance.source import Frame, Incomplete, Mode
from tests.gentl import Barrier, producer

WIDTH, HEIGHT = 37, 11
FAST: dict[str, int | float | str | bool] = {"AcquisitionFrameRate": 500.0, "ExposureTime": 100.0}
Make = Callable[..., GenicamSource]


def picture(number: int) -> np.ndarray:
    """12 bits of noise that is the same each time."""
    noise = np.random.default_rng(number).integers(0, 4096, (HEIGHT, WIDTH))
    return noise.astype(np.uint16)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes opened and running sources, and closes them."""
    made: list[GenicamSource] = []

    def source(
        mode: Mode = "free",
        view: View | None = None,
        is_ptp: bool = False,
        chunks: tuple[str, ...] = (),
        **nodes: Any,
    ) -> GenicamSource:
        folder = tmp_path / str(len(made))
        path = producer(folder, top=[picture(number) for number in range(5)])
        settings = {**FAST, **nodes}
        camera = Camera(
            name="top", kind="genicam", producer=str(path), nodes=settings, buffers=8,
            is_ptp=is_ptp, chunks=chunks,
        )  # fmt: skip
        source = GenicamSource(camera, mode, time.monotonic_ns)
        made.append(source)
        source.open()
        source.configure(view or View(pixel_format="Mono12"))
        source.start()
        return source

    yield source
    for source_ in made:
        source_.close()


def shots(source: GenicamSource, count: int, seconds: float = 10.0) -> list[Frame | Incomplete]:
    """The next ones; buffers go back at once."""
    found: list[Frame | Incomplete] = []
    end = time.monotonic() + seconds
    while len(found) < count:
        if time.monotonic() >= end:
            raise NotYet(f"{len(found)} of {count} pictures in {seconds} s")
        shot = source.fetch(20)
        if shot is not None:
            found.append(shot)
        if isinstance(shot, Frame):
            shot.pixels = shot.pixels.copy()
            shot.release()
    return found


def frames(source: GenicamSource, count: int) -> list[Frame]:
    return [shot for shot in shots(source, count) if isinstance(shot, Frame)]


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("name", ["Mono8", "Mono10", "Mono12", *(f"Mono{p}" for p in PACKINGS)])
def test_every_grey_format_arrives_as_the_sensor_gave_it(
    make: Make, name: str, padding: int
) -> None:
    source = make(view=View(pixel_format=name), SimRowPadding=padding)
    bits = int("".join(c for c in name if c.isdigit()))
    for frame in frames(source, 6):
        # The folder's own order, from wherever the stream was joined.
        number = (frame.frame_id - 1) % 5
        np.testing.assert_array_equal(frame.pixels, picture(number) >> 12 - bits)
        assert frame.bits == bits


@pytest.mark.parametrize("name", ["BayerRG8", "BayerRG12p", "RGB8"])
def test_colour_formats_arrive_as_rgb(make: Make, name: str) -> None:
    (frame,) = frames(make(view=View(pixel_format=name)), 1)
    assert frame.pixels.shape == (HEIGHT, WIDTH, 3)
    assert frame.bits == (12 if name.endswith("12p") else 8)


def test_a_region_of_the_sensor(make: Make) -> None:
    source = make(Width=20, Height=5, OffsetX=3, OffsetY=2)
    (frame,) = frames(source, 1)
    whole = picture((frame.frame_id - 1) % 5)
    np.testing.assert_array_equal(frame.pixels, whole[2:7, 3:23])


def test_chunks_ride_behind_the_picture_and_leave_it_as_it_is(make: Make) -> None:
    source = make(chunks=("Timestamp", "FrameID"))
    for frame in frames(source, 6):
        np.testing.assert_array_equal(frame.pixels, picture((frame.frame_id - 1) % 5))
    # For other software: harvesters finds in them what the buffer says of itself.
    acquirer = source._acquirer
    with acquirer.fetch(timeout=3) as buffer:
        buffer.update_chunk_data()
        assert source.node_map.ChunkFrameID.value == buffer.frame_id
        assert source.node_map.ChunkTimestamp.value == buffer.timestamp_ns


def test_dropped_frames_are_counted_by_their_ids(make: Make) -> None:
    source = make(SimDropEvery=5)
    taken = frames(source, 40)
    assert all(frame.frame_id % 5 for frame in taken)
    assert sum(frame.lost_before for frame in taken) == source.counts.lost
    first, last = taken[0].frame_id, taken[-1].frame_id
    assert len(taken) + source.counts.lost - taken[0].lost_before == last - first + 1


def test_incomplete_frames_are_told_and_are_no_losses(make: Make) -> None:
    source = make(SimIncompleteEvery=4, AcquisitionFrameRate=100.0)
    seen = shots(source, 40)
    cut = [shot for shot in seen if isinstance(shot, Incomplete)]
    assert source.counts.incomplete == len(cut)
    assert 9 <= len(cut) <= 11
    if source.counts.lost == 0:
        assert all(shot.lost_before == 0 for shot in seen if isinstance(shot, Frame))
    assert all(shot.frame_id % 4 for shot in seen if isinstance(shot, Frame))


@pytest.mark.parametrize("first", [65_530, 65_535, 65_000])
def test_ids_of_16_bits_wrap_without_a_loss(make: Make, first: int) -> None:
    source = make(SimFirstFrameID=first, SimFrameID16Bit=True, AcquisitionFrameRate=200.0)
    taken = frames(source, 12)
    if first > 65_500:
        assert {frame.frame_id for frame in taken} & set(range(1, 13))
    told = sum(frame.lost_before for frame in taken[1:])
    assert source.counts.lost == told + taken[0].lost_before
    ids = [frame.frame_id for frame in taken]
    steps = [(b - a) % 65_535 for a, b in itertools.pairwise(ids)]
    assert told == sum(step - 1 for step in steps)


def test_a_loss_across_the_wrap_is_a_loss(make: Make) -> None:
    # Ids 65532…65535, 1, 2…; every third exposure is dropped: 65534, 2, 5 …
    source = make(SimFirstFrameID=65_532, SimFrameID16Bit=True, SimDropEvery=3)
    taken = frames(source, 10)
    dropped = {65_534, 2, 5, 8, 11, 14, 17, 20, 23, 26}
    assert not {frame.frame_id for frame in taken} & dropped
    ids = [frame.frame_id for frame in taken]
    steps = [(b - a) % 65_535 for a, b in itertools.pairwise(ids)]
    assert sum(step - 1 for step in steps) == sum(frame.lost_before for frame in taken[1:]) >= 3


@pytest.mark.parametrize("goes_on", [False, True])
def test_stop_and_start_lose_nothing_whether_ids_restart_or_go_on(
    make: Make, goes_on: bool
) -> None:
    source = make("plc", SimFrameIDsGoOn=goes_on)
    ids: list[int] = []
    for _ in range(3):
        for tag in range(3):
            source.trigger(tag)
            (frame,) = frames(source, 1)
            ids.append(frame.frame_id)
            assert frame.lost_before == 0
        source.start()
    assert ids == ([*range(1, 10)] if goes_on else [1, 2, 3] * 3)
    assert source.counts.lost == 0


def test_timestamps_that_jump_are_no_loss(make: Make) -> None:
    source = make("plc", SimTimestampJumpEvery=2)
    stamps: list[int] = []
    for tag in range(6):
        source.trigger(tag)
        (frame,) = frames(source, 1)
        stamps.append(frame.device_timestamp_ns or 0)
    assert stamps != sorted(stamps)
    assert (source.counts.whole, source.counts.lost, source.counts.orphans) == (6, 0, 0)


def test_timestamps_count_only_while_the_clock_is_locked(make: Make) -> None:
    source = make(is_ptp=True, SimPtpStatus="Listening")
    until_ns = time.monotonic_ns()
    assert all(frame.device_timestamp_ns is None for frame in frames(source, 5))
    assert source.remark == "camera top: PtpStatus: expected Slave or Master, got Listening"
    source.node_map.SimPtpStatus.value = "Slave"
    while source.remark:
        frames(source, 1)
    (frame,) = frames(source, 1)
    assert frame.device_timestamp_ns is not None and frame.device_timestamp_ns > until_ns


def test_pulses_of_a_light_barrier_are_pictures_in_their_order(make: Make, tmp_path: Path) -> None:
    source = make("hardware", TriggerSelector="FrameStart", TriggerMode="On", TriggerSource="Line1")
    assert source.fetch(30) is None
    assert not source.is_streaming
    with Barrier(tmp_path / "0" / "top") as barrier:
        for number in (3, 1, 4):
            barrier.pulse(number)
            (frame,) = frames(source, 1)
            np.testing.assert_array_equal(frame.pixels, picture(number))


def test_a_device_that_is_lost_is_a_device_error(make: Make) -> None:
    source = make(SimLostAfter=10)
    with pytest.raises(DeviceError, match="camera top: "):
        shots(source, 100)
    assert source.counts.whole <= 10


def test_a_device_that_is_lost_while_it_is_set_up_makes_no_wrong_configuration(make: Make) -> None:
    source = make()
    source.node_map.SimDeviceLost.execute()
    with pytest.raises(DeviceError, match="camera top: writing Width: "):
        source._nodes.write("Width", 8, source._wrong_config)


def test_late_pictures_come_late_and_whole(make: Make) -> None:
    source = make("plc", SimLateEvery=2, SimLateTime=150)
    for tag, is_late in enumerate((False, True, False)):
        begun = time.monotonic_ns()
        source.trigger(tag)
        (frame,) = frames(source, 1)
        assert (frame.arrived_ns - begun >= 150_000_000) or not is_late
        assert frame.lost_before == 0


def test_newest_only_loses_the_older_ones_and_counts_them(make: Make) -> None:
    view = View(pixel_format="Mono12", handling="NewestOnly")
    source = make(view=view, AcquisitionFrameRate=200.0)
    (first,) = frames(source, 1)
    time.sleep(0.2)
    (newest,) = frames(source, 1)
    later_ns = (newest.device_timestamp_ns or 0) - (first.device_timestamp_ns or 0)
    gap = newest.frame_id - first.frame_id - 1
    assert gap >= 20
    assert newest.lost_before >= gap
    # OldestFirst would show the picture behind the first one.
    assert later_ns >= 100_000_000
