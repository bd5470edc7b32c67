"""The exact graph with the channels of its heads last: the same products, laid out otherwise.

Where a 1x1 convolution answers with its channels side by side, products along both axes read and
write whole rows of channels, and nothing is turned around before or behind them. Which layout is
the faster one depends on runtime, precision and network: `inspectd engine` measures it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from models.exact import ExactSuperSimpleNet, SegmentationHead, Shape, TapConvolution
from models.supersimplenet import LEAK


class TapConvolutionLast(TapConvolution):
    """As `TapConvolution`, where it projects first."""

    def __init__(self, kernel: Tensor, tap: Shape, grid: Shape) -> None:
        """As `TapConvolution`."""
        super().__init__(kernel, tap, grid)
        if self.projects_first:
            shape = (self.outs, self.side, self.side, -1)
            # (dx, dy, c): the product along x adds over dx, the one along y over dy.
            turned = self.kernel.view(shape).permute(2, 1, 0, 3)
            self.kernel = turned.reshape(self.kernel.shape).contiguous()
            self.right = self.right.T.contiguous()  # [W, k·w]

    def forward(self, features: Tensor) -> Tensor:
        """Tap (N, C, h, w) → (N, O, H, W), without bias."""
        if not self.projects_first:
            return super().forward(features)
        (h, w), k, outs = self.tap, self.side, self.outs
        high, wide = len(self.left), len(self.right)
        out = _projected(features, self.kernel)
        out = out.reshape(-1, h, w, k, k * outs).transpose(2, 3).reshape(-1, h, k * w, k * outs)
        out = torch.matmul(self.right, out)  # [N, y, W, (dy, c)]
        out = out.reshape(-1, h, wide, k, outs).permute(0, 3, 1, 2, 4)
        out = torch.matmul(self.left, out.reshape(-1, k * h, wide * outs))
        return out.view(-1, high, wide, outs).permute(0, 3, 1, 2)


class SegmentationHeadLast(SegmentationHead):
    """As `SegmentationHead`, where it projects first; the bias is added behind the product."""

    def __init__(
        self, kernels: Sequence[Tensor], bias: Tensor, last: Tensor, taps: Sequence[Shape],
        grid: Shape,
    ) -> None:  # fmt: skip
        """As `SegmentationHead`."""
        super().__init__(kernels, bias, last, taps, grid)
        if self.projects_first:
            self.right_fine, self.right_coarse = (
                right.T.contiguous() for right in (self.right_fine, self.right_coarse)
            )
            self.left = self.left[:, :-1].contiguous()
            self.bias = bias.float()
            self.last = self.last.T.contiguous()

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Taps (N, C2, h, w) and (N, C3, h', w') → logits (N, 1, H, W)."""
        if not self.projects_first:
            return super().forward(fine, coarse)
        rows = [
            torch.matmul(self.right_fine, _projected(fine, self.fine)),
            torch.matmul(self.right_coarse, _projected(coarse, self.coarse)),
        ]
        hidden = torch.matmul(self.left, torch.cat(rows, dim=1).flatten(2))  # [N, H, (W, O)]
        hidden = hidden.view(-1, *self.grid, len(self.bias)) + self.bias
        hidden = functional.leaky_relu(hidden, LEAK)
        return torch.matmul(hidden, self.last).permute(0, 3, 1, 2)


class ChannelsLastSuperSimpleNet(ExactSuperSimpleNet):
    """Same outputs as `ExactSuperSimpleNet`."""

    segmentation_head = SegmentationHeadLast
    tap_convolution = TapConvolutionLast


def _projected(features: Tensor, kernel: Tensor) -> Tensor:
    """1x1 convolution, (N, C, h, w) → (N, h, w, O)."""
    return functional.conv2d(features, kernel).permute(0, 2, 3, 1)
