"""The infer process: one frame, image gates, regions, and how it ends."""

import contextlib
import os
import signal
import socket
import time

import cv2
import msgspec
import numpy as np
import pytest

from appliance.codes import Reason
from appliance.engine_null import write_null_bundle
from appliance.frames import inline_ref
from appliance.image_gates import learn
from appliance.messages import (
    FrameReady,
    Scored,
)
from appliance.recipe import Fixture, View
from tests import rig_infer
from tests.networks import picture, write_network_bundle
from tests.processes import full_pipe
from tests.rig_infer import SLOTS, Rig, expect_failure

line, rig = rig_infer.line, rig_infer.rig


def test_a_frame_becomes_a_map_and_a_score(line):
    pixels = picture(5)
    part = line.show(pixels, line.setup_hash, is_simulated=False)
    answer = line.answer()
    assert isinstance(answer, Scored)
    assert (answer.part_id, answer.frame_id, answer.camera) == (part, 1000 + part, "top")
    assert answer.setup_hash == line.setup_hash
    assert answer.passport == line.prepared.passport
    assert not answer.is_simulated
    assert set(answer.stages_ns) == {"wait", "gates", "engine", "map"}
    assert answer.gates == {"identical": 0}
    assert all(ns >= 0 for ns in answer.stages_ns.values())
    amap = line.reader.copy(answer.map)
    assert (amap.shape, amap.dtype) == ((1, 16, 24), np.float32)
    cells = pixels.reshape(16, 4, 24, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(amap[0], cells, rtol=1e-5)
    assert answer.classification == pytest.approx(cells.max(), rel=1e-5)


def test_a_frozen_device_is_stopped_by_a_bundle_that_learnt_no_gates_too(line):
    line.show(picture(60), line.setup_hash, is_simulated=False)
    assert isinstance(line.answer(), Scored)
    part = line.show(picture(60), line.setup_hash, is_simulated=False)
    failed = expect_failure(line.answer(), part, Reason.IMAGE_HEALTH, "identical")
    assert failed.gates == {"identical": 1}
    line.show(picture(60), line.setup_hash)  # a folder may show a file twice
    assert isinstance(line.answer(), Scored)


def test_every_frame_is_answered_once_and_in_order(line):
    shown = [line.show(picture(seed), line.setup_hash) for seed in range(10)]
    answers = [line.answer() for _ in shown]
    assert [answer.part_id for answer in answers] == shown
    for seed, answer in enumerate(answers):
        expected = picture(seed).reshape(16, 4, 24, 4).mean(axis=(1, 3)).max()
        assert answer.classification == pytest.approx(expected, rel=1e-5)
    line.until("health", lambda: line.health.counters["scored"] >= 10)
    assert line.came == []


def test_twelve_bits_are_shifted_to_eight(line):
    pixels = picture(5).astype(np.uint16) << 4 | 0xF
    line.show(pixels, line.setup_hash, bits=12)
    twelve = line.answer()
    line.show(picture(5), line.setup_hash)
    assert twelve.classification == line.answer().classification


def test_pixels_that_travel_behind_the_message(line):
    pixels = picture(7)
    ready = FrameReady(
        camera="top",
        part_id=77,
        frame_id=1077,
        setup_hash=line.setup_hash,
        pixels=inline_ref(pixels, 1),
        age_ns=0,
        is_simulated=True,
    )
    line.until("room", lambda: line.frames["top"].send(ready, pixels))
    answer = line.answer()
    assert isinstance(answer, Scored)
    assert answer.is_simulated
    line.until("room", lambda: line.frames["top"].send(ready, pixels[:-1]))
    expect_failure(line.answer(), 77, Reason.INCOMPLETE_IMAGE, "expected 6144 bytes")
    changed = msgspec.structs.replace
    for spoilt in (
        changed(ready, bits=-5),
        changed(ready, pixels=changed(ready.pixels, dtype="float32")),
        changed(ready, pixels=changed(ready.pixels, shape=(1,) * 65)),
    ):
        line.until("room", lambda m=spoilt: line.frames["top"].send(m, pixels))
        expect_failure(line.answer(), 77, Reason.INTERNAL, "expected ")


def test_a_frame_of_another_size_says_what_was_expected(line):
    part = line.show(np.zeros((64, 97), np.uint8), line.setup_hash)
    answer = expect_failure(line.answer(), part, Reason.INFERENCE_ERROR, "(64, 96, 1), got")
    assert "(64, 97, 1)" in answer.detail
    for _ in range(4):  # the engine is well: this must not count as its failure
        line.show(np.zeros((64, 96, 3), np.uint8), line.setup_hash)
        assert line.answer().reason is Reason.INFERENCE_ERROR
    line.show(picture(1), line.setup_hash)
    assert isinstance(line.answer(), Scored)


def test_pictures_of_another_kind_end_their_parts_and_never_the_process(rig):
    recipe = gated(rig)
    rig.start()
    rig.use(recipe)
    for channels in (2, 3, 5):
        part = rig.show(np.zeros((64, 96, channels), np.uint8), recipe[1])
        text = f"expected a frame of 1 channel(s), got (64, 96, {channels})"
        expect_failure(rig.answer(), part, Reason.INFERENCE_ERROR, text)
    rig.show(picture(50), recipe[1])
    assert isinstance(rig.answer(), Scored)


def test_a_frame_of_another_set_up_is_not_scored(line):
    part = line.show(picture(1), "f" * 64)
    failed = expect_failure(line.answer(), part, Reason.WRONG_RECIPE, line.setup_hash[:12])
    assert failed.setup_hash == "f" * 64


def test_a_frame_that_is_gone_is_not_scored(line):
    ref = line.rings["top"].put(picture(1))
    for seed in range(SLOTS):
        line.rings["top"].put(picture(seed))
    part = line.show(picture(2), line.setup_hash, pixels=ref)
    expect_failure(line.answer(), part, Reason.FRAME_OVERWRITTEN, "was overwritten")


def test_a_ring_that_is_gone_is_not_scored(line):
    ref = msgspec.structs.replace(line.rings["top"].put(picture(1)), ring="frame-top.0.ring")
    part = line.show(picture(2), line.setup_hash, pixels=ref)
    expect_failure(line.answer(), part, Reason.FRAME_OVERWRITTEN, "frame-top.0.ring")


@pytest.mark.parametrize("rig", [{"kind": "null", "null_delay_ms": 1500}], indirect=True)
def test_a_frame_that_is_overwritten_while_the_engine_works_is_not_scored(rig):
    recipe = rig.recipe(write_null_bundle(rig.config.bundles_dir / "n", "n", 64, 96))
    rig.start()
    rig.use(recipe)
    part = rig.show(np.full((64, 96), 50, np.uint8), recipe[1])
    calls = rig.health.gauges["engine_calls"]
    time.sleep(0.5)  # the engine sleeps for 1.5 s
    for _ in range(SLOTS):
        rig.rings["top"].put(np.full((64, 96), 90, np.uint8))
    expect_failure(rig.answer(), part, Reason.FRAME_OVERWRITTEN, "was overwritten")
    rig.until("health", lambda: rig.health.gauges["engine_calls"] == calls + 1)


@pytest.mark.parametrize("rig", [{"kind": "null"}], indirect=True)
def test_the_null_engine_gives_back_the_mean_and_says_that_it_is_simulated(rig):
    recipe = rig.recipe(write_null_bundle(rig.config.bundles_dir / "n", "n", 64, 96))
    rig.start()
    rig.use(recipe)
    assert rig.health is not None and rig.health.is_simulated
    for level in (0, 1, 128, 255):
        rig.show(np.full((64, 96), level, np.uint8), recipe[1], is_simulated=False)
        answer = rig.answer()
        assert answer.is_simulated
        assert answer.classification == level
        assert (rig.reader.copy(answer.map) == level).all()


def gated(rig: Rig) -> tuple[str, str]:
    limits, mean = learn([picture(seed) for seed in range(20)])
    bundle = write_network_bundle(rig.config.bundles_dir / "b", gates=limits, mean_image=mean)
    return rig.recipe(bundle)


def test_gates_stop_a_picture_before_the_network(rig):
    recipe = gated(rig)
    rig.start()
    rig.use(recipe)
    rig.show(picture(50), recipe[1])
    answer = rig.answer()
    assert isinstance(answer, Scored)
    assert set(answer.gates) >= {"mean", "saturated", "focus", "identical"}
    assert answer.stages_ns["gates"] > 0

    part = rig.show(np.zeros((64, 96), np.uint8), recipe[1])
    failed = expect_failure(rig.answer(), part, Reason.IMAGE_HEALTH, "mean: expected")
    assert failed.gates["mean"] == 0
    assert "engine" not in failed.stages_ns

    frozen = picture(51)
    rig.show(frozen, recipe[1], is_simulated=False)
    assert isinstance(rig.answer(), Scored)
    part = rig.show(frozen, recipe[1], is_simulated=False)
    expect_failure(rig.answer(), part, Reason.IMAGE_HEALTH, "identical")
    rig.show(frozen, recipe[1])  # a folder may show a file twice
    assert isinstance(rig.answer(), Scored)


def test_a_shifted_part_is_a_fixture_error(rig):
    image = np.full((64, 96), 60, np.uint8)
    cv2.circle(image, (48, 32), 16, (190,), -1)

    def part(seed: int) -> np.ndarray:
        noise = np.random.default_rng(seed).normal(0, 3, image.shape)
        return (image + noise).clip(0, 255).astype(np.uint8)

    limits, mean = learn([part(seed) for seed in range(20)])
    assert limits.shift_px is not None
    bundle = write_network_bundle(rig.config.bundles_dir / "b", gates=limits, mean_image=mean)
    recipe = rig.recipe(bundle)
    rig.start()
    rig.use(recipe)
    rig.show(part(30), recipe[1])
    assert isinstance(rig.answer(), Scored)
    shown = rig.show(np.roll(part(31), 8, 1), recipe[1])
    expect_failure(rig.answer(), shown, Reason.FIXTURE, "shift: expected at most")


def test_the_network_sees_the_region_alone(rig):
    bundle = write_network_bundle(rig.config.bundles_dir / "b")
    recipe = rig.recipe(bundle, top=View(roi=(10, 20, 120, 80)))
    rig.start()
    rig.use(recipe)
    wide = np.full((120, 200), 30, np.uint8)
    wide[20:100, 10:130] = 99
    rig.show(wide, recipe[1], "top")
    assert rig.answer().classification == pytest.approx(99, rel=1e-5)
    part = rig.show(wide[:90], recipe[1], "top")
    expect_failure(rig.answer(), part, Reason.INFERENCE_ERROR, "at least 130x100 pixels")


def test_a_part_that_lies_elsewhere_is_moved_back_and_one_without_fixture_is_never_scored(rig):
    bundle = write_network_bundle(rig.config.bundles_dir / "b")
    fixture = Fixture(region=(20, 10, 50, 40), max_shift_px=6, reference="golden/0.png")
    recipe = rig.recipe(bundle, top=View(roi=(8, 8, 96, 64), fixture=fixture))
    rig.start()
    rig.use(recipe)
    frame = np.full((80, 112), 255, np.uint8)
    frame[13:77, 11:107] = picture(0)
    rig.show(frame, recipe[1])
    answer = rig.answer()
    assert (answer.gates["fixture_x_px"], answer.gates["fixture_y_px"]) == pytest.approx(
        (3, 5), abs=0.1
    )
    assert answer.stages_ns["fixture"] > 0
    with np.load(bundle.path("golden/0.npz")) as stored:
        assert answer.classification == pytest.approx(float(stored["score"]), rel=1e-5)
        np.testing.assert_allclose(rig.reader.view(answer.map), stored["map"], rtol=1e-5)
    shown = rig.show(np.roll(frame, 8, 1), recipe[1])
    expect_failure(rig.answer(), shown, Reason.FIXTURE, "fixture not found")
    shown = rig.show(np.random.default_rng(9).integers(0, 255, (80, 112), np.uint8), recipe[1])
    expect_failure(rig.answer(), shown, Reason.FIXTURE, "a likeness of at least 0.6")


def test_a_stop_signal_ends_it_and_leaves_nothing(rig):
    recipe = rig.recipe(write_network_bundle(rig.config.bundles_dir / "b"))
    rig.start()
    rig.use(recipe)
    assert list(rig.config.rings_dir.glob("map-0.*"))
    rig.process.send_signal(signal.SIGTERM)
    assert rig.exit_code() == 0
    assert list(rig.config.rings_dir.glob("map-0.*")) == []


def test_an_engine_that_fails_three_times_ends_the_process(rig):
    recipe = rig.recipe(write_network_bundle(rig.config.bundles_dir / "b"))
    rig.start()
    rig.use(recipe)
    for _ in range(3):
        part = rig.show(np.zeros((64, 96), np.uint8), recipe[1])
        expect_failure(rig.answer(), part, Reason.INVALID_NUMBER, "not finite")
    assert rig.exit_code() == 1
    assert "failed three times" in rig.said()


def test_an_engine_that_never_returns_ends_the_process(rig):
    recipe = rig.recipe(write_network_bundle(rig.config.bundles_dir / "b"))
    rig.start()
    rig.use(recipe)
    limit_s = rig.health.gauges["hang_limit_ms"] / 1000
    begun = time.monotonic()
    rig.show(np.full((64, 96), 255, np.uint8), recipe[1])
    assert rig.exit_code() == 1
    assert time.monotonic() - begun >= limit_s
    assert "the engine hangs" in rig.said()
    assert "engine_onnx.py" in rig.said()  # the place, for whoever reads the log
    rig.health = None
    rig.start()
    assert rig.use(recipe)
    rig.show(picture(1), recipe[1])
    assert isinstance(rig.answer(), Scored)


def test_a_log_that_nobody_reads_holds_up_no_frame_and_no_end(rig):
    recipe = rig.recipe(write_network_bundle(rig.config.bundles_dir / "b"))
    rig.log.close()
    with full_pipe() as rig.log:
        rig.start()
        rig.use(recipe)  # says so in the log
        rig.show(picture(1), recipe[1])
        assert isinstance(rig.answer(), Scored)
        rig.show(np.full((64, 96), 255, np.uint8), recipe[1])  # the engine hangs
        assert rig.exit_code() == 1


@pytest.mark.parametrize(
    ("rig", "is_slow"),
    [({"kind": "null", "null_delay_ms": 200}, True), ({"kind": "null"}, False)],
    indirect=["rig"],
)
def test_the_watchdog_waits_for_a_slow_engine_as_long_as_the_hang_guard(rig, is_slow, monkeypatch):
    """Else systemd would kill an engine that takes longer than a turn may, frame by frame."""
    recipe = rig.recipe(write_null_bundle(rig.config.bundles_dir / "n", "n", 64, 96))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(rig.root / "notify"))
        told.setblocking(False)

        def words() -> list[str]:
            taken: list[str] = []
            with contextlib.suppress(BlockingIOError):
                while True:
                    taken.append(told.recv(100).decode())
            return taken

        monkeypatch.setenv("NOTIFY_SOCKET", str(rig.root / "notify"))
        rig.start()
        rig.use(recipe)
        words()
        rig.show(np.full((64, 96), 9, np.uint8), recipe[1])
        assert isinstance(rig.answer(), Scored)
        patience = [w.partition("=")[2] for w in words() if w.startswith("EXTEND_TIMEOUT_USEC=")]
        limit_us = rig.health.gauges["hang_limit_ms"] * 1000
        assert limit_us > 500_000 or not is_slow
        assert bool(patience) is (limit_us > 500_000)
        assert all(int(us) == pytest.approx(limit_us, abs=1) for us in patience)


def test_a_killed_process_comes_back_and_serves_again(rig):
    recipe = rig.recipe(write_network_bundle(rig.config.bundles_dir / "b"))
    rig.start()
    before = rig.use(recipe)
    os.kill(rig.process.pid, signal.SIGKILL)
    rig.process.wait()
    rig.health = None
    rig.start()
    assert rig.use(recipe) == before
    rig.show(picture(1), recipe[1])
    answer = rig.answer()
    assert isinstance(answer, Scored)
    rings = [path.name for path in rig.config.rings_dir.glob("map-0.*")]
    assert rings == [answer.map.ring]


def test_a_stopped_and_continued_process_is_no_hang(rig):
    recipe = rig.recipe(write_null_bundle(rig.config.bundles_dir / "n", "n", 64, 96))
    rig.config_path.write_text(
        rig.config_path.read_text().replace('kind = "onnx"', 'kind = "null"\nnull_delay_ms = 100.0')
    )
    rig.start()
    rig.use(recipe)
    rig.show(np.full((64, 96), 9, np.uint8), recipe[1])
    time.sleep(0.03)
    rig.process.send_signal(signal.SIGSTOP)
    time.sleep(0.8)
    rig.process.send_signal(signal.SIGCONT)
    assert isinstance(rig.answer(), Scored)
    assert rig.process.poll() is None
