"""Pictures of a part that we own: a stamped metal plate, good and with defects.

`python -m tools.draw_parts DIR` draws a folder in the MVTec AD layout for `inspectd demo --data
DIR`. Light, place, texture and noise differ, the same seed draws the same bytes. Such pictures show
how the line works, never how good a network is on a real product.
"""

from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import numpy.typing as npt
import typer

Floats = npt.NDArray[np.float32]

SIDE_PX = 384
_HOLES = ((84, 92), (300, 92), (84, 292), (300, 292))
_LEFT, _TOP, _RIGHT, _BOTTOM = 40, 48, 344, 336  # of the plate, pixels
_BITS = 4  # of OpenCV's drawing coordinates, behind the point


class Plate:
    """One plate on its way to a picture.

    height: 1 on the plate, 0 below it; light falls on its slopes. tint: share of the light that
    the surface gives back. Both (384, 384) float32.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.height = np.zeros((SIDE_PX, SIDE_PX), np.float32)
        self.tint = np.ones_like(self.height)
        self._panel(_LEFT, _TOP, _RIGHT, _BOTTOM, 22, 1.0)
        self._panel(148, 84, 238, 124, 8, 1.35)
        cv2.circle(self.height, (192, 212), 58, 1.35, 6, cv2.LINE_AA)
        for hole in _HOLES:
            cv2.circle(self.height, hole, 17, 0.0, -1, cv2.LINE_AA)
        cv2.circle(self.height, (192, 212), 34, 0.0, -1, cv2.LINE_AA)
        self._print("IX-204", (158, 111), 0.6, 2)
        self._print(f"{rng.integers(10_000):04d}", (170, 318), 0.55, 1)

    def place(self) -> tuple[float, float]:
        """Somewhere on the plate, clear of its edge; (x, y) in pixels."""
        x, y = self.rng.uniform((_LEFT + 30, _TOP + 30), (_RIGHT - 30, _BOTTOM - 30))
        return float(x), float(y)

    def noise(self, along_px: float, across_px: float) -> Floats:
        """Smooth noise with these correlation lengths; mean 0, deviation 1."""
        white = self.rng.normal(0, 1, self.height.shape).astype(np.float32)
        smooth = cv2.GaussianBlur(white, (0, 0), along_px, None, across_px)
        return (smooth / float(smooth.std())).astype(np.float32)

    def picture(self) -> npt.NDArray[np.uint8]:
        """(384, 384) grey: brushed, lit from the top left, moved by up to 2.5 px, with noise."""
        rng = self.rng
        height = cv2.GaussianBlur(self.height, (0, 0), 1.3)
        slope = cv2.Sobel(height, cv2.CV_32F, 1, 0) + cv2.Sobel(height, cv2.CV_32F, 0, 1)
        metal = (150 + 9 * self.noise(14, 0.5)) * self.tint + 22 * slope
        belt = 34 + 5 * self.noise(1.5, 1.5)
        image = belt + (metal - belt) * np.clip(5 * height - 0.5, 0, 1)
        move = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
        move[:, 2] = rng.uniform(-2.5, 2.5, 2)
        image = cv2.warpAffine(image, move, (SIDE_PX, SIDE_PX), borderMode=cv2.BORDER_REFLECT)
        ramp = np.linspace(-1, 1, SIDE_PX, dtype=np.float32)
        light = rng.uniform(0.94, 1.06) + rng.uniform(-0.05, 0.05) * (ramp[None] + ramp[:, None])
        image = cv2.GaussianBlur(image * light, (0, 0), 0.7) + rng.normal(0, 2, image.shape)
        return np.clip(image, 0, 255).astype(np.uint8)

    def _panel(self, left: int, top: int, right: int, bottom: int, r: int, height: float) -> None:
        mask = np.zeros(self.height.shape, np.uint8)
        cv2.rectangle(mask, (left + r, top + r), (right - r, bottom - r), 255, -1)
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * r + 1, 2 * r + 1))
        self.height[cv2.dilate(mask, disc) > 0] = height

    def _print(self, text: str, where: tuple[int, int], size: float, thick: int) -> None:
        ink = np.zeros(self.height.shape, np.uint8)
        cv2.putText(ink, text, where, cv2.FONT_HERSHEY_SIMPLEX, size, 255, thick, cv2.LINE_AA)
        self.tint *= 1 - 0.6 * ink.astype(np.float32) / 255


def scratch(plate: Plate) -> None:
    """A thin bent cut, 50 to 120 pixels long."""
    rng = plate.rng
    steps = np.arange(0, rng.uniform(50, 120), 4)
    turn = rng.uniform(0, np.pi) + rng.uniform(-0.01, 0.01) * steps
    path = np.cumsum(4 * np.stack([np.cos(turn), np.sin(turn)], 1), 0)
    path += plate.place() - path.mean(0)
    cut = np.zeros(plate.height.shape, np.uint8)
    points = np.rint(path * 2**_BITS).astype(np.int32)
    cv2.polylines(cut, [points], False, 255, int(rng.integers(1, 3)), cv2.LINE_AA, _BITS)
    plate.tint *= 1 + rng.uniform(0.3, 0.5) * cut.astype(np.float32) / 255
    plate.height -= 0.5 * (cut > 0) * (plate.height > 0.9)


def missing_hole(plate: Plate) -> None:
    """One of the four corner holes was never punched."""
    cv2.circle(plate.height, _HOLES[plate.rng.integers(len(_HOLES))], 19, 1.0, -1, cv2.LINE_AA)


def stain(plate: Plate) -> None:
    """A blot of oil with a ragged edge."""
    blot = _hill(plate.place(), plate.rng.uniform(12, 24)) + 0.12 * plate.noise(6, 6)
    plate.tint *= 1 - plate.rng.uniform(0.25, 0.45) * np.clip(4 * (blot - 0.4), 0, 1)


def bump(plate: Plate) -> None:
    """Pressed up from below, 20 to 40 pixels wide."""
    rise = plate.rng.uniform(1.2, 2.4) * _hill(plate.place(), plate.rng.uniform(5, 9))
    plate.height += rise * (plate.height > 0.9)


DEFECTS = {kind.__name__: kind for kind in (scratch, missing_hole, stain, bump)}


def draw(seed: int, kind: str, number: int, is_spoilt: bool = True) -> npt.NDArray[np.uint8]:
    """Picture `number` of this kind ("good" or a key of DEFECTS), (384, 384) grey.

    is_spoilt: False = the same plate as it was before its defect.
    """
    seeds = [seed, ["good", *DEFECTS].index(kind), number]
    plate = Plate(np.random.default_rng(seeds))
    if is_spoilt and kind != "good":
        plate.rng, rng = np.random.default_rng([*seeds, 1]), plate.rng
        DEFECTS[kind](plate)
        plate.rng = rng
    return plate.picture()


def _hill(centre: tuple[float, float], sigma_px: float) -> Floats:
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX].astype(np.float32)
    square = (x - centre[0]) ** 2 + (y - centre[1]) ** 2
    return np.exp(-square / (2 * sigma_px**2)).astype(np.float32)


def main(
    out: Annotated[Path, typer.Argument(help="Folder to write; must not hold anything yet.")],
    train: Annotated[int, typer.Option(min=8, help="Good pictures to train on.")] = 300,
    good: Annotated[int, typer.Option(min=1, help="Good pictures in test/.")] = 140,
    each: Annotated[int, typer.Option(min=2, help="Pictures of each defect in test/.")] = 40,
    seed: Annotated[int, typer.Option(help="The same seed draws the same bytes.")] = 0,
) -> None:
    """Draw train/good, test/good and test/DEFECT."""
    if out.is_dir() and any(out.iterdir()):
        raise typer.BadParameter(f"{out}: expected no folder or an empty one, found files")
    plan = {"train/good": range(train), "test/good": range(train, train + good)}
    plan |= {f"test/{kind}": range(each) for kind in DEFECTS}
    for folder, numbers in plan.items():
        (out / folder).mkdir(parents=True, exist_ok=True)
        for number in numbers:
            path = out / folder / f"{number:04d}.png"
            if not cv2.imwrite(str(path), draw(seed, folder.partition("/")[2], number)):
                raise typer.BadParameter(f"{path}: could not be written")
    typer.echo(f"{out}: {sum(map(len, plan.values()))} pictures of a plate that does not exist")


if __name__ == "__main__":
    typer.run(main)
