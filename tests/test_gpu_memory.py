"""Memory, streams and graphs of a real NVIDIA device; TensorRT is not needed: `pytest -m gpu`."""

import ctypes
import mmap
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from appliance.engine_tensorrt_memory import CudaPython, Gpu, PyCuda
from appliance.errors import ArtefactError, DeviceError
from appliance.frames import RingReader, RingWriter

BINDINGS = {"cuda-python": ("cuda", CudaPython), "pycuda": ("pycuda", PyCuda)}
SIZE = 5_000_000
"""Bytes: a frame of 5 MP."""

pytestmark = pytest.mark.gpu


@pytest.fixture(params=list(BINDINGS))
def gpu(request: pytest.FixtureRequest) -> Iterator[Gpu]:
    package, binding = BINDINGS[request.param]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    try:
        opened = binding()
    except (ArtefactError, ImportError) as err:
        pytest.skip(str(err))
    yield opened
    opened.close()


@pytest.fixture
def graphs(gpu: Gpu) -> Gpu:
    if not gpu.has_graphs:
        pytest.skip("this binding captures no graphs")
    return gpu


def noise(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def there_and_back(gpu: Gpu, source: np.ndarray) -> np.ndarray:
    """Up into device memory and down into other pinned memory, which was poisoned."""
    stream, address = gpu.stream(), gpu.allocate(source.nbytes)
    target = gpu.pinned(source.nbytes)
    target.fill(0xA5)
    gpu.upload(address, source, stream)
    gpu.download(target, address, stream)
    gpu.synchronize(stream)
    return target


def test_it_says_what_it_is(gpu: Gpu) -> None:
    model, _, capability = gpu.name().rpartition(", ")
    assert model and float(capability) >= 5.0
    assert float(gpu.driver()) >= 11.0


def test_bytes_travel_both_ways(gpu: Gpu) -> None:
    pixels = gpu.pinned(SIZE)
    pixels[:] = noise(SIZE)
    np.testing.assert_array_equal(there_and_back(gpu, pixels), pixels)


def test_the_device_fetches_a_frame_from_where_its_camera_put_it(gpu: Gpu, tmp_path: Path) -> None:
    """A ring as infer maps it, read-only. A driver may refuse; then nothing else may be wrong."""
    shared = Path("/dev/shm") if Path("/dev/shm").is_dir() else tmp_path
    folder = shared / f"inspectd-test-{tmp_path.name}"
    writer, reader = RingWriter(folder, "top", 6, SIZE), RingReader(folder)
    try:
        frames = [noise(SIZE, seed).reshape(2000, 2500) for seed in range(3)]
        refs = [writer.put(frame) for frame in frames]
        slots = [reader.slot(ref) for ref in refs]
        assert not slots[0].flags.writeable
        is_pinned = all(gpu.register(slot) for slot in slots)
        if is_pinned:
            for frame, ref in zip(frames, refs, strict=True):
                came = there_and_back(gpu, reader.view(ref).reshape(-1))
                np.testing.assert_array_equal(came, frame.reshape(-1))
            for _ in range(3):  # around the ring, into the slots that are pinned
                writer.put(frames[0])
            later = noise(SIZE, 9).reshape(2000, 2500)  # written after it was pinned
            seen = reader.view(writer.put(later))
            assert np.shares_memory(seen, slots[0])
            np.testing.assert_array_equal(there_and_back(gpu, seen.reshape(-1)), later.reshape(-1))
            for _ in range(2):  # of the same memory again: a restarted engine
                for slot in slots:
                    gpu.unregister(slot)
                assert all(gpu.register(slot) for slot in slots)
            for slot in slots:
                gpu.unregister(slot)
        else:
            pixels = gpu.pinned(SIZE)
            np.copyto(pixels, frames[0].reshape(-1))
            np.testing.assert_array_equal(there_and_back(gpu, pixels), pixels)
            pytest.skip("this driver or binding pins no read-only memory: frames are copied first")
    finally:
        writer.close()
        folder.rmdir()


def test_what_was_never_registered_cannot_be_let_go(gpu: Gpu) -> None:
    with pytest.raises(DeviceError):
        gpu.unregister(np.frombuffer(mmap.mmap(-1, 4096), np.uint8))
    pixels = gpu.pinned(64)  # and the error is gone
    pixels[:] = 7
    assert (there_and_back(gpu, pixels) == 7).all()


def test_a_graph_does_what_was_noted_as_often_as_it_is_launched(graphs: Gpu) -> None:
    stream, address = graphs.stream(), graphs.allocate(SIZE)
    source, target = graphs.pinned(SIZE), graphs.pinned(SIZE)
    source[:], target[:] = noise(SIZE), 0
    graphs.begin_capture(stream)
    graphs.upload(address, source, stream)
    graphs.download(target, address, stream)
    graph = graphs.end_capture(stream)
    graphs.synchronize(stream)
    assert not target.any()  # noted, not run
    for seed in range(3):  # the same addresses, other content
        source[:] = noise(SIZE, seed)
        graphs.launch(graph, stream)
        graphs.synchronize(stream)
        np.testing.assert_array_equal(target, source)


def test_a_capture_that_fails_is_an_error_and_the_stream_goes_on(graphs: Gpu) -> None:
    stream, pixels = graphs.stream(), graphs.pinned(64)
    pixels[:] = 3
    graphs.begin_capture(stream)
    with pytest.raises(DeviceError):
        graphs.synchronize(stream)  # not allowed while noting: the capture is spoilt
    with pytest.raises(DeviceError):
        graphs.end_capture(stream)
    assert (there_and_back(graphs, pixels) == 3).all()


def test_more_memory_than_there_is_is_an_error_with_cudas_words(gpu: Gpu) -> None:
    with pytest.raises(DeviceError, match="memory"):
        gpu.allocate(1 << 50)
    pixels = gpu.pinned(64)
    pixels[:] = 5
    assert (there_and_back(gpu, pixels) == 5).all()


def test_another_stream_is_not_waited_for(gpu: Gpu) -> None:
    """Two streams, two answers; each is there when its own stream is done."""
    streams, sources = (gpu.stream(), gpu.stream()), (gpu.pinned(SIZE), gpu.pinned(SIZE))
    targets = (gpu.pinned(SIZE), gpu.pinned(SIZE))
    addresses = (gpu.allocate(SIZE), gpu.allocate(SIZE))
    assert len({*streams, *addresses}) == 4
    for seed, (stream, source, target, address) in enumerate(
        zip(streams, sources, targets, addresses, strict=True)
    ):
        source[:] = noise(SIZE, seed)
        gpu.upload(address, source, stream)
        gpu.download(target, address, stream)
    for seed, (stream, target) in enumerate(zip(streams, targets, strict=True)):
        gpu.synchronize(stream)
        np.testing.assert_array_equal(target, noise(SIZE, seed))


def test_what_was_handed_out_is_given_back(graphs: Gpu) -> None:
    """Ten engines, opened and closed: the device has as much free memory as before."""
    runtime = graphs._cuda  # pyright: ignore[reportAttributeAccessIssue] - asks what Gpu does not

    def free_bytes() -> int:
        return runtime.cudaMemGetInfo()[1]

    before = free_bytes()
    for _ in range(10):
        other = CudaPython()
        stream, address = other.stream(), other.allocate(256 << 20)
        pixels = other.pinned(SIZE)
        pixels[:] = 1
        other.begin_capture(stream)
        other.upload(address, pixels, stream)
        other.launch(other.end_capture(stream), stream)
        other.synchronize(stream)
        other.close()
        other.close()  # twice is fine
    assert free_bytes() >= before - (64 << 20)


def test_the_primary_context_is_shared_and_not_torn_down(gpu: Gpu) -> None:
    """torch and TensorRT use the same one: closing an engine must leave it working."""
    other = type(gpu)()
    other.close()
    pixels = gpu.pinned(64)
    pixels[:] = 9
    assert (there_and_back(gpu, pixels) == 9).all()
    assert ctypes.c_uint8.from_address(pixels.ctypes.data).value == 9
