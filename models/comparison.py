"""Graphs of one network with random weights, to compare what each costs: speed only, no answers."""

import onnx
import torch
from torch import Tensor, nn

from models.backbones import untrained
from models.exact import ExactSuperSimpleNet
from models.export import to_onnx
from models.supersimplenet import SuperSimpleNet


class _BackboneAlone(nn.Module):
    """Both taps as the outputs, so that nothing of it can be left out."""

    def __init__(self, plain: SuperSimpleNet) -> None:
        super().__init__()
        self._plain = plain

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """As the network takes its features."""
        return self._plain.taps(pixels)


def graphs_to_compare(backbone: str, size: tuple[int, int]) -> dict[str, onnx.ModelProto]:
    """`exact`, `published` and `backbone` alone, for one input of `size` (H, W)."""
    torch.manual_seed(0)
    plain = SuperSimpleNet(untrained(backbone)).eval()
    return {
        "exact": to_onnx(ExactSuperSimpleNet(plain, size), size),
        "published": to_onnx(plain, size),
        "backbone": to_onnx(_BackboneAlone(plain), size),
    }
