"""Graphs of one network with random weights, to compare what each costs and how far they differ.

Speed does not depend on the weights. Standardisation and BatchNorm statistics are drawn so that
every constant of the exact graph takes part in what is compared.
"""

from typing import NamedTuple

import onnx
import torch
from torch import Tensor, nn

from models.backbones import BasicBlock, Bottleneck, untrained
from models.export import export_exact, other_graphs, to_onnx
from models.supersimplenet import SuperSimpleNet, Wiring


class Heads(NamedTuple):
    """How large the heads are: the paper's, or what `inspectd train` makes of a small backbone."""

    hidden: int = 1024
    grid: int = 2


PAPER = Heads()


class _BackboneAlone(nn.Module):
    """Both taps as the outputs, so that nothing of it can be left out."""

    def __init__(self, plain: SuperSimpleNet) -> None:
        super().__init__()
        self._plain = plain

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """As the network takes its features."""
        return self._plain.taps(pixels)


class _WholeBackbone(nn.Module):
    """The classifier that the backbone was taken from, as torchvision has it."""

    def __init__(self, plain: SuperSimpleNet, name: str) -> None:
        super().__init__()
        block, count, base_width = WHOLE[name]
        self._plain, channels = plain, plain.backbone.channels[1]
        self._layer4 = nn.Sequential()
        for index in range(count):
            self._layer4.append(block(channels, 512, 1 if index else 2, base_width))
            channels = 512 * block.expansion
        self._classify = nn.Linear(channels, 1000)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, 1000), and the largest of each (N,)."""
        coarse = self._plain.backbone(self._plain.normalise(pixels)).coarse
        logits = self._classify(self._layer4(coarse).mean(dim=(2, 3)))
        return logits, logits.amax(dim=1)


WHOLE = {
    "resnet18": (BasicBlock, 2, 64),
    "resnet50": (Bottleneck, 3, 64),
    "wide_resnet50_2": (Bottleneck, 3, 128),
}
"""Name → kind, number and width of the blocks of `layer4`, which SuperSimpleNet does not read."""


def random_network(
    backbone: str, size: tuple[int, int], heads: Heads = PAPER, wiring: Wiring = "jims"
) -> SuperSimpleNet:
    """A network in eval mode whose taps are about standard normal on noise."""
    torch.manual_seed(0)
    network = SuperSimpleNet(
        untrained(backbone), wiring=wiring, hidden=heads.hidden, grid=heads.grid
    )
    for layer in network.discriminator.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None:
            layer.running_mean.normal_(std=0.1)
            nn.init.normal_(layer.bias, std=0.1)
    network.eval()
    with torch.no_grad():
        fine, coarse = network.taps(torch.rand(1, 3, *size) * 255)
    network.standardise_fine.fit(fine)
    network.standardise_coarse.fit(coarse)
    return network


def graphs_to_compare(
    backbone: str, size: tuple[int, int], heads: Heads = PAPER
) -> dict[str, onnx.ModelProto]:
    """For one input of `size` (H, W): `exact`, `published` and `backbone` alone; and other forms of
    the exact one, `last` and, where it may gain, `winograd`.
    """
    network = random_network(backbone, size, heads)
    others = {file.split(".")[1]: graph for file, graph in other_graphs(network, size).items()}
    return {
        "exact": export_exact(network, size),
        "published": others.pop("plain"),
        "backbone": to_onnx(_BackboneAlone(network), size),
        **others,
    }


def whole_backbone(backbone: str, size: tuple[int, int]) -> onnx.ModelProto:
    """One of `WHOLE` with `layer4`, pooling and classifier, for one input of `size` (H, W)."""
    return to_onnx(_WholeBackbone(random_network(backbone, size), backbone), size)
