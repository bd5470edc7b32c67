"""What finding a fixture costs on a 5 MP frame, and how well its place repeats."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from appliance.fixture import Finder
from appliance.recipe import Fixture
from tools.bench_row import Row, figure, quantiles
from tools.bench_score import time_ms

_SIZE = (2048, 2448)
_MARGIN = 120
"""Of the frame around the training images on every side."""
_REGION = (900, 700, 480, 400)
_NOISE = 3.0
_REPEATS = 40

Frame = npt.NDArray[np.uint8]


def fixture(seconds: float) -> list[Row]:
    """Shift alone; shift, turn and scale refined by ECC: time, and spread of the place found."""
    reference = _reference()
    rows: list[Row] = []
    for what, limits in (
        ("shift", Fixture(region=_REGION, max_shift_px=60)),
        (
            "shift and turn ±5°, ECC",
            Fixture(region=_REGION, max_shift_px=60, max_rotation_deg=5, method="ecc"),
        ),
    ):
        finder = Finder(limits, reference, (_MARGIN, _MARGIN), "bench")
        turn = 0.0 if limits.max_rotation_deg == 0 else 2.3
        frame = _seen(reference, 21.4, -13.7, turn, 0)

        def call(finder: Finder = finder, frame: Frame = frame) -> None:
            finder.placed(frame, finder.locate(frame))

        found = quantiles(time_ms(call, seconds))
        rows.append(
            Row(
                bench="fixture",
                what=f"fixture on a 5 MP frame, region 480x400, ±60 px: {what}, median",
                value=found["p50"],
                unit="ms",
                spread=found,
            )
        )
        places = np.array(
            [
                (*one.shift_px, one.rotation_deg)
                for seed in range(_REPEATS)
                for one in [finder.locate(_seen(reference, 21.4, -13.7, turn, seed))]
            ]
        )
        wrong = places.mean(axis=0) - (21.4, -13.7, turn)
        rows.append(
            Row(
                bench="fixture",
                what=f"the same: spread of the place over {_REPEATS} noisy frames, 1 sigma",
                value=figure(float(places[:, :2].std(axis=0).max())),
                unit="px",
                spread={
                    "sigma deg": figure(float(places[:, 2].std())),
                    "offset px": figure(float(np.abs(wrong[:2]).max())),
                    "offset deg": figure(float(abs(wrong[2]))),
                },
                note=f"grey noise of {_NOISE:g}",
            )
        )
    return rows


def _reference() -> Frame:
    rng = np.random.default_rng(0)
    coarse = rng.uniform(40, 200, (_SIZE[0] // 32, _SIZE[1] // 32)).astype(np.float32)
    image = cv2.resize(coarse, (_SIZE[1], _SIZE[0]), interpolation=cv2.INTER_CUBIC)
    return np.asarray(image.clip(0, 255), np.uint8)


def _seen(reference: Frame, x: float, y: float, turn: float, seed: int) -> Frame:
    """A frame of the reference turned about the region's middle, moved, with noise of its own."""
    left, top, width, height = _REGION
    middle = (left + (width - 1) / 2, top + (height - 1) / 2)
    matrix = cv2.getRotationMatrix2D(middle, -turn, 1.0)
    matrix[:, 2] += (x + _MARGIN, y + _MARGIN)
    width, height = _SIZE[1] + 2 * _MARGIN, _SIZE[0] + 2 * _MARGIN
    moved = cv2.warpAffine(reference, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    noise = np.random.default_rng(seed).normal(0, _NOISE, (512, 512)).astype(np.float32)
    # One tile of noise, moved about: drawing five million numbers forty times takes too long.
    tiled = np.tile(noise, (height // 512 + 1, width // 512 + 1))[:height, :width]
    return np.asarray((moved + tiled).clip(0, 255), np.uint8)
