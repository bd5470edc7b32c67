"""The whole records of a segment, also of one that was cut off or damaged in its middle.

Every chunk of a segment stands by itself: its header says how long it is, a CRC that it is whole. A
torn record is therefore skipped, and the next whole chunk found by its header, so that damage costs
the chunks it lies in and no others. Which topic a channel is stands in the chunk that used it first
and once more outside of all chunks (`CHANNEL`), since that chunk may be the torn one.
"""
# The records of an MCAP file are typed by name alone.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import re
import struct
from collections.abc import Iterator
from io import BytesIO
from typing import Any, BinaryIO, NamedTuple

from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, Metadata, Schema
from mcap.stream_reader import breakup_chunk
from zstandard import ZstdError

CHANNEL = "channel"
"""Name of the metadata that say once more what a channel is."""
TORN = (
    McapError, ValueError, struct.error, EOFError, OverflowError, MemoryError,
    ZstdError,
    RuntimeError,  # what lz4 raises
)  # fmt: skip
"""What the readers raise on a file that was cut off or damaged."""

_HEAD = struct.Struct("<BQ")
_CHUNK = struct.Struct("<QQQII")
"""Start, end, size, CRC and the length of the compression's name."""
_LARGEST_RECORD = 1 << 30
_MAGIC_BYTES = 8
_CHUNK_HEAD = re.compile(rb"\x06.{3}[\x00-\x3f]\x00{4}", re.DOTALL)
"""Opcode and length of a chunk of less than `_LARGEST_RECORD`."""


class Block(NamedTuple):
    """One whole record, or one whole chunk."""

    offset: int
    end: int
    records: list[Any]
    is_chunk: bool


class Salvage:
    """Everything whole in the bytes of a segment. `damaged` is known when `blocks` has ended."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.damaged = 0

    def blocks(self) -> Iterator[Block]:
        """In the order of the file."""
        at = sure = _MAGIC_BYTES
        is_torn = False
        while at + _HEAD.size <= len(self._data):
            block = self._block(at)
            if block is None:
                # What stands between two chunks has no CRC: a wrong length there leads anywhere.
                is_torn, at = True, self._next_chunk(sure)
                continue
            self.damaged += is_torn
            is_torn = False
            yield block
            at = block.end
            if block.is_chunk:
                sure = at

    def channels(self) -> dict[int, Channel]:
        """Of the whole file, wherever they are told."""
        found: dict[int, Channel] = {}
        for block in self.blocks():
            for record in block.records:
                channel = _channel(record)
                if channel is not None and (channel.schema_id or channel.id not in found):
                    found[channel.id] = channel
        return found

    def _block(self, at: int) -> Block | None:
        """None where it is torn, or no record at all."""
        opcode, length = _HEAD.unpack_from(self._data, at)
        begin, end = at + _HEAD.size, at + _HEAD.size + length
        is_known = Opcode.HEADER <= opcode <= Opcode.DATA_END
        if not is_known or length > _LARGEST_RECORD or end > len(self._data):
            return None
        if opcode not in _READ:
            return Block(at, end, [], is_chunk=False)
        if opcode == Opcode.CHUNK and not self._is_chunk(begin, length):
            return None
        try:
            record = _READ[opcode](ReadDataStream(BytesIO(self._data[begin:end])))
            if isinstance(record, Chunk):
                return Block(at, end, breakup_chunk(record, validate_crc=True), is_chunk=True)
        except TORN:
            return None
        return Block(at, end, [record], is_chunk=False)

    def _is_chunk(self, begin: int, length: int) -> bool:
        """Whether the lengths inside agree: cheap, so that pixels are seldom taken for a chunk."""
        if length < _CHUNK.size + 8:
            return False
        *_, name = _CHUNK.unpack_from(self._data, begin)
        if name not in (0, 3, 4):  # "", lz4, zstd
            return False
        at = begin + _CHUNK.size + name
        stated = int.from_bytes(self._data[at : at + 8], "little")
        return stated == length - _CHUNK.size - name - 8

    def _next_chunk(self, begin: int) -> int:
        """Where the next whole chunk begins; the end where there is none."""
        for match in _CHUNK_HEAD.finditer(self._data, begin):
            if self._block(match.start()) is not None:
                return match.start()
        return len(self._data)


_READ: dict[int, Any] = {
    Opcode.CHUNK: Chunk.read,
    Opcode.SCHEMA: Schema.read,
    Opcode.CHANNEL: Channel.read,
    Opcode.METADATA: Metadata.read,
}


def _channel(record: Any) -> Channel | None:
    if isinstance(record, Channel):
        return record
    if isinstance(record, Metadata) and record.name == CHANNEL:
        told = record.metadata
        try:
            return Channel(
                id=int(told["id"]),
                topic=told["topic"],
                message_encoding=told["encoding"],
                schema_id=0,
                metadata={},
            )
        except (KeyError, ValueError):
            return None
    return None


def read_chunk(file: BinaryIO, offset: int) -> list[Any]:
    """The records of one chunk. Raises what is in TORN."""
    file.seek(offset)
    stream = ReadDataStream(file)
    stream.read1()
    stream.read8()
    return breakup_chunk(Chunk.read(stream), validate_crc=True)
