"""Several infer processes share one camera: no part is mixed up, one that dies costs its own."""

import os
import signal
from collections import Counter

from appliance.codes import Word
from tests.recorded_world import check_replay
from tests.rig import PICTURES, Ear, Rig, number_of
from tests.waiting import until
from tools.plc_program import Part, Ring

WORKERS = ("infer:0", "infer:1")
BUSY_MS = 40.0
"""Of a frame every 50 ms: one worker could just keep up, and two finish out of order."""


def scored(ear: Ear) -> dict[str, int]:
    """Worker → frames that it has scored in this life."""
    ear.listen()
    return {name: ear.health[name].counters["scored"] for name in WORKERS if name in ear.health}


def check(rig: Rig, parts: list[Part]) -> None:
    """What the PLC read is the row, and a score is that of the part's own picture."""
    rows = {row.verdict.acq_id: row.verdict for row in rig.rows()}
    for part in parts:
        if part.word == Word.NONE:
            continue
        verdict = rows[part.acq_id]
        assert (part.word, part.reason) == (verdict.word, verdict.reason)
        if verdict.margin is not None:
            assert number_of(verdict.margin) == (part.tag - 1) % PICTURES


def test_two_workers_share_the_parts_and_one_that_dies_costs_its_own_alone() -> None:
    changes = {
        "engine": {"kind": "null", "null_delay_ms": BUSY_MS, "workers": 2},
        "plc": {"results": "ring"},
        "deadline_ms": 1000,
    }
    with Rig(changes, {"rate_hz": 20.0, "record": "all"}) as rig:
        rig.start()
        with rig.ear("camera:top", *WORKERS, "decide", "record") as ear:
            until("Ready", lambda: ear.is_ready, 60)
            _, parts = rig.drive(parts=40, rate_hz=20.0, ring=Ring.PLC)
            read = sum(part.word != Word.NONE for part in parts)
            until("every row", lambda: ear.has_rows(read), 60)
            check(rig, parts)
            until("work for both", lambda: len(scored(ear)) == 2 and all(scored(ear).values()), 60)

            old = ear.health["infer:1"].pid
            os.kill(old, signal.SIGKILL)
            until("a new worker", lambda: ear.listen().health["infer:1"].pid != old, 60)
            until("Ready again", lambda: ear.is_ready, 60)
            _, again = rig.drive(parts=20, rate_hz=20.0, ring=Ring.PLC)
            read += sum(part.word != Word.NONE for part in again)
            until("every row again", lambda: ear.has_rows(read), 60)
            check(rig, again)
            assert ear.unaccounted == 0
            words = Counter(row.verdict.word for row in rig.rows())
            assert words[Word.OK] >= 10
        rows = rig.rows()
        assert rig.stop() == 0
        check_replay(rig.config, len(rows))
