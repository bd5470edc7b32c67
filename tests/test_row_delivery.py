"""Rows that wait for the recorder: sent again in small portions, whatever the journal gave up."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import journal as journal_module
from appliance.codes import Reason, Word
from appliance.journal import Journal
from appliance.ledger import Ledger
from appliance.messages import Health, Stored, Verdict
from appliance.row_delivery import RowDelivery

S = 1_000_000_000


def verdict(part_id: int) -> Verdict:
    return Verdict(
        part_id=part_id, acq_id=part_id, epoch=1, word=Word.NG, reason=Reason.ANOMALY_SCORE
    )


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "state", 1 << 18)
    yield made
    made.close()


def alive(life: int) -> Health:
    return Health(process="record", pid=1, life=life, is_serving=True)


def backlog(journal: Journal, count: int) -> tuple[RowDelivery, Ledger, list[int]]:
    """So many verdicts that no recorder took; what is sent from now on."""
    is_there = False
    sent: list[int] = []
    ledger = Ledger()

    def send(message: Verdict) -> bool:
        if is_there:
            sent.append(message.part_id)
        return is_there

    rows = RowDelivery(journal, ledger, send, 0)
    for part_id in range(1, count + 1):
        journal.closed(verdict(part_id))
        rows.send(verdict(part_id), 0)
    is_there = True
    return rows, ledger, sent


def test_a_backlog_is_sent_a_few_rows_a_turn_and_all_of_it(journal: Journal) -> None:
    rows, ledger, sent = backlog(journal, 45)
    for turn in range(1, 6):
        rows.send_again(2 * S)
        assert len(sent) == min(10 * turn, 45), "the loop has parts to judge, too"
    assert sent == list(range(1, 46))
    rows.send_again(3 * S)
    assert len(sent) == 45, "two seconds each for an answer"
    rows.stored(Stored(part_ids=tuple(range(1, 46))))
    rows.send_again(9 * S)
    assert len(sent) == 45 and ledger.rows_pending == 0


def test_what_the_journal_gave_up_is_not_sent_and_is_counted(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "UNSTORED_MAX", 20)
    rows, ledger, sent = backlog(journal, 25)
    rows.send_again(2 * S)  # before anybody looked what is gone
    rows.send_again(2 * S)
    assert sent == list(range(6, 26))
    rows.drop()
    assert (ledger.rows_pending, ledger.rows_dropped) == (20, 5)


def test_rows_that_waited_for_a_recorder_are_late_and_not_missing(tmp_path: Path) -> None:
    """A minute without it at 60 parts/s: a fault 9 when it is back would stop the line."""
    journal = Journal(tmp_path / "state")
    rows, ledger, sent = backlog(journal, 3600)
    now_ns = 60 * S
    ledger.check(now_ns, (), recorder_is_healthy=False)
    for turn in range(30 * 20):
        now_ns += S // 20
        rows.send_again(now_ns)
        rows.stored(Stored(part_ids=tuple(sent)))
        sent.clear()
        if turn % 20 == 0:
            ledger.check(now_ns, (), recorder_is_healthy=True)
            assert ledger.figures()["rows_missing"] == 0
    assert ledger.rows_pending == 0
    journal.close()


def test_a_row_that_never_comes_is_missing_all_the_same(journal: Journal) -> None:
    rows, ledger, sent = backlog(journal, 50)
    now_ns = 60 * S
    for _ in range(7 * 20):
        now_ns += S // 20
        rows.send_again(now_ns)
        rows.stored(Stored(part_ids=tuple(one for one in sent if one != 7)))
        sent.clear()
        ledger.check(now_ns, (), recorder_is_healthy=True)
    assert ledger.rows_pending == ledger.rows_missing == 1


def test_what_went_to_a_life_of_the_recorder_that_died_is_due_when_the_next_one_speaks(
    journal: Journal,
) -> None:
    rows, ledger, sent = backlog(journal, 20)
    rows.heard(alive(1), 1 * S)
    rows.send_again(2 * S)
    rows.send_again(2 * S)
    assert len(sent) == 20
    rows.heard(alive(1), 2 * S)
    rows.send_again(2 * S)
    assert len(sent) == 20, "its answer may still come"
    rows.heard(alive(2), 2 * S)
    rows.send_again(2 * S)
    rows.send_again(2 * S)
    assert sorted(sent[20:]) == list(range(1, 21))
    rows.heard(
        Health(process="record", pid=1, life=2, is_serving=True, counters={"doubled": 20}), 3 * S
    )
    assert ledger.rows_doubled == 0, "they were sent twice"


def test_a_recorder_that_dies_again_and_again_has_late_rows_and_not_missing_ones(
    journal: Journal,
) -> None:
    """Back within a second each time, so that no check sees it away: fault 9 stopped the line."""
    rows, ledger, _ = backlog(journal, 20)
    for second in range(12):
        if second % 3 == 0:
            rows.heard(alive(1 + second), second * S)
        rows.send_again(second * S)
        ledger.check(second * S, (), recorder_is_healthy=True)
        assert ledger.figures()["rows_missing"] == 0
    for second in range(12, 16):
        ledger.check(second * S, (), recorder_is_healthy=True)
    assert ledger.rows_missing == 20, "this one lives and does not answer"
