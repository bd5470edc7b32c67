"""Scenes of the failure table with other pictures or another network: what the gates must see, and
an engine that is not the one that was validated."""

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Literal

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from appliance.bundle import (
    Bundle,
    GateLimits,
    Golden,
    InputContract,
    Manifest,
    finish_bundle,
)
from appliance.codes import OfflineReason
from appliance.engine_null import write_null_bundle
from appliance.segments import column_names
from tools.bench_line import numbered
from tools.chaos_line import Scene
from tools.chaos_plays import offline

Image = npt.NDArray[np.uint8]

_SIDE_PX = 64
_COUNT = 16
_SICK = 7
"""Which of the pictures."""
_SHAPE, _BLOCK_PX = 20, 4
"""White blocks of the shape, and their side: 16 pixels each, as one number of `numbered`."""
_GATES = GateLimits(
    mean=(0.5, 250.0),
    saturated=(0.0, 1.0),
    focus=(50.0, 1e9),
    shift_px=None,
    mean_image="gates.png",
)
_PLACED = msgspec.structs.replace(_GATES, shift_px=3.0)


def _sick(number: int) -> Image:
    """Numbered pictures; the first one is black, one is blurred until no edge is left."""
    if number == _SICK:
        return np.asarray(cv2.GaussianBlur(numbered(128), (0, 0), 12.0), np.uint8)
    return numbered(number)


def sick_scene() -> Scene:
    """Its pictures pass gates of brightness and sharpness, but for two."""
    return Scene(picture=_sick, pictures=_COUNT, gates=_GATES)


def _shaped(number: int) -> Image:
    """A shape in its place, and below it a bar that codes the number; one lies elsewhere."""
    pixels = np.zeros((_SIDE_PX, _SIDE_PX), np.uint8)
    for place in np.random.default_rng(1).permutation(36)[:_SHAPE]:
        top, left = (int(20 + _BLOCK_PX * cell) for cell in divmod(int(place), 6))
        pixels[top : top + _BLOCK_PX, left : left + _BLOCK_PX] = 255
    pixels[-4:].reshape(-1)[: number * 16] = 255
    return np.roll(pixels, 5, axis=1) if number == _SICK else pixels


def shifted_scene() -> Scene:
    """Its parts lie where the mean good image has them, but for one."""
    mean = np.mean([_shaped(n) for n in range(_COUNT) if n != _SICK], axis=0)

    def bundle(folder: Path, height_px: int, width_px: int) -> Bundle:
        return write_null_bundle(
            folder, "null", height_px, width_px, gates=_PLACED, mean_image=mean.astype(np.uint8)
        )

    return Scene(picture=_shaped, pictures=_COUNT, first_number=_SHAPE, make_bundle=bundle)


def network_scene() -> Scene:
    """Its engine is ONNX Runtime with a network that answers the mean of a picture."""
    return Scene(make_bundle=_mean_bundle, engine={"kind": "onnx", "threads": 1})


def wrong_engine(scene: Scene) -> None:
    """What infer keeps beside its passport is another network's, with a hash that fits."""
    kept = next((scene.folder / "engines").glob("*/*.onnx"))
    good, noted = kept.read_bytes(), kept.with_suffix(".sha256")
    network = onnx.load_from_string(good)
    for constant in network.graph.initializer:
        if constant.name.endswith(_BIAS):
            constant.CopyFrom(helper.make_tensor(constant.name, TensorProto.FLOAT, [], [5.0]))
    foreign = network.SerializeToString()
    if foreign == good:
        raise TypeError(f"no constant {_BIAS} in {kept}")
    kept.write_bytes(foreign)
    noted.write_text(hashlib.sha256(foreign).hexdigest())
    scene.kill("infer")
    scene.await_sight("refusal", offline(OfflineReason.PASSPORT))
    kept.unlink()
    scene.await_accepted()


_BIAS = "chaos_bias"


def _mean_bundle(folder: Path, height_px: int, width_px: int) -> Bundle:
    """Map and score are the mean grey value, so that a picture's number comes back as margin."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    draft.chmod(0o755)
    try:
        cv2.imwrite(str(draft / "segments.png"), np.zeros((height_px, width_px), np.uint8))
        onnx.save(_mean_network(height_px, width_px), str(draft / "network.onnx"))
        golden = tuple(_golden(draft, number) for number in (1, 100))
        kind: Literal["supersimplenet"] = "supersimplenet"
        manifest = Manifest(
            kind=kind,
            product="chaos",
            created_utc="",
            files={},
            input=InputContract(
                height_px=height_px,
                width_px=width_px,
                source_height_px=height_px,
                source_width_px=width_px,
                channels=1,
                smallest_defect_px=1.0,
            ),
            segments=("all",),
            columns=column_names(("all",), (kind,)),
            golden=golden,
        )
        return finish_bundle(draft, folder, manifest)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _golden(draft: Path, number: int) -> Golden:
    picture = numbered(number)
    cv2.imwrite(str(draft / f"golden{number}.png"), picture)
    score = np.float32(picture.mean())
    amap = np.full((1, *picture.shape), score, np.float32)
    np.savez(draft / f"golden{number}.npz", map=amap, score=score)
    return Golden(image=f"golden{number}.png", outputs=f"golden{number}.npz")


def _mean_network(height_px: int, width_px: int) -> onnx.ModelProto:
    size = [height_px, width_px]
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["image", "all"], ["grey"], keepdims=1),
            helper.make_node("Add", ["grey", _BIAS], ["mean"]),
            helper.make_node("ReduceMean", ["image", "channel"], ["one"], keepdims=1),
            helper.make_node("Mul", ["one", "nought"], ["empty"]),
            helper.make_node("Add", ["empty", "mean"], ["map"]),
            helper.make_node("ReduceMax", ["map", "all"], ["score"], keepdims=0),
        ],
        "mean",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, *size])],
        [
            helper.make_tensor_value_info("map", TensorProto.FLOAT, ["N", 1, *size]),
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"]),
        ],
        [
            helper.make_tensor("all", TensorProto.INT64, [3], [1, 2, 3]),
            helper.make_tensor("channel", TensorProto.INT64, [1], [1]),
            helper.make_tensor("nought", TensorProto.FLOAT, [], [0.0]),
            helper.make_tensor(_BIAS, TensorProto.FLOAT, [], [0.0]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
