"""Everything that inspectd decodes, fed with damaged and random bytes; who lets out what.

A decoder may refuse with its own error, which a person can read, and nothing else: no crash, no
hang, no other exception. In CI some hundred inputs each (tests/test_fuzz.py); as many as wanted by

    python -m tests.fuzz --inputs 100000
"""

import argparse
import contextlib
import math
import os
import random
import shutil
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from appliance.audit import AuditJournal
from appliance.bundle import load_bundle
from appliance.camera_files import read_picture
from appliance.codes import Reason, Word
from appliance.config import Config, load_config
from appliance.engine_null import write_null_bundle
from appliance.errors import ConfigError, DeviceError, PartError
from appliance.frames import RingReader, RingWriter, inline_ref, inline_view
from appliance.journal import Journal
from appliance.journal_records import Opened
from appliance.messages import FrameReady, Health, Scored, Trigger, Verdict, Words
from appliance.product_table import load_products
from appliance.recipe import Limits, Recipe, load_recipe, write_recipe
from appliance.recording import Entry, Recording, SegmentWriter
from appliance.recording_repair import repair
from appliance.wire import decode, encode

CONFIG = """root = "."
deadline_ms = 200
trigger = "plc"
[[camera]]
name = "top"
kind = "files"
folder = "pictures"
faults = { drop_every = 3 }
nodes = { Gain = 1.5 }
[engine]
kind = "null"
[plc]
port = 5020
allow = ["192.168.1.0/24"]
[record]
min_free_gb = 1.5
"""
PRODUCTS = '[[product]]\nnumber = 1\nrecipe = "cell/1"\n'
TOML_WORDS = (b'"', b"'", b"[", b"]]", b"{", b"\n", b"=", b"1e999", b"nan", b"-1", b"true", b"\\u",
              b"2026-01-01", b"9" * 40, b"\xff", b"\0", b'"""')  # fmt: skip


@dataclass(frozen=True)
class Target:
    """seeds: good inputs. feed: gives one to the decoder. refuses: what it may raise."""

    seeds: tuple[bytes, ...]
    feed: Callable[[bytes], object]
    refuses: tuple[type[Exception], ...]
    words: tuple[bytes, ...] = ()


class Bench:
    """One installation below `root`, and the targets on it. A context manager."""

    def __init__(self) -> None:
        memory = Path("/dev/shm")
        self.root = Path(tempfile.mkdtemp(prefix="insp", dir=memory if memory.is_dir() else None))
        (self.root / "config.toml").write_text(CONFIG)
        (self.root / "products.toml").write_text(PRODUCTS)
        self.config: Config = load_config(self.root / "config.toml")
        self.bundle = write_null_bundle(self.config.bundles_dir / "null", "null", 64, 64)
        self.recipe = Recipe(
            id="cell",
            version=1,
            bundle=self.bundle.id,
            bundle_dir="null",
            decides="map_max",
            limits=Limits(t1=1.0, t2=2.0),
        )
        write_recipe(self.config, self.recipe)
        self._path = self.root
        self._rings = RingReader(self.root / "rings")
        self._writer = RingWriter(self.root / "rings", "top", 4, 64 * 64)
        self._ref = self._writer.put(np.zeros((64, 64), np.uint8))

    def targets(self) -> Mapping[str, Target]:
        """By name."""
        recipe = self.config.recipes_dir / "cell" / "1.toml"
        manifest = self.bundle.path("manifest.json")
        refused = (ConfigError,)
        return {
            "message": Target(self._messages(), decode, (msgspec.DecodeError,)),
            "pixel reference": Target(
                (self._messages()[1], *self._inline_frames()),
                self._view,
                (PartError, msgspec.DecodeError),
            ),
            "config.toml": Target(
                (CONFIG.encode(),),
                self._file(self.root / "config.toml", lambda: load_config(self._path)),
                refused,
                TOML_WORDS,
            ),
            "products.toml": Target(
                (PRODUCTS.encode(),),
                self._file(self.root / "products.toml", lambda: load_products(self.config)),
                refused,
                TOML_WORDS,
            ),
            "recipe": Target(
                (recipe.read_bytes(),),
                self._file(recipe, lambda: load_recipe(self.config, "cell/1")),
                refused,
                TOML_WORDS,
            ),
            "manifest": Target(
                (manifest.read_bytes(),),
                self._file(manifest, lambda: load_bundle(self.bundle.folder)),
                refused,
                (b"../", b"/etc/passwd", b'"', b"null", b"1e999", b"[", b"{"),
            ),
            "picture": Target(
                (self.bundle.path("segments.png").read_bytes(),),
                self._file(self.root / "picture.png", lambda: read_picture(self._path)),
                (DeviceError,),
            ),
            "recording": Target((self._recording_bytes(),), self._recording, refused),
            "torn recording": Target((self._recording_bytes(),), self._repair, ()),
            "journal": Target((self._journal_bytes(),), self._journal, refused),
            "audit journal": Target((self._audit_bytes(),), self._audit, ()),
        }

    def _file(self, path: Path, read: Callable[[], object]) -> Callable[[bytes], object]:
        def feed(data: bytes) -> object:
            self._path = path
            path.write_bytes(data)
            return read()

        return feed

    def _view(self, data: bytes) -> None:
        message = decode(data)
        if not isinstance(message, FrameReady):
            return
        ref = message.pixels
        if not ref.ring:
            # The bytes come as the shape wants them, so that it is the shape that is tried.
            wanted = math.prod(ref.shape)
            assert inline_view(ref, bytes(min(max(wanted, 0), 1 << 16))).size
        else:
            assert self._rings.view(ref).size, "a view that can be read"
            self._rings.check(ref)

    def _inline_frames(self) -> Iterator[bytes]:
        """Frames of another box, in every number of dimensions that arrays have and some more."""
        for dimensions in range(70):
            ref = inline_ref(np.zeros((4, 4), np.uint8), 1)
            ref = msgspec.structs.replace(ref, shape=(1,) * dimensions)
            yield encode(
                FrameReady(
                    camera="top", part_id=7, frame_id=3, setup_hash="ab", pixels=ref, age_ns=5
                )
            )

    def _messages(self) -> tuple[bytes, ...]:
        messages = (
            Trigger(part_id=7, part_tag=9),
            FrameReady(
                camera="top", part_id=7, frame_id=3, setup_hash="ab", pixels=self._ref, age_ns=5
            ),
            Scored(camera="top", part_id=7, frame_id=3, setup_hash="ab", map=self._ref,
                   classification=0.5, gates={"mean": 3.0}),
            Verdict(part_id=7, acq_id=7, epoch=1, word=Word.NG, reason=Reason.SEGAD,
                    reasons=("left",), features=(1.0, 2.0)),
            Words(registers={100: 5, 205: 9}, ledger={"unaccounted": 0}),
            Health(process="decide", pid=1, is_serving=True, gauges={"lag_ms": 0.5}),
        )  # fmt: skip
        return tuple(encode(message) for message in messages)

    def _journal_bytes(self) -> bytes:
        folder = self.root / "journal-seed"
        journal = Journal(folder, 1 << 14)
        for part_id in range(1, 9):
            journal.opened(
                Opened(part_id=part_id, part_tag=part_id, part_text="x", lot="", opened_utc_ns=1,
                       deadline_ns=2, recipe="cell/1", recipe_hash="ab")
            )  # fmt: skip
        journal.close()
        return (folder / "journal.0").read_bytes()

    def _journal(self, data: bytes) -> None:
        folder = self.root / "journal"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "journal.0").write_bytes(data)
        Journal(folder, 1 << 14).close()

    def _recording_bytes(self) -> bytes:
        path = self.root / "seed" / "0001.mcap"
        writer = SegmentWriter(path, {"box": "b"}, {})
        for number in range(3):
            entry = Entry("/tape/seen", 10 * number + 1, number, number, b"frame %d" % number)
            writer.add(entry)
            picture = np.full((6, 8), number, np.uint8)
            writer.add_image(entry._replace(topic="/camera/top"), picture, f"top/{number}")
        return writer.finish().read_bytes()

    def _recording(self, data: bytes) -> None:
        path = self.root / "0001.mcap"
        path.write_bytes(data)
        recording = Recording(path)
        list(recording.entries())
        for key in recording.image_keys:
            recording.image(*key)

    def _repair(self, data: bytes) -> None:
        path = self.root / "0002.mcap.open"
        path.write_bytes(data)
        repaired = repair(path).path
        if repaired is not None:
            list(Recording(repaired).entries())

    def _audit_bytes(self) -> bytes:
        journal = AuditJournal(self.config)
        for number in range(5):
            journal.append("ada", "limits.approved", old=number, new=number + 1)
        return journal.path.read_bytes()

    def _audit(self, data: bytes) -> None:
        journal = AuditJournal(self.config)
        journal.path.write_bytes(data)
        journal.verify()
        with contextlib.suppress(ConfigError):
            list(journal.entries())

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()
        shutil.rmtree(self.root, ignore_errors=True)


def mutations(target: Target, count: int, seed: int) -> Iterator[bytes]:
    """Random bytes, and good inputs with bits, bytes, pieces and words changed."""
    draw = random.Random(seed)
    yield b""
    yield from target.seeds
    for number in range(count - 1 - len(target.seeds)):
        if number % 10 == 0:
            yield draw.randbytes(draw.choice((1, 8, 64, 1000)))
            continue
        data = changed(draw, draw.choice(target.seeds), target.words)
        yield data[: draw.randrange(len(data) + 1)] if draw.random() < 0.1 else data


def changed(draw: random.Random, good: bytes, words: tuple[bytes, ...] = ()) -> bytes:
    """A good input with some bits, bytes, pieces and words changed."""
    data = bytearray(good)
    for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
        at = draw.randrange(len(data) + 1) if data else 0
        match draw.randrange(6):
            case 0 if data:
                data[at % len(data)] ^= 1 << draw.randrange(8)
            case 1 if data:
                data[at % len(data)] = draw.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF))
            case 2:
                del data[at : at + draw.choice((1, 4, 32))]
            case 3:
                data[at:at] = draw.randbytes(draw.choice((1, 4, 32)))
            case 4 if words:
                data[at:at] = draw.choice(words)
            case _:
                end = draw.randrange(len(data) + 1) if data else 0
                data[at:at] = data[min(at, end) : max(at, end)][:256]
    return bytes(data)


def run(target: Target, count: int, seed: int) -> tuple[int, int]:
    """Inputs and refusals. Lets out whatever the decoder may not raise, the input with it."""
    inputs = refused = 0
    for data in mutations(target, count, seed):
        inputs += 1
        try:
            target.feed(data)
        except target.refuses as err:
            refused += 1
            assert str(err), f"a refusal without a word: {data!r}"
        except Exception as err:
            raise AssertionError(f"{type(err).__name__}: {err} on {data!r}") from err
    return inputs, refused


def modbus(address: tuple[str, int], count: int, seed: int) -> tuple[int, int]:
    """Requests of noise and near-misses to a Modbus server; it must answer a good one after each.

    Returns inputs and answers to the good requests.
    """
    draw = random.Random(seed)
    good = struct.pack(">HHHBBHH", 1, 0, 6, 1, 3, 100, 4)
    codes = (1, 2, 3, 4, 5, 6, 7, 15, 16, 20, 21, 22, 23, 43, 90, 128, 255)
    answered = 0
    for number in range(count):
        pdu = bytes((draw.choice(codes),)) + draw.randbytes(draw.choice((0, 1, 4, 9, 250)))
        length = len(pdu) + 1 if draw.random() < 0.7 else draw.randrange(1 << 16)
        frame = struct.pack(">HHHB", number & 0xFFFF, 0, length, draw.randrange(256)) + pdu
        with contextlib.suppress(OSError), socket.create_connection(address, 5) as line:
            line.sendall(frame if draw.random() < 0.8 else draw.randbytes(draw.randrange(1, 300)))
            if draw.random() < 0.3:
                line.shutdown(socket.SHUT_WR)
                line.settimeout(0.05)
                line.recv(300)
        with socket.create_connection(address, 5) as line:
            line.sendall(good)
            answer = line.recv(300)
        assert answer[7:9] == b"\x03\x08", f"no answer after {frame!r}"
        answered += 1
    return count, answered


def main() -> int:
    """All targets, a line each."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--inputs", type=int, default=10_000, help="for each decoder")
    options.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    options.add_argument("--only", action="append", help="this decoder; may be repeated")
    given = options.parse_args()
    sys.stdout.write(f"seed {given.seed}\n")
    with Bench() as bench:
        for name, target in bench.targets().items():
            if given.only and name not in given.only:
                continue
            begun = time.monotonic()
            inputs, refused = run(target, given.inputs, given.seed)
            took = time.monotonic() - begun
            sys.stdout.write(f"{name:16} {inputs} inputs, {refused} refused, {took:.0f} s\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
