"""A segment that nobody finished is made whole: after a kill, after a power cut.

Leaves: a finished segment with every message that is whole, also of those behind a damaged place.
"""
# The records of an MCAP file are typed by name alone.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import os
from pathlib import Path
from typing import NamedTuple

from mcap.records import Message, Metadata, Schema
from mcap.writer import CompressionType, Writer

from appliance.recording import CAMERA, CHUNK_BYTES, DAMAGED_SUFFIX, MAP, OPEN_SUFFIX
from appliance.recording_blocks import Salvage


class Repaired(NamedTuple):
    """What became of a segment that nobody finished."""

    path: Path | None
    """The finished segment; None where nothing was whole."""
    messages: int
    damaged: int
    """Stretches that could not be read though whole records follow them; a torn end is none."""


def repair(path: Path) -> Repaired:
    """An unfinished segment made whole: all its messages that are whole. Raises OSError."""
    target = path.with_name(path.name.removesuffix(OPEN_SUFFIX))
    draft = path.with_name(f".{target.name}.repaired")
    try:
        count, damaged = _copy_whole(path, draft)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    if count:
        draft.rename(target)
    else:
        draft.unlink()
    path.unlink()
    return Repaired(target if count else None, count, damaged)


def _copy_whole(path: Path, draft: Path) -> tuple[int, int]:
    data, count = path.read_bytes(), 0
    known = Salvage(data).channels()
    salvage = Salvage(data)
    with draft.open("wb") as sink:
        writer = Writer(sink, chunk_size=CHUNK_BYTES, compression=CompressionType.NONE)
        writer.start(profile="inspectd", library="inspectd")
        schemas, channels = dict[int, int](), dict[int, int]()
        for block in salvage.blocks():
            for record in block.records:
                match record:
                    case Metadata():
                        writer.add_metadata(record.name, record.metadata)
                    case Schema():
                        if record.id not in schemas:
                            schemas[record.id] = writer.register_schema(
                                record.name, record.encoding, record.data
                            )
                    case Message() if record.channel_id in known:
                        channel = known[record.channel_id]
                        if record.channel_id not in channels:
                            channels[record.channel_id] = writer.register_channel(
                                channel.topic,
                                channel.message_encoding,
                                schemas.get(channel.schema_id, 0),
                                channel.metadata,
                            )
                        is_image = channel.topic.startswith((CAMERA, MAP))
                        if is_image:
                            writer.flush()
                        writer.add_message(
                            channels[record.channel_id],
                            record.log_time,
                            record.data,
                            record.publish_time,
                            record.sequence,
                        )
                        if is_image:
                            writer.flush()
                        count += 1
                    case _:
                        pass
        told = {"messages": str(count), "damaged": str(salvage.damaged)}
        writer.add_metadata("repaired", told)
        writer.finish()
        sink.flush()
        os.fsync(sink.fileno())
    return count, salvage.damaged


def set_aside(path: Path) -> Path:
    """An unfinished segment that `repair` fails on, kept under another name: no start meets it
    again, no reader and no retention either. Raises OSError.
    """
    return path.rename(path.with_name(path.name.removesuffix(OPEN_SUFFIX) + DAMAGED_SUFFIX))
