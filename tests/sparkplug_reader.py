"""Sparkplug B payloads as Google's own protobuf reads them."""

from typing import Any

import pytest

pytest.importorskip("google.protobuf", reason="protobuf is not installed")

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


def payload_class() -> Any:
    """The messages of sparkplug_b.proto that matter, as the specification numbers their fields."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="b.proto", package="b", syntax="proto2")
    metric = file.message_type.add(name="Metric")
    rows = (
        ("name", 1, kinds.TYPE_STRING), ("alias", 2, kinds.TYPE_UINT64),
        ("timestamp", 3, kinds.TYPE_UINT64), ("datatype", 4, kinds.TYPE_UINT32),
        ("is_historical", 5, kinds.TYPE_BOOL), ("int_value", 10, kinds.TYPE_UINT32),
        ("long_value", 11, kinds.TYPE_UINT64), ("double_value", 13, kinds.TYPE_DOUBLE),
        ("boolean_value", 14, kinds.TYPE_BOOL), ("string_value", 15, kinds.TYPE_STRING),
    )  # fmt: skip
    for name, number, kind in rows:
        metric.field.add(name=name, number=number, type=kind, label=kinds.LABEL_OPTIONAL)
    payload = file.message_type.add(name="Payload")
    for name, number in (("timestamp", 1), ("seq", 3)):
        payload.field.add(
            name=name, number=number, type=kinds.TYPE_UINT64, label=kinds.LABEL_OPTIONAL
        )
    payload.field.add(
        name="metrics", number=2, type=kinds.TYPE_MESSAGE, type_name=".b.Metric",
        label=kinds.LABEL_REPEATED,
    )  # fmt: skip
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("b.Payload"))


Payload = payload_class()


def read(data: bytes) -> dict[str, Any]:
    """Name → value, as another implementation reads them."""
    values: dict[str, Any] = {}
    for metric in Payload.FromString(data).metrics:
        fields = [f for f, _ in metric.ListFields() if f.name.endswith("_value")]
        values[metric.name] = getattr(metric, fields[0].name) if fields else None
    return values
