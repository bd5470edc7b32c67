"""The graph that runs: equal to the plain network up to float rounding, several times cheaper.

Everything between the backbone and the first non-linearity of each head is linear: interpolation
and pooling act per channel in space, 1x1 convolutions act per pixel in channels, so they commute.
Interpolation, pooling, kernel shifts, reflection and blur become constant matrices per axis, and
projections run at the taps' own resolution. Inference only, for one input size. Matrices are
composed in float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.supersimplenet import BLUR_RADIUS, LEAK, Standardise, SuperSimpleNet, blur_kernel

Shape = tuple[int, int]
PRODUCT_COST = 2
"""Of one multiply-add in a product with a constant matrix; in a convolution it is 1 (measured in
ONNX Runtime and OpenVINO, float32)."""


def interpolation_matrix(source: int, target: int, *, align_corners: bool) -> Tensor:
    """Bilinear interpolation of one axis as (target, source) float64."""
    eye = torch.eye(source, dtype=torch.float64)[None, :, :]
    # One channel per source sample: interpolating the identity's rows gives the matrix.
    columns = functional.interpolate(
        eye[:, :, :, None],
        size=(target, 1),
        mode="bilinear",
        align_corners=align_corners,
    )
    return columns[0, :, :, 0].T.contiguous()


def pool_matrix(size: int) -> Tensor:
    """One axis of the 3x3 average pool with counted zero padding: tridiagonal, (size, size)."""
    ones = torch.ones(size, size, dtype=torch.float64)
    return ones.tril(1).triu(-1) / 3


def blur_matrix(source: int, target: int) -> Tensor:
    """One axis of "upscale bilinearly, pad by reflection, blur" as (target, source) float64."""
    upscale = interpolation_matrix(source, target, align_corners=False)
    padded = functional.pad(
        upscale.T[None], (BLUR_RADIUS, BLUR_RADIUS), mode="reflect"
    )  # [1, source, target + 2·radius]
    kernel = blur_kernel().double().view(1, 1, -1)
    return functional.conv1d(padded.transpose(0, 1), kernel)[:, 0].T.contiguous()


def shifted(matrix: Tensor, offset: int) -> Tensor:
    """Rows moved so that row y holds what was row y + offset, zeros where none was."""
    out = torch.zeros_like(matrix)
    rows = matrix.shape[0]
    low, high = max(0, -offset), min(rows, rows - offset)
    if low < high:
        out[low:high] = matrix[low + offset : high + offset]
    return out


def fold_batch_norm(weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Convolution (O, …) and bias (O,) followed by `norm` in eval mode as one convolution."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("expected a BatchNorm with running statistics, it has none")
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    folded = (bias - norm.running_mean.double()) * scale + norm.bias.double()
    return weight * scale.view(-1, *[1] * (weight.dim() - 1)), folded


def tap_matrices(tap: Shape, grid: Shape) -> tuple[Tensor, Tensor]:
    """Upscaling and pooling of a tap X as G_y X G_xᵀ: (H, h) and (W, w) float64."""
    along_y, along_x = (
        pool_matrix(target) @ interpolation_matrix(source, target, align_corners=True)
        for source, target in zip(tap, grid, strict=True)
    )
    return along_y, along_x


class TapConvolution(nn.Module):
    """k x k convolution over an upscaled and pooled tap, computed from the tap itself.

    Either in space first (G_y X G_xᵀ, then the convolution on the grid) or projections first
    (every kernel element a 1x1 projection at the tap's resolution, then upscale, pool and shift in
    one product per axis). Both are exact; the cheaper one is taken.
    """

    kernel: Tensor
    left: Tensor
    right: Tensor

    def __init__(self, kernel: Tensor, tap: Shape, grid: Shape) -> None:
        """Kernel: (O, C, k, k) float64, zero padding k // 2. Tap, grid: (h, w), (H, W)."""
        super().__init__()
        outs, channels, side, _ = kernel.shape
        self.outs, self.side, self.tap = outs, side, tap
        along_y, along_x = tap_matrices(tap, grid)
        (h, w), (high, wide) = tap, grid
        space_first = PRODUCT_COST * channels * h * wide * (w + high)
        space_first += channels * outs * side * side * high * wide
        projected = channels * outs * side * side * h * w
        projected += PRODUCT_COST * outs * side * h * wide * (side * w + high)
        self.projects_first = projected < space_first
        offsets = range(-(side // 2), side // 2 + 1)
        if self.projects_first:
            # (c, dy, dx) order, so that one transposition feeds both products.
            kernel = kernel.permute(0, 2, 3, 1).reshape(outs * side * side, channels, 1, 1)
            left = torch.cat([shifted(along_y, dy) for dy in offsets], dim=1)  # [H, k·h]
            right = torch.cat([shifted(along_x, dx).T for dx in offsets], dim=0)  # [k·w, W]
        else:
            left, right = along_y, along_x.T
        self.register_buffer("kernel", kernel.float().contiguous())
        self.register_buffer("left", left.float().contiguous())
        self.register_buffer("right", right.float().contiguous())

    def forward(self, features: Tensor) -> Tensor:
        """Tap (N, C, h, w) → (N, O, H, W), without bias."""
        if not self.projects_first:
            pooled = torch.matmul(self.left, torch.matmul(features, self.right))
            return functional.conv2d(pooled, self.kernel, padding=self.side // 2)
        out, (h, w), k = functional.conv2d(features, self.kernel), self.tap, self.side
        out = out.reshape(-1, self.outs, k, k, h, w).transpose(3, 4)
        out = out.reshape(-1, self.outs, k * h, k * w)  # [N, O, (dy, y), (dx, x)]
        return torch.matmul(self.left, torch.matmul(out, self.right))


class SegmentationHead(nn.Module):
    """Both taps → logit map: one matrix on channels and a bias, LeakyReLU, the last 1x1.

    Projections first: each tap is projected at its own resolution and upscaled along x; then the
    rows of both, and a row of biases below them, go through one product along y. So the hidden
    channels, which are the largest thing in the graph, are written once. Space first (few channels,
    or a grid no finer than the tap): both taps upscaled, then one convolution on the grid.
    """

    right_fine: Tensor
    right_coarse: Tensor
    bias: Tensor
    last: Tensor
    # projections first
    fine: Tensor
    coarse: Tensor
    left: Tensor
    # space first
    left_fine: Tensor
    left_coarse: Tensor
    kernel: Tensor

    def __init__(
        self, kernels: Sequence[Tensor], bias: Tensor, last: Tensor, taps: Sequence[Shape],
        grid: Shape,
    ) -> None:  # fmt: skip
        """Kernels: (O, C) float64, one per tap of (h, w); bias: (O,); last: (1, O) float32."""
        super().__init__()
        self.grid = grid
        outs, (high, wide) = len(bias), grid
        space_first = projected = 0
        for kernel, (h, w) in zip(kernels, taps, strict=True):
            channels, product = kernel.shape[1], PRODUCT_COST * h * wide * (w + high)
            space_first += channels * (product + outs * high * wide)
            projected += outs * (product + channels * h * w)
        self.projects_first = projected < space_first
        pairs = [tap_matrices(tap, grid) for tap in taps]
        for name, (_, along_x) in zip(("right_fine", "right_coarse"), pairs, strict=True):
            self.register_buffer(name, along_x.T.float().contiguous())
        if self.projects_first:
            for name, kernel in zip(("fine", "coarse"), kernels, strict=True):
                self.register_buffer(name, kernel.float()[:, :, None, None].contiguous())
            ones = torch.ones(high, 1, dtype=torch.float64)
            left = torch.cat([*(along_y for along_y, _ in pairs), ones], dim=1)
            self.register_buffer("left", left.float())  # [H, h_fine + h_coarse + 1]
            bias = bias.view(1, -1, 1, 1).expand(-1, -1, 1, wide)
        else:
            for name, (along_y, _) in zip(("left_fine", "left_coarse"), pairs, strict=True):
                self.register_buffer(name, along_y.float())
            self.register_buffer(
                "kernel", torch.cat(list(kernels), dim=1).float()[:, :, None, None]
            )
        self.register_buffer("bias", bias.float().contiguous())
        self.register_buffer("last", last.detach().clone())

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Taps (N, C2, h, w) and (N, C3, h', w') → logits (N, 1, H, W)."""
        if not self.projects_first:
            upscaled = [
                torch.matmul(self.left_fine, torch.matmul(fine, self.right_fine)),
                torch.matmul(self.left_coarse, torch.matmul(coarse, self.right_coarse)),
            ]
            hidden = functional.conv2d(torch.cat(upscaled, dim=1), self.kernel, self.bias)
            hidden = functional.leaky_relu(hidden, LEAK)
            return functional.conv2d(hidden, self.last[:, :, None, None])
        rows = [
            torch.matmul(functional.conv2d(fine, self.fine), self.right_fine),
            torch.matmul(functional.conv2d(coarse, self.coarse), self.right_coarse),
            self.bias.expand(fine.shape[0], -1, -1, -1),
        ]
        hidden = torch.matmul(self.left, torch.cat(rows, dim=2))
        hidden = functional.leaky_relu(hidden, LEAK).flatten(2)  # [N, O, H·W]
        return torch.matmul(self.last, hidden).view(-1, 1, *self.grid)


class ExactSuperSimpleNet(nn.Module):
    """Same outputs as `SuperSimpleNet.forward` in eval mode, for inputs of one size."""

    segmentation_head = SegmentationHead
    tap_convolution = TapConvolution
    cls_bias: Tensor
    cls_logit_kernel: Tensor
    blur_y: Tensor
    blur_x: Tensor

    def __init__(self, plain: SuperSimpleNet, size: Shape) -> None:
        """Size: (H, W) of the input. Shares the backbone with `plain`, copies everything else."""
        super().__init__()
        plain = plain.eval()
        self.normalise, self.backbone = plain.normalise, plain.backbone
        self.standardise_fine: Standardise = plain.standardise_fine
        self.standardise_coarse: Standardise = plain.standardise_coarse
        fine = (-(-size[0] // 8), -(-size[1] // 8))
        coarse = (-(-fine[0] // 2), -(-fine[1] // 2))
        grid = plain.grid_shape(size)
        with torch.no_grad():
            self._build_segmentation(plain, fine, coarse, grid)
            self._build_classification(plain, fine, coarse, grid)
        self.register_buffer("blur_y", blur_matrix(grid[0], size[0]).float())
        self.register_buffer("blur_x", blur_matrix(grid[1], size[1]).T.float().contiguous())
        self.fc_score = plain.discriminator.fc_score
        self.eval().requires_grad_(False)

    def _build_segmentation(
        self, plain: SuperSimpleNet, fine: Shape, coarse: Shape, grid: Shape
    ) -> None:
        adaptor, head = plain.feature_adaptor.projection, plain.discriminator.seg
        first = _convolution(head[0])
        matrix = first.weight.double()[:, :, 0, 0]
        bias = matrix @ _bias(adaptor) + _bias(first)
        matrix, bias = fold_batch_norm(
            matrix @ adaptor.weight.double()[:, :, 0, 0], bias, _norm(head[1])
        )
        self.segment = self.segmentation_head(
            matrix.split(list(plain.backbone.channels), dim=1),
            bias,  # behind the pool, as the adaptor is: not diluted at the border
            _convolution(head[3]).weight[:, :, 0, 0],
            (fine, coarse),
            grid,
        )

    def _build_classification(
        self, plain: SuperSimpleNet, fine: Shape, coarse: Shape, grid: Shape
    ) -> None:
        head = plain.discriminator.dec_head
        conv = _convolution(head[0])
        kernel, bias = fold_batch_norm(conv.weight.double(), _bias(conv), _norm(head[1]))
        on_features, on_logits = kernel[:, :-1], kernel[:, -1:]
        bias_map = bias.view(1, -1, 1, 1)
        if plain.wiring == "icpr":
            # Adapted features meet the kernel's zero padding, so the adaptor's bias becomes a map.
            adaptor = plain.feature_adaptor.projection
            constant = _bias(adaptor).view(1, -1, 1, 1).expand(1, -1, *grid)
            bias_map = bias_map + functional.conv2d(constant, on_features, padding=2)
            on_features = torch.einsum(
                "omyx,mc->ocyx", on_features, adaptor.weight.double()[:, :, 0, 0]
            )
        kernels = on_features.split(list(plain.backbone.channels), dim=1)
        self.cls_fine = self.tap_convolution(kernels[0], fine, grid)
        self.cls_coarse = self.tap_convolution(kernels[1], coarse, grid)
        self.register_buffer("cls_bias", bias_map.float())
        self.register_buffer("cls_logit_kernel", on_logits.float().contiguous())

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) float32 RGB 0…255 → blurred logit map (N, 1, H, W) and logit (N,)."""
        fine, coarse = self.backbone(self.normalise(pixels))
        fine, coarse = self.standardise_fine(fine), self.standardise_coarse(coarse)
        logits = self.segment(fine, coarse)
        seen = self.cls_fine(fine) + self.cls_coarse(coarse)
        seen = seen + functional.conv2d(logits, self.cls_logit_kernel, padding=2)
        seen = functional.relu(seen + self.cls_bias)
        pooled = [
            seen.amax(dim=(2, 3)),
            seen.mean(dim=(2, 3)),
            logits.amax(dim=(2, 3)),
            logits.mean(dim=(2, 3)),
        ]
        score = self.fc_score(torch.cat(pooled, dim=1)).reshape(-1)
        return torch.matmul(self.blur_y, torch.matmul(logits, self.blur_x)), score


def _convolution(layer: nn.Module) -> nn.Conv2d:
    if not isinstance(layer, nn.Conv2d):
        raise TypeError(f"expected a convolution, got {layer}")
    return layer


def _norm(layer: nn.Module) -> nn.BatchNorm2d:
    if not isinstance(layer, nn.BatchNorm2d):
        raise TypeError(f"expected a BatchNorm, got {layer}")
    return layer


def _bias(layer: nn.Conv2d) -> Tensor:
    if layer.bias is None:
        raise TypeError(f"expected a convolution with a bias, got {layer}")
    return layer.bias.detach().double()
