"""In which order a training sees its examples."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Sampler:
    """Indices of one epoch after another.

    Good images alone: each once. With bad ones: every bad example once, and as many good ones,
    rarely seen ones first (SuperSimpleNet, supervised sampling 1:1). An epoch is then twice the
    number of bad examples; four flips of each bad image are four examples.
    """

    def __init__(self, labels: Tensor, seed: int) -> None:
        """Labels: (N,), 0 good, 1 bad."""
        self._seed = seed
        self._good = np.flatnonzero(labels.numpy() < 0.5)
        self._bad = np.flatnonzero(labels.numpy() > 0.5)
        self.seen = np.zeros(len(self._good), np.int64)
        """How often each good image was taken; state of the training with bad images."""

    def epoch(self, number: int) -> Tensor:
        """The (n,) int64 indices of epoch `number`, which alone with the seed decides the order."""
        rng = np.random.default_rng([self._seed, number, 1])
        if not len(self._bad):
            return torch.from_numpy(rng.permutation(self._good))
        chance = 1.0 / (1 + self.seen)
        taken = rng.choice(
            len(self._good),
            len(self._bad),
            replace=len(self._bad) > len(self._good),
            p=chance / chance.sum(),
        )
        np.add.at(self.seen, taken, 1)
        return torch.from_numpy(rng.permutation(np.concatenate([self._good[taken], self._bad])))
