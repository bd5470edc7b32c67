"""A trained network → `network.onnx`, and the sessions that run it.

The graph that is written is the exact one of `exact.py`: float32 (N, 3, H, W), RGB 0 to 255 →
`map` (N, 1, H, W) and `score` (N,), raw logits. Torch ends here: whatever runs afterwards runs
ONNX Runtime on the graph with the pre-processing head merged in front.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import nn

from appliance.bundle import InputContract
from appliance.errors import ConfigError
from appliance.head import head_model
from models.channels_last import ChannelsLastSuperSimpleNet
from models.exact import ExactSuperSimpleNet
from models.supersimplenet import SuperSimpleNet
from models.winograd import winograd

OPSET = 18
"""Of `network.onnx`; the pre-processing head is written in the same one."""

_NOISY = "torch.onnx._internal.exporter"


def export_exact(network: SuperSimpleNet, size: tuple[int, int]) -> onnx.ModelProto:
    """The exact inference graph of a trained network, for inputs of size (H, W)."""
    return to_onnx(ExactSuperSimpleNet(network, size), size)


def other_graphs(network: SuperSimpleNet, size: tuple[int, int]) -> dict[str, onnx.ModelProto]:
    """File name → graph with the same answers, for `inspectd engine` to measure on a device.

    The graph as published, the exact one with its channels last, and that one with Winograd's
    convolutions, where it has any that may gain.
    """
    last = to_onnx(ChannelsLastSuperSimpleNet(network, size), size)
    graphs = {"network.plain.onnx": to_onnx(network, size), "network.last.onnx": last}
    fewer_products = winograd(last)
    if fewer_products is not None:
        graphs["network.winograd.onnx"] = fewer_products
    return graphs


def save_other_graphs(network: SuperSimpleNet, size: tuple[int, int], draft: Path) -> None:
    """`other_graphs` beside the exact one."""
    for name, graph in other_graphs(network, size).items():
        onnx.save(graph, draft / name)


def to_onnx(network: nn.Module, size: tuple[int, int]) -> onnx.ModelProto:
    """Any module (N, 3, H, W) → (map, score) as an ONNX graph with a dynamic batch."""
    # Two images, because a batch of one would be taken for a constant.
    example = torch.zeros(2, 3, *size)
    with _quiet_exporter():
        program = torch.onnx.export(
            network.eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["map", "score"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            verbose=False,
        )
    if program is None:
        raise RuntimeError("expected a program from torch.onnx.export, got none")
    model = program.model_proto
    # The exporter notes source files and stack frames per node: paths of the machine it ran on.
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    del model.graph.metadata_props[:], model.metadata_props[:]
    onnx.checker.check_model(model)
    return model


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Torch tells about an absent torchvision and about its own deprecations at every export."""
    logger = logging.getLogger(_NOISY)
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            yield
        finally:
            logger.setLevel(level)


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the CPU, all cores, float32."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


class Preprocessor:
    """The head of the deployed graph alone, so that training sees exactly what the line sees."""

    def __init__(self, contract: InputContract) -> None:
        """For frames of the training images' size. Raises ConfigError where they are cut."""
        if contract.tiles is not None:
            raise ConfigError("tiles", "a bundle that sees frames whole", f"{contract.tiles}")
        self._session = session(
            head_model(
                contract, contract.source_height_px, contract.source_width_px, contract.channels
            )
        )

    def __call__(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """(N, H, W, C) uint8 → network inputs (N, 3, h, w) float32, 0 to 255."""
        out = self._session.run(None, {"frame": frames})
        return cast("npt.NDArray[np.float32]", out[0])
