"""SuperSimpleNet: frozen features → anomaly map and image score, both raw logits.

The plain network in the authors' wiring and with their parameter names; `exact.py` computes the
same outputs faster. It knows nothing of a trainer, of files or of thresholds.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.backbones import Backbone

Wiring = Literal["jims", "icpr"]

PIXEL_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
PIXEL_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)
LEAK = 0.2
BLUR_SIGMA = 4.0
BLUR_RADIUS = math.ceil(3 * BLUR_SIGMA)


def blur_kernel() -> Tensor:
    """The separable Gaussian of the map, (25,) float32, sum 1."""
    at = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (at / BLUR_SIGMA) ** 2)
    return (weights / weights.sum()).float()


def channels_last(module: nn.Module) -> None:
    """Lay out weights so that 1x1 convolutions on a CPU are plain products, four times faster."""
    module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - no overload


class Normalise(nn.Module):
    """Pixels 0…255 to ImageNet-normalised RGB."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(PIXEL_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels: (N, 3, H, W) float32 RGB, 0…255."""
        return (pixels - self.mean) / self.std


class Standardise(nn.Module):
    """Per-channel affine on a tap: mean and spread of the good images, identity at first.

    The noise of training is given in these units: 0.015 fits the raw features of torchvision's
    V1 ResNets and is nothing beside features that spread over 5 (efficientnet_lite0).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("std", torch.ones(1, channels, 1, 1))

    def fit(self, features: Tensor) -> None:
        """Take mean and standard deviation of (N, C, h, w) over all but C."""
        self.set_moments(features.mean(dim=(0, 2, 3)), features.std(dim=(0, 2, 3)))

    def set_moments(self, mean: Tensor, std: Tensor) -> None:
        """Mean and standard deviation of each channel, (C,)."""
        self.mean.copy_(mean.view(1, -1, 1, 1))
        self.std.copy_(std.view(1, -1, 1, 1).clamp(min=1e-6))

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, h, w) → the same shape, about mean 0 and spread 1."""
        return (features - self.mean) / self.std


class FeatureAdaptor(nn.Module):
    """One 1x1 convolution with bias; only the segmentation head sees it in the jims wiring."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        return self.projection(features)


class Discriminator(nn.Module):
    """Segmentation head and classification head (paper, section 3.3)."""

    def __init__(self, channels: int, hidden: int, stop_gradient: bool) -> None:
        super().__init__()
        self.stop_gradient = stop_gradient
        self.seg = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.BatchNorm2d(hidden),
            nn.LeakyReLU(LEAK),
            nn.Conv2d(hidden, 1, 1, bias=False),
        )
        self.dec_head = nn.Sequential(
            nn.Conv2d(channels + 1, 128, 5, padding=2), nn.BatchNorm2d(128), nn.ReLU()
        )
        self.fc_score = nn.Linear(2 * 128 + 2, 1)

    def segment(self, features: Tensor) -> Tensor:
        """(N, C, H, W) → raw logit map (N, 1, H, W)."""
        return self.seg(features)

    def classify(self, features: Tensor, logits: Tensor) -> Tensor:
        """(N, C, H, W) and the logit map (N, 1, H, W) → raw logit (N,)."""
        if self.stop_gradient:
            logits = logits.detach()
        out = self.dec_head(torch.cat([features, logits], dim=1))
        pooled = [
            out.amax(dim=(2, 3)),
            out.mean(dim=(2, 3)),
            logits.amax(dim=(2, 3)),
            logits.mean(dim=(2, 3)),
        ]  # [N, 128], [N, 128], [N, 1], [N, 1]
        return self.fc_score(torch.cat(pooled, dim=1)).reshape(-1)


class SuperSimpleNet(nn.Module):
    """The whole network. Train through `taps`, `embed`, `adapt` and `discriminator`."""

    blur: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        wiring: Wiring = "jims",
        hidden: int = 1024,
        grid: int = 2,
        stop_gradient: bool = True,
    ) -> None:
        """`grid`: side of the feature grid as a multiple of the fine tap's; 2 as published."""
        super().__init__()
        self.wiring, self.grid = wiring, grid
        self.normalise = Normalise()
        self.backbone = backbone
        self.standardise_fine = Standardise(backbone.channels[0])
        self.standardise_coarse = Standardise(backbone.channels[1])
        self.channels = sum(backbone.channels)
        self.feature_adaptor = FeatureAdaptor(self.channels)
        self.discriminator = Discriminator(self.channels, hidden, stop_gradient)
        self.register_buffer("blur", blur_kernel(), persistent=False)
        for module in (*self.feature_adaptor.modules(), *self.discriminator.modules()):
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_normal_(module.weight)

    def train(self, mode: bool = True) -> SuperSimpleNet:
        """As `nn.Module.train`; the backbone stays in eval mode, its statistics are ImageNet's."""
        super().train(mode)
        self.backbone.eval()
        return self

    def taps(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Raw feature maps of (N, 3, H, W) pixels 0…255, before standardisation."""
        return self.backbone(self.normalise(pixels))

    def grid_shape(self, pixels_shape: tuple[int, int]) -> tuple[int, int]:
        """Feature grid (H, W) for network inputs of this (H, W)."""
        return -(-pixels_shape[0] // 8) * self.grid, -(-pixels_shape[1] // 8) * self.grid

    def embed(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Raw taps → standardised, upscaled, 3x3-pooled features (N, C2+C3, H, W)."""
        shape = (fine.shape[-2] * self.grid, fine.shape[-1] * self.grid)
        upscaled = [
            functional.interpolate(features, size=shape, mode="bilinear", align_corners=True)
            for features in (self.standardise_fine(fine), self.standardise_coarse(coarse))
        ]
        # Counted zero padding: border cells are diluted, as the authors train it.
        return functional.avg_pool2d(torch.cat(upscaled, dim=1), 3, stride=1, padding=1)

    def heads(self, features: Tensor, adapted: Tensor) -> tuple[Tensor, Tensor]:
        """Embedded and adapted features (N, C, H, W) → logit map (N, 1, H, W) and logit (N,)."""
        logits = self.discriminator.segment(adapted)
        seen = features if self.wiring == "jims" else adapted
        return logits, self.discriminator.classify(seen, logits)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) float32 RGB 0…255 → blurred logit map (N, 1, H, W) and logit (N,)."""
        features = self.embed(*self.taps(pixels))
        logits, score = self.heads(features, self.feature_adaptor(features))
        return upscale_and_blur(logits, (pixels.shape[-2], pixels.shape[-1]), self.blur), score


def upscale_and_blur(
    logits: Tensor, shape: tuple[int, int], kernel: Tensor | None = None
) -> Tensor:
    """Logit map (N, 1, h, w) → (N, 1, H, W): bilinear, then 25x25 Gaussian, sigma 4, reflected.

    Reflected and not zero-padded: zeros would lift the normal, negative logits at the border.
    kernel: `blur_kernel()` where the logits are; a CUDA graph cannot fetch one from the host.
    """
    kernel = blur_kernel().to(logits) if kernel is None else kernel
    out = functional.interpolate(logits, size=shape, mode="bilinear", align_corners=False)
    out = functional.pad(out, (BLUR_RADIUS,) * 4, mode="reflect")
    out = functional.conv2d(out, kernel.view(1, 1, -1, 1))
    return functional.conv2d(out, kernel.view(1, 1, 1, -1))
