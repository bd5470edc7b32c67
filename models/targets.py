"""What the heads learn from one image: label, defect mask and weights on the feature grid.

SuperSimpleNet (JIMS), section "Supervised training": masks are dilated by 7x7 at the image's own
resolution, then flipped and resized with it; each defect weighs 0 at its rim and 3 at its core.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from appliance.errors import ConfigError

Regime = Literal["unsupervised", "weak", "mixed", "supervised"]
REGIMES: tuple[Regime, ...] = ("unsupervised", "weak", "mixed", "supervised")

DILATION_PX = 7
CORE_WEIGHT, CORE_POWER = 3.0, 2
FLIPS = 4
"""As it is, upside down, mirrored, both: the copies of a bad image."""

THRESHOLDS: dict[Regime, float] = {
    "unsupervised": 0.2, "weak": 0.2, "mixed": 0.6, "supervised": 0.6
}  # fmt: skip
"""Of the Perlin masks (methods of both papers): large synthetic defects where no mask shows what a
defect looks like, small ones where some do."""

Mask = npt.NDArray[np.uint8]


class Targets(NamedTuple):
    """Of N examples, on the grid (H, W) of the map."""

    labels: Tensor
    """(N,) float32, 0 good, 1 bad."""
    masks: Tensor
    """(N, 1, H, W) float32 of 0 and 1; all 0 for good images and for bad ones without a mask."""
    weights: Tensor
    """(N, 1, H, W) float32, 1 outside defects."""
    is_segmented: Tensor
    """(N,) bool: the mask is the whole truth. False for bad images without a mask."""

    @classmethod
    def of_good(cls, count: int, grid: tuple[int, int]) -> Targets:
        """Targets of good images, which take no memory."""
        nothing = torch.zeros(1, 1, 1, 1)
        return cls(
            torch.zeros(count),
            nothing.expand(count, 1, *grid),
            (nothing + 1).expand(count, 1, *grid),
            torch.ones(count, dtype=torch.bool),
        )

    @classmethod
    def of_bad(
        cls,
        masks: list[Mask | None],
        grid: tuple[int, int],
        published: tuple[int, int] | None = None,
    ) -> Targets:
        """Targets of bad images; masks as from `dilated` and `flipped`, None where none is known.

        published: network size (H, W) to bring masks to the grid as the authors do, see `on_grid`.
        """
        targets = cls(
            torch.ones(len(masks)),
            torch.zeros(len(masks), 1, *grid),
            torch.ones(len(masks), 1, *grid),
            torch.tensor([mask is not None for mask in masks], dtype=torch.bool),
        )
        for index, mask in enumerate(masks):
            if mask is not None:
                targets.masks[index, 0] = on_grid(mask, grid, published)
                targets.weights[index, 0] = weights_on_grid(core_weights(mask), grid)
        return targets

    def joined(self, other: Targets) -> Targets:
        """These and then the others."""
        return Targets(*(torch.cat(pair) for pair in zip(self, other, strict=True)))

    def take(self, chosen: Tensor) -> Targets:
        """Those of the examples `chosen`, (n,) int64."""
        return Targets(*(values[chosen] for values in self))


def regime_of(masks_known: list[bool], regime: Regime | None = None) -> Regime:
    """What the labels allow, or `regime` if they allow it; masks_known: one per bad image.

    Raises ConfigError where `regime` needs labels that are not there.
    """
    known, bad = sum(masks_known), len(masks_known)
    if regime is None:
        if not bad:
            return "unsupervised"
        return "supervised" if known == bad else "mixed" if known else "weak"
    if regime != "unsupervised" and not bad:
        raise ConfigError(f"--regime {regime}", "bad images to learn from", "none")
    if regime == "supervised" and known < bad:
        raise ConfigError(
            "--regime supervised", f"a mask for each of {bad} bad images", f"{known}; is it mixed?"
        )
    if regime == "mixed" and not known:
        raise ConfigError("--regime mixed", "a mask for some bad images", "none; is it weak?")
    return regime


def dilated(mask: Mask) -> Mask:
    """Defects of (H, W) uint8 0/1 grown by a 7x7 square, at the image's own resolution."""
    return cv2.dilate(mask, np.ones((DILATION_PX, DILATION_PX), np.uint8)).astype(np.uint8)


def flipped(image: npt.NDArray[np.uint8], flip: int) -> npt.NDArray[np.uint8]:
    """(H, W, …) as it is (0), upside down (1), mirrored (2) or both (3)."""
    image = image[::-1] if flip & 1 else image
    return image[:, ::-1] if flip & 2 else image


def core_weights(mask: Mask) -> npt.NDArray[np.float32]:
    """Weight of each pixel of a (H, W) uint8 0/1 mask: 3 (d / d_max)² in a defect, else 1.

    d: Euclidean distance to the nearest pixel outside, d_max: its largest value in the defect
    (8-connected).
    """
    distance = cv2.distanceTransform(np.ascontiguousarray(mask), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    count, found = cv2.connectedComponents(np.ascontiguousarray(mask), connectivity=8)
    labels = found.astype(np.intp)
    deepest = np.ones(count, np.float32)
    np.maximum.at(deepest, labels.ravel(), distance.ravel())
    weights = CORE_WEIGHT * (distance / deepest[labels]) ** CORE_POWER
    return np.where(labels > 0, weights, 1).astype(np.float32)


def defect_sides(mask: Mask) -> list[float]:
    """Side of a square of the same area, in pixels, for each defect of a (H, W) uint8 0/1 mask."""
    found = cv2.connectedComponentsWithStats(np.ascontiguousarray(mask), connectivity=8)
    return [float(area) ** 0.5 for area in found[2][1:, cv2.CC_STAT_AREA]]


def on_grid(mask: Mask, grid: tuple[int, int], published: tuple[int, int] | None = None) -> Tensor:
    """(H, W) uint8 0/1 → (h, w) float32 of 0 and 1: a cell that a defect touches is defective.

    With `published`, the network size: nearest to it, bilinear to the grid, cut at 0.5. That loses
    defects smaller than a cell, and an image that is labelled bad would then teach that its defect
    is normal; it is for comparison with the authors' own trainings.
    """
    if published is not None:
        mask = cv2.resize(mask, published[::-1], interpolation=cv2.INTER_NEAREST).astype(np.uint8)
    image = torch.from_numpy(np.ascontiguousarray(mask)).float()[None, None]
    if published is None:
        return functional.adaptive_max_pool2d(image, grid)[0, 0]
    resized = functional.interpolate(image, size=grid, mode="bilinear", align_corners=True)
    return (resized[0, 0] > 0.5).float()


def weights_on_grid(weights: npt.NDArray[np.float32], grid: tuple[int, int]) -> Tensor:
    """(H, W) float32 → (h, w): the mean of each cell."""
    return functional.adaptive_avg_pool2d(torch.from_numpy(weights)[None, None], grid)[0, 0]
