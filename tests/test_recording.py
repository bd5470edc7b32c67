"""Recordings: what was written is read again, whatever cut the file off."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from appliance.__main__ import app
from appliance.errors import ArtefactError
from appliance.raw_image import decode_image, encode_image
from appliance.recording import (
    Entry,
    Recording,
    SegmentWriter,
    json_schema,
    unfinished,
)
from appliance.recording_repair import repair

CHECK = Path(__file__).parent.parent / "tools" / "mcap_check.mjs"
UTC_NS = 1_790_000_000_000_000_000


class Said(msgspec.Struct):
    """What the JSON topic of these tests holds."""

    word: str = ""


def write(path: Path, pictures: int = 4, is_compressed: bool = False) -> SegmentWriter:
    """A segment in hand: per picture one message on the tape, the picture, one JSON line."""
    writer = SegmentWriter(path, {"box": "b"}, {"/said": Said}, is_compressed)
    for number in range(pictures):
        log_ns = UTC_NS + 10 * number
        writer.add(Entry("/tape/seen", log_ns, 100 + number, number, b"frame %d" % number))
        picture = np.full((6, 8), number, np.uint8)
        entry = Entry("/camera/top", log_ns, 100 + number, number, b"")
        writer.add_image(entry, picture, f"top/{number}")
        said = msgspec.json.encode(Said(word="OK"))
        writer.add(Entry("/said", log_ns + 1, 100 + number, 0, said))
    writer.flush()
    return writer


@pytest.mark.parametrize("is_compressed", [False, True])
def test_a_recording_gives_back_what_was_written(tmp_path: Path, is_compressed: bool) -> None:
    writer = write(tmp_path / "1.mcap", is_compressed=is_compressed)
    writer.note("recipe:cell/1", {"hash": "ab"})
    writer.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["1.mcap"]
    recording = Recording(tmp_path)
    assert recording.about == {"box": "b"}
    assert recording.notes == {"recipe:cell/1": {"hash": "ab"}}
    assert not recording.is_repaired
    tape = list(recording.entries())
    assert [entry.data for entry in tape] == [b"frame %d" % n for n in range(4)]
    assert [(entry.at_ns, entry.sequence) for entry in tape] == [(100 + n, n) for n in range(4)]
    for number, entry in enumerate(tape):
        key, picture = recording.image("/camera/top", entry.log_ns)
        assert key == f"top/{number}"
        assert np.array_equal(picture, np.full((6, 8), number))
    assert [key for _, key in recording.image_keys] == [entry.log_ns for entry in tape]
    assert not recording.has_image("/camera/top", UTC_NS + 1)
    assert [entry.data for entry in recording.entries("/said")] == [b'{"word":"OK"}'] * 4


def test_several_segments_are_one_recording(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"{number}.mcap", 2).finish()
    write(tmp_path / "3.mcap", 2).abandon()
    recording = Recording(tmp_path)
    assert len(list(recording.entries())) == 6
    assert recording.open_segments == 1
    assert len(list(Recording(tmp_path / "1.mcap").entries())) == 2


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [0, 3])
def test_pixels_come_back_bit_for_bit(dtype: str, channels: int) -> None:
    shape = (5, 7, 3) if channels else (5, 7)
    picture = np.random.default_rng(0).integers(0, 4096, shape).astype(dtype)
    key, back = decode_image(encode_image(picture, "top/9", UTC_NS))
    assert key == "top/9"
    assert back.dtype == picture.dtype
    assert np.array_equal(back, picture)


def test_maps_come_back_bit_for_bit() -> None:
    amap = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    amap[0, 0] = np.nan
    _, back = decode_image(encode_image(amap, "top/9", UTC_NS))
    assert back.tobytes() == amap.tobytes()


def test_a_segment_cut_off_anywhere_is_repaired_to_what_was_whole(tmp_path: Path) -> None:
    write(tmp_path / "whole" / "1.mcap").abandon()
    data = (tmp_path / "whole" / "1.mcap.open").read_bytes()
    found: list[int] = []
    for number, length in enumerate([*range(0, len(data), 397), len(data)]):
        folder = tmp_path / f"r{number:04d}"
        folder.mkdir()
        (folder / "1.mcap.open").write_bytes(data[:length])
        path, count, damaged = repair(folder / "1.mcap.open")
        assert damaged == 0, "a torn end is no damage"
        found.append(count)
        assert not (folder / "1.mcap.open").exists()
        if path is None:
            assert count == 0
            assert list(folder.iterdir()) == []
        else:
            recording = Recording(folder)
            assert recording.is_repaired
            tape = list(recording.entries())
            assert [entry.data for entry in tape] == [b"frame %d" % n for n in range(len(tape))]
            pictures = [recording.image(*key)[1] for key in recording.image_keys]
            assert all(int(p[0, 0]) == n for n, p in enumerate(pictures))
            assert count == len(tape) + len(pictures) + len(list(recording.entries("/said")))
        shutil.rmtree(folder)
    assert found == sorted(found)
    assert found[-1] == 12


def test_a_flipped_bit_anywhere_never_stops_the_repair_nor_the_reader(tmp_path: Path) -> None:
    write(tmp_path / "w" / "1.mcap", is_compressed=True).abandon()
    torn = (tmp_path / "w" / "1.mcap.open").read_bytes()
    write(tmp_path / "w" / "2.mcap", is_compressed=True).finish()
    whole = (tmp_path / "w" / "2.mcap").read_bytes()
    refused, counts = 0, set[int]()
    for at in range(0, len(torn), 13):
        flipped = bytearray(torn)
        flipped[at] ^= 8
        (tmp_path / "1.mcap.open").write_bytes(flipped)
        counts.add(repair(tmp_path / "1.mcap.open").messages)
    for at in range(0, len(whole), 13):
        flipped = bytearray(whole)
        flipped[at] ^= 8
        (tmp_path / "1.mcap").write_bytes(flipped)
        try:
            recording = Recording(tmp_path / "1.mcap")
            list(recording.entries())
            for key in recording.image_keys:
                recording.image(*key)
        except ArtefactError:
            refused += 1
    assert refused > 100
    assert counts == {10, 11, 12}, "a flipped bit costs the chunk it lies in"


def test_damage_in_the_middle_costs_the_chunks_it_lies_in(tmp_path: Path) -> None:
    """Every place in turn, also where a topic is told for the first time: later chunks are kept."""
    write(tmp_path / "w" / "1.mcap", pictures=12).abandon()
    data = (tmp_path / "w" / "1.mcap.open").read_bytes()
    whole = 36
    for at in range(40, len(data) - 400, 97):
        torn = bytearray(data)
        torn[at : at + 60] = bytes(60)
        path = tmp_path / "1.mcap.open"
        path.write_bytes(torn)
        saved = repair(path)
        assert saved.path is not None
        assert saved.damaged <= 1
        assert saved.messages >= whole - 3, f"at {at}: three chunks at most are hit"
        recording = Recording(saved.path)
        assert recording.is_repaired and recording.damaged == saved.damaged
        tape = [int(entry.data.split()[1]) for entry in recording.entries()]
        assert tape == sorted(tape) and tape[-1] >= 10
        assert len(tape) + len(recording.image_keys) + len(list(recording.entries("/said"))) == (
            saved.messages
        )


def test_a_damaged_segment_is_read_in_part_by_who_asks_for_it(tmp_path: Path) -> None:
    path = write(tmp_path / "1.mcap", pictures=6).finish()
    data = path.read_bytes()
    keys = Recording(path).image_keys
    for at in (*range(60, len(data) - 200, 211), len(data) - 60):
        torn = bytearray(data)
        torn[at : at + 16] = b"\xff" * 16
        path.write_bytes(torn)
        recording = Recording(path, is_forgiving=True)
        entries = [entry.data for entry in recording.entries()]
        pictures = [recording.image(*key)[1] for key in recording.image_keys]
        assert len(entries) >= 4 and len(pictures) >= 5
        assert set(recording.image_keys) <= set(keys)
        assert recording.about == {"box": "b"} or at < 200
    path.write_bytes(data)
    assert Recording(path, is_forgiving=True).damaged == 0
    assert Recording(path, is_forgiving=True).image_keys == keys


def test_replay_refuses_a_compressed_segment_with_a_flipped_bit(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        'root = "."\ndeadline_ms = 200\n[[camera]]\nname = "top"\nkind = "files"\nfolder = "x"\n'
    )
    write(tmp_path / "r" / "1.mcap", is_compressed=True).finish()
    data = bytearray((tmp_path / "r" / "1.mcap").read_bytes())
    magic = bytes.fromhex("28b52ffd")  # of a zstd frame
    data[data.index(magic) + len(magic)] ^= 8
    (tmp_path / "r" / "1.mcap").write_bytes(data)
    arguments = ["replay", str(tmp_path / "r"), "--config", str(config)]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, ArtefactError), done.output
    assert "1.mcap: expected a whole MCAP segment" in str(done.exception)


def test_unfinished_segments_are_found_and_finished_ones_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "a" / "1.mcap").finish()
    write(tmp_path / "a" / "2.mcap").abandon()
    write(tmp_path / "b" / "1.mcap").abandon()
    names = [path.relative_to(tmp_path).as_posix() for path in unfinished(tmp_path)]
    assert names == ["a/2.mcap.open", "b/1.mcap.open"]


def test_what_is_no_recording_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="expected a recording"):
        Recording(tmp_path)
    with pytest.raises(ArtefactError, match="expected a recording"):
        Recording(tmp_path / "none.mcap")
    file = tmp_path / "1.mcap"
    file.write_bytes(b"something else, long enough to be read as a file")
    with pytest.raises(ArtefactError, match=r"1\.mcap: expected a whole MCAP segment"):
        Recording(tmp_path)


def test_a_flipped_bit_in_a_picture_is_found(tmp_path: Path) -> None:
    write(tmp_path / "1.mcap").finish()
    recording = Recording(tmp_path)
    key = recording.image_keys[2]
    data = bytearray((tmp_path / "1.mcap").read_bytes())
    at = bytes(data).index(bytes([2] * 48))
    data[at] ^= 1
    (tmp_path / "1.mcap").write_bytes(data)
    assert recording.image(*recording.image_keys[1])[1][0, 0] == 1
    with pytest.raises(ArtefactError, match="crc"):
        recording.image(*key)


def test_the_schema_for_viewers_is_one_flat_object() -> None:
    schema = msgspec.json.decode(json_schema(Said))
    assert schema["type"] == "object"
    assert schema["properties"]["word"]["type"] == "string"


@pytest.fixture(scope="module")
def independent() -> Callable[[Path], subprocess.CompletedProcess[str]]:
    """Reads a segment with `@mcap/core`, which shares no code with us."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    modules = os.environ.get("MCAP_MODULES", str(CHECK.parent))
    find = f"require('module').createRequire('{modules}/x.js').resolve('@mcap/core')"
    if subprocess.run([node, "-e", find], capture_output=True, check=False).returncode:
        pytest.skip("no @mcap/core: npm install @mcap/core, its folder in MCAP_MODULES")

    def check(path: Path) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "MCAP_MODULES": modules}
        command = [node, str(CHECK), str(path)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False, env=environment
        )

    return check


def test_an_independent_reader_finds_every_message_of_whole_and_of_repaired_segments(
    tmp_path: Path, independent: Callable[[Path], subprocess.CompletedProcess[str]]
) -> None:
    whole = write(tmp_path / "1.mcap").finish()
    write(tmp_path / "2.mcap").abandon()
    torn = tmp_path / "2.mcap.open"
    data = bytearray(torn.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 20] = bytes(20)
    torn.write_bytes(data)
    repaired = repair(torn)
    assert repaired.path is not None and repaired.damaged == 1
    for path, messages in ((whole, 12), (repaired.path, repaired.messages)):
        done = independent(path)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["messages"] == messages
        assert set(found["topics"]) == {"/tape/seen", "/camera/top", "/said"}
        assert "foxglove.RawImage (protobuf)" in found["schemas"]
    data = bytearray(whole.read_bytes())
    data[data.index(bytes([2] * 48))] ^= 1
    whole.write_bytes(data)
    assert independent(whole).returncode != 0
