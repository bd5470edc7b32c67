"""Numbered pictures, a light barrier and real processes: no part gets another part's verdict.

Our GenTL producer exposes the picture with a part's number at each pulse of its light barrier, and
drops, doubles and delays some of them; the test, as the PLC, miscounts. The picture's number comes
back as the margin.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyModbusTCP.client import ModbusClient

from appliance.codes import CommandCode, Control, OfflineReason, Reason, Status1, Word
from appliance.recipe import View
from appliance.registers import WRITABLE_WORDS
from appliance.words import Bank
from tests.gentl import Barrier, producer
from tests.recorded_world import check_replay
from tests.rig import PICTURES, SIDE_PX, STEP, Rig, number_of, numbered
from tests.waiting import until
from tools.plc_program import Ring

pytest.importorskip("harvesters")

PERIOD_S, SCAN_S = 0.15, 0.01
MIDDLE = (PICTURES // 2 - 0.5) * STEP * 255 / SIDE_PX**2


class Plc:
    """A PLC with a light barrier, scan by scan."""

    def __init__(self, port: int, barrier: Barrier) -> None:
        self._client = ModbusClient("127.0.0.1", port, timeout=5)
        self._barrier = barrier
        self.out, self.image = Bank(), Bank()
        self.counted = 0
        self.tags = [0] * 8

    def scan(self, control: Control = Control.ENABLE) -> "Plc":
        """One request, one pause."""
        beat = self.out.number("PlcHeartbeat") + 1 & 0xFFFF
        for name, value in (
            ("Control", control), ("PlcHeartbeat", beat), ("TriggerCount", self.counted),
            ("TagFifo", self.tags), ("EpochEcho", self.image.number("Epoch")),
            ("AckSeq", self.image.number("RingLast")),
        ):  # fmt: skip
            self.out.set(name, value)
        words = self._client.write_read_multiple_registers(
            0, self.out.read(0, WRITABLE_WORDS), 100, 110
        )
        assert words is not None, self._client.last_error_as_txt
        self.image.write(100, words)
        time.sleep(SCAN_S)
        return self

    def scan_for(self, seconds: float) -> "Plc":
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.scan()
        return self

    def scan_until(self, what: str, check: Callable[[], bool]) -> "Plc":
        until(what, lambda: check() or (self.scan() and None), 20)
        return self

    @property
    def is_ready(self) -> bool:
        return Status1.TRIGGER_READY in Status1(self.image.number("Status1"))

    @property
    def offline(self) -> int:
        return self.image.number("OfflineReason")

    def resync(self) -> None:
        """With nothing at the camera."""
        self.scan_for(0.5)
        self.out.set("Command", CommandCode.RESYNC)
        self.scan(Control.ENABLE | Control.EXECUTE)
        self.scan().scan_until("Ready after Resync", lambda: self.is_ready)

    def part(self, tag: int, pulses: int = 1, steps: int = 1) -> None:
        """One part passes the barrier."""
        for _ in range(pulses):
            self._barrier.pulse(tag)
            if pulses > 1:
                time.sleep(0.02)
        for _ in range(steps):
            self.counted += 1
            self.tags[(self.counted - 1) % 8] = tag
        self.scan_for(PERIOD_S)

    def close(self) -> None:
        self._client.close()


def test_frames_and_counts_that_go_astray_never_make_a_part_good(tmp_path: Path) -> None:
    path = producer(tmp_path, top=[numbered(number) for number in range(PICTURES)])
    camera = {
        "kind": "genicam", "producer": str(path), "rate_hz": 8.0, "record": "all",
        "trigger": {"source": "Line1", "debouncer_us": 5.0},
        "nodes": {
            "SimDropEvery": 17, "SimDoubleEvery": 23, "SimLateEvery": 31, "SimLateTime": 600,
            "SimIncompleteEvery": 9,
        },
    }  # fmt: skip
    changes = {"trigger": "hardware", "deadline_ms": 400}
    view = View(pixel_format="Mono12p", exposure_us=500.0)
    astray = {12: (1, 0), 20: (0, 1), 27: (2, 1), 36: (1, 2)}
    """Part → pulses that the camera gets, steps that the PLC counts."""
    with Rig(changes, camera, limits=(MIDDLE, MIDDLE), view=view) as rig:
        rig.start()
        with rig.ear() as ear:
            until("a line that waits for Resync", lambda: _waits(ear), 40)
            with Barrier(tmp_path / "top") as barrier:
                plc = Plc(rig.port, barrier)
                plc.scan_until("association lost", lambda: plc.offline == 10)
                plc.resync()
                resyncs = 1
                for tag in range(105, 150):
                    plc.part(tag, *astray.get(tag - 105, (1, 1)))
                    if not plc.is_ready:
                        assert plc.offline == OfflineReason.ASSOCIATION_LOST
                        plc.resync()
                        resyncs += 1
                plc.scan_for(1.0)
                plc.close()
            accepted = ear.said.ledger["accepted"]
            until("every row", lambda: ear.has_rows(accepted), 20)
            assert ear.unaccounted == 0
            assert ear.said.counters["associations_lost"] == resyncs - 1
        rows = [row.verdict for row in rig.rows()]
        assert rig.stop() == 0
        check_replay(rig.config, len(rows))

    assert len(rows) == len({row.part_id for row in rows}) == accepted
    scored = [row for row in rows if row.word != Word.ERROR]
    for row in scored:
        assert row.margin is not None
        assert number_of(row.margin) == row.part_tag
        assert row.word == (Word.OK if row.part_tag < PICTURES // 2 else Word.NG)
    reasons = {row.reason for row in rows if row.word == Word.ERROR}
    assert {Reason.ASSOCIATION_LOST, Reason.INCOMPLETE_IMAGE} <= reasons
    assert len(scored) >= 20
    # Each fault stopped the line: a drop, a double, a late one, four that the PLC saw or did not.
    assert resyncs - 1 >= 5


BESIDE = 100
"""The second camera shows another number than the first: part and camera are both told apart."""


def test_one_light_barrier_of_the_desk_plc_fires_two_cameras(tmp_path: Path) -> None:
    pictures = [numbered(number) for number in range(PICTURES)]
    path = producer(tmp_path, top=pictures, side=pictures[BESIDE:] + pictures[:BESIDE])
    camera = {"kind": "genicam", "producer": str(path), "rate_hz": 8.0, "record": "all"}
    special: dict[str, dict[str, Any]] = {
        name: {"device": {"serial_number": name}} for name in ("top", "side")
    }
    special["side"]["nodes"] = {"SimIncompleteEvery": 5}
    changes = {"trigger": "hardware", "deadline_ms": 400}
    with Rig(changes, camera, others={"side": numbered}, special=special) as rig:
        rig.start()
        with rig.ear() as ear:
            until("a line that waits for Resync", lambda: _waits(ear), 40)
            barrier = tuple(str(tmp_path / name / "line1.sock") for name in ("top", "side"))
            report, parts = rig.drive(parts=12, rate_hz=5, ring=Ring.HARDWARE, barrier=barrier)
            read = [part for part in parts if part.word != Word.NONE]
            assert len(read) >= 4
            until("every row", lambda: ear.has_rows(max(part.acq_id for part in read)), 20)
            assert ear.said.ledger["unaccounted"] == 0
        rows = {row.verdict.part_tag: row.verdict for row in rig.rows()}
        count = len(rig.rows())
        assert rig.stop() == 0
        check_replay(rig.config, count)
    # A slow machine may lose the association; what is read is what was stored, tag by tag.
    for part in read:
        verdict = rows[part.tag]
        assert (part.word, part.acq_id) == (verdict.word, verdict.acq_id)
        assert [view.camera for view in verdict.views] == ["top", "side"]
        shown = [number_of(view.margin) for view in verdict.views if view.margin is not None]
        if part.word == Word.OK:
            assert len(shown) == 2 and shown[1] == shown[0] + BESIDE
        else:
            assert part.reason in (Reason.INCOMPLETE_IMAGE, Reason.ASSOCIATION_LOST)
    assert Reason.INCOMPLETE_IMAGE in {part.reason for part in read}
    assert report.accepted >= 4


def _waits(ear) -> bool:
    words = ear.listen().words
    return words is not None and words.offline == OfflineReason.ASSOCIATION_LOST
