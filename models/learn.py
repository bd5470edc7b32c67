"""The training loop of SuperSimpleNet on frozen features, in every regime.

In: a network, the taps of N examples and what is to be learnt from each. Out: the same network,
trained. Knows nothing of images, bundles or forests. Both papers, sections "Implementation
details" and "Training"; what differs for a small backbone stands in `PLANS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from models.anomalies import anomaly_masks, masked_noise
from models.checkpoints import Progress, load_progress, save_progress
from models.features import KeptTaps, Taps, fit_standardisation
from models.losses import classification_loss, segmentation_loss
from models.sampling import Sampler
from models.supersimplenet import SuperSimpleNet, Wiring, channels_last
from models.targets import THRESHOLDS, Regime, Targets

RATE_ADAPTOR, RATE_HEADS = 1e-4, 2e-4
DECAY_ADAPTOR, DECAY_HEADS = 1e-2, 1e-5
MILESTONES, DECAY_RATE = (0.8, 0.9), 0.4
CLIP_NORM = 1.0
"""Largest gradient norm of the regimes with bad images; the unsupervised one does not clip."""

IDLE_LOSS = 1.04
"""Truncated L1 plus focal of a map that is 0 everywhere: what heads that learn nothing cost."""

_REUSED_BYTES = 32 << 20


@dataclass(frozen=True)
class Plan:
    """Hyperparameters of one training; the defaults are for efficientnet_lite0 on a CPU."""

    epochs: int = 18
    classification_epochs: int = 6
    """The last epochs in which the classification head learns too. With the gradient stopped
    between the heads this changes nothing for the map, and its 5x5 convolution is over half of
    an epoch's cost. Regimes with bad images train both heads all the time."""
    batch: int | None = None
    """Images per step, 32 in the paper; each is used twice, with its own mask and noise. None: as
    many as `fitting_batch` says."""
    hidden: int = 256
    """Channels of the segmentation head; 1024 in the paper, for 1536 feature channels."""
    grid: int = 1
    """Feature grid as a multiple of the fine tap's; 2 in the paper, four times the cost."""
    standardise: bool = True
    """Whether features are brought to mean 0 and spread 1 of the good images first."""
    noise: float = 0.4
    """Standard deviation of the noise, in units of each channel's spread over the good images
    where features are standardised, else as it is."""
    threshold: float = 0.2
    """Of the Perlin masks."""
    regime: Regime = "unsupervised"
    wiring: Wiring = "jims"
    seed: int = 0
    mixed: bool = False
    """Convolutions in bfloat16, as `half_convolutions` says; all else in float32."""

    def for_regime(self, regime: Regime) -> Plan:
        """The same plan for a regime: what the papers change with it."""
        return replace(
            self,
            regime=regime,
            threshold=THRESHOLDS[regime],
            classification_epochs=(
                min(self.classification_epochs, self.epochs)
                if regime == "unsupervised"
                else self.epochs
            ),
        )


_PAPERS = Plan(
    epochs=300, classification_epochs=300, batch=32, hidden=1024, grid=2, standardise=False,
    noise=0.015,
)  # fmt: skip

PLANS: dict[str, Plan] = {
    "efficientnet_lite0": Plan(),
    "wide_resnet50_2": _PAPERS,
    "resnet50": _PAPERS,
    "resnet18": _PAPERS,
}
"""Backbone → its plan. The papers' noise belongs to torchvision's V1 weights."""


class Epoch(TypedDict):
    """What one epoch cost: means over its steps, and how far the map's two sides are apart."""

    segmentation: float
    classification: float
    """NaN where the classification head did not learn."""
    gap: float
    """Mean logit of synthetic and known defects minus that of normal pixels."""


def fitting_batch(hidden: int, cells: int) -> int:
    """Images per step, at most the paper's 32, for this many hidden channels and grid cells.

    So many that the largest tensor of a step stays below the 32 MiB that the C library reuses;
    larger ones are fetched from the kernel anew at every step, which tripled the time of an epoch.
    """
    return max(4, min(32, (_REUSED_BYTES - 1) // (2 * hidden * cells * 4)))


def train_heads(
    network: SuperSimpleNet,
    taps: Taps | tuple[Tensor, Tensor],
    plan: Plan,
    progress: Callable[[float, list[Epoch]], None] = lambda done, history: None,
    *,
    targets: Targets | None = None,
    checkpoint: Path | None = None,
    identity: str = "",
) -> list[Epoch]:
    """Standardise on the good images' taps, then train adaptor and heads in place.

    taps: of N examples. targets: what each teaches; None = all are good. progress: share of the
    work done, 0 to 1, and the epochs so far. checkpoint: a file that is rewritten after every
    epoch; where it exists and carries this `identity` and plan, the training goes on from it and
    ends with the same weights; the caller removes it. Returns the history. Raises
    FloatingPointError where the loss is no longer finite.
    """
    taps = KeptTaps(*taps) if isinstance(taps, tuple) else taps
    grid = (taps.shape[0] * network.grid, taps.shape[1] * network.grid)
    targets = Targets.of_good(taps.count, grid) if targets is None else targets
    device = next(network.parameters()).device
    network.discriminator.stop_gradient = plan.regime == "unsupervised"
    if plan.standardise:
        fit_standardisation(network, taps, torch.nonzero(targets.labels < 0.5).flatten())
    channels_last(network)
    optimiser = _optimiser(network)
    # Whole epochs: a milestone at 14.4 would never be reached.
    schedule = torch.optim.lr_scheduler.MultiStepLR(
        optimiser, [int(plan.epochs * share) for share in MILESTONES], gamma=DECAY_RATE
    )
    sampler = Sampler(targets.labels, plan.seed)
    state = Progress(network, optimiser, schedule, sampler, f"{identity} {plan}")
    history: list[Epoch] = load_progress(checkpoint, state) if checkpoint else []
    batch = plan.batch or fitting_batch(plan.hidden, grid[0] * grid[1])
    silent = plan.epochs - plan.classification_epochs
    # A step with the classification head costs nearly three times as much as one without.
    costs = [1.0 if epoch < silent else 2.8 for epoch in range(plan.epochs)]
    network.train()
    with half_convolutions(network, device) if plan.mixed else nullcontext():
        for epoch in range(len(history), plan.epochs):
            order = sampler.epoch(epoch)
            rng = np.random.default_rng([plan.seed, epoch])
            generator = torch.Generator(device).manual_seed(plan.seed * 1_000_003 + epoch)
            steps: list[tuple[float, float, float]] = []
            size = min(len(order), batch)
            for start in range(0, len(order) - size + 1, size):
                chosen = order[start : start + size]
                steps.append(
                    _step(
                        network, optimiser, taps.take(chosen), targets.take(chosen), plan, rng,
                        generator, device, classify=epoch >= silent,
                    )
                )  # fmt: skip
                if not math.isfinite(sum(steps[-1][:2])):
                    raise FloatingPointError(f"loss {steps[-1]} in epoch {epoch + 1}")
                done = sum(costs[:epoch]) + costs[epoch] * (start + size) / len(order)
                progress(done / sum(costs), history)
            schedule.step()
            segmentation, classification, gap = np.mean(steps, axis=0).tolist()
            history.append(
                Epoch(
                    segmentation=segmentation,
                    classification=classification if epoch >= silent else math.nan,
                    gap=gap,
                )
            )
            if checkpoint:
                save_progress(checkpoint, state, history)
    progress(1.0, history)
    network.eval()
    return history


@contextmanager
def half_convolutions(network: SuperSimpleNet, device: torch.device) -> Iterator[None]:
    """Within it, convolutions and BatchNorm of adaptor and heads compute in bfloat16.

    What they are given and what they return is float32, and so is all in between: the noise, the
    statistics behind the classification head, its last layer, the losses, the weights. bfloat16 has
    the range of float32, so that no loss needs scaling. The frozen backbone stays float32: its
    features and their spread are what the exported network will see, and it runs once per image.
    """
    heads = network.discriminator
    modules: list[nn.Module] = [network.feature_adaptor, heads.seg, heads.dec_head]
    for module in modules:
        module.forward = _in_bfloat16(module.forward, device)
    try:
        yield
    finally:
        for module in modules:
            del module.forward  # the class's own is behind it


def _in_bfloat16(
    forward: Callable[[Tensor], Tensor], device: torch.device
) -> Callable[[Tensor], Tensor]:
    def run(features: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            out = forward(features)
        return out.float()

    return run


def troubles(history: list[Epoch]) -> tuple[str, ...]:
    """What is wrong with a training so far, in words; nothing in its first fifth or five epochs."""
    if len(history) < 5:
        return ()
    found: list[str] = []
    if history[-1]["segmentation"] > 0.95 * IDLE_LOSS and history[-1]["gap"] < 0.5:
        found.append(
            f"the loss of the map is {history[-1]['segmentation']:.2f} after {len(history)} "
            f"epochs, {IDLE_LOSS} is what a map of zeros costs: the heads do not learn, the noise "
            "is probably lost in the features' own spread"
        )
    if history[-1]["gap"] < 0.1:
        found.append(
            f"defects lie {history[-1]['gap']:.2f} above normal pixels in the map, 1 is the aim: "
            "the features have collapsed or the noise is too small"
        )
    return tuple(found)


def _optimiser(network: SuperSimpleNet) -> torch.optim.AdamW:
    """The authors' groups; that the adaptor keeps AdamW's default decay is theirs, too."""
    adaptor, heads = network.feature_adaptor, network.discriminator
    groups = [
        {"params": list(adaptor.parameters()), "lr": RATE_ADAPTOR, "weight_decay": DECAY_ADAPTOR}
    ]
    for head in ([heads.seg], [heads.dec_head, heads.fc_score]):
        parameters = [parameter for module in head for parameter in module.parameters()]
        groups.append({"params": parameters, "lr": RATE_HEADS, "weight_decay": DECAY_HEADS})
    return torch.optim.AdamW(groups)


def _step(
    network: SuperSimpleNet,
    optimiser: torch.optim.AdamW,
    taps: tuple[Tensor, Tensor],
    targets: Targets,
    plan: Plan,
    rng: np.random.Generator,
    generator: torch.Generator,
    device: torch.device,
    *,
    classify: bool,
) -> tuple[float, float, float]:
    """One step of the optimiser; both losses (map, class) and the map's gap before it."""
    with torch.no_grad():
        features = network.embed(taps[0].to(device), taps[1].to(device))
        features = torch.cat([features, features]).contiguous(memory_format=torch.channels_last)
        known = Targets(*(torch.cat([values, values]) for values in targets))
        shape = (features.shape[-2], features.shape[-1])
        drawn = anomaly_masks(len(features), shape, threshold=plan.threshold, rng=rng)
        drawn = drawn * (1 - known.masks)  # never on a real defect
        noise = masked_noise(features, drawn, plan.noise, generator)
        masks = torch.maximum(drawn, known.masks).to(device)
        labels = torch.maximum(known.labels.to(device), masks.amax(dim=(1, 2, 3)))
        # A bad image without a mask would teach that its defect is normal: its map is not judged.
        judged = known.is_segmented.to(device)
        weights = None if plan.regime == "unsupervised" else known.weights.to(device)[judged]
    # The same noise on raw and on adapted features (jims); icpr's classifier sees only the latter.
    adapted = network.feature_adaptor(features) + noise
    logits = network.discriminator.segment(adapted)
    loss = segmentation = segmentation_loss(logits[judged], masks[judged], weights)
    classification = 0.0
    if classify:
        seen = features + noise if network.wiring == "jims" else adapted
        cost = classification_loss(network.discriminator.classify(seen, logits), labels)
        loss, classification = loss + cost, float(cost.detach())
    optimiser.zero_grad()
    loss.backward()
    if plan.regime != "unsupervised":
        torch.nn.utils.clip_grad_norm_(
            [p for group in optimiser.param_groups for p in group["params"]], CLIP_NORM
        )
    optimiser.step()
    return float(segmentation.detach()), classification, _gap(logits.detach(), masks)


def _gap(logits: Tensor, masks: Tensor) -> float:
    anomalous = masks > 0.5
    if not anomalous.any():
        return 0.0
    return float(logits[anomalous].mean() - logits[~anomalous].mean())
