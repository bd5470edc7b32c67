"""Frozen feature extractors: an image goes in, two feature maps at 1/8 and 1/16 come out.

Defined here layer by layer, so that no model zoo is a dependency and every parameter carries the
name under which the public weights are stored. Never trained, never downloaded from here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from appliance.errors import ConfigError
from models.weights import packaged_weights


class Taps(NamedTuple):
    """The two feature maps that SuperSimpleNet reads (methods: `layer2`, `layer3`)."""

    fine: Tensor
    """(N, C2, ceil(H/8), ceil(W/8)) float32."""
    coarse: Tensor
    """(N, C3, ceil(H/16), ceil(W/16)) float32."""


class Backbone(nn.Module, ABC):
    """Shape of every feature extractor: normalised RGB (N, 3, H, W) → `Taps`."""

    channels: tuple[int, int]
    """Channels of the fine and of the coarse tap."""

    @abstractmethod
    def forward(self, images: Tensor) -> Taps:
        """Images: (N, 3, H, W) float32, ImageNet-normalised RGB."""


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding: the odd pixel goes right and below."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C', ceil(H/stride), ceil(W/stride))."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        pad_y = max((-(-input.shape[-2] // stride) - 1) * stride + kernel - input.shape[-2], 0)
        pad_x = max((-(-input.shape[-1] // stride) - 1) * stride + kernel - input.shape[-1], 0)
        if pad_y % 2 == 0 and pad_x % 2 == 0:
            padding = (pad_y // 2, pad_x // 2)
        else:
            edges = (pad_x // 2, pad_x - pad_x // 2, pad_y // 2, pad_y - pad_y // 2)
            input, padding = functional.pad(input, edges), (0, 0)
        return functional.conv2d(
            input, self.weight, self.bias, self.stride, padding, groups=self.groups
        )


class InvertedResidual(nn.Module):
    """EfficientNet block without squeeze-and-excite: expand, depthwise, project."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, stride: int, expand: int
    ) -> None:
        super().__init__()
        hidden = channels_in * expand
        self.expands = expand != 1
        self.adds_input = stride == 1 and channels_in == channels_out
        if self.expands:
            self._expand_conv = SameConv2d(channels_in, hidden, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(hidden, eps=1e-3)
        self._depthwise_conv = SameConv2d(
            hidden, hidden, kernel, stride=stride, groups=hidden, bias=False
        )
        self._bn1 = nn.BatchNorm2d(hidden, eps=1e-3)
        self._project_conv = SameConv2d(hidden, channels_out, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(channels_out, eps=1e-3)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C', ceil(H/stride), ceil(W/stride))."""
        out = features
        if self.expands:
            out = functional.relu6(self._bn0(self._expand_conv(out)))
        out = functional.relu6(self._bn1(self._depthwise_conv(out)))
        out = self._bn2(self._project_conv(out))
        return out + features if self.adds_input else out


class EfficientNetLite0(Backbone):
    """EfficientNet-lite0 up to its last block at 1/16, EfficientNet-PyTorch parameter names."""

    channels = (40, 112)

    STAGES = (
        (1, 16, 3, 1, 1),
        (2, 24, 3, 2, 6),
        (2, 40, 5, 2, 6),
        (3, 80, 3, 2, 6),
        (3, 112, 5, 1, 6),
    )  # repeats, channels, kernel, first stride, expansion
    FINE_BLOCK = 4

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, 32, 3, stride=2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        self._blocks = nn.ModuleList()
        width = 32
        for repeats, channels, kernel, stride, expand in self.STAGES:
            for index in range(repeats):
                self._blocks.append(
                    InvertedResidual(width, channels, kernel, stride if index == 0 else 1, expand)
                )
                width = channels

    def forward(self, images: Tensor) -> Taps:
        """Images: (N, 3, H, W) float32, ImageNet-normalised RGB."""
        features = functional.relu6(self._bn0(self._conv_stem(images)))
        fine = features
        for index, block in enumerate(self._blocks):
            features = block(features)
            if index == self.FINE_BLOCK:
                fine = features
        return Taps(fine, features)


class Bottleneck(nn.Module):
    """ResNet bottleneck block, torchvision parameter names (stride on the 3x3)."""

    expansion = 4

    def __init__(self, channels_in: int, planes: int, stride: int, base_width: int) -> None:
        super().__init__()
        width, out = planes * base_width // 64, planes * self.expansion
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample = _shortcut(channels_in, out, stride)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) → (N, 4·planes, ceil(H/stride), ceil(W/stride))."""
        out = functional.relu(self.bn1(self.conv1(features)))
        out = functional.relu(self.bn2(self.conv2(out)))
        return functional.relu(self.bn3(self.conv3(out)) + self.downsample(features))


class BasicBlock(nn.Module):
    """ResNet-18 block, torchvision parameter names."""

    expansion = 1

    def __init__(self, channels_in: int, planes: int, stride: int, base_width: int) -> None:
        super().__init__()
        del base_width  # the wide variants exist for bottlenecks only
        self.conv1 = nn.Conv2d(channels_in, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = _shortcut(channels_in, planes, stride)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) → (N, planes, ceil(H/stride), ceil(W/stride))."""
        out = functional.relu(self.bn1(self.conv1(features)))
        return functional.relu(self.bn2(self.conv2(out)) + self.downsample(features))


def _shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Module:
    if stride == 1 and channels_in == channels_out:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False),
        nn.BatchNorm2d(channels_out),
    )


class ResNet(Backbone):
    """A ResNet up to `layer3`, torchvision's V1 parameter names."""

    def __init__(
        self,
        block: type[Bottleneck] | type[BasicBlock],
        blocks: tuple[int, int, int],
        base_width: int = 64,
    ) -> None:
        super().__init__()
        self.channels = (128 * block.expansion, 256 * block.expansion)
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        width = 64
        for level, count in enumerate(blocks):
            planes, layer = 64 << level, nn.Sequential()
            for index in range(count):
                stride = 2 if level > 0 and index == 0 else 1
                layer.append(block(width, planes, stride, base_width))
                width = planes * block.expansion
            self.add_module(f"layer{level + 1}", layer)

    def forward(self, images: Tensor) -> Taps:
        """Images: (N, 3, H, W) float32, ImageNet-normalised RGB."""
        out = functional.relu(self.bn1(self.conv1(images)))
        out = functional.max_pool2d(out, 3, stride=2, padding=1)
        fine = self.get_submodule("layer2")(self.get_submodule("layer1")(out))
        return Taps(fine, self.get_submodule("layer3")(fine))


BACKBONES = {
    "efficientnet_lite0": EfficientNetLite0,
    "resnet18": lambda: ResNet(BasicBlock, (2, 2, 2)),
    "resnet50": lambda: ResNet(Bottleneck, (3, 4, 6)),
    "wide_resnet50_2": lambda: ResNet(Bottleneck, (3, 4, 6), base_width=128),
}
"""Name → constructor with random weights."""


def build(name: str, weights: Path | None = None) -> Backbone:
    """A frozen backbone in eval mode, by name, with ImageNet weights.

    weights: a torch state dict; None takes the packaged weights, which exist for
    `efficientnet_lite0` only. Raises ConfigError on an unknown name or unusable weights.
    """
    backbone = untrained(name)
    path = weights or packaged_weights(name)
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:  # torch raises half a dozen types for a bad file
        raise ConfigError(path, "a torch state dict of tensors", str(err)) from err
    wanted = backbone.state_dict()
    # Files from before PyTorch 0.4.1, torchvision's V1 ones among them, do not count batches; a
    # frozen network does not either.
    needed = [key for key in wanted if not key.endswith("num_batches_tracked")]
    missing = [key for key in needed if key not in stored]
    if missing:
        raise ConfigError(
            path,
            f"the {len(needed)} parameters of {name}",
            f"a file without {len(missing)} of them, the first is {missing[0]}",
        )
    for key in needed:
        if stored[key].shape != wanted[key].shape:
            raise ConfigError(
                path,
                f"{key} of {tuple(wanted[key].shape)} as in {name}",
                f"{tuple(stored[key].shape)}",
            )
    # The classifier and the stages behind the last tap are not part of the extractor.
    backbone.load_state_dict({key: stored[key] for key in needed}, strict=False)
    return backbone


def untrained(name: str) -> Backbone:
    """A frozen backbone in eval mode with random weights. Raises ConfigError on the name."""
    if name not in BACKBONES:
        raise ConfigError("backbone", f"one of {', '.join(BACKBONES)}", repr(name))
    return BACKBONES[name]().eval().requires_grad_(False)
