"""What tiling is for, in one picture: a 12-pixel defect in frames of 4096 x 3000 pixels.

`python -m tools.tiling_pictures OUT.png` draws brushed plates, trains one bundle that sees frames
whole and one that sees them in tiles, on the same images, and shows what both say of plates that
neither has seen. Prints the figures as JSON.
"""

import json
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from appliance.bundle import load_bundle
from appliance.tiles import Tiles
from models import train
from models.dataset import Dataset, open_dataset
from models.evaluate import score_here

Image = npt.NDArray[np.uint8]

_SIZE = (3000, 4096)
_DEFECT_PX = 12
_NETWORK = (256, 256)
_TILES = Tiles(height_px=768, width_px=768, overlap_px=96)
_EPOCHS = {"whole": 120, "tiles": 18}
"""A plate is one image where it is seen whole and 30 where it is cut. Whole, 540 epochs were tried:
after 219 the training said that defects lie 0.00 above normal pixels."""
_DARKER = 25
"""Grey levels between a pit and the plate around it."""
_GOOD, _TEST_GOOD, _BAD = 4, 12, 10
_PANEL = (480, 352)
"""Width and height of one of the four panels."""


def main(out: Path) -> None:
    """Draw, train twice, show."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        places = _draw_all(root / "plates")
        data = open_dataset(root / "plates", learn_bad=False)
        told: dict[str, object] = {"defect_px": _DEFECT_PX, "frame": _SIZE[::-1]}
        maps: dict[str, npt.NDArray[np.float32]] = {}
        bad = [sample for sample in data.held_out if sample.label]
        for name, tiles in (("whole", None), ("tiles", _TILES)):
            train.train_bundle(data, root / name, size=_NETWORK, epochs=_EPOCHS[name], tiles=tiles)
            told[name], maps[name] = _figures(root / name, data)
        frame = cv2.imread(str(bad[0].path), cv2.IMREAD_GRAYSCALE)
        if frame is None:
            raise AssertionError("a plate that was written cannot be read")
        _show(out, np.asarray(frame, np.uint8), places[bad[0].path.name], maps)
    sys.stdout.write(json.dumps(told, indent=1) + "\n")


def _figures(folder: Path, data: Dataset) -> tuple[dict[str, object], npt.NDArray[np.float32]]:
    """What a bundle says of the plates that it has not seen; its map of the first bad one."""
    bundle = load_bundle(folder)
    answers, maps = score_here(bundle, data, lambda count: None)
    labels = np.array([sample.label for sample in data.held_out])
    good, bad = answers.map_max[labels == 0], answers.map_max[labels == 1]
    figures = {
        "map_px": list(maps[0].shape[::-1]),
        "pixels_per_map_pixel": round(bundle.manifest.input.smallest_defect_px / 3, 2),
        "of_good": [round(float(value), 3) for value in good],
        "of_bad": [round(float(value), 3) for value in bad],
        "found": int((bad > good.max()).sum()),
        "bad": len(bad),
    }
    return figures, maps[int(np.flatnonzero(labels)[0])]


def _draw_all(folder: Path) -> dict[str, tuple[int, int]]:
    """Files in the MVTec AD layout; name of each bad one → middle of its defect (y, x)."""
    places: dict[str, tuple[int, int]] = {}
    for name, count in (("train/good", _GOOD), ("test/good", _TEST_GOOD), ("test/pit", _BAD)):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            rng = np.random.default_rng([len(name), index])
            plate = _plate(rng)
            if name == "test/pit":
                y, x = (int(rng.integers(100, side - 100)) for side in _SIZE)
                pit = float(plate[y - 50 : y + 50, x].mean()) - _DARKER
                cv2.circle(plate, (x, y), _DEFECT_PX // 2, (pit,), -1, cv2.LINE_AA)
                places[f"{index:03d}.png"] = (y, x)
            grain = rng.normal(0, 3, _SIZE).astype(np.float32)
            file = folder / name / f"{index:03d}.png"
            picture = (plate + grain).clip(0, 255).astype(np.uint8)
            cv2.imwrite(str(file), picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return places


def _plate(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Brushed metal under a light that falls off to the edges."""
    streaks = rng.normal(0, 6, (_SIZE[0], _SIZE[1] // 64)).astype(np.float32)
    streaks = cv2.resize(streaks, _SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    rows, columns = np.mgrid[-1 : 1 : _SIZE[0] * 1j, -1 : 1 : _SIZE[1] * 1j]
    light = 150 - 25 * (rows**2 + columns**2)
    return np.asarray(light + streaks, np.float32)


def _show(
    out: Path, frame: Image, place: tuple[int, int], maps: dict[str, npt.NDArray[np.float32]]
) -> None:
    """Frame, the defect at full resolution, and both maps."""
    width, height = _PANEL
    y, x = place
    whole = cv2.cvtColor(
        cv2.resize(frame, _PANEL, interpolation=cv2.INTER_AREA), cv2.COLOR_GRAY2BGR
    )
    middle = round(x * width / frame.shape[1]), round(y * height / frame.shape[0])
    cv2.circle(whole, middle, 14, (40, 160, 255), 2, cv2.LINE_AA)
    side = (40, 55)
    top = int(np.clip(y - side[0], 0, frame.shape[0] - 2 * side[0]))
    left = int(np.clip(x - side[1], 0, frame.shape[1] - 2 * side[1]))
    near = frame[top : top + 2 * side[0], left : left + 2 * side[1]]
    near = cv2.cvtColor(
        cv2.resize(near, _PANEL, interpolation=cv2.INTER_NEAREST), cv2.COLOR_GRAY2BGR
    )
    panels = [_named(whole, "4096 x 3000 pixels"), _named(near, "12 pixels, enlarged")]
    for name, title in (("whole", "map, seen whole"), ("tiles", "map, seen in tiles")):
        # Grown before it is reduced, or a peak of few pixels would not be seen in print.
        grown = cv2.dilate(maps[name], np.ones((9, 9), np.uint8)) if name == "tiles" else maps[name]
        amap = cv2.resize(grown, _PANEL, interpolation=cv2.INTER_AREA)
        # One scale for both: the largest value of either.
        top_value = max(float(each.max()) for each in maps.values())
        shade = (np.maximum(amap, 0) / top_value * 255).clip(0, 255).astype(np.uint8)
        panel = cv2.applyColorMap(shade, cv2.COLORMAP_INFERNO)
        cv2.circle(panel, middle, 14, (255, 255, 255), 1, cv2.LINE_AA)
        panels.append(_named(panel, title))
    rows = [np.hstack(panels[:2]), np.hstack(panels[2:])]
    cv2.imwrite(str(out), np.vstack(rows))


def _named(panel: npt.NDArray[np.uint8] | cv2.typing.MatLike, title: str) -> Image:
    image = np.ascontiguousarray(panel, np.uint8)
    cv2.rectangle(image, (0, 0), (12 + 11 * len(title), 30), (20, 20, 20), -1)
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(image, title, (8, 21), font, 0.6, (240, 240, 240), 1, cv2.LINE_AA)
    return image


if __name__ == "__main__":
    main(Path(sys.argv[1]))
