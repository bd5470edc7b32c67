"""The training loop of SuperSimpleNet on frozen, cached features (unsupervised regime).

In: an untrained network and network inputs of good images. Out: the same network, trained. Knows
nothing of files, bundles or forests. Paper, section "Implementation details"; what differs for a
small backbone stands in `Plan`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.anomalies import anomaly_masks, masked_noise
from models.losses import classification_loss, segmentation_loss
from models.supersimplenet import SuperSimpleNet, channels_last

RATE_ADAPTOR, RATE_HEADS = 1e-4, 2e-4
DECAY_ADAPTOR, DECAY_HEADS = 1e-2, 1e-5
MILESTONES, DECAY_RATE = (0.8, 0.9), 0.4

_REUSED_BYTES = 32 << 20


@dataclass(frozen=True)
class Plan:
    """Hyperparameters of one training; the defaults are for efficientnet_lite0 on a CPU."""

    epochs: int = 18
    classification_epochs: int = 6
    """The last epochs in which the classification head learns too. With the gradient stopped
    between the heads this changes nothing for the map, and its 5x5 convolution is over half of
    an epoch's cost."""
    batch: int | None = None
    """Images per step, 32 in the paper; each is used twice, with its own mask and noise. None: as
    many as `fitting_batch` says."""
    hidden: int = 256
    """Channels of the segmentation head; 1024 in the paper, for 1536 feature channels."""
    grid: int = 1
    """Feature grid as a multiple of the fine tap's; 2 in the paper, four times the cost."""
    noise: float = 0.4
    """Standard deviation of the noise in units of each channel's spread over the good images."""
    threshold: float = 0.2
    """Of the Perlin masks."""
    seed: int = 0


def fitting_batch(hidden: int, cells: int) -> int:
    """Images per step, at most the paper's 32, for this many hidden channels and grid cells.

    So many that the largest tensor of a step stays below the 32 MiB that the C library reuses;
    larger ones are fetched from the kernel anew at every step, which tripled the time of an epoch.
    """
    return max(4, min(32, (_REUSED_BYTES - 1) // (2 * hidden * cells * 4)))


def cache_features(
    network: SuperSimpleNet, batches: Iterable[npt.NDArray[np.float32]]
) -> tuple[Tensor, Tensor]:
    """Raw taps of all network inputs, (N, C2, h, w) and (N, C3, h/2, w/2) float32.

    batches: (n, 3, H, W) float32 RGB 0…255 each.
    """
    network.eval()
    fine: list[Tensor] = []
    coarse: list[Tensor] = []
    with torch.no_grad():
        for batch in batches:
            pixels = torch.from_numpy(batch).contiguous(memory_format=torch.channels_last)
            taps = network.taps(pixels)
            fine.append(taps[0])
            coarse.append(taps[1])
    return torch.cat(fine), torch.cat(coarse)


def train_heads(
    network: SuperSimpleNet,
    taps: tuple[Tensor, Tensor],
    plan: Plan,
    progress: Callable[[float], None] = lambda done: None,
) -> float:
    """Standardise on the good images' taps, then train adaptor and heads in place.

    taps: as from `cache_features`. progress: share of the work done, 0 to 1. Returns the mean
    loss of the last epoch. Raises FloatingPointError where the loss is no longer finite.
    """
    network.standardise_fine.fit(taps[0])
    network.standardise_coarse.fit(taps[1])
    channels_last(network)
    optimiser = torch.optim.AdamW(
        [
            {
                "params": network.feature_adaptor.parameters(),
                "lr": RATE_ADAPTOR,
                "weight_decay": DECAY_ADAPTOR,
            },
            {
                "params": network.discriminator.parameters(),
                "lr": RATE_HEADS,
                "weight_decay": DECAY_HEADS,
            },
        ]
    )
    schedule = torch.optim.lr_scheduler.MultiStepLR(
        optimiser, [int(plan.epochs * share) for share in MILESTONES], gamma=DECAY_RATE
    )
    rng = np.random.default_rng(plan.seed)
    generator = torch.Generator().manual_seed(plan.seed)
    count, cells = len(taps[0]), taps[0].shape[-2] * taps[0].shape[-1] * network.grid**2
    batch = min(count, plan.batch or fitting_batch(plan.hidden, cells))
    silent = plan.epochs - plan.classification_epochs
    # A step with the classification head costs nearly three times as much as one without.
    costs = [1.0 if epoch < silent else 2.8 for epoch in range(plan.epochs)]
    mean_loss = math.nan
    network.train()
    for epoch in range(plan.epochs):
        order = torch.randperm(count, generator=generator)
        losses: list[float] = []
        for start in range(0, count - batch + 1, batch):
            chosen = order[start : start + batch]
            loss = _step_loss(
                network, (taps[0][chosen], taps[1][chosen]), plan, rng, generator,
                classify=epoch >= silent,
            )  # fmt: skip
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                raise FloatingPointError(f"loss {losses[-1]} in epoch {epoch + 1}")
            done = sum(costs[:epoch]) + costs[epoch] * (start + batch) / count
            progress(done / sum(costs))
        schedule.step()
        mean_loss = float(np.mean(losses))
    network.eval()
    return mean_loss


def _step_loss(
    network: SuperSimpleNet,
    taps: tuple[Tensor, Tensor],
    plan: Plan,
    rng: np.random.Generator,
    generator: torch.Generator,
    *,
    classify: bool,
) -> Tensor:
    with torch.no_grad():
        features = network.embed(*taps)
        features = torch.cat([features, features]).contiguous(memory_format=torch.channels_last)
        shape = (features.shape[-2], features.shape[-1])
        masks = anomaly_masks(len(features), shape, threshold=plan.threshold, rng=rng)
        noise = masked_noise(features, masks, plan.noise, generator)
    # The same noise on raw and on adapted features (jims); icpr's classifier sees only the latter.
    adapted = network.feature_adaptor(features) + noise
    logits = network.discriminator.segment(adapted)
    loss = segmentation_loss(logits, masks)
    if classify:
        seen = features + noise if network.wiring == "jims" else adapted
        labels = masks.amax(dim=(1, 2, 3))
        loss = loss + classification_loss(network.discriminator.classify(seen, logits), labels)
    return loss
