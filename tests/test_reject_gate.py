"""The reject gate by itself: what the PLC tells of it, against the verdicts that it was given."""

from collections import Counter

import pytest

from appliance.codes import GateStatus, Reason, Word
from appliance.messages import Verdict
from appliance.reject_gate import Gate
from appliance.words import Bank, decode_input

MS = 1_000_000
WELL = GateStatus.CONFIRM_FITTED | GateStatus.AIR_OK


def verdict(word: Word, tag: int) -> Verdict:
    return Verdict(part_id=1, acq_id=1, epoch=1, word=word, reason=Reason.NONE, part_tag=tag)


class Reported:
    """A gate of 100 ms, and the PLC's words about it."""

    def __init__(self, status: GateStatus = WELL) -> None:
        self.counted: Counter[str] = Counter()
        self.gate = Gate(100, lambda name: self.counted.update([name]), -200 * MS)
        self._status = status
        self.tells(status)

    def tells(self, status: GateStatus, tag: int = 0, now_ns: int = 0) -> None:
        bank = Bank()
        bank.set("GateStatus", status)
        bank.set("ConfirmedTag", tag)
        self.gate.wrote(decode_input(bank), now_ns)

    def is_missed(self, now_ns: int) -> bool:
        """After one more write, that says nothing new."""
        self.tells(self._status, now_ns=now_ns)
        return self.gate.check()

    def confirms(self, tag: int) -> None:
        self._status ^= GateStatus.REJECT_CONFIRMED
        self.tells(self._status, tag)

    def gets(self, word: Word, tag: int = 0, is_tag_told: bool = True) -> None:
        self.gate.verdict(verdict(word, tag), 0, is_tag_told)


@pytest.mark.parametrize("word", [Word.NG, Word.ERROR])
def test_a_reject_is_awaited_until_its_time_is_over(word: Word) -> None:
    plc = Reported()
    plc.gets(word, 7)
    assert not plc.is_missed(100 * MS - 1)
    assert plc.is_missed(100 * MS) and plc.gate.missing == 1
    assert plc.is_missed(500 * MS) and plc.gate.missing == 1, "counted once, and it latches"
    plc.gate.clear(is_reject_known=False)
    assert plc.is_missed(500 * MS)
    plc.gate.clear(is_reject_known=True)
    assert not plc.is_missed(500 * MS)


@pytest.mark.parametrize("word", [Word.NG, Word.ERROR, Word.UNCERTAIN])
def test_what_left_the_line_was_asked_to(word: Word) -> None:
    plc = Reported()
    plc.gets(word, 7)
    plc.confirms(7)
    assert not plc.is_missed(500 * MS) and not plc.gate.is_warning
    plc.confirms(7)
    assert plc.gate.unexpected == 1 and plc.gate.is_warning, "it cannot leave twice"
    plc.gate.clear(is_reject_known=True)
    assert not plc.gate.is_warning


def test_a_good_part_that_left_is_a_warning_and_an_uncertain_one_may_stay() -> None:
    plc = Reported()
    plc.gets(Word.OK, 7)
    plc.gets(Word.UNCERTAIN, 8)
    assert not plc.is_missed(500 * MS)
    plc.confirms(7)
    assert plc.gate.unexpected == 1 and plc.gate.is_warning


def test_a_reject_whose_tag_nobody_knows_is_counted_and_a_warning() -> None:
    plc = Reported()
    plc.gets(Word.NG, is_tag_told=False)
    assert plc.gate.untagged == plc.counted["rejects_untagged"] == 1
    assert plc.gate.is_warning and not plc.is_missed(500 * MS)
    plc.gate.clear(is_reject_known=True)
    assert not plc.gate.is_warning


def test_only_the_newest_uncertain_parts_are_remembered() -> None:
    plc = Reported()
    for tag in range(1, 66):
        plc.gets(Word.UNCERTAIN, tag)
    plc.confirms(2)
    assert plc.gate.unexpected == 0
    plc.confirms(1)
    assert plc.gate.unexpected == 1


@pytest.mark.parametrize(
    ("status", "is_warning"),
    [
        (WELL, False),
        (GateStatus(0), False),
        (GateStatus.AIR_OK, False),
        (GateStatus.CONFIRM_FITTED, True),
        (WELL | GateStatus.BLOCKED, True),
        (WELL | GateStatus.BIN_FULL, True),
        (GateStatus.BLOCKED, True),
    ],
)
def test_a_gate_that_needs_a_person(status: GateStatus, is_warning: bool) -> None:
    assert Reported(status).gate.is_warning is is_warning


def test_nothing_is_awaited_before_the_plc_spoke_or_where_nothing_is_fitted() -> None:
    silent = Gate(100, lambda name: None, 0)
    silent.verdict(verdict(Word.NG, 7), 0)
    assert not silent.is_warning and not silent.check()
    plc = Reported(GateStatus.AIR_OK)
    plc.gets(Word.NG, 7)
    plc.gets(Word.NG, is_tag_told=False)
    assert not plc.is_missed(500 * MS) and plc.gate.untagged == 0
