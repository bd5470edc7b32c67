"""SegAD's score g: a backbone fine-tuned on good and bad images with the focal loss.

It takes the place of SuperSimpleNet's classification head as the graph's `score`. It knows the
defects that it was shown better than any map does, and is blind to others (methods of the paper,
Table 2), so it is one column of the forest and never the only judge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.backbones import Backbone
from models.exact import ExactSuperSimpleNet
from models.losses import focal
from models.supersimplenet import Normalise, SuperSimpleNet
from models.targets import FLIPS, flipped

EPOCHS = 8
BATCH = 8
RATE_BACKBONE, RATE_HEAD = 1e-4, 1e-2
DECAY = 1e-4

Pixels = Callable[[Sequence[int]], npt.NDArray[np.float32]]
"""Numbers of images → network inputs (n, 3, H, W) float32, RGB 0…255."""


class Classifier(nn.Module):
    """Backbone up to its coarse tap, mean and maximum over the picture, one linear layer."""

    def __init__(self, backbone: Backbone) -> None:
        """backbone: its own copy, with ImageNet weights; it will change."""
        super().__init__()
        self.normalise, self.backbone = Normalise(), backbone
        self.norm = nn.LayerNorm(2 * backbone.channels[1])
        self.head = nn.Linear(2 * backbone.channels[1], 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) float32 RGB 0…255 → raw logits (N,)."""
        coarse = self.backbone(self.normalise(pixels)).coarse
        pooled = torch.cat([coarse.mean(dim=(2, 3)), coarse.amax(dim=(2, 3))], dim=1)
        return self.head(self.norm(pooled)).reshape(-1)


def fine_tune(
    classifier: Classifier,
    pixels: Pixels,
    labels: npt.NDArray[np.int64],
    *,
    epochs: int = EPOCHS,
    seed: int = 0,
    progress: Callable[[float], None] = lambda done: None,
) -> float:
    """Train all of it in place; returns the mean loss of the last epoch.

    labels: (N,) of the images that `pixels` reads. Each epoch shows every bad image once and as
    many good ones, each in one of four flips. Batch statistics stay ImageNet's. Raises
    FloatingPointError where the loss is no longer finite.
    """
    rng = np.random.default_rng(seed)
    good, bad = np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)
    classifier.requires_grad_(True)
    classifier.eval()  # the statistics of small batches would be worse than those of ImageNet
    optimiser = torch.optim.AdamW(
        [
            {"params": classifier.backbone.parameters(), "lr": RATE_BACKBONE},
            {"params": [*classifier.norm.parameters(), *classifier.head.parameters()],
             "lr": RATE_HEAD},
        ],
        weight_decay=DECAY,
    )  # fmt: skip
    steps = epochs * max(1, -(-2 * len(bad) // BATCH))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    losses: list[float] = []
    for epoch in range(epochs):
        chosen = rng.choice(good, len(bad), replace=len(bad) > len(good))
        order = rng.permutation(np.concatenate([bad, chosen]))
        losses = []
        for start in range(0, len(order), BATCH):
            numbers = [int(number) for number in order[start : start + BATCH]]
            images = pixels(numbers)
            flips = rng.integers(0, FLIPS, len(numbers))
            turned = np.stack([
                _flipped(image, int(flip)) for image, flip in zip(images, flips, strict=True)
            ])  # fmt: skip
            target = torch.from_numpy(labels[numbers].astype(np.float32))
            loss = focal(classifier(torch.from_numpy(turned)), target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
            if not np.isfinite(losses[-1]):
                raise FloatingPointError(f"loss {losses[-1]} in epoch {epoch + 1}")
            progress((epoch + start / len(order)) / epochs)
    classifier.requires_grad_(False)
    progress(1.0)
    return float(np.mean(losses))


def _flipped(image: npt.NDArray[np.float32], flip: int) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(flipped(image.transpose(1, 2, 0), flip).transpose(2, 0, 1))


class WithClassifier(nn.Module):
    """The exact graph of a network with another score: the map is the network's."""

    def __init__(
        self, plain: SuperSimpleNet, classifier: Classifier, size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.network, self.classifier = ExactSuperSimpleNet(plain, size), classifier

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) float32 RGB 0…255 → map (N, 1, H, W) and the classifier's logit (N,)."""
        return self.network(pixels)[0], self.classifier(pixels)
