"""What the recorder keeps of the tape, by policy, and what it says of its losses."""

import contextlib
import itertools
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tomli_w

from appliance import deck_writer
from appliance.codes import Reason, Word
from appliance.config import Config, load_config
from appliance.deck import Deck
from appliance.errors import ArtefactError
from appliance.frames import RingReader, RingWriter
from appliance.messages import FrameReady, Scored, Taped, Verdict, Words
from appliance.recording import Entry, Recording, SegmentWriter, unfinished
from appliance.wire import encode
from tests.waiting import until


class Feed:
    """decide's tape and the rings, as the recorder sees them."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.frames = RingWriter(config.rings_dir, "frame-top", 16, 64)
        self.maps = RingWriter(config.rings_dir, "map-0", 16, 64)
        self.sequence = 0
        self.deck = self.open()

    def open(self) -> Deck:
        return Deck(self.config, RingReader(self.config.rings_dir), time.monotonic_ns)

    def tell(self, topic: str, message: FrameReady | Scored | Verdict) -> None:
        self.sequence += 1
        self.deck.heard(
            Taped(sequence=self.sequence, at_ns=self.sequence, topic=topic, data=encode(message))
        )

    def frame(self, number: int) -> FrameReady:
        frame = FrameReady(
            camera="top",
            part_id=number,
            frame_id=number,
            setup_hash="s",
            pixels=self.frames.put(np.full((4, 4), number, np.uint16)),
            age_ns=0,
        )
        self.tell("seen", frame)
        return frame

    def part(self, number: int, word: Word = Word.OK) -> None:
        frame = self.frame(number)
        amap = self.maps.put(np.full((1, 2, 2), number, np.float32))
        self.tell(
            "scored",
            Scored(
                camera="top", part_id=number, frame_id=number, setup_hash="s", map=amap,
                classification=0.0,
            ),
        )  # fmt: skip
        self.verdict(number, word, frame)

    def verdict(self, number: int, word: Word, frame: FrameReady) -> None:
        self.tell(
            "verdicts",
            Verdict(
                part_id=number, acq_id=number, epoch=1, word=word, reason=Reason.NONE,
                camera="top", frame_id=number, pixels=frame.pixels,
            ),
        )  # fmt: skip

    def recorded(self) -> tuple[list[int], list[int]]:
        """Frame ids whose pictures and maps were kept, pixels checked."""
        self.deck.close(10)
        (folder,) = self.config.recordings_dir.iterdir()
        recording = Recording(folder)
        assert recording.open_segments == 0
        kept: dict[str, list[int]] = {"/camera/top": [], "/map/top": []}
        for topic, log_ns in recording.image_keys:
            key, pixels = recording.image(topic, log_ns)
            assert set(pixels.reshape(-1)) == {int(key.partition("/")[2])}
            kept[topic].append(int(pixels.flat[0]))
        return sorted(kept["/camera/top"]), sorted(kept["/map/top"])


@pytest.fixture
def root() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="insp", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def feed(root: Path, **camera: object) -> Feed:
    settings = {
        "root": ".",
        "deadline_ms": 200,
        "rings": "rings",
        "camera": [{"name": "top", "kind": "files", "folder": "x", **camera}],
    }
    (root / "config.toml").write_text(tomli_w.dumps(settings))
    return Feed(load_config(root / "config.toml"))


def test_nothing_is_recorded_where_no_camera_asks_for_it(root: Path) -> None:
    line = feed(root)
    line.part(1)
    line.deck.close()
    assert line.deck.figures() == {}
    assert not line.config.recordings_dir.exists()


def test_all_keeps_every_picture_and_map(root: Path) -> None:
    line = feed(root, record="all")
    for number in range(1, 9):
        line.part(number, Word.NG if number == 3 else Word.OK)
    assert line.recorded() == (list(range(1, 9)), list(range(1, 9)))
    assert line.deck.figures()["recorded"] == 16
    assert line.deck.figures()["record_dropped"] == 0
    (segment,) = line.config.recordings_dir.glob("*/*")
    assert segment.name == "000001.ng.mcap"


def test_ng_keeps_what_was_not_ok_and_every_message(root: Path) -> None:
    words = [Word.OK, Word.NG, Word.OK, Word.UNCERTAIN, Word.ERROR, Word.OK]
    line = feed(root, record="ng")
    for number, word in enumerate(words, 1):
        line.part(number, word)
    assert line.recorded() == ([2, 4, 5], [2, 4, 5])
    (folder,) = line.config.recordings_dir.iterdir()
    assert len(list(Recording(folder).entries())) == 3 * len(words)


def test_ng_keeps_the_map_that_comes_after_a_late_verdict(root: Path) -> None:
    line = feed(root, record="ng")
    frame = line.frame(1)
    line.verdict(1, Word.ERROR, frame)
    amap = line.maps.put(np.full((1, 2, 2), 1, np.float32))
    line.tell(
        "scored",
        Scored(camera="top", part_id=1, frame_id=1, setup_hash="s", map=amap, classification=0.0),
    )
    assert line.recorded() == ([1], [1])


def test_sampled_keeps_one_in_n(root: Path) -> None:
    line = feed(root, record="sampled", record_every=3)
    for number in range(1, 11):
        line.part(number)
    assert line.recorded()[0] == [1, 4, 7, 10]


def test_what_was_overwritten_before_it_was_copied_is_told(root: Path) -> None:
    line = feed(root, record="ng")
    frame = line.frame(1)
    for number in range(2, 20):
        line.frames.put(np.full((4, 4), number, np.uint16))
    line.verdict(1, Word.NG, frame)
    assert line.recorded() == ([], [])
    assert line.deck.figures()["record_dropped"] == 1
    assert line.deck.dropped_at_ns is not None
    (folder,) = line.config.recordings_dir.iterdir()
    (lost,) = Recording(folder).entries("/lost")
    assert b"was overwritten" in lost.data


def test_a_gap_in_the_tape_is_counted(root: Path) -> None:
    line = feed(root, record="all")
    line.part(1)
    line.sequence += 5
    line.part(2)
    line.deck.close(10)
    assert line.deck.figures()["tape_gaps"] == 5


def test_the_ring_keeps_the_last_minutes_unless_something_went_wrong(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deck_writer, "SEGMENT_BYTES", 1500)
    line = feed(root, record="ring", record_minutes=0.01)

    def parts() -> set[int]:
        found: set[int] = set()
        for segment in line.config.recordings_dir.glob("*/*.mcap"):
            with contextlib.suppress(ArtefactError):  # the ring removes it just now
                recording = Recording(segment)
                keys = [key for key in recording.image_keys if key[0] == "/camera/top"]
                found |= {int(recording.image(*key)[1].flat[0]) for key in keys}
        return found

    numbers = itertools.count(1)

    def gone(number: int) -> bool:
        line.part(next(numbers))
        return number not in parts()

    line.part(next(numbers))
    until("its segment", lambda: not gone(1))
    until("the oldest gone", lambda: gone(1))
    wrong = next(numbers)
    line.part(wrong, Word.ERROR)
    until("its segment", lambda: not gone(wrong))
    later = next(numbers) + 20
    until("a later one", lambda: not gone(later))
    until("the later one gone", lambda: gone(later))
    line.deck.close(10)
    assert wrong in parts()


def test_a_fault_of_the_box_keeps_the_ring(root: Path) -> None:
    line = feed(root, record="ring", record_minutes=0.01)
    line.part(1)
    line.deck.heard(Words(registers={100: 0, 106: 2}))
    assert line.recorded()[0] == [1]


def test_a_disk_that_takes_nothing_is_counted_and_tried_again(root: Path) -> None:
    line = feed(root, record="all")
    line.config.data_dir.mkdir(parents=True)
    line.config.recordings_dir.write_text("in the way")
    line.part(1)
    until("a loss", lambda: line.deck.figures()["record_dropped"] > 0)
    assert "recording" in line.deck.note
    line.config.recordings_dir.unlink()

    def written() -> bool:
        line.part(2)
        return any(line.config.recordings_dir.glob("*/*"))

    until("a new segment", written)
    line.deck.close(10)
    assert line.deck.note == ""


def test_a_recorder_that_was_killed_finds_its_segment_repaired(root: Path) -> None:
    line = feed(root, record="all")
    for number in range(1, 4):
        line.part(number)
    folder = line.config.recordings_dir

    def size() -> int:
        return sum(path.stat().st_size for path in folder.glob("*/*.open"))

    until("bytes on the disk", lambda: size() > 2000)
    time.sleep(0.3)  # what is queued reaches the kernel
    (open_segment,) = unfinished(folder)
    data = open_segment.read_bytes()
    line.deck.close(10)
    (finished,) = folder.glob("*/*.mcap")
    finished.unlink()
    open_segment.write_bytes(data[:-7])
    line.deck = line.open()
    until("a repaired segment", lambda: not unfinished(folder))
    recording = Recording(open_segment.parent)
    assert recording.is_repaired
    assert len(list(recording.entries())) >= 8
    line.deck.close(10)


def test_a_damaged_segment_costs_itself_and_not_the_next_recording(root: Path) -> None:
    line = feed(root, record="all")
    line.deck.close(10)
    folder = line.config.recordings_dir / "before"
    for number, damage_at in enumerate((60, 400), 1):
        writer = SegmentWriter(folder / f"{number}.mcap", {"box": "b"}, {}, is_compressed=True)
        for count in range(200):
            writer.add(Entry("/tape/seen", count + 1, count, count, b"message %d" % count))
            writer.flush()
        writer.abandon()
        path = folder / f"{number}.mcap.open"
        data = bytearray(path.read_bytes())
        at = data.index(bytes.fromhex("28b52ffd"), damage_at) + 6  # within a zstd frame
        data[at : at + 4] = b"\xff\xff\xff\xff"
        path.write_bytes(data)
    line.deck = line.open()
    until("an end of the repairs", lambda: not unfinished(line.config.recordings_dir))
    line.part(1)
    line.deck.close(10)
    assert line.deck.figures()["segments"] == 1
    assert line.deck.figures()["record_dropped"] == 2, "a damaged place in each of them"
    assert "2.mcap: 1 damaged places, 199 messages saved" in line.deck.note


def test_what_cannot_be_repaired_is_kept_named_and_counted(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Path) -> None:
        raise KeyError(path.name)

    line = feed(root, record="all")
    line.deck.close(10)
    folder = line.config.recordings_dir / "before"
    folder.mkdir(parents=True)
    (folder / "1.mcap.open").write_bytes(b"nobody can read this")
    monkeypatch.setattr(deck_writer, "repair", fails)
    line.deck = line.open()
    until("a file set aside", lambda: line.deck.note != "")
    assert [path.name for path in folder.iterdir()] == ["1.mcap.damaged"]
    assert (folder / "1.mcap.damaged").read_bytes() == b"nobody can read this"
    line.part(1)
    line.deck.close(10)
    assert line.deck.figures()["segments"] == 1
    assert line.deck.figures()["record_dropped"] == 1
    assert line.deck.dropped_at_ns is not None
    assert "1.mcap.damaged: cannot be repaired: KeyError" in line.deck.note


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_writer_that_died_takes_nothing_more_and_says_so(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise KeyError("a bug")

    line = feed(root, record="all")
    monkeypatch.setattr(SegmentWriter, "add", fails)
    line.part(1)
    until("a note", lambda: line.deck.note != "")
    assert "recording ended" in line.deck.note
    assert "a bug" in line.deck.note
    before = line.deck.figures()
    assert before["record_dropped"] > 0
    line.part(2)
    after = line.deck.figures()
    assert after["recorded"] == before["recorded"]
    assert after["record_dropped"] >= before["record_dropped"] + 3  # messages, picture, map
    assert line.deck.dropped_at_ns is not None
    line.deck.close(10)
