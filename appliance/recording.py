"""Recordings on disk: MCAP segments, written so that a kill costs what was not yet flushed.

A recording is a directory of segments. One picture lies alone in its chunk; small messages share
one. A segment that is being written is called `.open`; it is finished (index, fsync, rename)
before the next one begins. A file that was cut off has no index, so recording_repair.py copies what
is whole into a finished segment. Readers take finished segments alone.

Topics: `/camera/NAME` and `/map/NAME` hold `foxglove.RawImage`; `/tape/…` holds the very bytes
that went between the processes (MessagePack of messages.py), `publish_time` being decide's
monotonic clock and `sequence` the count of what decide heard; `/verdict`, `/words` and `/health`
say the same for people, as JSON with a schema. `log_time` is the wall clock and grows strictly: a
picture carries the time of the message that announced it, which is how one finds the other.
"""
# The records of an MCAP file are typed by name alone.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import contextlib
import os
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec
import numpy.typing as npt
from mcap.reader import make_reader
from mcap.records import ChunkIndex, Message, Metadata
from mcap.writer import CompressionType, IndexType, Writer

from appliance import raw_image
from appliance.errors import ArtefactError
from appliance.raw_image import decode_image, encode_image
from appliance.recording_blocks import CHANNEL, TORN, Salvage, read_chunk

OPEN_SUFFIX = ".open"
DAMAGED_SUFFIX = ".damaged"
CAMERA, MAP, TAPE = "/camera/", "/map/", "/tape/"
CHUNK_BYTES = 1 << 20
Schemas = Mapping[str, type[msgspec.Struct]]
"""JSON topic → the struct whose schema it carries."""


class Entry(NamedTuple):
    """One message of a recording."""

    topic: str
    log_ns: int
    """Wall clock, strictly growing; names the picture that belongs to a message."""
    at_ns: int
    """Decide's monotonic clock."""
    sequence: int
    data: bytes


class SegmentWriter:
    """One segment, `PATH.open` until `finish`. Not for several threads. Raises OSError.

    about: what a reader must know of the whole recording. schemas: of the JSON topics.
    """

    def __init__(
        self, path: Path, about: Mapping[str, str], schemas: Schemas, is_compressed: bool = False
    ) -> None:
        self.path = path
        self._schemas = schemas
        path.parent.mkdir(parents=True, exist_ok=True)
        self._open = path.with_name(path.name + OPEN_SUFFIX)
        self._file = self._open.open("wb", buffering=1 << 18)
        self._writer = Writer(
            self._file,
            chunk_size=CHUNK_BYTES,
            compression=CompressionType.ZSTD if is_compressed else CompressionType.NONE,
            index_types=IndexType.ALL,
        )
        self._channels: dict[str, int] = {}
        self._new: list[str] = []
        self._untold: list[str] = []
        self._image_schema = 0
        self.messages = 0
        self._writer.start(profile="inspectd", library="inspectd")
        self.note("inspectd", about)

    @property
    def bytes(self) -> int:
        """Written so far; what waits in the chunk in hand is not counted."""
        return self._file.tell()

    def note(self, name: str, facts: Mapping[str, str]) -> None:
        """Facts about the recording, as MCAP metadata."""
        self._writer.add_metadata(name, dict(facts))

    def add(self, entry: Entry) -> None:
        """A small message; on the disk after the next `flush`."""
        self._writer.add_message(
            self._channel(entry.topic),
            log_time=entry.log_ns,
            data=entry.data,
            publish_time=max(0, entry.at_ns),
            sequence=entry.sequence & 0xFFFFFFFF,
        )
        self.messages += 1

    def add_image(self, entry: Entry, array: npt.NDArray[Any], key: str) -> None:
        """Pixels, alone in their chunk; `entry.data` is not used."""
        self.flush()
        self.add(entry._replace(data=encode_image(array, key, entry.log_ns)))
        self.flush()

    def flush(self) -> None:
        """Hand everything to the kernel: a kill of this process loses nothing of it."""
        self._writer.flush()
        self._tell_channels()

    def finish(self, name: str = "") -> Path:
        """Index, fsync, rename; under another file name where one is given."""
        target = self.path.with_name(name) if name else self.path
        try:
            self._writer.finish()
            self._file.flush()
            os.fsync(self._file.fileno())
        finally:
            self._file.close()
        self._open.rename(target)
        return target

    def abandon(self) -> None:
        """Let the file go as it is; `repair` makes the best of it."""
        with contextlib.suppress(OSError):
            self._file.close()

    def _channel(self, topic: str) -> int:
        if topic not in self._channels:
            self._channels[topic] = self._register(topic)
            self._new.append(topic)
        return self._channels[topic]

    def _tell_channels(self) -> None:
        """Once more, and not beside the chunk that says it first: one torn place takes one."""
        for topic in self._untold:
            encoding = "protobuf" if topic.startswith((CAMERA, MAP)) else "json"
            encoding = "msgpack" if topic.startswith(TAPE) else encoding
            number = str(self._channels[topic])
            self.note(CHANNEL, {"id": number, "topic": topic, "encoding": encoding})
        self._untold, self._new = self._new, []

    def _register(self, topic: str) -> int:
        if topic.startswith((CAMERA, MAP)):
            if not self._image_schema:
                self._image_schema = self._writer.register_schema(
                    raw_image.SCHEMA_NAME, "protobuf", raw_image.SCHEMA
                )
            return self._writer.register_channel(topic, "protobuf", self._image_schema)
        if topic.startswith(TAPE):
            return self._writer.register_channel(topic, "msgpack", 0)
        kind = self._schemas[topic]
        schema = self._writer.register_schema(
            f"inspectd.{kind.__name__}", "jsonschema", json_schema(kind)
        )
        return self._writer.register_channel(topic, "json", schema)


def json_schema(kind: type[msgspec.Struct]) -> bytes:
    """One flat object, as viewers want it."""
    schema = msgspec.json.schema(kind)
    flat = schema["$defs"].pop(kind.__name__) if "$defs" in schema else schema
    if schema.get("$defs"):
        flat["$defs"] = schema["$defs"]
    return msgspec.json.encode(flat)


def unfinished(folder: Path) -> list[Path]:
    """Segments below `folder` that nobody finished."""
    return sorted(folder.glob(f"*/*.mcap{OPEN_SUFFIX}"))


class _Place(NamedTuple):
    """Where a chunk lies."""

    path: Path
    offset: int
    log_ns: int


class Recording:
    """A recording to read: a directory of finished segments, or one segment.

    Raises ArtefactError where there is none, or where a segment is damaged. is_forgiving: damaged
    places are left out and counted instead; every byte is read for that at once.
    """

    def __init__(self, path: Path, is_forgiving: bool = False) -> None:
        self.path = path
        self.damaged = 0
        """Places that could not be read; what stood in them shows as lost messages and pictures."""
        self.segments = sorted(path.glob("*.mcap")) if path.is_dir() else [path]
        if not self.segments or not self.segments[0].is_file():
            raise ArtefactError(path, "a recording (.mcap, or a directory of them)", "none")
        self.about: dict[str, str] = {}
        self.notes: dict[str, dict[str, str]] = {}
        """Other metadata by name, for instance "recipe:cell/3"."""
        self.is_repaired = False
        """A segment was cut off when the recorder was killed."""
        self.gaps: list[int] = []
        """`log_ns` where a segment begins whose predecessor was removed: by the ring, by retention,
        or because nothing of it could be repaired."""
        self._images: dict[tuple[str, int], _Place] = {}
        self._small: list[_Place] = []
        self._channels: dict[Path, dict[int, str]] = {}
        before: int | None = None
        for segment in self.segments:
            begins = len(self._small)
            with _explained(segment):
                (self._salvage if is_forgiving else self._index)(segment)
            number = _number(segment)
            if before is not None and number != before + 1 and len(self._small) > begins:
                self.gaps.append(self._small[begins].log_ns)
            before = number

    @property
    def open_segments(self) -> int:
        """Segments that are being written just now, or wait for their repair; not read."""
        return len(list(self.path.glob(f"*{OPEN_SUFFIX}"))) if self.path.is_dir() else 0

    @property
    def image_keys(self) -> list[tuple[str, int]]:
        """(topic, log_ns) of every picture and map, in the order of their messages."""
        return sorted(self._images, key=lambda key: key[1])

    def entries(self, prefix: str = TAPE) -> Iterator[Entry]:
        """Small messages of these topics in the order in which they were written."""
        file: BinaryIO | None = None
        channels: dict[int, str] = {}
        at = Path()
        try:
            for place in self._small:
                if file is None or at != place.path:
                    if file is not None:
                        file.close()
                    file, at = place.path.open("rb"), place.path
                    channels = self._channels[at]
                with _explained(place.path):
                    records = read_chunk(file, place.offset)
                for record in records:
                    if isinstance(record, Message):
                        topic = channels.get(record.channel_id, "")
                        if topic.startswith(prefix):
                            yield Entry(
                                topic,
                                record.log_time,
                                record.publish_time,
                                record.sequence,
                                record.data,
                            )
        finally:
            if file is not None:
                file.close()

    def has_image(self, topic: str, log_ns: int) -> bool:
        """Whether the pixels that this message announced were kept."""
        return (topic, log_ns) in self._images

    def image(self, topic: str, log_ns: int) -> tuple[str, npt.NDArray[Any]]:
        """Key and pixels, read-only. Raises KeyError where they were not kept, ArtefactError."""
        place = self._images[topic, log_ns]
        with _explained(place.path), place.path.open("rb") as file:
            for record in read_chunk(file, place.offset):
                if isinstance(record, Message):
                    return decode_image(record.data)
        raise ArtefactError(place.path, "a picture in its chunk", "none")

    def _index(self, segment: Path) -> None:
        """The summary at the end of a segment: no pixel is read."""
        with segment.open("rb") as file:
            reader = make_reader(file)
            summary = reader.get_summary()
            if summary is None:
                raise ArtefactError(segment, "a finished segment", "one without its index")
            for metadata in reader.iter_metadata():
                self._remember(metadata)
            topics = {number: channel.topic for number, channel in summary.channels.items()}
            self._channels[segment] = topics
            for index in sorted(summary.chunk_indexes, key=_offset):
                place = _Place(segment, index.chunk_start_offset, index.message_start_time)
                self._place(place, [topics.get(n, "") for n in index.message_index_offsets])

    def _salvage(self, segment: Path) -> None:
        """The same without the summary: from everything that is whole."""
        data = segment.read_bytes()
        salvage = Salvage(data)
        topics = {number: channel.topic for number, channel in salvage.channels().items()}
        self._channels[segment] = topics
        self.damaged += salvage.damaged
        for block in Salvage(data).blocks():
            for record in block.records:
                if isinstance(record, Metadata):
                    self._remember(record)
            messages = [record for record in block.records if isinstance(record, Message)]
            if messages:
                place = _Place(segment, block.offset, min(m.log_time for m in messages))
                self._place(place, list({topics.get(m.channel_id, "") for m in messages}))

    def _remember(self, metadata: Metadata) -> None:
        if metadata.name == "inspectd":
            self.about = self.about or metadata.metadata
        elif metadata.name == "repaired":
            self.is_repaired = True
            self.damaged += int(metadata.metadata.get("damaged", "0"))
        elif metadata.name != CHANNEL:
            self.notes[metadata.name] = metadata.metadata

    def _place(self, place: _Place, topics: list[str]) -> None:
        if len(topics) == 1 and topics[0].startswith((CAMERA, MAP)):
            self._images[topics[0], place.log_ns] = place
        else:
            self._small.append(place)


def _number(segment: Path) -> int:
    """`000012.ok.mcap` → 12; 0 for a file of another name."""
    first = segment.name.partition(".")[0]
    return int(first) if first.isdecimal() else 0


def _offset(index: ChunkIndex) -> int:
    return index.chunk_start_offset


@contextlib.contextmanager
def _explained(segment: Path) -> Generator[None]:
    try:
        yield
    except TORN as err:
        raise ArtefactError(
            segment, "a whole MCAP segment", str(err) or type(err).__name__
        ) from err
    except OSError as err:
        raise ArtefactError(segment, "a readable segment", err.strerror or str(err)) from err
