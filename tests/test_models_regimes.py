"""Regimes: what is learnt from which image, in which order, and what a killed training leaves."""

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from appliance.errors import ConfigError
from models import backbones, losses
from models.checkpoints import HEADS, save_heads
from models.dataset import open_dataset
from models.features import ComputedTaps, KeptTaps, fit_standardisation, taps_of
from models.learn import IDLE_LOSS, PLANS, Epoch, Plan, train_heads, troubles
from models.network_training import Wishes, train_network
from models.sampling import Sampler
from models.supersimplenet import SuperSimpleNet
from models.targets import Regime, Targets, core_weights, dilated, flipped, on_grid, regime_of
from models.train import contract_of, train_bundle
from tests.test_models_learning import small_network


@pytest.mark.parametrize(
    ("masks", "asked", "regime"),
    [
        ([], None, "unsupervised"),
        ([False, False], None, "weak"),
        ([True, False], None, "mixed"),
        ([True, True], None, "supervised"),
        ([True, True], "weak", "weak"),
        ([True, False], "unsupervised", "unsupervised"),
    ],
)
def test_labels_choose_the_regime(masks, asked, regime):
    assert regime_of(masks, asked) == regime


@pytest.mark.parametrize(
    ("masks", "asked", "message"),
    [
        ([], "weak", "--regime weak: expected bad images to learn from, got none"),
        ([True, False], "supervised", "a mask for each of 2 bad images, got 1; is it mixed"),
        ([False], "mixed", "a mask for some bad images, got none; is it weak"),
    ],
)
def test_a_regime_without_its_labels_is_refused(masks, asked, message):
    with pytest.raises(ConfigError, match=message):
        regime_of(masks, asked)


def test_regimes_change_what_the_papers_change():
    cases: list[tuple[Regime, float]] = [("weak", 0.2), ("mixed", 0.6), ("supervised", 0.6)]
    for regime, threshold in cases:
        plan = Plan(epochs=10).for_regime(regime)
        assert (plan.threshold, plan.classification_epochs) == (threshold, 10)
    assert Plan(epochs=4).for_regime("unsupervised").classification_epochs == 4
    paper = PLANS["wide_resnet50_2"]
    assert (paper.epochs, paper.batch, paper.noise, paper.grid) == (300, 32, 0.015, 2)
    assert not paper.standardise


def test_masks_grow_by_three_pixels_and_turn_with_the_image():
    mask = np.zeros((20, 30), np.uint8)
    mask[5, 6] = 1
    grown = dilated(mask)
    assert grown.sum() == 49
    assert grown[2:9, 3:10].all()
    for flip, place in enumerate([(5, 6), (14, 6), (5, 23), (14, 23)]):
        assert flipped(mask, flip)[place]
        assert flipped(np.dstack([mask] * 3), flip)[place].all()


def test_defects_weigh_nothing_at_the_rim_three_at_the_core_and_one_outside():
    mask = np.zeros((40, 60), np.uint8)
    mask[5:16, 5:16] = 1  # eleven across: distances 1 to 6
    mask[30, 40] = 1
    weights = core_weights(mask)
    assert weights[10, 10] == pytest.approx(3.0)
    assert weights[5, 10] == pytest.approx(3 / 36)
    assert weights[8, 10] == pytest.approx(3 * (4 / 6) ** 2)
    assert weights[30, 40] == pytest.approx(3.0)
    assert (weights[mask == 0] == 1).all()


def test_a_defect_smaller_than_a_cell_stays_on_the_grid():
    mask = np.zeros((256, 256), np.uint8)
    mask[100:103, 51:54] = 1
    assert on_grid(mask, (32, 32)).sum() == 1
    assert on_grid(mask, (32, 32), published=(256, 256)).sum() == 0  # as published: lost
    mask[80:120, 40:90] = 1
    assert on_grid(mask, (32, 32), published=(256, 256)).sum() == pytest.approx(30, abs=12)


def test_weighted_losses_divide_by_pixels_and_unsegmented_images_cost_nothing():
    logits, mask = torch.tensor([[-2.0, 0.0, 0.2]]), torch.tensor([[0.0, 0.0, 1.0]])
    weights = torch.tensor([[1.0, 1.0, 3.0]])
    assert losses.truncated_l1(logits, mask, weights).item() == pytest.approx(0.25 + 3 * 0.3)
    plain = losses.focal(logits, mask).item() * 3
    last = losses.focal(logits[:, 2:], mask[:, 2:]).item()
    assert losses.focal(logits, mask, weights).item() == pytest.approx((plain + 2 * last) / 3)
    nothing = torch.zeros(0, 1, 4, 4, requires_grad=True)
    loss = losses.segmentation_loss(nothing, torch.zeros(0, 1, 4, 4))
    loss.backward()
    assert loss.item() == 0


def test_sampling_is_one_to_one_and_takes_rarely_seen_good_images_first():
    labels = torch.tensor([0.0] * 50 + [1.0] * 8)
    sampler = Sampler(labels, seed=3)
    for epoch in range(25):
        order = sampler.epoch(epoch)
        assert len(order) == 16
        assert sorted(order[order >= 50].tolist()) == list(range(50, 58))
        assert len(set(order[order < 50].tolist())) == 8
    assert sampler.seen.sum() == 200
    assert sampler.seen.std() < 1.4  # plain chance: 1.8
    few = Sampler(torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0]), seed=0)
    assert (few.epoch(0) < 2).sum() == 3  # fewer good than bad: with replacement
    alone = Sampler(torch.zeros(7), seed=0)
    assert sorted(alone.epoch(0).tolist()) == list(range(7))
    assert alone.epoch(0).tolist() != alone.epoch(1).tolist()


def bad_targets(count: int, grid: tuple[int, int], *, masked: bool) -> Targets:
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 20:40] = 1
    return Targets.of_bad([mask if masked else None] * count, grid)


def trained(regime: Regime, *, masked: bool, epochs: int = 2) -> tuple[SuperSimpleNet, list[Epoch]]:
    network, taps = small_network()
    targets = Targets.of_good(8, (8, 8)).joined(bad_targets(4, (8, 8), masked=masked))
    plan = Plan(epochs=epochs, batch=4, noise=0.4).for_regime(regime)
    return network, train_heads(network, taps, plan, targets=targets)


def test_without_masks_a_bad_image_says_nothing_about_where():
    """The same mask given and withheld: the segmentation loss must differ, and only masks count."""
    _, weak = trained("weak", masked=False)
    _, supervised = trained("supervised", masked=True)
    assert weak[0]["segmentation"] != supervised[0]["segmentation"]
    assert all(np.isfinite(epoch["classification"]) for epoch in (*weak, *supervised))


def test_labels_reach_the_map_only_where_the_gradient_is_not_stopped():
    network, _ = trained("supervised", masked=True, epochs=1)
    assert not network.discriminator.stop_gradient
    network, taps = small_network()
    train_heads(network, taps, Plan(epochs=1, batch=6).for_regime("unsupervised"))
    assert network.discriminator.stop_gradient


def test_milestones_are_whole_epochs(monkeypatch):
    """int(0.8 · 6) = 4 and int(0.9 · 6) = 5: a milestone of 4.8 would never be reached."""
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def spy(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    network, taps = small_network()
    train_heads(network, taps, Plan(epochs=6, classification_epochs=0, batch=12))
    assert rates == pytest.approx([1e-4] * 4 + [4e-5, 1.6e-5])


def test_a_training_that_learns_nothing_says_so():
    good = [Epoch(segmentation=0.2, classification=0.01, gap=1.2)] * 6
    assert troubles(good) == ()
    stalled = [Epoch(segmentation=IDLE_LOSS, classification=0.04, gap=0.01)] * 6
    assert len(troubles(stalled)) == 2
    assert troubles(stalled[:4]) == ()


def test_noise_that_drowns_in_the_features_is_noticed():
    """0.015 on features that spread over 5, as lite0's do: the papers' noise without scaling."""
    network, taps = small_network()
    plan = Plan(epochs=6, classification_epochs=0, batch=6, standardise=False, noise=0.015)
    assert troubles(train_heads(network, taps, plan))
    network, taps = small_network()
    fine = train_heads(network, taps, Plan(epochs=6, classification_epochs=0, batch=6, noise=1.0))
    assert not troubles(fine)


def test_features_beyond_the_memory_are_computed_again_and_teach_the_same():
    network, taps = small_network()
    rng = np.random.default_rng(0)
    images = rng.integers(90, 110, (12, 3, 64, 64)).astype(np.float32)

    def read(numbers):
        return images[list(numbers)]

    computed = taps_of(network, read, 12, cache_bytes=1)
    kept = taps_of(network, read, 12)
    assert isinstance(computed, ComputedTaps) and isinstance(kept, KeptTaps)
    for one, other in zip(computed.take(torch.tensor([3, 11])), kept.take(torch.tensor([3, 11])),
                          strict=True):  # fmt: skip
        assert torch.allclose(one, other, atol=1e-4)
    fit_standardisation(network, computed, torch.arange(12))
    means = network.standardise_fine.mean.clone(), network.standardise_coarse.std.clone()
    fit_standardisation(network, kept, torch.arange(12))
    assert torch.allclose(means[0], network.standardise_fine.mean, atol=1e-4)
    assert torch.allclose(means[1], network.standardise_coarse.std, rtol=1e-2)
    assert torch.allclose(kept.fine, taps[0], atol=1e-4)


def write_plates(folder: Path, count: int, *, is_bad: bool, masks: bool = False) -> None:
    (folder / "ground_truth" / "bad").mkdir(parents=True, exist_ok=True)
    place = folder / ("bad" if is_bad else "good")
    place.mkdir(parents=True)
    rng = np.random.default_rng(int(is_bad))
    for index in range(count):
        image, mask = rng.normal(100, 8, (64, 64)), np.zeros((64, 64), np.uint8)
        if is_bad:
            row = int(rng.integers(8, 50))
            mask[row : row + 6, 10:50] = 255
            image[mask > 0] += 90
        cv2.imwrite(str(place / f"{index}.png"), image.clip(0, 255).astype(np.uint8))
        if masks:
            cv2.imwrite(str(folder / "ground_truth" / "bad" / f"{index}_mask.png"), mask)


def test_known_bad_images_are_shared_between_network_and_limits(tmp_path):
    write_plates(tmp_path, 24, is_bad=False)
    write_plates(tmp_path, 20, is_bad=True, masks=True)
    alone = open_dataset(tmp_path)
    shared = open_dataset(tmp_path, learn_bad=True)
    assert not alone.network_bad
    assert (len(shared.network_bad), len(shared.limits_bad)) == (5, 5)
    assert alone.hashes()["held_out"] == shared.hashes()["held_out"]
    assert open_dataset(tmp_path, learn_bad=None).network_bad == ()  # too few to give any away
    assert shared.mask(shared.network_bad[0]) is not None
    contract = contract_of(shared, (64, 64), "area")
    result = train_network(shared, contract, Wishes(epochs=1))
    assert result.plan.regime == "supervised"
    assert result.spread > 0.1
    weak = train_network(shared, contract, Wishes(epochs=1, regime="weak"))
    assert weak.plan.regime == "weak"
    # Weak means without masks, also where there are some.
    bare = replace(shared, network_bad=tuple(replace(s, mask=None) for s in shared.network_bad))
    assert train_network(bare, contract, Wishes(epochs=1)).history == weak.history


def test_a_training_starts_from_given_heads(tmp_path):
    write_plates(tmp_path, 24, is_bad=False)
    data = open_dataset(tmp_path)
    contract = contract_of(data, (64, 64), "area")
    network, _ = small_network()
    network.discriminator.fc_score.bias.data.fill_(7.0)
    save_heads(network, tmp_path / HEADS)
    result = train_network(data, contract, Wishes(epochs=1, init=tmp_path))
    assert result.plan.hidden == 32  # of the file, not of the backbone's plan
    assert result.network.discriminator.fc_score.bias.item() == pytest.approx(7.0, abs=0.1)
    other = SuperSimpleNet(backbones.untrained("resnet18"), hidden=32)
    save_heads(other, tmp_path / HEADS)
    with pytest.raises(ConfigError, match="384 feature channels; is it another backbone"):
        train_network(data, contract, Wishes(epochs=1, init=tmp_path))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_a_device_that_is_not_there_is_refused(tmp_path):
    write_plates(tmp_path, 24, is_bad=False)
    data = open_dataset(tmp_path)
    with pytest.raises(ConfigError, match="--device cuda: expected an NVIDIA device"):
        train_network(data, contract_of(data, (64, 64), "area"), Wishes(device="cuda"))


def test_useless_masks_are_named(tmp_path):
    write_plates(tmp_path, 24, is_bad=False)
    write_plates(tmp_path, 20, is_bad=True, masks=True)
    data = open_dataset(tmp_path, learn_bad=True)
    contract = contract_of(data, (64, 64), "area")
    mask = data.network_bad[0].mask
    assert mask is not None
    for content, message in (
        (np.zeros((64, 64), np.uint8), "expected a mask with defects, or none at all, got a black"),
        (np.ones((30, 64), np.uint8), r"_mask\.png: expected 64x64 pixels as .*, got 64x30"),
    ):
        cv2.imwrite(str(mask), content)
        with pytest.raises(ConfigError, match=message):
            train_network(data, contract, Wishes(epochs=1))


TRAIN = """
import sys
from dataclasses import replace
from pathlib import Path
from models.checkpoints import save_heads
from models.dataset import open_dataset
from models.network_training import Wishes, train_network
from models.train import contract_of
def report(stage, done, detail):
    print(stage, detail, flush=True)
    sys.stdin.readline()  # one step for each line that the parent sends
data = open_dataset(sys.argv[1], learn_bad=True)
trained = train_network(
    data, contract_of(data, (64, 64), "area"), Wishes(epochs=6), checkpoint=Path(sys.argv[2]),
    progress=report,
)
save_heads(trained.network, Path(sys.argv[3]))
"""


@pytest.mark.timeout(400)  # three processes that each load torch
def test_a_killed_training_goes_on_and_ends_with_the_same_weights(tmp_path):
    data = tmp_path / "plates"
    write_plates(data, 24, is_bad=False)
    write_plates(data, 20, is_bad=True, masks=True)

    def start(name: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", TRAIN, data, tmp_path / f"{name}.pt", tmp_path / f"{name}.npz"],
            stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=Path(__file__).parent.parent, env=os.environ | {"OMP_NUM_THREADS": "2"},
        )  # fmt: skip

    with start("whole") as whole, start("killed", subprocess.PIPE) as killed:
        assert killed.stdout is not None and killed.stdin is not None
        moment = random.Random().randrange(20)  # reports, of 24 in epochs 2 to 5
        for line in killed.stdout:
            if line.startswith("network") and "epoch 1/6" not in line:
                moment -= 1
            if "epoch 5/6" in line or moment < 0:
                break
            killed.stdin.write("\n")
            killed.stdin.flush()
        killed.kill()
        killed.communicate()
        assert not (tmp_path / "killed.npz").exists()
        with start("killed") as again:
            _, said = again.communicate()
            assert again.returncode == 0, said
            assert "training goes on after epoch" in said
        _, said = whole.communicate()
        assert whole.returncode == 0, said
    with np.load(tmp_path / "whole.npz") as one, np.load(tmp_path / "killed.npz") as other:
        assert set(one.files) == set(other.files)
        for name in one.files:
            assert np.array_equal(one[name], other[name]), name


def test_a_failure_behind_the_training_does_not_cost_the_training(tmp_path, capsys):
    write_plates(tmp_path / "plates", 24, is_bad=False)
    write_plates(tmp_path / "plates", 12, is_bad=True)
    data = open_dataset(tmp_path / "plates")
    victim = data.held_out[0].path
    content = victim.read_bytes()
    victim.write_bytes(content[:100])
    out = tmp_path / "bundle"
    with pytest.raises(ConfigError, match=rf"{victim.name}: expected an image"):
        train_bundle(data, out, size=(64, 64), epochs=2)
    assert not out.exists()
    assert [path.name for path in (tmp_path / ".bundle.training").iterdir()] == ["checkpoint.pt"]
    assert "epochs so far are kept" in capsys.readouterr().err
    victim.write_bytes(content)
    train_bundle(data, out, size=(64, 64), epochs=2)
    assert "goes on after epoch 2" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "plates"]
    assert (out / HEADS).is_file()
