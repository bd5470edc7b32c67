"""Raw taps of the frozen backbone for N examples: kept in memory where they fit, else recomputed.

The backbone never changes, so one pass is enough. One example of efficientnet_lite0 at 256x256
takes 0.28 MB, of wide_resnet50_2 3.1 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.supersimplenet import Standardise, SuperSimpleNet

CACHE_BYTES = 4 << 30
"""Most memory that kept taps may take, unless told otherwise."""
PASS = 16
"""Images per pass through the backbone."""

Read = Callable[[Sequence[int]], npt.NDArray[np.float32]]
"""Numbers of examples → network inputs (n, 3, H, W) float32 RGB, 0…255."""


class Taps(Protocol):
    """Taps of N examples."""

    count: int
    shape: tuple[int, int]
    """(h, w) of the fine tap."""

    def take(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """(n, C2, h, w) and (n, C3, h/2, w/2) float32 of the examples `chosen`, (n,) int64."""
        ...


class KeptTaps:
    """All taps in memory."""

    def __init__(self, fine: Tensor, coarse: Tensor) -> None:
        self.fine, self.coarse = fine, coarse
        self.count, self.shape = len(fine), (fine.shape[-2], fine.shape[-1])

    def take(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """As `Taps.take`."""
        return self.fine[chosen], self.coarse[chosen]


class ComputedTaps:
    """Taps computed at every use, from images that are read at every use."""

    def __init__(self, network: SuperSimpleNet, read: Read, count: int) -> None:
        self._network, self._read, self.count = network, read, count
        fine, _ = self.take(torch.zeros(1, dtype=torch.int64))
        self.shape = (fine.shape[-2], fine.shape[-1])

    def take(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """As `Taps.take`."""
        numbers = [int(number) for number in chosen]
        parts = [
            run_backbone(self._network, self._read(numbers[start : start + PASS]))
            for start in range(0, len(numbers), PASS)
        ]
        return torch.cat([fine for fine, _ in parts]), torch.cat([coarse for _, coarse in parts])


def run_backbone(network: SuperSimpleNet, images: npt.NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    """Raw taps of (n, 3, H, W) float32 RGB 0…255."""
    device = next(network.backbone.parameters()).device
    with torch.no_grad():
        pixels = torch.from_numpy(images).to(device)
        fine, coarse = network.taps(pixels.contiguous(memory_format=torch.channels_last))
    return fine.cpu(), coarse.cpu()


def taps_of(
    network: SuperSimpleNet,
    read: Read,
    count: int,
    *,
    cache_bytes: int = CACHE_BYTES,
    progress: Callable[[float], None] = lambda done: None,
) -> Taps:
    """Taps of `count` examples, kept if all of them stay below `cache_bytes`."""
    network.eval()
    fine, coarse = run_backbone(network, read([0]))
    if (fine.nbytes + coarse.nbytes) * count > cache_bytes:
        progress(1.0)
        return ComputedTaps(network, read, count)
    kept = KeptTaps(fine.new_empty(count, *fine.shape[1:]),
                    coarse.new_empty(count, *coarse.shape[1:]))  # fmt: skip
    for start in range(0, count, PASS):
        numbers = range(start, min(start + PASS, count))
        kept.fine[start : numbers.stop], kept.coarse[start : numbers.stop] = run_backbone(
            network, read(numbers)
        )
        progress(numbers.stop / count)
    return kept


def fit_standardisation(network: SuperSimpleNet, taps: Taps, good: Tensor) -> None:
    """Mean and spread of each channel over the good images, (n,) int64, into the network."""
    if isinstance(taps, KeptTaps) and len(good) == taps.count:
        network.standardise_fine.fit(taps.fine)
        network.standardise_coarse.fit(taps.coarse)
        return
    sums: list[list[Tensor]] = [[], []]
    for start in range(0, len(good), PASS):
        for level, tap in enumerate(taps.take(good[start : start + PASS])):
            values = tap.double()
            sums[level].append(
                torch.stack([values.mean(dim=(2, 3)).sum(0), (values**2).mean(dim=(2, 3)).sum(0)])
            )
    layers: tuple[Standardise, Standardise] = (network.standardise_fine, network.standardise_coarse)
    for layer, parts in zip(layers, sums, strict=True):
        mean, square = torch.stack(parts).sum(0) / len(good)
        layer.set_moments(mean, (square - mean**2).clamp(min=0).sqrt())


def spread(network: SuperSimpleNet, taps: Taps, good: Tensor) -> float:
    """Mean over channels of the raw features' standard deviation on up to 64 good images."""
    chosen = good[torch.linspace(0, len(good) - 1, min(64, len(good))).long()]
    deviations = [tap.std(dim=(0, 2, 3)) for tap in taps.take(chosen)]
    return float(torch.cat(deviations).mean())
