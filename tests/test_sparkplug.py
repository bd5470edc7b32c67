"""Payloads of Sparkplug B: what we write another implementation reads, and the reverse."""

from typing import Any

import pytest

from appliance.sparkplug import BadPayload, DataType, Metric, decode, encode

pytest.importorskip("google.protobuf", reason="protobuf is not installed")


from tests.sparkplug_reader import Payload, read


@pytest.mark.parametrize(
    ("kind", "value", "read_as"),
    [
        (DataType.STRING, "Teil ß", "Teil ß"),
        (DataType.STRING, "", ""),
        (DataType.DOUBLE, -2.5, -2.5),
        (DataType.BOOLEAN, True, True),
        (DataType.BOOLEAN, False, False),
        (DataType.UINT16, 65_535, 65_535),
        (DataType.UINT32, 0xFFFF_FFFF, 0xFFFF_FFFF),
        (DataType.UINT64, (1 << 64) - 1, (1 << 64) - 1),
        (DataType.INT64, -1, (1 << 64) - 1),
    ],
)
def test_another_implementation_reads_what_we_write(
    kind: DataType, value: Any, read_as: Any
) -> None:
    metric = Metric(name="m", kind=kind, value=value, time_ms=1_700_000_000_123)
    data = encode([metric], 1_700_000_000_999, 255)
    payload = Payload.FromString(data)
    assert (payload.timestamp, payload.seq) == (1_700_000_000_999, 255)
    assert payload.metrics[0].timestamp == 1_700_000_000_123
    assert payload.metrics[0].datatype == kind
    assert read(data) == {"m": read_as}


def test_we_read_what_another_implementation_writes() -> None:
    payload = Payload(timestamp=5, seq=1)
    payload.metrics.add(name="Node Control/Rebirth", boolean_value=True, datatype=11)
    payload.metrics.add(name="number", int_value=7, alias=300)
    payload.metrics.add(name="text", string_value="a")
    payload.metrics.add(name="real", double_value=0.5)
    expected = [("Node Control/Rebirth", True), ("number", 7), ("text", "a"), ("real", 0.5)]
    assert decode(payload.SerializeToString()) == expected


@pytest.mark.parametrize(
    "data", [b"\xff", b"\x12\x05abc", b"\x0b", b"\x12\x03\x0a\x01\xff", b"\x80" * 20]
)
def test_foreign_bytes_are_one_clear_error(data: bytes) -> None:
    with pytest.raises(BadPayload, match="expected a Sparkplug B payload"):
        decode(data)
