"""Small networks and whole bundles of them, for tests of engines and of infer.

The network answers map = mean over the channels and score = its maximum. Two kinds of picture make
it misbehave: a black one gives NaN, a white one keeps it busy for ever.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import cv2
import msgspec
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from appliance.bundle import Bundle, GateLimits, Golden, InputContract, Manifest, finish_bundle
from appliance.half import to_half
from appliance.head import merged_network
from appliance.segments import column_names
from appliance.tiles import Tiles

NET = (16, 24)
"""Network input, height and width."""


def network_model(bias: float = 0.0, net: tuple[int, int] = NET) -> onnx.ModelProto:
    """float32 (N, 3, h, w) in, `map` (N, 1, h, w) and `score` (N,) out, as in a bundle."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["going_on"]),
            helper.make_node("Sqrt", ["value"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("going_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, []),
        ],
    )
    nodes = [
        helper.make_node("ReduceMean", ["image", "channel"], ["grey"], keepdims=1),
        helper.make_node("ReduceMean", ["grey"], ["mean"], keepdims=0),
        helper.make_node("Equal", ["mean", "white"], ["is_white"]),
        helper.make_node("Where", ["is_white", "for_ever", "once"], ["rounds"]),
        helper.make_node("Loop", ["rounds", "yes", "mean"], ["looped"], body=body),
        helper.make_node("Mul", ["looped", "nought"], ["nothing"]),
        helper.make_node("Equal", ["mean", "nought"], ["is_black"]),
        helper.make_node("Where", ["is_black", "nan", "bias"], ["added"]),
        helper.make_node("Add", ["nothing", "added"], ["shift"]),
        helper.make_node("Add", ["grey", "shift"], ["map"]),
        helper.make_node("ReduceMax", ["map", "all"], ["score"], keepdims=0),
    ]
    scalar = {"white": 255.0, "nought": 0.0, "nan": np.nan, "bias": bias}
    constants = [
        helper.make_tensor("channel", TensorProto.INT64, [1], [1]),
        helper.make_tensor("all", TensorProto.INT64, [3], [1, 2, 3]),
        helper.make_tensor("for_ever", TensorProto.INT64, [], [1 << 60]),
        helper.make_tensor("once", TensorProto.INT64, [], [1]),
        helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
        *(helper.make_tensor(name, TensorProto.FLOAT, [], [v]) for name, v in scalar.items()),
    ]
    return as_network(nodes, constants, net)


def as_network(
    nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], net: tuple[int, int]
) -> onnx.ModelProto:
    """A bundle's network of these nodes: `image` (N, 3, *net) → `map` (N, 1, *net), `score` (N)."""
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, *net])],
        [
            helper.make_tensor_value_info("map", TensorProto.FLOAT, ["N", 1, *net]),
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"]),
        ],
        constants,
    )
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10)


def picture(seed: int, height: int = 64, width: int = 96) -> np.ndarray:
    """(height, width) uint8 noise around a grey level that the seed tells apart."""
    rng = np.random.default_rng(seed)
    return rng.integers(40 + seed % 50, 160, (height, width)).astype(np.uint8)


def write_network_bundle(
    folder: Path,
    *,
    golden: int = 2,
    channels: Literal[1, 3] = 1,
    gates: GateLimits | None = None,
    mean_image: np.ndarray | None = None,
    bias: float = 0.0,
    net: tuple[int, int] = NET,
    size: tuple[int, int] = (64, 96),
    network: onnx.ModelProto | None = None,
    others: Mapping[str, onnx.ModelProto] | None = None,
    tiles: Tiles | None = None,
    change: dict[str, Any] | None = None,
) -> Bundle:
    """A bundle for frames of `size` with two segments. `change`: further fields of the manifest.

    network: another one than `network_model(bias, net)`. plain: the published graph beside it.
    """
    draft = folder.with_name(f"{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    (draft / "golden").mkdir(parents=True)
    contract = InputContract(
        height_px=net[0],
        width_px=net[1],
        source_height_px=size[0],
        source_width_px=size[1],
        channels=channels,
        smallest_defect_px=12,
        tiles=tiles,
    )
    network = network or network_model(bias, net)
    onnx.save(network, str(draft / "network.onnx"))
    for name, other in (others or {}).items():
        onnx.save(other, str(draft / name))
    labels = np.zeros(contract.map_size, np.uint8)
    labels[8:] = 1
    cv2.imwrite(str(draft / "segments.png"), labels)
    if mean_image is not None:
        cv2.imwrite(str(draft / "gates.png"), mean_image)
    answer = _answers(network, contract, size)
    written: list[Golden] = []
    for seed in range(golden):
        frame = np.repeat(picture(seed, *size)[:, :, None], channels, axis=2)
        amap, score = answer(frame)
        cv2.imwrite(str(draft / f"golden/{seed}.png"), frame)
        np.savez(draft / f"golden/{seed}.npz", map=amap, score=np.float32(score))
        written.append(Golden(image=f"golden/{seed}.png", outputs=f"golden/{seed}.npz"))
    manifest = Manifest(
        kind="supersimplenet",
        product="p",
        created_utc="",
        files={},
        input=contract,
        segments=("top", "bottom"),
        columns=column_names(("top", "bottom"), ("supersimplenet",)),
        gates=gates,
        golden=tuple(written),
    )
    return finish_bundle(draft, folder, msgspec.structs.replace(manifest, **(change or {})))


def _answers(
    network: onnx.ModelProto, contract: InputContract, size: tuple[int, int]
) -> Callable[[np.ndarray], tuple[np.ndarray, float]]:
    """What the merged graph says of a frame, tile by tile where it is cut."""
    grid = contract.grid(*size)
    merged = merged_network(network, contract, *(grid.tile if grid else size), contract.channels)
    session = ort.InferenceSession(merged.SerializeToString(), providers=["CPUExecutionProvider"])

    def one(frame: np.ndarray) -> tuple[np.ndarray, float]:
        amap, score = session.run(["map", "score"], {"frame": frame[None]})
        return np.asarray(amap)[0], float(np.asarray(score)[0])

    def whole(frame: np.ndarray) -> tuple[np.ndarray, float]:
        assert grid is not None
        out = np.empty((1, *grid.map_size), np.float32)

        def tile(pixels: Sequence[np.ndarray], maps: Sequence[np.ndarray]) -> list[float]:
            maps[0][:], score = one(pixels[0])
            return [score]

        return out, grid.run(frame, out, tile)

    return whole if grid else one


EXACT = (64, 96)
"""Network input of `exact_network`."""


def contract_for(size: tuple[int, int]) -> InputContract:
    """Grey frames of 200x300 before a network input of this size."""
    return InputContract(
        height_px=size[0],
        width_px=size[1],
        source_height_px=200,
        source_width_px=300,
        channels=1,
        smallest_defect_px=9,
    )


@cache
def exact_network(precision: str = "fp32") -> onnx.ModelProto:
    """The exact graph of a real backbone with random heads. Needs torch; made once per run."""
    from models.comparison import Heads, random_network
    from models.export import export_exact

    if precision == "fp16":
        return to_half(exact_network())
    return export_exact(random_network("efficientnet_lite0", EXACT, Heads(64, 1)), EXACT)


def trained_like_bundle(folder: Path) -> Bundle:
    """`exact_network` for frames of 200x300, with golden frames from ONNX Runtime."""
    return write_network_bundle(folder, network=exact_network(), net=EXACT, size=(200, 300))
