"""Pixels between processes: what ring, message and landing all owe."""

import msgspec
import numpy as np
import pytest

from appliance.codes import Reason
from appliance.config import Config
from appliance.config_camera import Camera
from appliance.errors import PartError
from appliance.frames import INLINE, RingReader, RingWriter, inline_pixels, inline_ref, inline_view
from appliance.landing import Landing
from appliance.messages import FrameReady, InferFailed, NoFrame, Scored
from appliance.wire import Wiring, decode, encode
from tests.ring_folder import rings
from tests.waiting import until

__all__ = ["rings"]


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
