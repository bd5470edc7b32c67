"""Numbered pictures through the real processes: no part ever gets another part's verdict.

The folder camera shows picture (tag - 1) mod 256 to the part with that tag and drops, doubles,
delays and cuts some of them. The picture's number comes back as the margin; parts below the middle
are OK and parts above it NG, so that the word alone would betray a picture of another part.
"""

from collections import Counter
from collections.abc import Sequence

from appliance.codes import Reason, Word
from appliance.messages import Verdict
from appliance.rows import PartRow
from tests.rig import PICTURES, SIDE_PX, STEP, Rig, number_of
from tests.waiting import until
from tools.plc_program import Part, Ring

MIDDLE = (PICTURES // 2 - 0.5) * STEP * 255 / SIDE_PX**2
FIRST_TAG = 70
DROP, DELAY, CUT, DOUBLE = 10, 15, 6, 4
"""Every n-th exposure; never two missing pictures in a row, which would mean a lost device."""


def word_of(tag: int) -> Word:
    """What the picture of this part deserves."""
    return Word.OK if (tag - 1) % PICTURES < PICTURES // 2 else Word.NG


def fault_of(exposure: int, delayed: Reason) -> Reason:
    """What the folder camera does to its n-th exposure, counted from 1."""
    if exposure % DROP == 0:
        return Reason.NO_IMAGE
    if exposure % DELAY == 0:
        return delayed
    return Reason.INCOMPLETE_IMAGE if exposure % CUT == 0 else Reason.NONE


def check_rows(rows: Sequence[PartRow], delayed: Reason) -> Counter[Reason]:
    """Own picture or an honest reason; returns how often each fault came out as itself."""
    exposure = 0
    seen: Counter[Reason] = Counter()
    for row in sorted(rows, key=lambda row: row.verdict.part_id):
        verdict = row.verdict
        for margin in (verdict.margin, row.late_margin):
            if margin is not None:
                assert number_of(margin) == (verdict.part_tag - 1) % PICTURES
        if "was not fired" in verdict.detail:
            # It came too late behind another picture: there was no exposure to go wrong.
            assert (verdict.word, verdict.reason) == (Word.ERROR, Reason.NO_IMAGE)
            continue
        exposure += 1
        check_row(verdict, fault_of(exposure, delayed), seen)
    return seen


def check_row(verdict: Verdict, fault: Reason, seen: Counter[Reason]) -> None:
    """The word that the picture deserves, or the reason that fits the fault.

    A slow machine may make any part late, and a delayed picture no picture; it makes none good.
    """
    if verdict.word != Word.ERROR:
        assert (fault, verdict.word) == (Reason.NONE, word_of(verdict.part_tag)), verdict
    elif fault == Reason.LATE:
        assert verdict.reason in (Reason.LATE, Reason.NO_IMAGE), verdict
    else:
        assert verdict.reason in (fault, Reason.LATE), verdict
    seen[fault] += verdict.word != Word.ERROR or verdict.reason == fault


def check_answers(parts: Sequence[Part], rows: Sequence[PartRow]) -> list[Part]:
    """What the PLC read is what was stored, once each; returns the parts with an answer."""
    by_id = {row.verdict.acq_id: row.verdict for row in rows}
    assert len(by_id) == len(rows)
    answered = [part for part in parts if part.word != Word.NONE]
    assert len({part.acq_id for part in answered}) == len(answered)
    for part in answered:
        verdict = by_id[part.acq_id]
        assert (part.tag, part.word, part.reason) == (
            verdict.part_tag, verdict.word, verdict.reason,
        )  # fmt: skip
    return answered


def test_parts_one_by_one_with_a_camera_that_drops_doubles_delays_and_cuts() -> None:
    faults = {
        "drop_every": DROP, "double_every": DOUBLE, "incomplete_every": CUT,
        "delay_every": DELAY, "delay_ms": 3000,
    }  # fmt: skip
    with Rig({"deadline_ms": 400}, {"faults": faults}, limits=(MIDDLE, MIDDLE)) as rig:
        rig.start()
        with rig.ear("camera:top") as ear:
            until("Ready", lambda: ear.is_ready, 30)
            report, parts = rig.drive(parts=120, first_tag=FIRST_TAG)
            until("every row", lambda: ear.has_rows(max(part.acq_id for part in parts)), 20)
            ledger = ear.words.ledger if ear.words else {}
            orphans = ear.health["camera:top"].counters["orphans"]
        rows = rig.rows()
    answered = check_answers(parts, rows)
    assert len(answered) >= 100
    for part in answered:
        if part.word == Word.ERROR:
            assert part.margin != part.margin, "an ERROR carries no margin"
        else:
            assert number_of(part.margin) == (part.tag - 1) % PICTURES
    seen = check_rows(rows, delayed=Reason.NO_IMAGE)
    assert seen[Reason.NO_IMAGE] >= 12 and seen[Reason.INCOMPLETE_IMAGE] >= 10, seen
    assert seen[Reason.NONE] >= 50, seen
    assert orphans >= 10, "the second of two equal pictures belongs to nobody"
    assert (report.seen.stale_results, report.seen.torn_results) == (0, 0)
    assert ledger["accepted"] == ledger["verdicts"] == len(rows)
    assert ledger["unaccounted"] == 0


def test_several_parts_at_once_with_pictures_that_come_too_late_to_be_scored() -> None:
    """In ring mode triggers go on while a picture is missing; what would be confused, would be."""
    faults = {
        "drop_every": DROP, "double_every": DOUBLE, "incomplete_every": CUT,
        "delay_every": DELAY, "delay_ms": 500,
    }  # fmt: skip
    changes = {
        "deadline_ms": 600,
        "engine": {"null_delay_ms": 120},
        "plc": {"results": "ring"},
    }
    with Rig(changes, {"faults": faults}, limits=(MIDDLE, MIDDLE)) as rig:
        rig.start()
        with rig.ear() as ear:
            until("Ready", lambda: ear.is_ready, 30)
            report, parts = rig.drive(parts=60, first_tag=FIRST_TAG + 30, rate_hz=6, ring=Ring.PLC)
            until("every row", lambda: ear.has_rows(max(part.acq_id for part in parts)), 20)
            ledger = ear.words.ledger if ear.words else {}
        rows = rig.rows()
    assert len(check_answers(parts, rows)) >= 50
    seen = check_rows(rows, delayed=Reason.LATE)
    assert seen[Reason.NO_IMAGE] >= 1 and seen[Reason.INCOMPLETE_IMAGE] >= 1, seen
    assert seen[Reason.NONE] >= 20, seen
    late = [row for row in rows if row.verdict.reason == Reason.LATE]
    assert late, "no picture came too late to be scored"
    assert any(row.late_margin is not None for row in late)
    assert (report.seen.missing_slots, report.seen.unmatched_slots) == (0, 0)
    assert ledger["accepted"] == ledger["verdicts"] == len(rows)
    assert ledger["unaccounted"] == 0
