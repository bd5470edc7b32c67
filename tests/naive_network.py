"""SuperSimpleNet a second time, one operation after another, as slow and plain as can be.

Written from the papers' description alone; shares no line with `models/`. Weights are flat
dictionaries under the names of torchvision (backbone) and of the authors' checkpoints (heads).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Weights = dict[str, Tensor]

WIDE_RESNET = ((3, 64, 128, 256), (4, 128, 256, 512), (6, 256, 512, 1024))
"""Blocks, planes, inner width and output channels of layer1 to layer3."""


def random_weights(hidden: int, seed: int) -> tuple[Weights, Weights]:
    """wide_resnet50_2 to layer3 as an old V1 file has it (no batch counters), and the heads."""
    draw = torch.Generator().manual_seed(seed)

    def conv(out: int, into: int, side: int) -> Tensor:
        return torch.randn(out, into, side, side, generator=draw) * math.sqrt(2 / (into * side**2))

    def norm(into: Weights, name: str, size: int) -> None:
        into[f"{name}.weight"] = 0.5 + torch.rand(size, generator=draw)
        into[f"{name}.bias"] = 0.2 * torch.randn(size, generator=draw)
        into[f"{name}.running_mean"] = 0.2 * torch.randn(size, generator=draw)
        into[f"{name}.running_var"] = 0.5 + torch.rand(size, generator=draw)

    backbone: Weights = {"conv1.weight": conv(64, 3, 7)}
    norm(backbone, "bn1", 64)
    into = 64
    for level, (blocks, _, width, out) in enumerate(WIDE_RESNET, 1):
        for block in range(blocks):
            name = f"layer{level}.{block}"
            backbone[f"{name}.conv1.weight"] = conv(width, into, 1)
            backbone[f"{name}.conv2.weight"] = conv(width, width, 3)
            backbone[f"{name}.conv3.weight"] = 0.3 * conv(out, width, 1)
            for index, size in enumerate((width, width, out), 1):
                norm(backbone, f"{name}.bn{index}", size)
            if block == 0:
                backbone[f"{name}.downsample.0.weight"] = conv(out, into, 1)
                norm(backbone, f"{name}.downsample.1", out)
            into = out
    backbone["fc.weight"] = torch.zeros(1000, 2048)  # a whole file has more than is needed

    channels = 512 + 1024
    heads: Weights = {}
    for name, shape in {
        "feature_adaptor.projection": (channels, channels, 1),
        "discriminator.seg.0": (hidden, channels, 1),
        "discriminator.dec_head.0": (128, channels + 1, 5),
    }.items():
        heads[f"{name}.weight"] = conv(*shape)
        heads[f"{name}.bias"] = 0.2 * torch.randn(shape[0], generator=draw)
    norm(heads, "discriminator.seg.1", hidden)
    norm(heads, "discriminator.dec_head.1", 128)
    heads["discriminator.seg.3.weight"] = conv(1, hidden, 1)
    heads["discriminator.fc_score.weight"] = 0.1 * torch.randn(1, 258, generator=draw)
    heads["discriminator.fc_score.bias"] = torch.randn(1, generator=draw)
    return backbone, heads


def features_of(pixels: Tensor, weights: Weights) -> Tensor:
    """(N, 3, H, W) RGB 0…255 → upscaled, concatenated, pooled features (N, 1536, 2h, 2w)."""
    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
    x = (pixels / 255 - mean) / std
    x = torch.conv2d(x, weights["conv1.weight"], stride=2, padding=3)
    x = normalise(x, weights, "bn1").clamp(min=0)
    x = torch.max_pool2d(x, 3, stride=2, padding=1)
    layers: list[Tensor] = []
    for level, (blocks, _, _, _) in enumerate(WIDE_RESNET, 1):
        for block in range(blocks):
            name, stride = f"layer{level}.{block}", 2 if level > 1 and block == 0 else 1
            y = torch.conv2d(x, weights[f"{name}.conv1.weight"])
            y = normalise(y, weights, f"{name}.bn1").clamp(min=0)
            y = torch.conv2d(y, weights[f"{name}.conv2.weight"], stride=stride, padding=1)
            y = normalise(y, weights, f"{name}.bn2").clamp(min=0)
            y = normalise(torch.conv2d(y, weights[f"{name}.conv3.weight"]), weights, f"{name}.bn3")
            if f"{name}.downsample.0.weight" in weights:
                x = torch.conv2d(x, weights[f"{name}.downsample.0.weight"], stride=stride)
                x = normalise(x, weights, f"{name}.downsample.1")
            x = (x + y).clamp(min=0)
        layers.append(x)
    _, layer2, layer3 = layers
    height, width = 2 * layer2.shape[2], 2 * layer2.shape[3]
    joined = torch.cat(
        [
            bilinear(layer2, height, width, corners=True),
            bilinear(layer3, height, width, corners=True),
        ],
        dim=1,
    )
    padded = torch.zeros(*joined.shape[:2], height + 2, width + 2)
    padded[:, :, 1:-1, 1:-1] = joined
    total = torch.zeros_like(joined)
    for dy in range(3):
        for dx in range(3):
            total += padded[:, :, dy : dy + height, dx : dx + width]
    return total / 9  # the zeros of the border are counted


def heads_of(features: Tensor, weights: Weights, wiring: str, size: tuple[int, int]):
    """Features → blurred logit map (N, 1, H, W) and raw logit (N,)."""
    adapted = pointwise(features, weights, "feature_adaptor.projection")
    x = normalise(
        pointwise(adapted, weights, "discriminator.seg.0"), weights, "discriminator.seg.1"
    )
    x = torch.where(x > 0, x, 0.2 * x)
    logits = torch.einsum("nchw,oc->nohw", x, weights["discriminator.seg.3.weight"][:, :, 0, 0])

    seen = adapted if wiring == "icpr" else features
    x = torch.cat([seen, logits], dim=1)
    height, width = x.shape[2:]
    padded = torch.zeros(*x.shape[:2], height + 4, width + 4)
    padded[:, :, 2:-2, 2:-2] = x
    kernel = weights["discriminator.dec_head.0.weight"]
    out = weights["discriminator.dec_head.0.bias"].reshape(1, -1, 1, 1).repeat(1, 1, height, width)
    for dy in range(5):
        for dx in range(5):
            window = padded[:, :, dy : dy + height, dx : dx + width]
            out = out + torch.einsum("nchw,oc->nohw", window, kernel[:, :, dy, dx])
    out = normalise(out, weights, "discriminator.dec_head.1").clamp(min=0)
    pooled = torch.cat(
        [values for source in (out, logits)
         for values in (source.flatten(2).max(dim=2).values, source.flatten(2).mean(dim=2))],
        dim=1,
    )  # fmt: skip
    score = pooled @ weights["discriminator.fc_score.weight"].T
    score = score + weights["discriminator.fc_score.bias"]
    return blur(bilinear(logits, *size, corners=False)), score[:, 0]


def normalise(x: Tensor, weights: Weights, name: str) -> Tensor:
    """Batch normalisation with stored statistics."""
    mean, var, gain, bias = (
        weights[f"{name}.{part}"].reshape(1, -1, 1, 1)
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(var + 1e-5) * gain + bias


def pointwise(x: Tensor, weights: Weights, name: str) -> Tensor:
    """1x1 convolution with bias."""
    out = torch.einsum("nchw,oc->nohw", x, weights[f"{name}.weight"][:, :, 0, 0])
    return out + weights[f"{name}.bias"].reshape(1, -1, 1, 1)


def bilinear(x: Tensor, height: int, width: int, *, corners: bool) -> Tensor:
    """Every output pixel from its four neighbours, by position."""

    def places(source: int, target: int) -> tuple[Tensor, Tensor, Tensor]:
        at = torch.arange(target, dtype=torch.float64)
        if corners:
            at = at * (source - 1) / (target - 1)
        else:
            at = ((at + 0.5) * source / target - 0.5).clamp(min=0)
        low = at.floor().long().clamp(max=source - 1)
        return low, (low + 1).clamp(max=source - 1), (at - low).float()

    top, bottom, down = places(x.shape[2], height)
    left, right, along = places(x.shape[3], width)
    down = down.reshape(-1, 1)
    upper = x[:, :, top][:, :, :, left] * (1 - along) + x[:, :, top][:, :, :, right] * along
    lower = x[:, :, bottom][:, :, :, left] * (1 - along) + x[:, :, bottom][:, :, :, right] * along
    return upper * (1 - down) + lower * down


def blur(x: Tensor) -> Tensor:
    """25x25 Gaussian, sigma 4, picture mirrored at its border without repeating the edge."""
    height, width = x.shape[2:]
    one = torch.exp(-(torch.arange(-12, 13).double() ** 2) / (2 * 4.0**2))
    kernel = one[:, None] * one[None, :]
    kernel = (kernel / kernel.sum()).float()

    def mirrored(size: int) -> Tensor:
        at = torch.arange(-12, size + 12).abs()
        return torch.where(at >= size, 2 * (size - 1) - at, at)

    padded = x[:, :, mirrored(height)][:, :, :, mirrored(width)]
    out = torch.zeros_like(x)
    for dy in range(25):
        for dx in range(25):
            out += kernel[dy, dx] * padded[:, :, dy : dy + height, dx : dx + width]
    return out
