"""Free run through the real processes: every frame is a part, results come by the ring alone."""

import asyncio
from itertools import pairwise

from appliance.codes import CommandCode, CommandError, OfflineReason, Reason, State, Word
from tests.recorded_world import check_replay
from tests.rig import PICTURES, Ear, Rig, number_of
from tests.waiting import until
from tools.plc_program import Part, PlcOptions, Ring
from tools.plc_sim import command

RATE_HZ = 20.0
CUT, DROP = 9, 7
"""Every n-th exposure is incomplete, or lost on its way."""


def ask(rig: Rig, code: CommandCode) -> CommandError:
    """One command of the PLC."""
    return asyncio.run(command(PlcOptions(port=rig.port), code))


def settled(ear: Ear, parts: int) -> dict[str, int]:
    """The ledger once nobody drives the line: what was accepted is closed and stored."""
    until("rows of all parts", lambda: ear.has_rows(parts) and not ear.said.registers[100] & 2, 20)
    return ear.said.ledger


def read_words(parts: list[Part]) -> list[Part]:
    """Those that came out of the ring."""
    return [part for part in parts if part.word != Word.NONE]


def test_every_frame_is_a_part_while_the_line_runs() -> None:
    faults = {"incomplete_every": CUT, "drop_every": DROP}
    camera = {"order": "sequence", "rate_hz": RATE_HZ, "faults": faults, "record": "all"}
    with Rig({"trigger": "free", "deadline_ms": 1000}, camera) as rig:
        rig.start()
        with rig.ear("camera:top") as ear:
            until("Ready", lambda: ear.is_ready, 30)
            assert ear.said.registers[104] == State.CONTINUOUS_EXECUTION
            report, parts = rig.drive(parts=60, ring=Ring.FREE)
            assert len(read_words(parts)) == 60
            # The box cannot know which part a frame shows, and says so: no PLC may accept it.
            assert report.rejected_why["tag is not known"] == 60
            assert {part.tag for part in parts} == {0}
            # A frame that is known to be bad was a part, one that never came was none.
            assert {part.word for part in parts} == {Word.OK, Word.ERROR}
            ledger = settled(ear, 60)
            assert ledger["accepted"] == ledger["verdicts"] == len(rig.rows())
            assert ledger["unaccounted"] == 0
            assert ear.said.counters["frames_lost"] >= 1

            assert ask(rig, CommandCode.STOP) == CommandError.DONE
            until("a stopped line", lambda: ear.said.registers[104] == State.READY)
            assert ear.said.offline == OfflineReason.STOPPED_BY_PERSON
            _, refused = rig.drive(parts=5, ring=Ring.FREE, patience_s=1.5)
            assert read_words(refused) == []
            assert settled(ear, 60) == ledger, "a part was opened on a stopped line"

            assert ask(rig, CommandCode.START_CONTINUOUS) == CommandError.DONE
            until("a line that runs", lambda: ear.said.registers[104] == State.CONTINUOUS_EXECUTION)
            _, again = rig.drive(parts=20, ring=Ring.FREE)
            assert len(read_words(again)) == 20
            ledger = settled(ear, 80)
            assert ledger["accepted"] == ledger["verdicts"] == len(rig.rows())
            assert ledger["unaccounted"] == 0
        rows = {row.verdict.acq_id: row.verdict for row in reversed(rig.rows())}
        assert rig.stop() == 0
        check_replay(rig.config, len(rows))

    for part in (*parts, *again):
        verdict = rows[part.acq_id]
        assert (part.word, part.reason) == (verdict.word, verdict.reason)
    scored = [verdict for verdict in rows.values() if verdict.margin is not None]
    others = [verdict for verdict in rows.values() if verdict.margin is None]
    assert others and {verdict.reason for verdict in others} <= {
        Reason.INCOMPLETE_IMAGE, Reason.LATE, Reason.QUEUE_FULL,
    }  # fmt: skip
    assert Reason.INCOMPLETE_IMAGE in {verdict.reason for verdict in others}
    # Pictures come in order: between two frames lie as many pictures as frame ids.
    for verdict in scored:
        assert verdict.margin is not None
        assert verdict.source == f"{number_of(verdict.margin):04d}.png"
    for earlier, later in pairwise(scored):
        shown = int(later.source[:4]) - int(earlier.source[:4])
        assert 0 < later.frame_id - earlier.frame_id
        assert shown % PICTURES == (later.frame_id - earlier.frame_id) % PICTURES
