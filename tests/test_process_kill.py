"""kill -9 and kill -STOP of each process under load, as a PLC with the acceptance rule sees it.

A part may be accepted only when it was scored: the margin that the PLC read must be the number of
the picture that lay under the camera. Pictures are numbered, so a word set that was taken for an
unscored part would show.
"""

import json
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from appliance.codes import Reason, Word
from tests.rig import PICTURES, Ear, Rig, number_of
from tests.waiting import until

RATE_HZ = 40
READY_S = 15.0
"""Bound of the test; what it takes on an idle machine is a row of `inspectd bench`."""


class DeskPlc:
    """The desk PLC as a process of its own, for ever at a rate."""

    def __init__(self, rig: Rig) -> None:
        self.file = rig.root / "plc.jsonl"
        self._handle = subprocess.Popen(
            [sys.executable, "-m", "appliance", "plc-sim", "--port", str(rig.port), "--forever",
             "--accept-simulated", "--rate", str(RATE_HZ), "--deadline-ms", "400",
             "--parts-file", str(self.file)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def parts(self) -> list[dict[str, Any]]:
        """All that it decided up to now."""
        if not self.file.exists():
            return []
        return [json.loads(line) for line in self.file.read_text().splitlines() if line[-1:] == "}"]

    def accepted_after(self, count: int) -> bool:
        """Some part beyond the first `count` was accepted."""
        return any(part["is_accepted"] for part in self.parts()[count:])

    def stop(self) -> list[dict[str, Any]]:
        """End it; all parts."""
        self._handle.send_signal(signal.SIGTERM)
        self._handle.wait(10)
        return self.parts()


def check(parts: list[dict[str, Any]]) -> None:
    """Accepted means scored, from the picture of that part; no id was given twice."""
    accepted = [part for part in parts if part["is_accepted"]]
    assert accepted
    for part in accepted:
        assert part["word"] == Word.OK
        assert number_of(part["margin"]) == (part["tag"] - 1) % PICTURES
    ids = [(part["epoch"], part["acq_id"]) for part in parts if part["acq_id"]]
    assert len(set(ids)) == len(ids)
    acq_ids = [acq_id for _, acq_id in ids]
    assert len(set(acq_ids)) == len(acq_ids), "an AcqID was given again after a restart"


@pytest.fixture(scope="module")
def line() -> Any:
    """One line for all kills, so that each meets what the one before left behind; with no budget of
    restarts, which a test that is run again would spend."""
    with Rig({"deadline_ms": 300, "restart_limit": 0}) as rig:
        rig.start()
        with rig.ear("camera:top", "infer:0", "decide", "record") as ear:
            until("Ready", lambda: ear.is_ready, 30)
            yield rig, ear


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["kill", "stop"])
@pytest.mark.parametrize("process", ["camera", "infer", "decide", "record", "decide"])
def test_death_never_looks_like_a_verdict(
    line: tuple[Rig, Ear], process: str, number: signal.Signals
) -> None:
    """Whatever dies or stops, the PLC accepts only what was scored, and the line comes back."""
    rig, ear = line
    plc = DeskPlc(rig)
    try:
        until("accepted parts", lambda: plc.accepted_after(0), 20)
        old = rig.kill(process, number)
        died = time.monotonic()
        before = len(plc.parts())
        until(f"another {process}", lambda: rig.pid(process) != old, READY_S)
        until("accepted parts again", lambda: plc.accepted_after(before + RATE_HZ // 2), READY_S)
        sys.stderr.write(f"{process} {number.name}: {time.monotonic() - died:.1f} s to a part\n")
    finally:
        parts = plc.stop()
    check(parts)
    # What the PLC read while the process was gone was rejected, not awaited for ever.
    assert all(part["is_accepted"] or part["why"] for part in parts)
    until("all rows", lambda: ear.rows_pending == 0)
    assert ear.unaccounted == 0


def test_open_parts_end_as_restart_and_no_id_repeats() -> None:
    """decide dies while a part is open: the journal closes it, ERROR 20, and ids go on."""
    with Rig({"deadline_ms": 10_000}) as rig:
        rig.start()
        with rig.ear() as ear:
            until("Ready", lambda: ear.is_ready, 30)
            plc = DeskPlc(rig)
            try:
                until("accepted parts", lambda: plc.accepted_after(0), 20)
                rig.kill("infer", signal.SIGSTOP)  # no score comes: the next part stays open
                before = len(plc.parts())
                until("an open part", lambda: ear.said.ledger["pending"] > 0, 20)
                first = rig.kill("decide")
                until("another decide", lambda: rig.pid("decide") != first, READY_S)
                until("more", lambda: plc.accepted_after(before + RATE_HZ), 2 * READY_S)
            finally:
                check(plc.stop())
            until("all rows", lambda: ear.rows_pending == 0)
            rows = [row.verdict for row in rig.rows()]
            assert len({verdict.part_id for verdict in rows}) == len(rows)
            closed = [verdict for verdict in rows if verdict.reason == Reason.RESTART]
            assert len(closed) == 1
            assert closed[0].word == Word.ERROR
            assert ear.unaccounted == 0
