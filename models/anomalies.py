"""Synthetic anomalies in feature space: Perlin masks and Gaussian noise.

SuperSimpleNet, section "Synthetic anomaly generation". Masks come from a NumPy generator and
noise from a torch generator, both passed in, so that a seed names a training exactly.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

SCALE_EXPONENTS = 6
"""Lattice cells per axis are 2^0 … 2^5, drawn independently for the two axes."""

LEAST_LATTICE_PX = 64
"""Masks are drawn on at least this grid: 32 cells on 32 pixels would put every pixel on a lattice
node, where gradient noise is 0."""


def perlin_noise(
    shape: tuple[int, int], cells: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Gradient noise, quintic fade, scaled by √2: (H, W) float32, about −1 … 1.

    cells: lattice cells along H and W; each must divide its side.
    """
    angles = 2 * np.pi * rng.random((cells[0] + 1, cells[1] + 1))
    lattice = np.stack([np.cos(angles), np.sin(angles)])  # [2, cells+1, cells+1]
    pos_y = np.arange(shape[0]) * cells[0] / shape[0]
    pos_x = np.arange(shape[1]) * cells[1] / shape[1]
    node_y, node_x = pos_y.astype(np.intp), pos_x.astype(np.intp)
    part_y, part_x = (pos_y - node_y)[:, None], (pos_x - node_x)[None, :]

    def corner(down: int, right: int) -> NDArray[np.float64]:
        gradient = lattice[:, (node_y + down)[:, None], (node_x + right)[None, :]]
        return gradient[0] * (part_y - down) + gradient[1] * (part_x - right)

    fade_y = part_y**3 * (part_y * (part_y * 6 - 15) + 10)
    fade_x = part_x**3 * (part_x * (part_x * 6 - 15) + 10)
    top = corner(0, 0) + fade_x * (corner(0, 1) - corner(0, 0))
    bottom = corner(1, 0) + fade_x * (corner(1, 1) - corner(1, 0))
    return (np.sqrt(2) * (top + fade_y * (bottom - top))).astype(np.float32)


def perlin_mask(
    shape: tuple[int, int], threshold: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """One mask (H, W), before the random blanking: noise above the threshold."""
    lattice = tuple(max(LEAST_LATTICE_PX, 1 << (side - 1).bit_length()) for side in shape)
    exponents = rng.integers(0, SCALE_EXPONENTS, size=2)
    noise = perlin_noise(
        (lattice[0], lattice[1]), (1 << int(exponents[0]), 1 << int(exponents[1])), rng
    )
    if lattice != shape:
        resized = functional.interpolate(
            torch.from_numpy(noise)[None, None], size=shape, mode="bilinear", align_corners=False
        )
        noise = resized[0, 0].numpy()
    return noise > threshold


def anomaly_masks(
    count: int,
    shape: tuple[int, int],
    *,
    threshold: float,
    blank: float = 0.5,
    rng: np.random.Generator,
) -> Tensor:
    """Masks of synthetic anomalies, (count, 1, H, W) float32 of 0 and 1.

    blank: probability that a sample gets no anomaly at all. threshold: 0.2 covers about a
    quarter of the area, 0.6 about 2.5 % (section 1.2: 0.2 for objects, 0.6 for small defects).
    """
    masks = np.zeros((count, 1, *shape), np.float32)
    for index in range(count):
        if rng.random() >= blank:
            masks[index, 0] = perlin_mask(shape, threshold, rng)
    return torch.from_numpy(masks)


def masked_noise(features: Tensor, masks: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise where the mask is 1, zeros elsewhere; in the shape of (N, C, H, W) features.

    Drawn for masked pixels alone, which are an eighth of all: drawing is a tenth of a step.
    """
    noise = torch.zeros_like(features)
    where = masks[:, 0] > 0.5  # [N, H, W]
    drawn = torch.randn(
        (int(where.sum()), features.shape[1]), generator=generator, device=generator.device
    )
    noise.permute(0, 2, 3, 1)[where.to(noise.device)] = drawn.mul_(std).to(noise.device)
    return noise
