"""Synthetic anomalies, losses, standardisation and the training loop."""

import math

import numpy as np
import pytest
import torch

from models import backbones, losses
from models.anomalies import anomaly_masks, masked_noise, perlin_mask, perlin_noise
from models.features import run_backbone
from models.learn import Plan, fitting_batch, train_heads
from models.supersimplenet import SuperSimpleNet


@pytest.mark.parametrize(
    ("threshold", "filled", "area", "median", "upper"),
    [(0.2, 0.996, 0.261, 0.256, 0.33), (0.6, 0.909, 0.025, 0.026, 0.041)],
)
def test_perlin_masks_cover_what_the_papers_masks_cover(threshold, filled, area, median, upper):
    """Shares and areas of 6000 draws of an independent implementation, before any blanking."""
    rng = np.random.default_rng(0)
    masks = np.stack([perlin_mask((64, 64), threshold, rng) for _ in range(6000)])
    areas = masks.mean(axis=(1, 2))
    assert (areas > 0).mean() == pytest.approx(filled, abs=0.012)
    assert areas.mean() == pytest.approx(area, abs=0.004)
    assert np.median(areas[areas > 0]) == pytest.approx(median, abs=0.004)
    assert np.quantile(areas, 0.9) == pytest.approx(upper, abs=0.008)


def test_perlin_noise_reaches_as_high_as_the_papers_does():
    rng = np.random.default_rng(1)
    peaks = [
        perlin_noise((64, 64), (1 << int(rows), 1 << int(columns)), rng).max()
        for rows, columns in rng.integers(0, 6, (3000, 2))
    ]
    quantiles = np.quantile(peaks, [0.05, 0.25, 0.5, 0.75, 0.95])
    assert quantiles == pytest.approx([0.51, 0.70, 0.76, 0.87, 0.95], abs=0.02)


def test_perlin_noise_vanishes_on_the_lattice_and_is_smooth():
    noise = perlin_noise((64, 32), (8, 4), np.random.default_rng(3))
    assert noise.shape == (64, 32)
    assert np.abs(noise[::8, ::8]).max() < 1e-6
    assert np.abs(np.diff(noise, axis=0)).max() < 0.35
    assert 0.4 < np.abs(noise).max() <= 1.0


def test_half_of_the_masks_are_blank_on_any_grid():
    masks = anomaly_masks(400, (40, 24), threshold=0.2, rng=np.random.default_rng(0))
    assert masks.shape == (400, 1, 40, 24)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert masks.amax(dim=(1, 2, 3)).mean().item() == pytest.approx(0.498, abs=0.06)


def test_noise_stays_inside_the_mask():
    features = torch.zeros(4, 30, 16, 16)
    masks = torch.zeros(4, 1, 16, 16)
    masks[1, 0, 2:9, 3:12] = 1
    noise = masked_noise(features, masks, 0.25, torch.Generator().manual_seed(0))
    assert noise[1, :, 2:9, 3:12].std().item() == pytest.approx(0.25, rel=0.05)
    assert torch.count_nonzero(noise * (1 - masks)) == 0


def test_truncated_l1_averages_each_side_over_its_own_pixels():
    logits = torch.tensor([-2.0, 0.0, 0.5, 1.0, -1.0])
    mask = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0])
    normal = (0 + 0.5 + 1.0) / 3
    anomalous = (0 + 1.5) / 2
    assert losses.truncated_l1(logits, mask).item() == pytest.approx(normal + anomalous)
    assert losses.truncated_l1(logits[:3], mask[:3]).item() == pytest.approx(normal)
    assert losses.truncated_l1(logits[3:], mask[3:]).item() == pytest.approx(anomalous)


def test_focal_loss_of_hand_computed_values():
    logits = torch.tensor([0.0, 2.0, -1.0])
    target = torch.tensor([1.0, 0.0, 1.0])
    expected = 0.0
    for logit, truth in zip(logits.tolist(), target.tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        p = p if truth else 1 - p
        expected += -((1 - p) ** 4) * math.log(p) / 3
    assert losses.focal(logits, target).item() == pytest.approx(expected, rel=1e-5)
    extreme = losses.focal(torch.tensor([200.0, -200.0]), torch.tensor([0.0, 1.0]))
    assert extreme.item() == pytest.approx(200.0)


def small_network() -> tuple[SuperSimpleNet, tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    network = SuperSimpleNet(backbones.build("efficientnet_lite0"), hidden=32, grid=1)
    rng = np.random.default_rng(0)
    batch = rng.integers(90, 110, (12, 3, 64, 64)).astype(np.float32)
    network.eval()
    taps = [run_backbone(network, images) for images in (batch[:8], batch[8:])]
    return network, (torch.cat([fine for fine, _ in taps]), torch.cat([c for _, c in taps]))


def test_features_are_standardised_on_the_good_images():
    network, taps = small_network()
    train_heads(network, taps, Plan(epochs=1, classification_epochs=0, batch=6))
    for tap, standardise in zip(
        taps, (network.standardise_fine, network.standardise_coarse), strict=True
    ):
        standardised = standardise(tap)
        assert standardised.mean(dim=(0, 2, 3)).abs().max() < 1e-3
        assert standardised.std(dim=(0, 2, 3)).sub(1).abs().max() < 1e-3


def test_a_step_is_as_large_as_the_memory_that_is_reused():
    assert fitting_batch(256, 32 * 32) == 15
    assert fitting_batch(256, 40 * 40) == 10
    assert fitting_batch(32, 16) == 32
    assert fitting_batch(1024, 64 * 64) == 4


def test_training_is_repeatable_lowers_the_loss_and_leaves_the_backbone_alone():
    outcomes = []
    for epochs in (1, 1, 12):
        network, taps = small_network()
        before = {name: value.clone() for name, value in network.backbone.state_dict().items()}
        seen: list[float] = []
        plan = Plan(epochs=epochs, classification_epochs=1, batch=6)
        history = train_heads(network, taps, plan, lambda done, _, seen=seen: seen.append(done))
        outcomes.append((history[-1]["segmentation"], history[-1]["classification"]))
        assert len(history) == epochs
        assert seen == sorted(seen) and seen[-1] == pytest.approx(1.0)
        for name, value in network.backbone.state_dict().items():
            assert torch.equal(value, before[name]), name
    assert outcomes[0] == outcomes[1]
    assert outcomes[2] < outcomes[0]


def test_convolutions_in_bfloat16_learn_about_the_same_and_leave_float32_behind():
    histories = []
    for mixed in (False, True, True):
        network, taps = small_network()
        plan = Plan(epochs=3, classification_epochs=2, batch=6, mixed=mixed)
        histories.append(train_heads(network, taps, plan))
        assert {value.dtype for value in network.parameters()} == {torch.float32}
        assert all("forward" not in vars(module) for module in network.modules())
    full, mixed, again = (history[-1] for history in histories)
    assert mixed == again
    assert mixed != full  # it was another arithmetic
    for name, value in full.items():
        assert mixed[name] == pytest.approx(value, rel=0.05, abs=0.01), name


def test_classification_head_cannot_move_the_map_when_the_gradient_is_stopped():
    maps = []
    for classification_epochs in (0, 3):
        network, taps = small_network()
        plan = Plan(epochs=3, classification_epochs=classification_epochs, batch=6)
        train_heads(network, taps, plan)
        with torch.inference_mode():
            features = network.embed(*taps)
            maps.append(network.discriminator.segment(network.feature_adaptor(features)))
    assert torch.allclose(maps[0], maps[1], atol=1e-4)
