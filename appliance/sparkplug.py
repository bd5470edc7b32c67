"""Sparkplug B payloads: a handful of Protocol Buffers fields, written and read by hand. Pure.

Field numbers and types are those of the Sparkplug 3.0 specification (sparkplug_b.proto). Only what
an edge node needs: metrics of plain types out, metric names and booleans of a command in.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

Value: TypeAlias = int | float | bool | str

_TIMESTAMP, _METRICS, _SEQ = 1, 2, 3
_NAME, _METRIC_TIME, _DATATYPE, _IS_HISTORICAL = 1, 3, 4, 5
_INT, _LONG, _DOUBLE, _BOOLEAN, _STRING = 10, 11, 13, 14, 15
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST_VARINT_BYTES = 10


class DataType(IntEnum):
    """Of a metric."""

    INT64 = 4
    UINT16 = 6
    UINT32 = 7
    UINT64 = 8
    DOUBLE = 10
    BOOLEAN = 11
    STRING = 12


class BadPayload(ValueError):
    """Bytes that are no Sparkplug payload."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One value with its name and time."""

    name: str
    kind: DataType
    value: Value
    time_ms: int
    """UTC."""
    is_historical: bool = False
    """It could not be sent when it happened."""


def encode(metrics: Iterable[Metric], time_ms: int, seq: int | None) -> bytes:
    """A payload; seq None for a death certificate, which has none."""
    body = _varint_field(_TIMESTAMP, time_ms)
    for metric in metrics:
        body += _bytes_field(_METRICS, _metric(metric))
    return body if seq is None else body + _varint_field(_SEQ, seq)


def decode(data: bytes) -> list[tuple[str, Value]]:
    """Names and values of a payload, as a command brings them. Raises BadPayload."""
    try:
        return [
            _read_metric(value)
            for field, value in _fields(data)
            if field == _METRICS and isinstance(value, bytes)
        ]
    except (IndexError, struct.error, UnicodeDecodeError) as err:
        raise BadPayload(f"expected a Sparkplug B payload, got {len(data)} other bytes") from err


def _metric(metric: Metric) -> bytes:
    body = _bytes_field(_NAME, metric.name.encode())
    body += _varint_field(_METRIC_TIME, metric.time_ms)
    body += _varint_field(_DATATYPE, metric.kind)
    if metric.is_historical:
        body += _varint_field(_IS_HISTORICAL, 1)
    value = metric.value
    match metric.kind:
        case DataType.STRING:
            return body + _bytes_field(_STRING, str(value).encode())
        case DataType.DOUBLE:
            return body + _key(_DOUBLE, _FIXED64) + struct.pack("<d", float(value))
        case DataType.BOOLEAN:
            return body + _varint_field(_BOOLEAN, int(bool(value)))
        case DataType.UINT16 | DataType.UINT32:
            return body + _varint_field(_INT, int(value) & 0xFFFF_FFFF)
        case DataType.INT64 | DataType.UINT64:
            return body + _varint_field(_LONG, int(value) & 0xFFFF_FFFF_FFFF_FFFF)


def _read_metric(data: bytes) -> tuple[str, Value]:
    name, value = "", 0
    for field, raw in _fields(data):
        match field:
            case 1 if isinstance(raw, bytes):
                name = raw.decode()
            case 10 | 11 if isinstance(raw, int):
                value = raw
            case 13 if isinstance(raw, bytes):
                value = struct.unpack("<d", raw)[0]
            case 14 if isinstance(raw, int):
                value = bool(raw)
            case 15 if isinstance(raw, bytes):
                value = raw.decode()
            case _:
                pass
    return name, value


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _key(field: int, wire: int) -> bytes:
    return _varint(field << 3 | wire)


def _varint_field(field: int, number: int) -> bytes:
    return _key(field, _VARINT) + _varint(number)


def _bytes_field(field: int, data: bytes) -> bytes:
    return _key(field, _BYTES) + _varint(len(data)) + data


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for count in range(_MOST_VARINT_BYTES):
        byte = data[at + count]
        number |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            return number, at + count + 1
    raise IndexError("a number of more than ten bytes")


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        field, wire = key >> 3, key & 7
        if wire == _VARINT:
            number, at = _read_varint(data, at)
            yield field, number
            continue
        if wire == _BYTES:
            size, at = _read_varint(data, at)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise IndexError(f"wire type {wire}")
        if at + size > len(data):
            raise IndexError("cut off")
        yield field, data[at : at + size]
        at += size
