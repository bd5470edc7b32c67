from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from appliance.bundle import GateLimits, InputContract, Manifest, finish_bundle, load_bundle
from appliance.codes import Reason
from appliance.errors import ArtefactError
from appliance.image_gates import Gates, gates_of, judge, learn

HEIGHT, WIDTH = 240, 320


def part(seed, shift=0, channels=1):
    """A bright disc with scratches on a grey ground, with the noise of a sensor."""
    rng = np.random.default_rng(seed)
    image = np.full((HEIGHT, WIDTH), 70.0, np.float32)
    cv2.circle(image, (WIDTH // 2 + shift, HEIGHT // 2), 80, (150.0,), -1)
    for x in range(-60, 70, 20):
        top, bottom = (WIDTH // 2 + shift + x, 80), (WIDTH // 2 + shift + x, 160)
        cv2.line(image, top, bottom, (110.0,), 2)
    image += rng.normal(0, 3, image.shape) + rng.normal(0, 2)
    frame = image.clip(0, 255).astype(np.uint8)
    return frame if channels == 1 else np.repeat(frame[:, :, None], channels, axis=2)


@pytest.fixture(scope="module", params=[1, 3], ids=["grey", "colour"])
def learnt(request):
    limits, mean = learn(part(seed, channels=request.param) for seed in range(30))
    return limits, mean, request.param


def fault(frame, learnt, **kwargs):
    limits, mean, _ = learnt
    return judge(Gates(mean).measure(frame), limits, **{"may_repeat": False, **kwargs})


@pytest.mark.parametrize("seed", range(100, 110))
def test_a_good_picture_passes(learnt, seed):
    assert fault(part(seed, channels=learnt[2]), learnt) is None


def test_a_bad_part_is_a_healthy_picture(learnt):
    frame = part(100, channels=learnt[2])
    cv2.line(frame, (100, 60), (220, 180), (20, 20, 20), 9)
    cv2.circle(frame, (200, 150), 25, (250, 250, 250), -1)
    assert fault(frame, learnt) is None


def noise(frame, level):
    rng = np.random.default_rng(1)
    return np.clip(frame + rng.normal(0, level, frame.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("spoil", "reason", "figure"),
    [
        (lambda f: noise(f * 0.0, 1), Reason.IMAGE_HEALTH, "mean"),
        (lambda f: np.zeros_like(f), Reason.IMAGE_HEALTH, "mean"),
        (lambda f: np.full_like(f, 255), Reason.IMAGE_HEALTH, "mean"),
        (lambda f: (f > 128).astype(np.uint8) * 255, Reason.IMAGE_HEALTH, "saturated"),
        (lambda f: cv2.GaussianBlur(f, (0, 0), 3), Reason.IMAGE_HEALTH, "focus"),
        (lambda f: noise(f, 40), Reason.IMAGE_HEALTH, "focus"),
        (lambda f: np.full_like(f, 100), Reason.IMAGE_HEALTH, "focus"),
        (lambda f: noise(np.roll(f, 25, 1), 1), Reason.FIXTURE, "shift"),
        (lambda f: noise(np.roll(f, -20, 0), 1), Reason.FIXTURE, "shift"),
        (lambda f: noise(np.roll(f, 100, 1), 1), Reason.FIXTURE, "shift"),
    ],
    ids="black zeros white posterised blurred noisy blank right up far".split(),
)
def test_a_spoilt_picture_is_stopped_and_the_figure_named(learnt, spoil, reason, figure):
    verdict = fault(spoil(part(100, channels=learnt[2])), learnt)
    assert verdict is not None
    assert verdict[0] is reason
    assert verdict[1].startswith(f"{figure}: expected ")


@pytest.mark.parametrize("shift", [-24, -12, 0, 12, 24])
def test_the_shift_is_measured_in_pixels_of_the_frame(learnt, shift):
    _, mean, channels = learnt
    figures = Gates(mean).measure(part(100, shift=shift, channels=channels))
    assert figures["shift_px"] == pytest.approx(abs(shift), abs=2.6)  # one reduced pixel


def test_a_frozen_camera_is_stopped_but_a_file_may_come_twice(learnt):
    limits, mean, channels = learnt
    gates = Gates(mean)
    frame = part(100, channels=channels)
    assert judge(gates.measure(frame), limits, may_repeat=False) is None
    figures = gates.measure(frame.copy())
    assert judge(figures, limits, may_repeat=True) is None
    verdict = judge(figures, limits, may_repeat=False)
    assert verdict is not None
    assert verdict == (Reason.IMAGE_HEALTH, verdict[1])
    assert "identical" in verdict[1]
    frame[0, 0] ^= 1
    assert judge(gates.measure(frame), limits, may_repeat=False) is None


def test_the_last_frame_is_a_copy(learnt):
    """Slots of a ring are written again: what was remembered must not change with them."""
    _, mean, channels = learnt
    slot = part(100, channels=channels)
    gates = Gates(mean)
    gates.measure(slot)
    slot[:] = part(101, channels=channels)
    assert gates.measure(slot)["identical"] == 0


def test_parts_that_lie_anywhere_have_no_shift_limit():
    rng = np.random.default_rng(0)
    limits, mean = learn(part(seed, shift=int(rng.integers(-60, 60))) for seed in range(30))
    assert limits.shift_px is None
    assert judge(Gates(mean).measure(part(100, shift=30)), limits, may_repeat=False) is None
    assert judge(Gates().measure(part(101, shift=30)), limits, may_repeat=False) is None


def test_few_images_of_noise_are_not_taken_for_aligned_parts():
    """Each of them fits the mean that it is a part of."""
    rng = np.random.default_rng(0)
    limits, _ = learn(rng.integers(60, 180, (64, 96)).astype(np.uint8) for _ in range(10))
    assert limits.shift_px is None


def test_images_of_several_sizes_are_not_aligned():
    limits, _ = learn([part(0), part(1), part(2)[:200], part(3)[:, :200]])
    assert limits.shift_px is None


def test_one_image_is_not_enough():
    with pytest.raises(ArtefactError, match="two or more good images, got 1"):
        learn([part(0)])


def test_a_figure_that_is_no_number_fails(learnt):
    limits, mean, channels = learnt
    figures = Gates(mean).measure(part(100, channels=channels))
    for name in ("mean", "saturated", "focus", "noise", "shift_px"):
        verdict = judge({**figures, name: float("nan")}, limits, may_repeat=False)
        assert verdict is not None


def test_a_large_frame_is_measured_by_its_parts():
    """5 megapixels: blur in the whole frame is seen although only tiles are looked at."""
    rng = np.random.default_rng(0)
    frame = rng.integers(60, 180, (2048, 2448)).astype(np.uint8)
    figures = Gates().measure(frame)
    assert figures["mean"] == pytest.approx(frame.mean(), rel=0.01)
    whole = cv2.Laplacian(frame, cv2.CV_16S).var()
    assert figures["focus"] == pytest.approx(whole, rel=0.05)
    assert (
        Gates().measure(np.asarray(cv2.GaussianBlur(frame, (0, 0), 2), np.uint8))["focus"]
        < figures["focus"] / 100
    )


def bundle_with(tmp_path: Path, limits: GateLimits | None, mean: bytes | None):
    draft = tmp_path / "draft"
    draft.mkdir()
    cv2.imwrite(str(draft / "segments.png"), np.zeros((64, 64), np.uint8))
    if mean is not None:
        (draft / "gates.png").write_bytes(mean)
    contract = InputContract(
        height_px=64,
        width_px=64,
        source_height_px=HEIGHT,
        source_width_px=WIDTH,
        channels=1,
        smallest_defect_px=3,
    )
    manifest = Manifest(
        kind="null",
        product="p",
        created_utc="",
        files={},
        input=contract,
        segments=("all",),
        columns=(),
        gates=limits,
    )
    return finish_bundle(draft, tmp_path / "bundle", manifest)


def test_limits_and_mean_image_travel_through_a_bundle(tmp_path):
    limits, mean = learn(part(seed) for seed in range(10))
    bundle = bundle_with(tmp_path, limits, cv2.imencode(".png", mean)[1].tobytes())
    assert bundle.manifest.gates == limits
    gates = gates_of(bundle)
    assert gates.measure(part(100)) == Gates(mean).measure(part(100))


def test_no_shift_limit_travels_too(tmp_path):
    limits, mean = learn([part(0), part(1)[:200]])
    bundle = bundle_with(tmp_path, limits, cv2.imencode(".png", mean)[1].tobytes())
    assert bundle.manifest.gates == limits
    gates = gates_of(bundle)
    assert "shift_px" not in gates.measure(part(100))


def test_without_limits_a_frozen_camera_shows_all_the_same(tmp_path):
    gates = gates_of(bundle_with(tmp_path, None, None))
    assert judge(gates.compare(part(100)), None, may_repeat=False) is None
    assert judge(gates.compare(part(101)), None, may_repeat=False) is None
    figures = gates.compare(part(101))
    assert figures == {"identical": 1}
    assert judge(figures, None, may_repeat=True) is None
    verdict = judge(figures, None, may_repeat=False)
    assert verdict is not None
    assert verdict == (Reason.IMAGE_HEALTH, verdict[1])
    assert "identical" in verdict[1]


def test_a_mean_image_that_is_none_is_refused(tmp_path):
    limits, _ = learn(part(seed) for seed in range(10))
    with pytest.raises(ArtefactError, match="an 8-bit grey PNG"):
        gates_of(bundle_with(tmp_path, limits, b"no image"))


def test_a_missing_mean_image_is_refused_at_load(tmp_path):
    limits, mean = learn(part(seed) for seed in range(10))
    bundle = bundle_with(tmp_path, limits, cv2.imencode(".png", mean)[1].tobytes())
    path = bundle.folder / "manifest.json"
    manifest = msgspec.json.decode(path.read_bytes())
    del manifest["files"]["gates.png"]
    path.write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(ArtefactError, match=r"a hash for gates\.png"):
        load_bundle(bundle.folder)


@pytest.mark.parametrize("level", [1.0, 3.0, 12.0])
@pytest.mark.parametrize("size", [(40, 56), (240, 320), (2048, 2448)])
def test_noise_is_the_sensors_and_not_the_parts(size, level):
    """Edges and a gradient of light under it change little."""
    height, width = size
    rows, columns = np.mgrid[0:height, 0:width]
    scene = 60 + 60 * columns / width + 20 * rows / height
    scene[height // 3 : height // 2, width // 3 : width // 2] += 60
    rng = np.random.default_rng(0)
    frame = (scene + rng.normal(0, level, size)).clip(0, 255).round().astype(np.uint8)
    assert Gates().measure(frame)["noise"] == pytest.approx(np.hypot(level, 12**-0.5), rel=0.15)


def test_noise_is_stopped_where_the_parts_edges_hide_it_from_the_focus():
    """A rough part: its own texture is most of the focus."""

    def rough(seed, level):
        rng = np.random.default_rng(seed)
        scene = np.full((HEIGHT, WIDTH), 120.0)
        scene[:, : WIDTH // 3] += 90 * (np.arange(HEIGHT)[:, None] % 2)
        return (scene + rng.normal(0, level, scene.shape)).clip(0, 255).round().astype(np.uint8)

    limits, mean = learn(rough(seed, 1.0) for seed in range(10))
    gates = Gates(mean)
    assert judge(gates.measure(rough(50, 1.0)), limits, may_repeat=False) is None
    fault = judge(gates.measure(rough(51, 8.0)), limits, may_repeat=False)
    assert fault is not None and fault[1].startswith("noise: expected")
    old = msgspec.structs.replace(limits, noise=None)
    assert judge(gates.measure(rough(52, 8.0)), old, may_repeat=False) is None
