"""Pixels as `foxglove.RawImage`, the published schema that common viewers of recordings open.

Enters: an array and a key. Leaves: protobuf bytes, and the way back. Lossless: 8 and 16 bits, one
channel or three, and float32 maps. Three channels of 16 bits are called `rgb16`, which is ours:
viewers show what they know, replay reads all of it.
"""
# The classes of a protobuf schema are made when this file is imported: nothing can type them.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false

from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    timestamp_pb2,
)
from google.protobuf.message import DecodeError

from appliance.errors import ArtefactError

SCHEMA_NAME = "foxglove.RawImage"
_ENCODINGS = {
    "mono8": (np.dtype(np.uint8), 1),
    "rgb8": (np.dtype(np.uint8), 3),
    "mono16": (np.dtype("<u2"), 1),
    "rgb16": (np.dtype("<u2"), 3),
    "32FC1": (np.dtype("<f4"), 1),
}
_NAMES = {(dtype.kind, dtype.itemsize, n): name for name, (dtype, n) in _ENCODINGS.items()}


def _schema() -> descriptor_pb2.FileDescriptorProto:
    """`foxglove/RawImage.proto`, field by field."""
    file = descriptor_pb2.FileDescriptorProto(
        name="foxglove/RawImage.proto",
        package="foxglove",
        syntax="proto3",
        dependency=["google/protobuf/timestamp.proto"],
    )
    message = file.message_type.add(name="RawImage")
    field = descriptor_pb2.FieldDescriptorProto
    for name, number, kind in (
        ("timestamp", 1, field.TYPE_MESSAGE),
        ("width", 2, field.TYPE_FIXED32),
        ("height", 3, field.TYPE_FIXED32),
        ("encoding", 4, field.TYPE_STRING),
        ("step", 5, field.TYPE_FIXED32),
        ("data", 6, field.TYPE_BYTES),
        ("frame_id", 7, field.TYPE_STRING),
    ):
        added = message.field.add(name=name, number=number, type=kind, label=field.LABEL_OPTIONAL)
        if kind == field.TYPE_MESSAGE:
            added.type_name = ".google.protobuf.Timestamp"
    return file


def _descriptors() -> tuple[bytes, Any]:
    own = _schema()
    time = descriptor_pb2.FileDescriptorProto()
    timestamp_pb2.DESCRIPTOR.CopyToProto(time)
    # A pool of its own: another library may have put its own copy of the schema into the shared.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(time)
    pool.Add(own)
    everything = descriptor_pb2.FileDescriptorSet(file=[time, own])
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName(SCHEMA_NAME))
    return everything.SerializeToString(), kind


SCHEMA, _RawImage = _descriptors()


def encode_image(array: npt.NDArray[Any], key: str, utc_ns: int) -> bytes:
    """(H, W) or (H, W, 3) uint8 or uint16, or (H, W) float32, with its key and wall-clock time."""
    channels = 1 if array.ndim == 2 else array.shape[2]
    name = _NAMES.get((array.dtype.kind, array.dtype.itemsize, channels))
    if name is None or array.ndim not in (2, 3):
        raise ValueError(f"expected a picture or a map, got {array.dtype} {array.shape}")
    dtype, _ = _ENCODINGS[name]
    image = _RawImage(
        width=array.shape[1],
        height=array.shape[0],
        encoding=name,
        step=array.shape[1] * channels * dtype.itemsize,
        data=np.ascontiguousarray(array, dtype).tobytes(),
        frame_id=key,
    )
    image.timestamp.seconds, image.timestamp.nanos = divmod(utc_ns, 1_000_000_000)
    return image.SerializeToString()


def decode_image(data: bytes) -> tuple[str, npt.NDArray[Any]]:
    """Key and pixels as they were, read-only. Raises ArtefactError."""
    try:
        image = _RawImage.FromString(data)
    except DecodeError as err:
        raise ArtefactError("recording", f"a {SCHEMA_NAME}", str(err)) from err
    known = _ENCODINGS.get(image.encoding)
    if known is None:
        raise ArtefactError("recording", f"one of {', '.join(_ENCODINGS)}", repr(image.encoding))
    dtype, channels = known
    shape = (image.height, image.width) if channels == 1 else (image.height, image.width, channels)
    expected = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if len(image.data) != expected:
        raise ArtefactError("recording", f"{expected} bytes of pixels", str(len(image.data)))
    return image.frame_id, np.frombuffer(image.data, dtype).reshape(shape)
