"""A thousand level handshakes: harvesters, viky, the real processes, and a Modbus client not ours.

viky's pictures are deterministic: a ball that moves one pixel each way per frame and bounces. A
process of its own writes down which picture each frame number has, through harvesters alone. The
picture that the box archived for a part must be, to the pixel, the one of the frame id in its row,
and the margin that the PLC read must be the mean of that picture's region of interest.
"""

import json
import math
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from appliance.archive import read_image
from appliance.recipe import View
from tests.rig import Rig
from tests.waiting import NotYet, until

pytest.importorskip("harvesters")

import genicam
from harvesters.core import Harvester
from pyModbusTCP.client import ModbusClient

WIDTH, HEIGHT, BALL = 120, 100, 20
PERIOD = math.lcm(2 * (WIDTH - BALL), 2 * (HEIGHT - BALL))
"""Frames until ball and direction are as they were."""
NODES = {"Width": WIDTH, "Height": HEIGHT, "PixelFormat": "Mono8", "AcquisitionFrameRate": 200}
ROI = (0, 0, 60, 50)
"""The ball is in it, partly in it and out of it, so that the mean tells pictures apart."""
LIMIT = 255.0 * (1 - BALL * BALL / 2 / (ROI[2] * ROI[3]))
"""OK below: more than half a ball lies in the region."""
HANDSHAKES = 1000
BOUND_S = 5.0
"""Longest wait for anything: a bound of the test, no promise of the box."""


def write_table(path: Path) -> None:
    """Frame number modulo PERIOD → top left corner of the ball, as harvesters delivers it."""
    harvester: Any = Harvester()
    harvester.add_file(str(Path(genicam.__file__).parent / "viky.cti"))
    harvester.update()
    acquirer = harvester.create({"serial_number": "0"})
    for name, value in NODES.items():
        getattr(acquirer.remote_device.node_map, name).value = value
    acquirer.start()
    table: dict[int, tuple[int, int]] = {}
    seen_again = 0
    while len(table) < PERIOD or seen_again < 50:
        with acquirer.fetch(timeout=BOUND_S) as buffer:
            frame = buffer.payload.components[0].data.reshape(HEIGHT, WIDTH)
            corner, number = corner_of(frame), buffer.module.frame_id % PERIOD
        seen_again += number in table
        assert table.setdefault(number, corner) == corner, "viky is not periodic"
    acquirer.stop()
    harvester.reset()
    path.write_text(json.dumps([table[number] for number in range(PERIOD)]))


def corner_of(frame: np.ndarray) -> tuple[int, int]:
    """Where the ball is, in a picture that shows nothing else."""
    rows, columns = np.nonzero(frame != 255)
    y, x = int(rows.min()), int(columns.min())
    assert np.array_equal(frame, picture_at((x, y)))
    return x, y


def picture_at(corner: tuple[int, int]) -> np.ndarray:
    """A black ball on white."""
    x, y = corner
    frame = np.full((HEIGHT, WIDTH), 255, np.uint8)
    frame[y : y + BALL, x : x + BALL] = 0
    return frame


ENABLE, TRIGGER, RESULT_ACK = 1, 2, 4
TRIGGER_READY, TRIGGER_ACK, RESULT_VALID, PASS, FAIL = 1 << 1, 1 << 2, 1 << 7, 1 << 8, 1 << 9
OK, NG, ERROR = 0xA5C3, 0x5A3C, 0x9669
NO_IMAGE = 11


@dataclass(frozen=True)
class Read:
    """One handshake as this PLC saw it."""

    tag: int
    acq_id: int
    epoch: int
    margin: float
    word: int
    reason: int


class Plc:
    """HR 0–31 written, HR 100–152 read, in one FC 23 per scan."""

    def __init__(self, port: int) -> None:
        self._client = ModbusClient("127.0.0.1", port, timeout=BOUND_S)
        self._beat = 0
        self._tag = 0
        self._control = ENABLE
        self.words: list[int] = []

    def scan(self, mask: int, wanted: int, control: int | None = None) -> None:
        """Write `control`, then scan until HR 100 under `mask` is `wanted`."""
        self._control = self._control if control is None else control
        end = time.monotonic() + BOUND_S
        while True:
            self._beat = (self._beat + 1) & 0xFFFF
            text = struct.unpack(">16H", f"VIKY-{self._tag:08d}".encode().ljust(32, b"\0"))
            out = [self._control, self._beat, 0, 0, 0, 0, self._tag >> 16, self._tag & 0xFFFF]
            out += [0] * 8 + list(text)
            words = self._client.write_read_multiple_registers(0, out, 100, 53)
            assert words is not None, self._client.last_error_as_txt
            self.words = words
            if self.hr(100) & mask == wanted:
                return
            if time.monotonic() >= end:
                raise NotYet(f"Status1 is {self.hr(100):04X}, tag {self._tag}")
            time.sleep(0.001)

    def hr(self, address: int) -> int:
        """A register of the last scan."""
        return self.words[address - 100]

    def handshake(self, tag: int) -> Read:
        """Trigger, wait, read, acknowledge: every bit as the document asks for it."""
        idle = TRIGGER_READY | TRIGGER_ACK | RESULT_VALID
        self.scan(idle, TRIGGER_READY, ENABLE)
        self._tag = tag
        self.scan(TRIGGER_ACK, TRIGGER_ACK, ENABLE | TRIGGER)
        acq_id, epoch = self.hr(114), self.hr(146)
        self.scan(RESULT_VALID | TRIGGER_ACK, RESULT_VALID, ENABLE)
        assert (self.hr(115), self.hr(129), self.hr(146)) == (acq_id, acq_id, epoch)
        assert self.hr(122) << 16 | self.hr(123) == tag
        echo = struct.pack(">16H", *self.words[30:46]).rstrip(b"\0")
        assert echo == f"VIKY-{tag:08d}".encode()
        word, reason = self.hr(116), self.hr(117)
        assert self.hr(100) & (PASS | FAIL) == (PASS if word == OK else FAIL)
        assert self.hr(101) & 1 << 5, "pictures of viky are simulated and must say so"
        (margin,) = struct.unpack(">f", struct.pack(">HH", self.hr(147), self.hr(148)))
        self.scan(RESULT_VALID, 0, ENABLE | RESULT_ACK)
        assert self.hr(114) == acq_id
        return Read(tag, acq_id, epoch, margin, word, reason)

    def close(self) -> None:
        self._client.close()


def read_table(path: Path) -> list[tuple[int, int]]:
    """From a process of its own: viky shows nothing in a process that opened it before."""
    command = [sys.executable, "-m", "tests.test_process_viky", str(path)]
    subprocess.run(command, check=True, cwd=Path(__file__).parent.parent, timeout=60)
    return [(x, y) for x, y in json.loads(path.read_text())]


@pytest.mark.timeout(240)
def test_a_thousand_handshakes_each_with_its_own_picture(tmp_path: Path) -> None:
    table = read_table(tmp_path / "table.json")
    camera = {
        "kind": "genicam", "producer": "viky", "device": {"serial_number": "0"}, "nodes": NODES,
        "rate_hz": 10.0, "frame_timeout_ms": 3000,
    }  # fmt: skip
    changes = {"deadline_ms": 3000, "record": {"images": "all", "min_free_gb": 0.0}}
    view = View(pixel_format="Mono8", roi=ROI)
    with Rig(changes, camera, size=(HEIGHT, WIDTH), view=view, limits=(LIMIT, LIMIT)) as rig:
        rig.start()
        with rig.ear() as ear:
            until("Ready", lambda: ear.is_ready, 40)
            plc = Plc(rig.port)
            begun = time.monotonic()
            reads = [plc.handshake(0x0001_F000 + 7 * number) for number in range(HANDSHAKES)]
            sys.stderr.write(f"{HANDSHAKES} handshakes in {time.monotonic() - begun:.1f} s\n")
            plc.close()
            until("every row", lambda: ear.has_rows(HANDSHAKES), 30)
            assert ear.unaccounted == 0
            ledger = ear.words.ledger if ear.words else {}
        assert rig.stop() == 0
        rows = {row.verdict.acq_id: row for row in rig.rows()}
        pictures = {
            acq_id: read_image(rig.config.data_dir / row.image)
            for acq_id, row in rows.items()
            if row.image
        }

    # Every AcqID was given once and answered once, in one epoch, and is one row.
    assert [read.acq_id for read in reads] == list(range(1, HANDSHAKES + 1))
    assert {read.epoch for read in reads} == {1}
    assert len(rows) == ledger["accepted"] == ledger["verdicts"] == HANDSHAKES
    for read in reads:
        verdict = rows[read.acq_id].verdict
        row = (verdict.part_tag, verdict.epoch, verdict.word, verdict.reason)
        assert row == (read.tag, 1, read.word, read.reason)
    # A camera process that did not run for 100 ms takes no trigger, and says so.
    scored = [read for read in reads if read.word != ERROR]
    assert {read.reason for read in reads if read.word == ERROR} <= {NO_IMAGE}
    assert len(scored) >= HANDSHAKES * 9 // 10
    assert {read.word for read in scored} == {OK, NG}
    assert all(read.word == (OK if read.margin < LIMIT else NG) for read in scored)

    # At least the third frame after the trigger, which was sent after the last part's answer.
    ids = {read.acq_id: rows[read.acq_id].verdict.frame_id for read in scored}
    in_order = list(ids.values())
    assert all(later - earlier >= 3 for earlier, later in pairwise(in_order))

    # The picture of each part is that of its frame. Which frame the first one is, only the
    # pictures can tell (ids of the box do not begin at 1): one answer alone may fit them all.
    assert len(pictures) >= len(scored) * 9 // 10, "the archive dropped too many pictures"
    shown = {ids[acq_id] - in_order[0]: corner_of(frame) for acq_id, frame in pictures.items()}
    fitting = [
        first
        for first in range(PERIOD)
        if all(table[(first + step) % PERIOD] == corner for step, corner in shown.items())
    ]
    assert len(fitting) == 1, f"{len(fitting)} beginnings fit all pictures"

    # And the margin that the PLC read was made from that picture, kept or not.
    x, y, width, height = ROI
    for read in scored:
        picture = picture_at(table[(fitting[0] + ids[read.acq_id] - in_order[0]) % PERIOD])
        mean = cv2.mean(picture[y : y + height, x : x + width])[0]
        assert read.margin == pytest.approx(mean, abs=1e-3)


if __name__ == "__main__":
    write_table(Path(sys.argv[1]))
