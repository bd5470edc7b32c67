"""One network, four ways to run it: torch, its exact graph, ONNX Runtime and OpenVINO."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch

from appliance.bundle import InputContract
from appliance.head import merged_network
from models.dataset import elpv
from models.exact import ExactSuperSimpleNet
from models.export import Preprocessor, export_exact, session
from models.features import KeptTaps
from models.learn import Plan, train_heads
from models.supersimplenet import SuperSimpleNet
from tests.test_models_network import random_network, run_openvino

Frames = npt.NDArray[np.uint8]


def contract(source: tuple[int, int], channels: int, size: tuple[int, int]) -> InputContract:
    return InputContract(
        height_px=size[0], width_px=size[1], source_height_px=source[0], source_width_px=source[1],
        channels=3 if channels == 3 else 1, smallest_defect_px=3.0,
    )  # fmt: skip


def answers(
    network: SuperSimpleNet, frames: Frames, asked: InputContract
) -> dict[str, Sequence[npt.NDArray[np.float32]]]:
    """Runtime → map and score of every frame; torch pools and resizes by itself."""
    size = (asked.height_px, asked.width_px)
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    if pixels.shape[1] == 1:
        pixels = pixels.repeat(1, 3, 1, 1)
    cell = [max(1, side // target) for side, target in zip(frames.shape[1:3], size, strict=True)]
    over = [-side % step for side, step in zip(frames.shape[1:3], cell, strict=True)]
    whole = torch.nn.functional.pad(pixels, (0, over[1], 0, over[0]), mode="replicate")
    pooled = torch.nn.functional.avg_pool2d(whole, cell)
    resized = torch.nn.functional.interpolate(
        pooled, size=size, mode="bilinear", align_corners=False, antialias=False
    )
    merged = merged_network(export_exact(network, size), asked, *frames.shape[1:])
    with torch.inference_mode():
        plain = network(resized)
        exact = ExactSuperSimpleNet(network, size)(resized)
    return {
        "torch": [out.numpy() for out in plain],
        "exact": [out.numpy() for out in exact],
        "onnxruntime": [
            np.asarray(out) for out in session(merged).run(["map", "score"], {"frame": frames})
        ],
        "openvino": run_openvino(merged.SerializeToString(), frames),
    }


def test_a_hundred_real_images_get_the_same_answers_everywhere():
    pytest.importorskip("elpv_dataset")
    pytest.importorskip("openvino")
    data = elpv(0)
    chosen = (*data.held_out[:50], *data.limits_bad[:25], *data.limits_good[:25])
    frames, size = data.pixels(chosen), (96, 96)
    asked = contract((300, 300), 1, size)
    torch.manual_seed(0)
    network, _ = random_network(size, grid=1)
    with torch.no_grad():
        taps = network.taps(torch.from_numpy(Preprocessor(asked)(frames[75:])))
    train_heads(network, KeptTaps(*taps), Plan(epochs=2, classification_epochs=2, batch=8))
    got = answers(network, frames, asked)
    plain = got.pop("torch")
    limits = [np.median(plain[0].max(axis=(1, 2, 3))), np.median(plain[1])]
    for runtime, (maps, scores) in got.items():
        assert np.abs(maps - plain[0]).max() < 1e-3, runtime
        assert np.abs(scores - plain[1]).max() < 1e-3, runtime
        for values, truth, limit in (
            (maps.max(axis=(1, 2, 3)), plain[0].max(axis=(1, 2, 3)), limits[0]),
            (scores, plain[1], limits[1]),
        ):
            assert np.array_equal(values > limit, truth > limit), runtime


def test_a_twelve_megapixel_source_is_reduced_the_same_everywhere():
    """An antialiased resize in one place and a plain one in another is a classic of this trade."""
    pytest.importorskip("openvino")
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (1, 3000, 4000, 3), np.uint8)
    frames[0, 1000:1006, 2000:2006] = 255
    network, _ = random_network((128, 160), grid=1)
    got = answers(network, frames, contract((3000, 4000), 3, (128, 160)))
    plain = got.pop("torch")
    for runtime, (amap, score) in got.items():
        assert np.abs(amap - plain[0]).max() < 1e-3 * max(1, np.abs(plain[0]).max()), runtime
        assert np.abs(score - plain[1]).max() < 1e-3 * max(1, np.abs(plain[1]).max()), runtime
