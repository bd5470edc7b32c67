"""Convolution weights → int8 such that the layer's answers change least, not the weights.

Two closed forms on the second moments of what the layer really reads, after all that was rounded
before it. Least squares finds the weights that give the float network's answers from such inputs.
Then the weights are rounded one column after the other, and what rounding one of them spoils, those
that are not rounded yet make good: Frantar, Ashkboos, Hoefler and Alistarh, "GPTQ", ICLR 2023
(algorithm 1), after LeCun's optimal brain surgeon. The mean error goes into the float bias. Pure
NumPy; a depthwise convolution is many small problems, any other is one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
LEVELS = 127
"""Steps to either side of 0: symmetric int8 without -128."""
RIDGE, DAMPING = 1.0, 1e-3
"""Share of the mean variance that is added to every input's: least squares, rounding. Pixels of one
image are much alike: with less, least squares learns the images by heart."""

_BLOCK = 128
"""Columns after which those beyond are made good, all at once: one by one, all of them would come
through the memory each time."""


@dataclass(frozen=True)
class Shape:
    """Of a convolution: (height, width) each, and how many groups."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    """Top, left, bottom, right; zeros."""
    groups: int

    def patches(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(N, C, H, W) → what every answer is a product of: (G, C/G·kh·kw, N·H'·W')."""
        top, left, bottom, right = self.pads
        padded = np.pad(images, ((0, 0), (0, 0), (top, bottom), (left, right)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.kernel, axis=(2, 3))
        windows = windows[:, :, :: self.strides[0], :: self.strides[1]]  # [N, C, H', W', kh, kw]
        columns = windows.transpose(1, 4, 5, 0, 2, 3)
        return columns.reshape(self.groups, -1, int(np.prod(columns.shape[3:])))


class Moments:
    """Means and second moments of a layer's inputs x, and of its wanted answers y with them."""

    def __init__(self, groups: int, ins: int, outs: int) -> None:
        """ins, outs: inputs of one product and answers, per group."""
        self._count = 0
        self._origin_x = np.zeros((groups, ins, 1), np.float32)
        self._origin_y = np.zeros((groups, outs, 1), np.float32)
        self._x, self._y = np.zeros((groups, ins, 1)), np.zeros((groups, outs, 1))
        self._xx, self._yx = np.zeros((groups, ins, ins)), np.zeros((groups, outs, ins))

    def add(self, x: npt.NDArray[np.float32], y: npt.NDArray[np.float32]) -> None:
        """x: (G, K, P), y: (G, O, P)."""
        if not self._count:
            # Squares of what lies far from 0 and hardly moves would lose all digits to the mean's.
            self._origin_x = x.mean(axis=2, keepdims=True, dtype=np.float64).astype(np.float32)
            self._origin_y = y.mean(axis=2, keepdims=True, dtype=np.float64).astype(np.float32)
        x, y = x - self._origin_x, y - self._origin_y
        self._count += x.shape[2]
        across = x.transpose(0, 2, 1)
        self._x += x.sum(axis=2, keepdims=True, dtype=np.float64)
        self._y += y.sum(axis=2, keepdims=True, dtype=np.float64)
        self._xx += x @ across
        self._yx += y @ across

    @property
    def covariance(self) -> Array:
        """Of the inputs, (G, K, K)."""
        x = self._x / self._count
        return self._xx / self._count - x @ x.transpose(0, 2, 1)

    def refitted(self, weights: Array) -> Array:
        """(G, O, K) → those that give y from x with the least square error, near the old ones."""
        x, y = self._x / self._count, self._y / self._count
        wanted = self._yx / self._count - y @ x.transpose(0, 2, 1)
        covariance = self.covariance
        missed = wanted - weights @ covariance
        return weights + np.linalg.solve(
            _loaded(covariance, RIDGE), missed.transpose(0, 2, 1)
        ).transpose(0, 2, 1)

    def bias(self, weights: Array) -> Array:
        """(G, O, K) → the bias under which the mean answer is the wanted one, (G, O)."""
        x, y = self._x / self._count + self._origin_x, self._y / self._count + self._origin_y
        return (y - weights @ x)[..., 0]


def rounded(weights: Array, covariance: Array) -> tuple[npt.NDArray[np.int8], Array]:
    """(G, O, K) and the inputs' covariance → int8 and the step of each answer, (G, O, 1)."""
    steps = np.abs(weights).max(axis=2, keepdims=True) / LEVELS
    # As the graph holds them.
    steps = np.maximum(steps, np.finfo(np.float32).tiny).astype(np.float32).astype(np.float64)
    # The strongest inputs first: their errors have most others to make them good.
    order = np.argsort(-np.diagonal(covariance, axis1=1, axis2=2), axis=1, kind="stable")
    covariance = np.take_along_axis(covariance, order[:, :, None], axis=1)
    covariance = np.take_along_axis(covariance, order[:, None, :], axis=2)
    left = np.take_along_axis(weights, order[:, None, :], axis=2)
    inverse = np.linalg.inv(_loaded(covariance, DAMPING))
    factor = np.linalg.cholesky(inverse).transpose(0, 2, 1)
    levels = np.zeros_like(left)
    for begin in range(0, left.shape[2], _BLOCK):
        end = min(begin + _BLOCK, left.shape[2])
        spoilt = np.zeros_like(left[:, :, begin:end])
        for column in range(begin, end):
            level = np.clip(np.rint(left[:, :, column : column + 1] / steps), -LEVELS, LEVELS)
            levels[:, :, column : column + 1] = level
            error = left[:, :, column : column + 1] - level * steps
            error /= factor[:, column, column][:, None, None]
            left[:, :, column:end] -= error * factor[:, None, column, column:end]
            spoilt[:, :, column - begin : column - begin + 1] = error
        left[:, :, end:] -= spoilt @ factor[:, begin:end, end:]
    back = np.argsort(order, axis=1, kind="stable")
    return np.take_along_axis(levels, back[:, None, :], axis=2).astype(np.int8), steps


def step_of(values: npt.NDArray[np.float32]) -> float:
    """Step of symmetric int8 that rounds these values with the least square error."""
    largest = float(np.abs(values).max())
    if largest < 1e-30:  # nothing, or what has no steps in float32
        return 1.0
    steps = largest / LEVELS * np.linspace(0.4, 1.0, 31)
    errors = [np.mean((on_grid(values, float(step)) - values) ** 2) for step in steps]
    return float(np.float32(steps[int(np.argmin(errors))]))


def on_grid(values: npt.NDArray[np.float32], step: float) -> npt.NDArray[np.float32]:
    """What quantise and dequantise make of them."""
    width = np.float32(step)
    return np.clip(np.rint(values / width), -LEVELS - 1, LEVELS) * width


def _loaded(covariance: Array, share: float) -> Array:
    """With so much of its mean variance on the diagonal that it can be inverted."""
    ins = covariance.shape[1]
    mean = np.trace(covariance, axis1=1, axis2=2)[:, None, None] / ins
    return covariance + (share * mean + 1e-12) * np.eye(ins)
