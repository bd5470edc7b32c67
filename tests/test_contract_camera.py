"""What every source of pictures owes the camera process: the folder, viky, and a real device.

A device of your own: INSPECTD_TEST_PRODUCER=/path/to/producer.cti pytest -m hardware
"""

import os
import time

import cv2
import numpy as np
import pytest

from appliance.camera_files import FolderSource
from appliance.config_camera import Camera
from appliance.frames import inline_ref
from appliance.messages import FrameReady
from appliance.recipe import View
from appliance.recording import Entry, SegmentWriter
from appliance.source import Frame, Source
from appliance.wire import encode
from tests.gentl import producer, tlsimu

PICTURES = 5


def of_folder(mode, folder):
    folder.mkdir()
    for number in range(PICTURES):
        picture = np.full((48, 64), 10 * number + 5, np.uint8)
        picture[number, number] = 255
        assert cv2.imwrite(str(folder / f"{number}.png"), picture)
    camera = Camera(name="top", kind="files", folder=str(folder), rate_hz=100.0, buffers=4)
    return FolderSource(camera, mode, time.monotonic_ns)


def of_recording(mode, folder):
    writer = SegmentWriter(folder / "000001.ok.mcap", {}, {})
    for number in range(PICTURES):
        picture = np.full((48, 64), 100 * number + 5, np.uint16)
        ref = inline_ref(picture, number + 1)
        frame = FrameReady(
            camera="top", part_id=number, frame_id=number, setup_hash="s", pixels=ref, bits=12,
            age_ns=0,
        )  # fmt: skip
        entry = Entry("/tape/seen", 10 + number, 10 + number, number + 1, encode(frame))
        writer.add(entry)
        writer.add_image(entry._replace(topic="/camera/top"), picture, f"top/{number}")
    writer.finish()
    camera = Camera(name="top", kind="files", folder=str(folder), rate_hz=100.0, buffers=4)
    return FolderSource(camera, mode, time.monotonic_ns)


def of_viky(mode, _):
    genicam = pytest.importorskip("appliance.camera_genicam")
    nodes = {"AcquisitionFrameRate": 200, "Width": 120, "Height": 100, "PixelFormat": "Mono8"}
    camera = Camera(
        name="top", kind="genicam", producer="viky", device={"serial_number": "1"}, nodes=nodes
    )
    return genicam.GenicamSource(camera, mode, time.monotonic_ns)


def of_producer(mode, folder):
    genicam = pytest.importorskip("appliance.camera_genicam")
    pictures = [np.full((48, 64), 10 * number + 5, np.uint8) for number in range(PICTURES)]
    path = producer(folder, top=pictures)
    nodes: dict[str, int | float | str | bool] = {
        "AcquisitionFrameRate": 100.0,
        "ExposureTime": 500.0,
    }
    camera = Camera(name="top", kind="genicam", producer=str(path), nodes=nodes, buffers=4)
    return genicam.GenicamSource(camera, mode, time.monotonic_ns)


def of_tlsimu(mode, _):
    genicam = pytest.importorskip("appliance.camera_genicam")
    nodes: dict[str, int | float | str | bool] = {"Width": 64, "Height": 48}
    camera = Camera(
        name="top", kind="genicam", producer=str(tlsimu()), nodes=nodes, buffers=6,
        device={"serial_number": "SN_InterfaceA_0"},
    )  # fmt: skip
    return genicam.GenicamSource(camera, mode, time.monotonic_ns)


def of_device(mode, _):
    producer = os.environ.get("INSPECTD_TEST_PRODUCER", "")
    if not producer:
        pytest.skip("INSPECTD_TEST_PRODUCER names no GenTL producer")
    genicam = pytest.importorskip("appliance.camera_genicam")
    device = dict(pair.split("=") for pair in os.environ.get("INSPECTD_TEST_DEVICE", "").split())
    camera = Camera(name="top", kind="genicam", producer=producer, device=device, buffers=6)
    return genicam.GenicamSource(camera, mode, time.monotonic_ns)


KINDS = [
    pytest.param(of_folder, id="folder"),
    pytest.param(of_recording, id="recording"),
    pytest.param(of_viky, id="viky"),
    pytest.param(of_producer, id="producer"),
    pytest.param(of_tlsimu, id="tlsimu"),
    pytest.param(of_device, id="device", marks=pytest.mark.hardware),
]


@pytest.fixture(params=KINDS)
def make(request, tmp_path):
    """Makes opened sources, and closes them."""
    opened: list[Source] = []

    def make_source(mode) -> Source:
        source = request.param(mode, tmp_path / f"pictures{len(opened)}")
        opened.append(source)
        source.open()
        return source

    yield make_source
    for source in opened:
        source.close()


def next_frame(source: Source, timeout_s: float = 30.0) -> Frame:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        shot = source.fetch(20)
        if isinstance(shot, Frame):
            return shot
    raise AssertionError(f"no frame within {timeout_s} s")


def test_frames_are_unpacked_and_as_large_as_promised(make):
    source = make("free")
    promised = source.configure(View())
    source.start()
    frame = next_frame(source)
    pixels = frame.pixels
    assert pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    assert pixels.dtype == (np.uint8 if frame.bits == 8 else np.uint16)
    assert promised == pixels.nbytes == np.ascontiguousarray(pixels).nbytes > 0
    frame.release()


def test_nothing_comes_before_start_and_looking_does_not_wait(make):
    source = make("free")
    begun = time.monotonic()
    for _ in range(20):
        assert source.fetch(0) is None
    assert time.monotonic() - begun < 5.0  # a look that waits for a picture takes 20 times as long
    assert source.counts.whole == 0


def test_free_run_streams_with_growing_ids(make):
    source = make("free")
    source.configure(View())
    source.start()
    assert source.is_streaming
    last = None
    for _ in range(8):
        before = time.monotonic_ns()
        frame = next_frame(source)
        assert frame.arrived_ns <= time.monotonic_ns()
        if last is not None:
            assert frame.frame_id == last.frame_id + 1 + frame.lost_before
            assert frame.arrived_ns >= last.arrived_ns
        last = frame
        frame.release()
        assert time.monotonic_ns() > before
    assert source.counts.whole == 8


def test_whoever_is_slow_loses_frames_and_is_told_how_many(make):
    source = make("free")
    source.configure(View())
    source.start()
    first = next_frame(source)
    first.release()
    time.sleep(0.3)
    taken, told, last_id = 0, 0, first.frame_id
    for _ in range(12):
        frame = next_frame(source)
        taken, told = taken + 1, told + frame.lost_before
        last_id = frame.frame_id
        frame.release()
    # Not every producer gives lost frames an id, but none gives one to what is not lost.
    assert taken <= last_id - first.frame_id <= taken + told
    assert told > 0
    assert source.counts.lost == told


def test_a_new_acquisition_delivers_nothing_from_before(make):
    source = make("free")
    source.configure(View())
    source.start()
    next_frame(source).release()
    time.sleep(0.05)
    source.configure(View())
    source.start()
    begun_ns = time.monotonic_ns()
    frame = next_frame(source)
    assert frame.arrived_ns >= begun_ns - 1_000_000
    assert frame.lost_before == 0
    frame.release()


def test_a_trigger_gets_a_picture_exposed_after_it(make):
    source = make("plc")
    source.configure(View())
    source.start()
    for tag in range(1, 6):
        time.sleep(0.01)
        triggered_ns = time.monotonic_ns()
        source.trigger(tag)
        frame = next_frame(source)
        assert frame.arrived_ns >= triggered_ns
        frame.release()


def test_without_a_trigger_a_triggered_device_is_silent(make):
    source = make("plc")
    source.configure(View())
    source.start()
    if source.is_streaming:
        next_frame(source).release()
    else:
        assert source.fetch(60) is None
    source.trigger(1)
    next_frame(source).release()
    if not source.is_streaming:
        assert source.fetch(60) is None


def test_what_waited_when_a_trigger_came_is_an_orphan(make):
    source = make("plc")
    source.configure(View())
    source.start()
    source.trigger(1)
    time.sleep(0.3)
    source.trigger(2)
    assert source.counts.orphans >= 1
    whole = source.counts.whole
    orphans = source.counts.orphans
    next_frame(source).release()
    # Every whole frame was either handed out or is an orphan.
    assert source.counts.whole - whole == 1 + source.counts.orphans - orphans


def test_successive_triggers_show_successive_moments(make):
    source = make("plc")
    source.configure(View())
    source.start()
    pictures = []
    for tag in (1, 2, 3):
        source.trigger(tag)
        frame = next_frame(source)
        pictures.append((frame.frame_id, frame.pixels.copy()))
        frame.release()
    ids = [frame_id for frame_id, _ in pictures]
    assert ids == sorted(set(ids))


def test_it_can_be_closed_and_opened_again(make):
    source = make("free")
    source.configure(View())
    source.start()
    next_frame(source).release()
    source.close()
    source.close()
    source.open()
    source.configure(View())
    source.start()
    next_frame(source).release()


def test_a_buffer_is_free_again_after_its_release(make):
    """More frames than buffers: each must have been given back."""
    source = make("free")
    source.configure(View())
    source.start()
    for _ in range(20):
        next_frame(source).release()
    assert source.counts.whole >= 20


def test_simulated_is_what_does_not_come_from_a_device(make, request):
    source = make("free")
    assert source.is_simulated is ("device" not in request.node.callspec.id)
