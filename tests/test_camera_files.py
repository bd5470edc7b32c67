import time

import cv2
import numpy as np
import pytest

from appliance.camera_files import FolderSource, Pictures, read_picture
from appliance.config_camera import Camera, Faults
from appliance.errors import DeviceError
from appliance.recipe import View
from appliance.source import Frame, Incomplete, Mode

MS = 1_000_000


class Clock:
    """Time that moves when it is told to."""

    def __init__(self):
        self.ns = 1000 * MS

    def __call__(self):
        return self.ns

    def move(self, ms):
        self.ns += round(ms * MS)


def write(folder, count=4, suffix=".png"):
    for number in range(count):
        picture = np.full((6, 8), 10 * number, np.uint8)
        assert cv2.imwrite(str(folder / f"{number}{suffix}"), picture)


def a_source(folder, mode: Mode = "plc", clock=None, **settings):
    camera = Camera(name="top", kind="files", folder=str(folder), **settings)
    source = FolderSource(camera, mode, clock or Clock())
    source.open()
    source.configure(View())
    source.start()
    return source


def shown(source):
    """Everything that can be fetched now: names of whole pictures, "incomplete" else."""
    names = []
    while (shot := source.fetch(0)) is not None:
        names.append("incomplete" if isinstance(shot, Incomplete) else shot.source)
    return names


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".PNG"])
def test_grey_stays_one_channel(tmp_path, suffix):
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    assert cv2.imwrite(str(tmp_path / f"a{suffix}"), grey)
    np.testing.assert_array_equal(Pictures(tmp_path)[0], grey)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bits_stay_16(tmp_path, suffix):
    deep = (np.arange(48, dtype=np.uint16) * 1000).reshape(6, 8)
    assert cv2.imwrite(str(tmp_path / f"a{suffix}"), deep)
    np.testing.assert_array_equal(Pictures(tmp_path)[0], deep)
    source = a_source(tmp_path)
    source.trigger(1)
    frame = source.fetch(0)
    assert isinstance(frame, Frame) and frame.bits == 16


def test_colour_is_rgb_and_opacity_is_dropped(tmp_path):
    rgb = np.zeros((6, 8, 3), np.uint8)
    rgb[:] = (250, 100, 5)
    assert cv2.imwrite(str(tmp_path / "a.png"), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    assert cv2.imwrite(str(tmp_path / "b.png"), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGRA))
    pictures = Pictures(tmp_path)
    np.testing.assert_array_equal(pictures[0], rgb)
    np.testing.assert_array_equal(pictures[1], rgb)


def test_jpeg_is_read(tmp_path):
    assert cv2.imwrite(str(tmp_path / "a.jpg"), np.full((16, 16), 77, np.uint8))
    assert abs(int(Pictures(tmp_path)[0].mean()) - 77) <= 1


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n cut"])
def test_a_file_that_is_no_image_is_named(tmp_path, content):
    write(tmp_path)
    (tmp_path / "9.png").write_bytes(content)
    with pytest.raises(DeviceError, match=r"9\.png: expected an image"):
        Pictures(tmp_path)
    with pytest.raises(DeviceError, match=r"9\.png: expected an image"):
        Pictures(tmp_path, cache_bytes=1)


def test_a_float_image_is_refused_by_its_type(tmp_path):
    assert cv2.imwrite(str(tmp_path / "a.tiff"), np.zeros((6, 8), np.float32))
    with pytest.raises(DeviceError, match=r"a\.tiff: expected 8 or 16 bits.*float32"):
        read_picture(tmp_path / "a.tiff")


def test_an_empty_or_missing_folder_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(DeviceError, match=r"expected pictures.*got none"):
        Pictures(tmp_path)
    with pytest.raises(DeviceError, match="nowhere: expected a folder"):
        Pictures(tmp_path / "nowhere")


def test_no_more_than_the_bound_is_kept_and_all_are_shown(tmp_path):
    write(tmp_path, 20)
    pictures = Pictures(tmp_path, cache_bytes=100)
    names = [file.name for file in pictures.files]
    assert names == sorted(f"{number}.png" for number in range(20))
    means = [int(pictures[index].mean()) for index in range(len(pictures))]
    assert means == [10 * int(name.removesuffix(".png")) for name in names]
    assert pictures[0] is pictures[0]
    assert pictures[19] is not pictures[19]


def test_nobody_can_write_into_a_picture_that_is_shown_again(tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match="read-only"):
        Pictures(tmp_path)[0][0, 0] = 1


def test_in_sequence_and_round_again(tmp_path):
    write(tmp_path, 3)
    source = a_source(tmp_path)
    names = []
    for tag in (9, 9, 0, 1):
        source.trigger(tag)
        names += shown(source)
    assert names == ["0.png", "1.png", "2.png", "0.png"]


def test_the_tag_says_which_picture(tmp_path):
    write(tmp_path, 3)
    source = a_source(tmp_path, order="tag")
    names = []
    for tag in (1, 3, 3, 5, 2**32 - 1):
        source.trigger(tag)
        names += shown(source)
    assert names == ["0.png", "2.png", "2.png", "1.png", f"{(2**32 - 2) % 3}.png"]


def test_a_restart_does_not_repeat_a_picture(tmp_path):
    write(tmp_path, 3)
    source = a_source(tmp_path)
    source.trigger(0)
    assert shown(source) == ["0.png"]
    source.configure(View())
    source.start()
    source.trigger(0)
    assert shown(source) == ["1.png"]


def test_free_run_keeps_its_rate(tmp_path):
    write(tmp_path, 3)
    clock = Clock()
    source = a_source(tmp_path, "free", clock, rate_hz=50.0)
    assert len(shown(source)) == 1
    clock.move(19)
    assert shown(source) == []
    clock.move(1)
    assert shown(source) == ["1.png"]
    clock.move(60)
    assert shown(source) == ["2.png", "0.png", "1.png"]


def test_a_full_queue_loses_the_new_and_says_so(tmp_path):
    write(tmp_path, 9)
    clock = Clock()
    source = a_source(tmp_path, "free", clock, rate_hz=100.0, buffers=2)
    clock.move(60)
    frames = [source.fetch(0) for _ in range(2)]
    assert [frame.frame_id for frame in frames if isinstance(frame, Frame)] == [1, 2]
    clock.move(10)
    late = source.fetch(0)
    assert isinstance(late, Frame)
    assert (late.frame_id, late.lost_before, source.counts.lost) == (8, 5, 5)


def test_waiting_ends_when_the_picture_is_there(tmp_path):
    write(tmp_path)
    source = a_source(tmp_path, "free", time.monotonic_ns, rate_hz=50.0)
    source.fetch(0)
    begun = time.monotonic()
    frame = source.fetch(60_000)
    assert isinstance(frame, Frame)
    assert time.monotonic() - begun < 30


def test_the_ring_is_sized_for_the_largest_picture(tmp_path):
    write(tmp_path, 2)
    assert cv2.imwrite(str(tmp_path / "big.png"), np.zeros((20, 30), np.uint8))
    camera = Camera(name="top", kind="files", folder=str(tmp_path))
    source = FolderSource(camera, "plc", Clock())
    source.open()
    assert source.configure(View()) == 600
    camera = Camera(name="top", kind="files", folder=str(tmp_path), width_px=100, height_px=50)
    source = FolderSource(camera, "plc", Clock())
    source.open()
    assert source.configure(View()) == 5000


def play(folder, faults, shots=6):
    """Fire `shots` triggers; what each of them showed at once."""
    clock = Clock()
    source = a_source(folder, clock=clock, faults=faults)
    answers = []
    for _ in range(shots):
        source.trigger(0)
        answers.append(shown(source))
        clock.move(10)
    return source, clock, answers


def test_drop(tmp_path):
    write(tmp_path)
    source, _, answers = play(tmp_path, Faults(drop_every=3))
    assert answers == [["0.png"], ["1.png"], [], ["3.png"], ["0.png"], []]
    assert source.counts.lost == 1


def test_double(tmp_path):
    write(tmp_path)
    source, _, answers = play(tmp_path, Faults(double_every=2), shots=3)
    assert answers == [["0.png"], ["1.png", "1.png"], ["2.png"]]
    assert (source.counts.whole, source.counts.lost) == (4, 0)


def test_a_doubled_frame_has_an_id_of_its_own_and_dies_at_the_next_trigger(tmp_path):
    write(tmp_path)
    source = a_source(tmp_path, faults=Faults(double_every=1))
    source.trigger(0)
    first = source.fetch(0)
    source.trigger(0)
    second = source.fetch(0)
    assert isinstance(first, Frame) and isinstance(second, Frame)
    assert (first.source, second.source) == ("0.png", "1.png")
    assert (first.frame_id, second.frame_id) == (1, 3)
    assert source.counts.orphans == 1


def test_delay(tmp_path):
    write(tmp_path)
    clock = Clock()
    source = a_source(tmp_path, clock=clock, faults=Faults(delay_every=2, delay_ms=40))
    source.trigger(0)
    assert shown(source) == ["0.png"]
    source.trigger(0)
    clock.move(39)
    assert shown(source) == []
    clock.move(1)
    assert shown(source) == ["1.png"]


def test_a_delayed_picture_does_not_survive_a_new_acquisition(tmp_path):
    write(tmp_path)
    clock = Clock()
    source = a_source(tmp_path, clock=clock, faults=Faults(delay_every=1, delay_ms=40))
    source.trigger(0)
    source.configure(View())
    source.start()
    clock.move(100)
    assert shown(source) == []


def test_incomplete(tmp_path):
    write(tmp_path)
    source, _, answers = play(tmp_path, Faults(incomplete_every=2), shots=4)
    assert answers == [["0.png"], ["incomplete"], ["2.png"], ["incomplete"]]
    assert (source.counts.incomplete, source.counts.lost) == (2, 0)


def test_lost(tmp_path):
    write(tmp_path)
    source = a_source(tmp_path, faults=Faults(lost_after=2))
    for _ in range(2):
        source.trigger(0)
        assert len(shown(source)) == 1
    source.trigger(0)
    with pytest.raises(DeviceError, match="camera top: lost"):
        source.fetch(0)
    with pytest.raises(DeviceError, match="camera top: lost"):
        source.fetch(0)


def test_a_closed_folder_says_so(tmp_path):
    write(tmp_path)
    source = a_source(tmp_path)
    source.close()
    with pytest.raises(DeviceError, match="camera top: its folder is not open"):
        source.fetch(0)
