"""parts.db: rows that explain, once each, whatever comes twice, late or from another life."""

import math
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import event

from appliance import database
from appliance.codes import Reason, Word
from appliance.errors import DeviceError
from appliance.messages import LateResult, Verdict
from appliance.migrations.tables import parts
from appliance.rows import TRANSIENT, PartRow
from appliance.store import Store
from tests.verdicts import full, store, verdict

__all__ = ["store"]


def stored(store: Store, part_id: int) -> PartRow:
    row = store.part(part_id)
    assert row is not None
    return row


def test_every_field_of_a_verdict_has_a_column() -> None:
    fields = set(Verdict.__struct_fields__) - TRANSIENT
    assert set(parts.c.keys()) == fields | {"late_word", "late_margin", "image", "stored_utc_ns"}


def test_a_row_gives_back_the_whole_verdict(store: Store) -> None:
    sent = full((1 << 63) - 1)
    defaults = {f.name: f.default for f in msgspec.structs.fields(Verdict)}
    for name in set(Verdict.__struct_fields__) - {"is_rebuilt"}:
        assert getattr(sent, name) != defaults[name], f"{name} is left at its default"
    store.add([sent], images={sent.part_id: "images/2026-09-21/1.png"})
    row = stored(store, sent.part_id)
    lost = {"pixels": None, "map": None, "is_tag_known": False, "is_kept": False}
    assert set(lost) == TRANSIENT
    assert row.verdict == msgspec.structs.replace(sent, **lost)
    assert row.image == "images/2026-09-21/1.png"
    assert row.stored_utc_ns > 1_700_000_000_000_000_000


def test_people_can_read_the_row_without_our_code(store: Store) -> None:
    store.add([full(5)])
    with sqlite3.connect(store.where) as plain:
        row = plain.execute(
            "SELECT word, reason, expected_word, json_extract(reasons, '$[0]'),"
            " json_extract(stages_ns, '$.infer') FROM parts"
        ).fetchone()
    plain.close()
    assert row == ("NG", "SEGAD", "NG", "cell p99 +2.10", 7_000_000)


def test_numbers_that_are_not_finite_survive_as_such(store: Store) -> None:
    store.add(
        [
            verdict(1, Word.ERROR, margin=math.nan, map_max=math.inf, features=(1.0, math.nan)),
        ]
    )
    row = stored(store, 1).verdict
    assert row.margin is None
    assert row.map_max == math.inf
    assert row.features[0] == 1.0
    assert math.isnan(row.features[1])


def test_writes_are_on_the_disk_when_the_call_returns(store: Store) -> None:
    with store._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL


def test_the_same_verdict_twice_is_one_row(store: Store) -> None:
    first = store.add([verdict(1), verdict(2, Word.NG), verdict(1)])
    again = store.add([verdict(2, Word.NG), verdict(3)])
    assert (first.new, first.known) == (2, 0)
    assert (again.new, again.known, again.contradictions) == (1, 1, ())
    assert sum(store.counts().values()) == 3


def test_a_second_word_for_a_part_is_reported_and_changes_nothing(store: Store) -> None:
    store.add([verdict(1, Word.NG)])
    added = store.add([verdict(1, Word.OK), verdict(2)])
    assert added.contradictions == (1,)
    assert (added.new, added.known) == (1, 0)
    assert stored(store, 1).verdict.word is Word.NG


def test_a_full_row_fills_in_a_rebuilt_one_and_never_the_reverse(store: Store) -> None:
    opened_utc_ns = full(8).opened_utc_ns
    rebuilt = verdict(8, Word.NG, is_rebuilt=True, opened_utc_ns=opened_utc_ns)
    store.add([rebuilt], images={8: "images/x/8.png"})
    assert stored(store, 8).verdict.is_rebuilt
    detailed = full(8)
    assert store.add([detailed]).new == 1
    assert stored(store, 8).verdict.reasons == detailed.reasons
    assert stored(store, 8).image == "images/x/8.png"
    assert store.add([rebuilt]).known == 1
    assert not stored(store, 8).verdict.is_rebuilt


def test_a_part_of_another_life_is_a_contradiction(store: Store) -> None:
    """The journal was lost and ids began anew: the new part is not the old row."""
    store.add([verdict(1, opened_utc_ns=5)])
    assert store.add([verdict(1, opened_utc_ns=6)]).contradictions == (1,)


def test_a_late_result_joins_its_row(store: Store) -> None:
    store.add(
        [verdict(1, Word.ERROR, reason=Reason.LATE)],
        late=[LateResult(part_id=1, word=Word.NG, margin=2.5)],
    )
    store.add([verdict(1, Word.ERROR, reason=Reason.LATE)])
    row = stored(store, 1)
    assert (row.verdict.word, row.late_word, row.late_margin) == (Word.ERROR, Word.NG, 2.5)
    store.add([], late=[LateResult(part_id=2, word=Word.OK, margin=0.0)])
    assert store.part(2) is None


def test_a_full_row_with_another_word_does_not_replace_a_rebuilt_one(store: Store) -> None:
    store.add([verdict(8, Word.ERROR, reason=Reason.RESTART, is_rebuilt=True)])
    assert store.add([verdict(8, Word.OK)]).contradictions == (8,)
    assert stored(store, 8).verdict.reason is Reason.RESTART


def test_image_paths_come_and_go(store: Store) -> None:
    store.add([verdict(1)])
    store.add([], images={1: "images/a/1.png", 99: "images/a/99.png"})
    assert stored(store, 1).image == "images/a/1.png"
    store.add([], images={1: ""})
    assert stored(store, 1).image == ""
    assert store.part(99) is None


def test_the_newest_rows_by_word(store: Store) -> None:
    store.add([verdict(n, Word.NG if n % 3 == 0 else Word.OK) for n in range(1, 11)])
    assert [row.verdict.part_id for row in store.last(3)] == [10, 9, 8]
    assert [row.verdict.part_id for row in store.last(2, [Word.NG])] == [9, 6]
    assert store.last(5, [Word.UNCERTAIN]) == ()
    assert store.counts() == {Word.OK: 7, Word.NG: 3, Word.UNCERTAIN: 0, Word.ERROR: 0}
    assert store.counts(first=3, last=6)[Word.NG] == 2


@pytest.mark.parametrize(
    ("present", "first", "last", "expected"),
    [
        ([], 1, 3, [(1, 4)]),
        ([1, 2, 3], 1, 3, []),
        ([1, 3], 1, 3, [(2, 3)]),
        ([2], 1, 3, [(1, 2), (3, 4)]),
        ([1, 2, 9], 1, 5, [(3, 6)]),
        ([5, 1 << 40], 5, 1 << 40, [(6, 1 << 40)]),
        ([1], 3, 2, []),
    ],
)
def test_rows_missing_between_two_ids(
    store: Store, present: list[int], first: int, last: int, expected: list[tuple[int, int]]
) -> None:
    store.add([verdict(n) for n in present])
    assert list(store.missing(first, last)) == [range(*pair) for pair in expected]


def test_a_reader_sees_what_was_written_and_writes_nothing(store: Store) -> None:
    store.add([verdict(1)])
    reader = Store(store.where, is_reader=True)
    store.add([verdict(2)])
    assert [row.verdict.part_id for row in reader.last(9)] == [2, 1]
    with pytest.raises(DeviceError, match="readonly"):
        reader.add([verdict(3)])
    reader.close()


def test_a_reader_needs_a_database(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"parts\.db"):
        Store(tmp_path / "parts.db", is_reader=True)
    assert list(tmp_path.iterdir()) == []


def test_challenge_parts_are_found_without_reading_all_others(store: Store) -> None:
    """A page asks for them, and after years they are a few hundred among fifty million."""
    plans: list[str] = []

    @event.listens_for(store._engine, "before_cursor_execute")
    def explain(connection, cursor, statement, parameters, *_: object) -> None:
        if statement.startswith("SELECT"):
            cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.extend(row[-1] for row in cursor.fetchall())

    store.find(count=100, is_challenge=True)
    store.find(count=100, is_challenge=True, after=7)
    assert len(plans) == 2
    assert all("USING INDEX ix_parts_challenge" in plan for plan in plans), plans


def test_a_locked_database_is_a_device_error_and_recovers(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.close()
    monkeypatch.setattr(database, "BUSY_S", 0.05)
    quick = Store(store.where)
    other = sqlite3.connect(store.where, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DeviceError, match="locked"):
        quick.add([verdict(1)])
    other.execute("ROLLBACK")
    other.close()
    assert quick.add([verdict(1)]).new == 1
    quick.close()


def test_a_restart_verdict_does_not_contradict_the_row_that_knows_better(tmp_path: Path) -> None:
    store = Store(tmp_path / "parts.db")
    try:
        stored = verdict(1)
        assert store.add([stored]).new == 1
        rebuilt = msgspec.structs.replace(stored, word=Word.ERROR, is_rebuilt=True)
        added = store.add([rebuilt])
        assert (added.new, added.known, added.contradictions) == (0, 1, ())
        row = store.part(1)
        assert row is not None
        assert row.verdict.word == Word.OK
    finally:
        store.close()


def test_parts_are_found_by_number_tag_and_the_beginning_of_a_name(store: Store) -> None:
    store.add(
        [
            msgspec.structs.replace(
                full(number), part_tag=number + 100, part_text=f"A{number}", lot="50%_x"
            )
            for number in range(1, 8)
        ]
    )

    def ids(text: str, **more: Any) -> list[int]:
        return [row.verdict.part_id for row in store.find(text, **more)]

    assert ids("") == [7, 6, 5, 4, 3, 2, 1]
    assert ids("3") == [3] and ids("103") == [3] and ids("A3") == [3]
    assert ids("A", before=4) == [3, 2, 1] and ids("A", count=2) == [7, 6]
    assert ids("50%") != [] and ids("5_") == [] and ids("%") == [], "no wild cards"
    assert ids("", words=[Word.OK]) == [] and ids("9" * 40) == []


def test_margins_are_those_of_one_bundle_and_one_score(store: Store) -> None:
    plain = msgspec.structs.replace(full(1), is_challenge=False, views=())
    changes: list[dict[str, Any]] = [
        {}, {"bundle": "other"}, {"decides": "map_max"}, {"margin": None}, {"is_challenge": True},
        {"margin": 9.5}, {"views": full(1).views},
    ]  # fmt: skip
    store.add(
        [
            msgspec.structs.replace(plain, part_id=number, **change)
            for number, change in enumerate(changes, 1)
        ]
    )
    found = store.margins(plain.bundle, plain.decides, 10)
    assert [(row.part_id, row.margin) for row in found] == [(6, 9.5), (1, plain.margin)]
    assert [row.part_id for row in store.margins(plain.bundle, plain.decides, 10, [1, 2])] == [1]
    assert len(store.margins(plain.bundle, plain.decides, 1)) == 1


def test_parts_are_found_by_time_and_by_being_challenge_parts(store: Store) -> None:
    plain = msgspec.structs.replace(full(1), is_challenge=False, word=Word.OK)
    store.add(
        [
            msgspec.structs.replace(
                plain, part_id=number, opened_utc_ns=1000 * number, is_challenge=number in (3, 4),
                word=Word.NG if number == 5 else Word.OK, bundle="old" if number < 3 else "new",
            )
            for number in range(1, 7)
        ]
    )  # fmt: skip

    def found(**asked: Any) -> list[int]:
        return [row.verdict.part_id for row in store.find(**asked)]

    assert found(opened_utc_ns=(2000, 5000)) == [4, 3, 2]
    assert found(opened_utc_ns=(5000, None)) == [6, 5]
    assert found(opened_utc_ns=(None, 2000)) == [1]
    assert found(is_challenge=True) == [4, 3] and found(is_challenge=False) == [6, 5, 2, 1]
    assert found(after=3, before=6) == [5, 4]
    assert [part.part_id for part in store.delivered(1)] == [2, 6]
    assert store.delivered_count(1) == 2 and store.delivered_count(0) == 3
    of_new = store.first("new", plain.decides, 5)
    assert [row.verdict.part_id for row in of_new] == [6, 5]
    assert [row.verdict.part_id for row in store.first("old", plain.decides, 1)] == [1]


def test_no_statement_is_kept_for_each_number_of_rows(store: Store) -> None:
    texts: set[str] = set()

    @event.listens_for(store._engine, "before_cursor_execute")  # pyright: ignore[reportPrivateUsage]
    def note(_connection: Any, _cursor: Any, text: str, *_: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        texts.add(text)

    first = 1
    for count in range(1, 65):
        added = store.add([verdict(part_id) for part_id in range(first, first + count)])
        assert added.new == count
        first += count
    assert len([text for text in texts if text.startswith("INSERT")]) <= 8


def test_a_reader_where_no_line_has_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"parts\.db: expected the rows of a line that has run"):
        Store(tmp_path / "parts.db", is_reader=True)
