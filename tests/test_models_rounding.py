"""Weights rounded so that a layer's answers change least."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from models.rounding import LEVELS, Moments, Shape, on_grid, rounded, step_of


def correlated(count: int, ins: int, seed: int = 0) -> np.ndarray:
    """(1, ins, count) float32 that a few causes explain, as features of a network are."""
    rng = np.random.default_rng(seed)
    causes = rng.normal(0, 1, (4, count))
    values = rng.normal(0, 1, (ins, 4)) @ causes + 0.1 * rng.normal(0, 1, (ins, count)) + 2
    return values[None].astype(np.float32)


@pytest.mark.parametrize(
    ("outs", "ins", "kernel", "stride", "pads", "groups"),
    [
        (8, 5, 1, 1, (0, 0, 0, 0), 1),
        (8, 3, 3, 2, (0, 0, 1, 1), 1),
        (6, 6, 5, 1, (2, 2, 2, 2), 6),
        (6, 6, 3, 2, (1, 1, 1, 1), 6),
        (8, 6, 3, 1, (1, 1, 1, 1), 2),
    ],
)
def test_a_convolution_is_a_product_with_patches(
    outs: int, ins: int, kernel: int, stride: int, pads: tuple[int, int, int, int], groups: int
) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(0, 1, (2, ins, 9, 11)).astype(np.float32)
    weights = rng.normal(0, 1, (outs, ins // groups, kernel, kernel)).astype(np.float32)
    top, left, bottom, right = pads
    padded = functional.pad(torch.from_numpy(image), (left, right, top, bottom))
    expected = functional.conv2d(padded, torch.from_numpy(weights), stride=stride, groups=groups)
    shape = Shape((kernel, kernel), (stride, stride), pads, groups)
    got = weights.reshape(groups, outs // groups, -1) @ shape.patches(image)
    got = got.reshape(outs, 2, *expected.shape[2:]).transpose(1, 0, 2, 3)
    assert np.allclose(got, expected.numpy(), atol=1e-4)


def test_least_squares_makes_good_what_is_wrong_with_the_inputs() -> None:
    """Two groups at once, in two goes: the layer reads a tenth less than it did in float."""
    rng = np.random.default_rng(1)
    clean = np.concatenate([correlated(500, 6, seed) for seed in (1, 2)])
    weights, offset = rng.normal(0, 1, (2, 3, 6)), rng.normal(0, 1, (2, 3, 1))
    x, y = np.float32(0.9) * clean, (weights @ clean + offset).astype(np.float32)
    moments = Moments(2, 6, 3)
    for part in (slice(0, 200), slice(200, 500)):
        moments.add(x[:, :, part], y[:, :, part])
    fitted = moments.refitted(weights)

    def missed(values: np.ndarray) -> float:
        answers = values @ x + moments.bias(values)[..., None]
        assert np.abs((answers - y).mean(axis=2)).max() < 1e-4
        return float((answers - y).std())

    assert missed(fitted) < 0.6 * missed(weights)
    # What is right already stays.
    same = Moments(2, 6, 3)
    same.add(clean, y)
    assert np.allclose(same.refitted(weights), weights, atol=1e-5)


def test_what_no_image_shows_keeps_its_weights() -> None:
    """An input that is always the same says nothing about its weight."""
    x = correlated(400, 8)
    x[0, 3] = 0
    weights = np.random.default_rng(2).normal(0, 1, (1, 4, 8))
    moments = Moments(1, 8, 4)
    moments.add(x, (weights @ x + 1).astype(np.float32))
    assert np.allclose(moments.refitted(weights)[..., 3], weights[..., 3], atol=1e-5)
    levels, steps = rounded(weights, moments.covariance)
    assert np.abs(levels * steps - weights)[..., 3].max() <= steps.max() / 2 * 1.001


def test_rounding_for_the_answers_beats_rounding_to_the_nearest() -> None:
    x = correlated(2000, 32)
    weights = np.random.default_rng(3).normal(0, 1, (1, 16, 32))
    moments = Moments(1, 32, 16)
    moments.add(x, (weights @ x).astype(np.float32))
    levels, steps = rounded(weights, moments.covariance)
    assert levels.dtype == np.int8
    assert np.abs(levels.astype(int)).max() == LEVELS
    nearest = np.rint(weights / steps) * steps
    fresh = correlated(2000, 32)[:, :, ::-1] * 1.1

    def missed(values: np.ndarray) -> float:
        answers = values @ fresh - weights @ fresh
        return float(answers.std(axis=2).mean())  # the bias takes the mean

    assert missed(levels * steps) < 0.5 * missed(nearest)
    biased = moments.bias(levels * steps)
    assert np.abs((levels * steps) @ x + biased[..., None] - weights @ x).mean() < 0.02


def test_inputs_that_have_nothing_in_common_are_rounded_to_the_nearest() -> None:
    weights = np.random.default_rng(4).normal(0, 1, (3, 2, 9))
    levels, steps = rounded(weights, np.tile(np.eye(9), (3, 1, 1)))
    assert np.array_equal(levels, np.rint(weights / steps))


def test_the_step_fits_the_many_and_not_the_one() -> None:
    values = np.random.default_rng(5).normal(0, 1, 10_000).astype(np.float32)
    plain = step_of(values)
    assert plain * LEVELS <= np.abs(values).max()
    assert step_of(np.append(values, np.float32(4 * LEVELS * plain))) < 4 * plain
    assert step_of(np.zeros(4, np.float32)) == 1.0
    assert np.abs(on_grid(values, plain)).max() <= 128 * plain
    assert on_grid(np.array([0.4, 0.6, 500], np.float32), 1.0).tolist() == [0, 1, 127]
