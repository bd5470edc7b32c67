"""From labelled images to a trained network: what the regime is, what is learnt from which image.

In: a `Dataset` and the wishes of a user. Out: the network and what there is to say about its
training. Everything behind it (export, forest, limits) sees the network alone.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from appliance.bundle import InputContract, hash_file
from appliance.errors import ConfigError
from models import backbones, weights
from models.checkpoints import hidden_of, put_heads, read_heads
from models.dataset import Dataset
from models.export import Preprocessor
from models.features import CACHE_BYTES, spread, taps_of
from models.learn import PLANS, Epoch, Plan, train_heads, troubles
from models.supersimplenet import SuperSimpleNet, Wiring, channels_last
from models.targets import FLIPS, Regime, Targets, dilated, flipped, regime_of


@dataclass(frozen=True)
class Wishes:
    """What a user may ask of a training; None leaves it to the backbone and the data."""

    backbone: str = "efficientnet_lite0"
    backbone_weights: Path | None = None
    download: bool = False
    epochs: int | None = None
    grid: int | None = None
    seed: int = 0
    regime: Regime | None = None
    wiring: Wiring = "jims"
    init: Path | None = None
    """Start from these heads: an authors' checkpoint, heads.npz or a bundle."""
    cache_bytes: int = CACHE_BYTES
    device: str = "cpu"
    mixed: bool | None = None
    """Convolutions of the heads in bfloat16; None: on a GPU that has it."""


@dataclass(frozen=True)
class Trained:
    """A network, and what is to be said about its training."""

    network: SuperSimpleNet
    backbone: str
    plan: Plan
    weights: weights.Weights
    history: list[Epoch]
    spread: float
    """Mean over channels of the raw features' standard deviation on good images."""
    warnings: tuple[str, ...] = ()


def train_network(
    data: Dataset,
    contract: InputContract,
    wishes: Wishes,
    *,
    checkpoint: Path | None = None,
    progress: Callable[[str, float, str], None] = lambda stage, done, detail: None,
) -> Trained:
    """Train on `data.network_good` and, unless unsupervised, on `data.network_bad`.

    checkpoint: rewritten after every epoch, continued where it belongs to the same training.
    progress: the stages "features" and "network", share of each, and a word on the losses. Raises
    ConfigError on unusable images, masks, labels or weights.
    """
    if wishes.device == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError("--device cuda", "an NVIDIA device that torch can use", "none")
        torch.backends.cudnn.deterministic = True
        # TensorFloat-32 is torch's default for convolutions and not what is exported.
        torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(wishes.seed)
    found = weights.find_weights(wishes.backbone, wishes.backbone_weights, download=wishes.download)
    regime = regime_of([s.mask is not None for s in data.network_bad], wishes.regime)
    plan, heads = _plan(wishes, found, regime)
    network = SuperSimpleNet(
        backbones.build(wishes.backbone, found.path),
        wiring=plan.wiring,
        hidden=plan.hidden,
        grid=plan.grid,
    )
    if heads is not None and wishes.init is not None:
        put_heads(network, heads, wishes.init)
    channels_last(network.backbone)
    network.to(wishes.device)
    bad = () if regime == "unsupervised" else data.network_bad
    taps = taps_of(
        network,
        _reader(data, contract),
        len(data.network_good) + FLIPS * len(bad),
        cache_bytes=wishes.cache_bytes,
        progress=lambda done: progress("features", done, ""),
    )
    good = torch.arange(len(data.network_good))
    measured = spread(network, taps, good)
    if measured < 1e-3:
        raise ConfigError(
            data.name, "good images that differ", f"features with a spread of {measured:.1e}"
        )
    grid = (taps.shape[0] * network.grid, taps.shape[1] * network.grid)
    targets = Targets.of_good(len(good), grid)
    if bad:
        targets = targets.joined(_bad_targets(data, contract, grid, regime))
    told: set[str] = set()

    def report(done: float, history: list[Epoch]) -> None:
        for trouble in troubles(history) if len(history) >= plan.epochs / 5 else ():
            kind = trouble.partition(":")[2]
            if kind not in told:
                told.add(kind)
                sys.stderr.write(f"inspectd: epoch {len(history)}: {trouble}\n")
        progress("network", min(done, 0.999), _words(history, plan.epochs))

    history = train_heads(
        network, taps, plan, report,
        targets=targets, checkpoint=checkpoint, identity=_identity(data, contract, found, wishes),
    )  # fmt: skip
    network.to("cpu")
    progress("network", 1.0, _words(history, plan.epochs))
    return Trained(network, wishes.backbone, plan, found, history, measured, troubles(history))


def _plan(
    wishes: Wishes, found: weights.Weights, regime: Regime
) -> tuple[Plan, dict[str, torch.Tensor] | None]:
    if wishes.backbone not in PLANS:
        raise ConfigError("backbone", f"one of {', '.join(PLANS)}", repr(wishes.backbone))
    plan = PLANS[wishes.backbone]
    if not plan.standardise and not found.is_reference:
        # Nobody knows how far the features of other weights spread: units that fit any.
        plan = replace(plan, standardise=True, noise=Plan.noise)
    plan = replace(
        plan,
        epochs=wishes.epochs or plan.epochs,
        grid=wishes.grid or plan.grid,
        wiring=wishes.wiring,
        seed=wishes.seed,
        mixed=_is_mixed(wishes),
    )
    heads = None
    if wishes.init is not None:
        heads = read_heads(wishes.init)
        plan = replace(plan, hidden=hidden_of(heads))
    return plan.for_regime(regime), heads


def _is_mixed(wishes: Wishes) -> bool:
    if wishes.mixed is None:
        return wishes.device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return wishes.mixed


def _reader(
    data: Dataset, contract: InputContract
) -> Callable[[Sequence[int]], npt.NDArray[np.float32]]:
    """Example number → network input: the good images, then four flips of each bad one."""
    preprocess = Preprocessor(contract)
    good = len(data.network_good)

    def read(numbers: Sequence[int]) -> npt.NDArray[np.float32]:
        frames: list[npt.NDArray[np.uint8]] = []
        for number in numbers:
            if number < good:
                frames.append(data.pixels([data.network_good[number]])[0])
            else:
                which, flip = divmod(number - good, FLIPS)
                frames.append(flipped(data.pixels([data.network_bad[which]])[0], flip))
        return preprocess(np.stack(frames))

    return read


def _bad_targets(
    data: Dataset, contract: InputContract, grid: tuple[int, int], regime: Regime
) -> Targets:
    published = (contract.height_px, contract.width_px) if contract.resize == "authors" else None
    masks: list[npt.NDArray[np.uint8] | None] = []
    for sample in data.network_bad:
        mask = None if regime == "weak" else data.mask(sample)
        if mask is not None and not mask.any():
            raise ConfigError(
                sample.mask or sample.path, "a mask with defects, or none at all", "a black one"
            )
        grown = None if mask is None else dilated(mask)
        masks += [None if grown is None else flipped(grown, flip) for flip in range(FLIPS)]
    return Targets.of_bad(masks, grid, published)


def _identity(
    data: Dataset, contract: InputContract, found: weights.Weights, wishes: Wishes
) -> str:
    """SHA-256 of all that decides the outcome beside the plan."""
    hashes = data.hashes()
    learnt = [hashes["network_good"], hashes.get("network_bad", [])]
    started = hash_file(wishes.init) if wishes.init and wishes.init.is_file() else str(wishes.init)
    said = msgspec.json.encode([learnt, contract, found.sha256, started, wishes.device])
    return hashlib.sha256(said).hexdigest()


def _words(history: list[Epoch], epochs: int) -> str:
    if not history:
        return f"epoch 1/{epochs}"
    last = history[-1]
    classification = last["classification"]
    parts = [f"epoch {len(history)}/{epochs}", f"loss map {last['segmentation']:.3f}"]
    if not math.isnan(classification):
        parts.append(f"class {classification:.4f}")
    return " ".join(parts)
