import pytest

from appliance.backoff import Backoff
from appliance.messages import Trigger
from appliance.triggers import Asked, Triggers

MS = 1_000_000


def a_trigger(part_id):
    return Trigger(part_id=part_id)


def awake(now_ms=100):
    """Triggers of a camera that has been looking into its inbox all the time."""
    triggers = Triggers(patience_ns=200 * MS, stale_ns=50 * MS)
    for ms in range(0, now_ms + 1, 10):
        triggers.looked(ms * MS)
    return triggers


def test_a_fresh_trigger_is_fired_at_once():
    triggers = awake(100)
    assert triggers.take(a_trigger(1), 100 * MS)
    fresh = triggers.next()
    assert fresh is not None and fresh.part_id == 1
    triggers.fired(fresh, 101 * MS)
    assert triggers.asked == Asked(1, 101 * MS)
    assert triggers.answered() == Asked(1, 101 * MS)
    assert triggers.answered() is None


@pytest.mark.parametrize(
    ("gap_ms", "is_taken"), [(10, True), (50, True), (51, False), (5000, False)]
)
def test_what_may_have_waited_in_the_socket_is_refused(gap_ms, is_taken):
    triggers = awake(100)
    now = (100 + gap_ms) * MS
    triggers.looked(now)
    assert triggers.take(a_trigger(1), now) is is_taken


def test_after_a_stop_messages_still_trickle_in():
    triggers = awake(100)
    triggers.looked(2000 * MS)
    triggers.looked(2015 * MS)
    assert not triggers.take(a_trigger(1), 2015 * MS)
    triggers.looked(2025 * MS)
    assert triggers.take(a_trigger(2), 2025 * MS)


@pytest.mark.parametrize(
    ("asked_ms", "is_taken"),
    [(150, False), (1940, False), (1960, True), (1999, True), (2001, True), (2090, True)],
)
def test_after_a_stop_the_age_of_a_trigger_counts_where_it_is_told(asked_ms, is_taken):
    triggers = awake(100)
    triggers.looked(2000 * MS)
    for ms in range(2010, 2101, 10):  # long after the stop it trickles in
        triggers.looked(ms * MS)
    asked = Trigger(part_id=1, asked_ns=asked_ms * MS)
    assert triggers.take(asked, max(asked_ms, 2000) * MS) is is_taken
    if not is_taken:
        assert not triggers.take(asked, 2100 * MS)


@pytest.mark.parametrize(("asked_ms", "is_taken"), [(249, False), (250, True), (300, True)])
def test_a_trigger_that_was_long_on_its_way_is_refused_by_a_camera_that_looked(asked_ms, is_taken):
    """decide was held up, by its disk or by a busy machine: the part is a period further."""
    triggers = awake(300)
    assert triggers.take(Trigger(part_id=1, asked_ns=asked_ms * MS), 300 * MS) is is_taken


def test_behind_another_picture_it_gets_no_older_than_on_its_way():
    triggers = awake(100)
    triggers.fired(a_trigger(1), 100 * MS)
    assert triggers.take(Trigger(part_id=2, asked_ns=70 * MS), 100 * MS)
    assert triggers.stale(120 * MS) == []
    assert [old.part_id for old in triggers.stale(121 * MS)] == [2]


def test_nothing_is_trusted_right_after_the_start():
    triggers = Triggers(patience_ns=200 * MS, stale_ns=50 * MS)
    triggers.looked(7_000_000 * MS)
    assert not triggers.take(a_trigger(1), 7_000_000 * MS)


def test_one_picture_at_a_time_and_no_late_shot():
    triggers = awake(100)
    for part_id in (1, 2, 3):
        assert triggers.take(a_trigger(part_id), 100 * MS)
    first = triggers.next()
    assert first is not None
    triggers.fired(first, 100 * MS)
    assert triggers.next() is None
    assert triggers.stale(150 * MS) == []
    assert triggers.answered() == Asked(1, 100 * MS)
    second = triggers.next()
    assert second is not None and second.part_id == 2
    triggers.fired(second, 150 * MS)
    assert [old.part_id for old in triggers.stale(151 * MS)] == [3]
    triggers.answered()
    assert triggers.next() is None


def test_patience_ends():
    triggers = awake(100)
    assert not triggers.overdue(10_000 * MS)
    triggers.fired(a_trigger(1), 100 * MS)
    assert not triggers.overdue(300 * MS)
    assert triggers.overdue(301 * MS)


def test_drop_forgets_what_waits():
    triggers = awake(100)
    triggers.take(a_trigger(1), 100 * MS)
    triggers.take(a_trigger(2), 100 * MS)
    assert [dropped.part_id for dropped in triggers.drop()] == [1, 2]
    assert triggers.next() is None


def test_backoff_doubles_is_kept_and_ends_with_success(tmp_path):
    file = tmp_path / "camera-top.backoff"
    waits = []
    for _ in range(7):
        failing = Backoff(file, 30.0)
        waits.append(failing.wait_s)
        failing.failed()
    assert waits == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0]
    backoff = Backoff(file, 30.0)
    backoff.succeeded()
    assert not file.exists()
    assert Backoff(file, 30.0).wait_s == 0.0
    backoff.succeeded()


def test_a_backoff_that_cannot_be_written_down_is_no_crash(tmp_path):
    backoff = Backoff(tmp_path / "full" / "camera-top.backoff", 30.0)
    backoff.failed()
    assert backoff.wait_s == 1.0
    backoff.succeeded()
    assert backoff.wait_s == 0.0


@pytest.mark.parametrize("content", ["", "nonsense", "-5", "1e9"])
def test_a_damaged_backoff_file_is_no_obstacle(tmp_path, content):
    file = tmp_path / "camera-top.backoff"
    file.write_text(content)
    assert 0.0 <= Backoff(file, 30.0).wait_s <= 30.0
