"""The conservation laws one by one, and what breaks or forgives each of them."""

from appliance.ledger import Ledger

S = 1_000_000_000


def test_an_empty_ledger_closes() -> None:
    ledger = Ledger()
    ledger.check(10 * S, [], True)
    assert ledger.unaccounted == 0
    assert set(ledger.figures().values()) == {0}


def test_pending_is_accepted_without_a_verdict_and_no_breach() -> None:
    ledger = Ledger(accepted=3, verdicts=1)
    ledger.check(S, [2 * S, 3 * S], True)
    assert (ledger.pending, ledger.unaccounted) == (2, 0)


def test_a_part_open_beyond_its_deadline_is_overdue_until_it_is_closed() -> None:
    ledger = Ledger(accepted=1)
    ledger.check(2 * S + 100_000_000, [2 * S], True)
    assert ledger.unaccounted == 0  # two ticks of grace
    ledger.check(2 * S + 100_000_001, [2 * S], True)
    assert ledger.unaccounted == ledger.overdue == 1
    ledger.verdicts += 1
    ledger.check(3 * S, [], True)
    assert ledger.unaccounted == 0


def test_a_part_that_vanished_without_a_verdict_shows() -> None:
    ledger = Ledger(accepted=2, verdicts=1)
    ledger.check(S, [], True)
    assert ledger.unaccounted == ledger.vanished == 1


def test_a_verdict_too_many_shows() -> None:
    ledger = Ledger(accepted=1, verdicts=2)
    ledger.check(S, [], True)
    assert ledger.unaccounted == 1


def test_an_answer_owed_too_long_is_counted_once() -> None:
    ledger = Ledger()
    ledger.owe("camera", 1, 1 * S)
    ledger.check(6 * S, [], True)
    assert ledger.unaccounted == 0
    ledger.check(6 * S + 1, [], True)
    ledger.check(60 * S, [], True)
    assert ledger.unaccounted == ledger.unanswered == 1


def test_an_answer_in_time_pays_the_debt() -> None:
    ledger = Ledger()
    ledger.owe("infer", 1, 1 * S)
    ledger.answered("infer", 1)
    ledger.answered("infer", 1)
    ledger.check(60 * S, [], True)
    assert ledger.unaccounted == 0


def test_death_forgives_the_debts_of_that_process_alone() -> None:
    ledger = Ledger()
    ledger.seen_alive("camera", 100)
    ledger.seen_alive("infer", 200)
    ledger.owe("camera", 1, 1 * S)
    ledger.owe("infer", 2, 1 * S)
    ledger.seen_alive("camera", 100)
    ledger.seen_alive("infer", 201)
    ledger.check(60 * S, [], True)
    assert ledger.unanswered == 1


def test_a_camera_that_died_or_is_silent_takes_the_debts_for_its_frames_with_it() -> None:
    ledger = Ledger()
    for camera in ("top", "side"):
        ledger.seen_alive(f"camera:{camera}", 100)
        ledger.owe("infer", 1, 1 * S, camera)
    ledger.check(60 * S, [], True, ["infer", "camera:side"])
    assert ledger.unanswered == 1, "of side, which lives"
    ledger.seen_alive("camera:top", 101)
    ledger.check(120 * S, [], True)
    assert ledger.unanswered == 1


def test_rows_are_pending_until_the_recorder_was_well_for_five_seconds() -> None:
    ledger = Ledger()
    ledger.row_sent(1, 0)
    ledger.check(60 * S, [], False)
    assert (ledger.rows_pending, ledger.unaccounted) == (1, 0)
    ledger.check(61 * S, [], True)
    ledger.check(65 * S, [], True)
    assert ledger.unaccounted == 0
    ledger.check(66 * S, [], True)
    assert ledger.unaccounted == ledger.rows_missing == 1
    ledger.row_stored([1])
    ledger.check(68 * S, [], True)
    assert (ledger.rows_pending, ledger.unaccounted) == (0, 0)


def test_a_recorder_that_was_ill_again_has_its_five_seconds_again() -> None:
    ledger = Ledger()
    ledger.row_sent(1, 0)
    for second, is_healthy in ((1, True), (5, False), (6, True), (10, True)):
        ledger.check(second * S, [], is_healthy)
    assert (ledger.rows_pending, ledger.unaccounted) == (1, 0)
    ledger.check(11 * S, [], True)
    assert ledger.unaccounted == ledger.rows_missing == 1
    ledger.check(12 * S, [], False)
    assert (ledger.rows_pending, ledger.unaccounted) == (1, 0)


def test_a_row_on_its_way_is_not_missing() -> None:
    ledger = Ledger()
    ledger.check(0, [], True)
    ledger.row_sent(1, 5 * S)
    ledger.check(10 * S, [], True)
    assert ledger.unaccounted == 0
    ledger.check(10 * S + 1, [], True)
    assert ledger.unaccounted == ledger.rows_missing == 1


def test_a_row_given_up_is_missing_for_good_once_the_recorder_is_well() -> None:
    ledger = Ledger()
    ledger.row_sent(1, 0)
    ledger.row_dropped(1)
    assert ledger.rows_dropped == 1
    ledger.row_dropped(1)
    ledger.check(1 * S, [], False)
    assert (ledger.rows_pending, ledger.rows_dropped, ledger.unaccounted) == (0, 1, 0)
    for second in (2, 8):
        ledger.check(second * S, [], True)
    assert ledger.unaccounted == 1


BREACHES = (
    "duplicates", "foreign", "overdue", "vanished", "unanswered",
    "rows_missing", "rows_doubled", "rows_skipped",
)  # fmt: skip


def with_counts(counts: dict[str, int]) -> Ledger:
    ledger = Ledger()
    for name, count in counts.items():
        setattr(ledger, name, count)
    return ledger


def test_every_breach_adds_up() -> None:
    ledger = with_counts({name: 2**n for n, name in enumerate(BREACHES)})
    assert ledger.unaccounted == 2 ** len(BREACHES) - 1


def test_every_count_is_shown_under_its_name() -> None:
    names = ("accepted", "verdicts", "rows_pending", "rows_dropped", *BREACHES)
    counts = {name: 2 * n + 1 for n, name in enumerate(names)}
    ledger = with_counts(counts)
    derived = {"pending": ledger.pending, "unaccounted": ledger.unaccounted}
    assert ledger.figures() == counts | derived


def test_a_row_that_is_acknowledged_and_was_never_counted_shows() -> None:
    ledger = Ledger()
    ledger.rows_counted(life=7, rows=3, acknowledged=3)
    ledger.rows_counted(life=7, rows=5, acknowledged=2)
    assert ledger.unaccounted == 0
    ledger.rows_counted(life=7, rows=5, acknowledged=1)
    assert ledger.unaccounted == ledger.rows_skipped == 1
    ledger.rows_counted(life=8, rows=2, acknowledged=2)  # a new life counts from 0
    assert ledger.unaccounted == 1
    ledger.rows_counted(life=9, rows=2, acknowledged=3)
    assert ledger.unaccounted == 2


def test_a_row_that_was_counted_and_not_yet_acknowledged_hides_no_other() -> None:
    ledger = Ledger(rows_skipped=1)
    ledger.rows_counted(life=7, rows=5, acknowledged=1)
    assert ledger.unaccounted == 1


def test_a_silent_process_owes_until_it_speaks_or_is_replaced():
    ledger = Ledger()
    ledger.seen_alive("infer", 1)
    ledger.owe("infer", 7, S)
    ledger.check(20 * S, [], True, alive=["camera"])
    ledger.check(25 * S, [], True, alive=["camera", "infer"])
    assert ledger.unanswered == 0, "it has its patience again since it was last seen silent"
    ledger.check(26 * S, [], True, alive=["camera", "infer"])
    assert ledger.unanswered == 1
    ledger.owe("infer", 8, 27 * S)
    ledger.check(40 * S, [], True, alive=["camera"])
    ledger.seen_alive("infer", 2)
    ledger.check(60 * S, [], True)
    assert ledger.unanswered == 1
