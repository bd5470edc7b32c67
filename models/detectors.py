"""Any ONNX model that gives an anomaly map as one more detector of a bundle.

A file of `[[detector]]` tables says what each model wants to be fed and which of its outputs is the
map; the model is then written into the bundle's graph behind the same pre-processing, and run once
on noise, so that what cannot work is refused here and not on the line. anomalib's exports are one
case of it: their graphs take RGB 0 to 1, do their own resize and normalisation, and give maps that
are already normalised to 0 to 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
from onnx import compose, helper, version_converter

from appliance.bundle import hash_file
from appliance.errors import ArtefactError, ConfigError
from appliance.segments import column_names
from appliance.toml_file import Section, read_toml
from models.export import OPSET, session
from models.graphs import constants_of, map_count, reads, with_map

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Adapter(Section, frozen=True, kw_only=True):
    """One `[[detector]]`: what a model wants and gives."""

    name: str
    """Of its columns: "SEGMENT/NAME/mean"."""
    file: str
    """ONNX, beside the TOML file or absolute."""
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    range: Literal["0-1", "0-255", "imagenet"] = "0-1"
    """"imagenet": 0 to 1, then less the mean and divided by the spread of ImageNet's channels."""
    colour: Literal["RGB", "BGR"] = "RGB"
    input: str = ""
    """Name of the input; "" = the only one."""
    map: str = "anomaly_map"
    """Name of the output that is the map: (N, 1, h, w), (N, h, w) or (h, w)."""
    size: tuple[int, int] | None = None
    """Height and width to feed where the model leaves them open; None = the network's own."""
    normalised: bool = False
    """The model has already squeezed its map to 0 to 1 (anomalib's exports do): values are used as
    they are, but what lies beyond the range of its validation images all looks the same."""


class _File(Section, frozen=True, kw_only=True):
    detector: tuple[Adapter, ...]


def read_adapters(path: Path) -> tuple[Adapter, ...]:
    """The `[[detector]]` tables of a TOML file, with absolute file names. Raises ConfigError."""
    adapters = read_toml(path, _File, ConfigError).detector
    return tuple(
        msgspec.structs.replace(adapter, file=str(path.parent / adapter.file))
        for adapter in adapters
    )


def with_detector(
    network: onnx.ModelProto, adapter: Adapter, size: tuple[int, int]
) -> onnx.ModelProto:
    """`network` with the model's map as one more channel, resized to `size` (H, W).

    Raises ConfigError or ArtefactError on a model that is missing, cannot be run, has no such input
    or output, or whose map is of no shape that can be placed or holds NaN.
    """
    column_names(("any",), (adapter.name,))
    model = _loaded(Path(adapter.file))
    source = _input_of(model, adapter)
    fed = _fed_size(source, adapter, size)
    shape = _trial(model, source.name, adapter, fed)
    prefix = f"{adapter.name}/"
    model = compose.add_prefix(_needed(model, adapter.map), prefix)
    image = network.graph.input[0].name
    feed, constants = _feed(image, prefix + source.name, adapter, fed, size)
    after: list[onnx.NodeProto] = [
        helper.make_node(
            "Reshape", [prefix + adapter.map, f"{prefix}plane"], [f"{prefix}placed"]
        ),
        helper.make_node(
            "Resize", [f"{prefix}placed", "", "", f"{prefix}network_size"], [f"{prefix}sized"],
            mode="linear", coordinate_transformation_mode="half_pixel", axes=[2, 3],
        ),
    ]  # fmt: skip
    arrays = {
        **constants,
        f"{prefix}plane": np.array([-1, 1, *shape], np.int64),
        f"{prefix}network_size": np.array(size, np.int64),
    }
    joined = with_map(
        network, adapter.name, [*feed, *model.graph.node, *after],
        [*constants_of(arrays), *model.graph.initializer], f"{prefix}sized",
    )  # fmt: skip
    _take_domains(joined, model)
    _check_joined(joined, adapter, size)
    return joined


def described(adapter: Adapter) -> str:
    """For the provenance of a bundle."""
    digest = hash_file(Path(adapter.file))[:16]
    return (
        f"{Path(adapter.file).name} sha256 {digest}…, {adapter.layout} {adapter.colour} "
        f"{adapter.range}, map {adapter.map}{', normalised' if adapter.normalised else ''}"
    )


def _loaded(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path)
    except FileNotFoundError as err:
        raise ConfigError(path, "an ONNX model", "no file") from err
    except Exception as err:  # protobuf and onnx raise a dozen types for a bad file
        raise ConfigError(path, "an ONNX model", " ".join(str(err).split())[:200]) from err
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset == OPSET:
        return model
    try:
        return version_converter.convert_version(model, OPSET)
    except Exception as err:
        got = f"opset {opset}, which cannot be converted: {' '.join(str(err).split())[:200]}"
        raise ConfigError(path, f"opset {OPSET}, or one that can be brought to it", got) from err


def _input_of(model: onnx.ModelProto, adapter: Adapter) -> onnx.ValueInfoProto:
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = {v.name: v for v in model.graph.input if v.name not in constants}
    if adapter.input and adapter.input not in inputs:
        raise ConfigError(f"detector {adapter.name}: input", f"one of {sorted(inputs)}",
                          adapter.input)  # fmt: skip
    if not adapter.input and len(inputs) != 1:
        raise ConfigError(f"detector {adapter.name}: input", "a name, for there are several",
                          f"{sorted(inputs)}")  # fmt: skip
    outputs = sorted(value.name for value in model.graph.output)
    if adapter.map not in outputs:
        raise ConfigError(f"detector {adapter.name}: map", f"one of {outputs}", adapter.map)
    return inputs[adapter.input] if adapter.input else next(iter(inputs.values()))


def _fed_size(
    source: onnx.ValueInfoProto, adapter: Adapter, size: tuple[int, int]
) -> tuple[int, int]:
    """Height and width that the model is fed with."""
    dims = [d.dim_value for d in source.type.tensor_type.shape.dim]
    if len(dims) != 4:
        raise ConfigError(f"detector {adapter.name}: input", f"four axes, {adapter.layout}",
                          f"{len(dims)}")  # fmt: skip
    channels, own = (dims[1], dims[2:]) if adapter.layout == "NCHW" else (dims[3], dims[1:3])
    if channels not in (0, 3):
        raise ConfigError(f"detector {adapter.name}: layout", f"{adapter.layout} with 3 channels",
                          f"{dims}")  # fmt: skip
    wanted = adapter.size or size
    fed = (own[0] or wanted[0], own[1] or wanted[1])
    if adapter.size is not None and fed != adapter.size:
        raise ConfigError(f"detector {adapter.name}: size", f"{fed[0]}x{fed[1]}, the model's own",
                          f"{adapter.size[0]}x{adapter.size[1]}")  # fmt: skip
    return fed


def _trial(
    model: onnx.ModelProto, source: str, adapter: Adapter, fed: tuple[int, int]
) -> tuple[int, int]:
    """Runs the model once on noise; (h, w) of its map."""
    shape = (1, 3, *fed) if adapter.layout == "NCHW" else (1, *fed, 3)
    noise = np.random.default_rng(0).random(shape, np.float32)
    if adapter.range == "0-255":
        noise *= 255
    try:
        amap = np.asarray(session(model).run([adapter.map], {source: noise})[0])
    except Exception as err:  # onnxruntime has no common base class
        raise ConfigError(adapter.file, f"a model that runs on {shape} float32",
                          " ".join(str(err).split())[:300]) from err  # fmt: skip
    plane = amap.shape[-2:] if amap.ndim >= 2 else ()
    if len(plane) != 2 or amap.size != plane[0] * plane[1] or min(plane) < 2:
        raise ConfigError(f"detector {adapter.name}: map", "one plane per picture",
                          f"{amap.shape}")  # fmt: skip
    if amap.dtype != np.float32 or not np.isfinite(amap).all():
        raise ConfigError(f"detector {adapter.name}: map", "finite float32 on noise",
                          f"{amap.dtype}, {int((~np.isfinite(amap)).sum())} not finite"
                          if amap.dtype.kind == "f" else f"{amap.dtype}")  # fmt: skip
    return int(plane[0]), int(plane[1])


def _feed(
    image: str, target: str, adapter: Adapter, fed: tuple[int, int], size: tuple[int, int]
) -> tuple[list[onnx.NodeProto], dict[str, npt.NDArray[np.generic]]]:
    """Nodes from the network's input (N, 3, H, W), RGB 0 to 255, to what the model wants."""
    prefix, last = f"{adapter.name}/", image
    steps: list[tuple[str, list[str], dict[str, Any]]] = []
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    if fed != size:
        arrays[f"{prefix}fed_size"] = np.array(fed, np.int64)
        steps.append(("Resize", ["", "", f"{prefix}fed_size"],
                      {"mode": "linear", "coordinate_transformation_mode": "half_pixel",
                       "axes": [2, 3]}))  # fmt: skip
    if adapter.range != "0-255":
        is_imagenet = adapter.range == "imagenet"
        mean = np.array(IMAGENET_MEAN if is_imagenet else (0, 0, 0)) * 255
        spread = np.array(IMAGENET_STD if is_imagenet else (1, 1, 1)) * 255
        arrays[f"{prefix}mean"] = mean.astype(np.float32).reshape(1, 3, 1, 1)
        arrays[f"{prefix}spread"] = spread.astype(np.float32).reshape(1, 3, 1, 1)
        steps += [("Sub", [f"{prefix}mean"], {}), ("Div", [f"{prefix}spread"], {})]
    if adapter.colour == "BGR":
        arrays[f"{prefix}bgr"] = np.array([2, 1, 0], np.int64)
        steps.append(("Gather", [f"{prefix}bgr"], {"axis": 1}))
    if adapter.layout == "NHWC":
        steps.append(("Transpose", [], {"perm": [0, 2, 3, 1]}))
    steps.append(("Identity", [], {}))
    nodes: list[onnx.NodeProto] = []
    for number, (kind, more, attributes) in enumerate(steps):
        out = target if number == len(steps) - 1 else f"{prefix}fed_{number}"
        nodes.append(helper.make_node(kind, [last, *more], [out], **attributes))
        last = out
    return nodes, arrays


def _needed(model: onnx.ModelProto, output: str) -> onnx.ModelProto:
    """A copy without what the map does not need: scores, labels, masks."""
    pruned = onnx.ModelProto.FromString(model.SerializeToString())
    wanted, kept = {output}, list[onnx.NodeProto]()
    for node in reversed(pruned.graph.node):
        if wanted & set(node.output):
            kept.append(node)
            wanted.update(reads(node))
    del pruned.graph.node[:]
    pruned.graph.node.extend(reversed(kept))
    outputs = [value for value in pruned.graph.output if value.name == output]
    constants = [tensor for tensor in pruned.graph.initializer if tensor.name in wanted]
    del pruned.graph.output[:], pruned.graph.initializer[:], pruned.graph.value_info[:]
    pruned.graph.output.extend(outputs)
    pruned.graph.initializer.extend(constants)
    return pruned


def _take_domains(joined: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Operator sets beside the standard one that the model uses."""
    known = {entry.domain for entry in joined.opset_import}
    joined.opset_import.extend(e for e in model.opset_import if e.domain not in known)
    joined.functions.extend(model.functions)


def _check_joined(joined: onnx.ModelProto, adapter: Adapter, size: tuple[int, int]) -> None:
    onnx.checker.check_model(joined)
    noise = np.random.default_rng(1).uniform(0, 255, (1, 3, *size)).astype(np.float32)
    try:
        amap = np.asarray(session(joined).run(["map"], {joined.graph.input[0].name: noise})[0])
    except Exception as err:  # onnxruntime has no common base class
        raise ArtefactError(adapter.file, "a model that runs behind the network's input",
                            " ".join(str(err).split())[:300]) from err  # fmt: skip
    wanted = (1, map_count(joined), *size)
    if amap.shape != wanted or not np.isfinite(amap).all():
        raise ArtefactError(adapter.file, f"finite maps {wanted}", f"{amap.shape}")
