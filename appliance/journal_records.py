"""The records of the journal and how they stand in its files.

A file is frames `length u32, crc32 u32, MessagePack`, ended by eight zero bytes. CRCs are salted
with the generation of the file, which its first record says.
"""

import struct
import zlib
from pathlib import Path
from typing import NamedTuple, TypeAlias

import msgspec

from appliance.messages import Verdict

FRAME = struct.Struct("<II")
END = bytes(FRAME.size)


class Begun(msgspec.Struct, frozen=True, tag=True):
    """First record of a file, and of every start."""

    generation: int
    epoch: int
    next_id: int
    counters: dict[str, int]


class Reserved(msgspec.Struct, frozen=True, tag=True):
    """Ids below this number may have been given out."""

    next_id: int


class Opened(msgspec.Struct, frozen=True, tag=True):
    """A part was accepted."""

    part_id: int
    part_tag: int
    part_text: str
    lot: str
    opened_utc_ns: int
    deadline_ns: int
    recipe: str
    recipe_hash: str
    is_challenge: bool = False


class Closed(msgspec.Struct, frozen=True, tag=True):
    """A part got its verdict; kept whole until the recorder has it."""

    verdict: Verdict


class StoredIds(msgspec.Struct, frozen=True, tag=True):
    """The recorder has these."""

    part_ids: tuple[int, ...]


class Counters(msgspec.Struct, frozen=True, tag=True):
    """Lifetime counters as of now."""

    counters: dict[str, int]


Record: TypeAlias = Begun | Reserved | Opened | Closed | StoredIds | Counters
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)


class Found(NamedTuple):
    """What one file holds."""

    records: list[Record]
    generation: int
    is_cut: bool
    """It ends with something else than its end mark."""


def read(path: Path) -> Found:
    """All whole records up to the end mark or the first damaged frame."""
    records: list[Record] = []
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Found(records, 0, is_cut=False)
    except OSError:
        return Found(records, 0, is_cut=True)
    offset = salt = 0
    while data[offset : offset + len(END)] != END:
        record, offset = _record_at(data, offset, salt)
        is_first = not records
        if record is None or isinstance(record, Begun) != is_first:
            return Found(records, salt, is_cut=True)
        if isinstance(record, Begun):
            salt = record.generation
        records.append(record)
    return Found(records, salt, is_cut=False)


def _record_at(data: bytes, offset: int, salt: int) -> tuple[Record | None, int]:
    """The record (None where it is damaged) and where the next one begins."""
    begin = offset + FRAME.size
    if begin > len(data):
        return None, offset
    length, crc = FRAME.unpack_from(data, offset)
    body = data[begin : begin + length]
    # Salted with the generation: behind a damaged end lie whole frames of an older generation.
    if len(body) != length or zlib.crc32(body, salt) != crc:
        return None, offset
    try:
        return _decoder.decode(body), begin + length
    except (msgspec.ValidationError, msgspec.DecodeError):
        return None, offset


def framed(record: Record, salt: int) -> bytes:
    """salt: generation of the file; 0 for `Begun`, which says it."""
    data = _encoder.encode(record)
    return FRAME.pack(len(data), zlib.crc32(data, salt)) + data
