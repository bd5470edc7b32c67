"""What every database owes the recorder: SQLite and PostgreSQL through the same suite."""

import contextlib
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import event
from typer.testing import CliRunner

from appliance import forward
from appliance.__main__ import app
from appliance.codes import Reason, Word
from appliance.database import Where
from appliance.errors import ArtefactError, ConfigError, DeviceError
from appliance.forward import Forwarder
from appliance.messages import LateResult
from appliance.migrations import REVISION, migrate, tables
from appliance.outbox import Central, Outbox
from appliance.report import rows as rows_of
from appliance.report import shift_report
from appliance.store import Store
from tests.postgres import Postgres, running_postgres
from tests.verdicts import full, verdict
from tests.waiting import until

HOUR_NS = 3_600_000_000_000


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Where:
    if request.param == "sqlite":
        return tmp_path / "parts.db"
    server: Postgres = request.getfixturevalue("postgres")
    server.drop_tables()
    return server.address


@pytest.fixture
def store(where: Where) -> Iterator[Store]:
    opened = Store(where, is_forwarding=True)
    yield opened
    opened.close()


def owed(where: Where) -> int:
    """Rows of a box that wait for the central database."""
    with contextlib.closing(Outbox(where, is_reader=True)) as outbox:
        query = sa.select(sa.func.count()).select_from(tables.outbox)
        with outbox.reading() as connection:
            return connection.execute(query).scalar_one()


def of_boxes(where: Where) -> dict[str, int]:
    """Rows of the central database by box."""
    with contextlib.closing(Central(where, is_reader=True)) as central:
        box = tables.line_parts.c.box
        query = sa.select(box, sa.func.count()).group_by(box)
        with central.reading() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}


def test_a_row_gives_back_the_whole_verdict(store: Store) -> None:
    sent = full((1 << 63) - 1)
    store.add([sent], images={sent.part_id: "images/x/1.png"})
    row = store.part(sent.part_id)
    assert row is not None
    lost = {"pixels": None, "map": None, "is_tag_known": False, "is_kept": False}
    assert row.verdict == msgspec.structs.replace(sent, **lost)
    assert row.image == "images/x/1.png"


def test_rows_are_written_once_and_contradictions_named(store: Store) -> None:
    assert store.add([verdict(1), verdict(2, Word.NG), verdict(1)]).new == 2
    added = store.add([verdict(2, Word.OK), verdict(3), verdict(1)])
    assert (added.new, added.known, added.contradictions) == (1, 1, (2,))
    store.add([], late=[LateResult(part_id=3, word=Word.NG, margin=2.5)])
    row = store.part(3)
    assert row is not None
    assert (row.late_word, row.late_margin) == (Word.NG, 2.5)


def test_a_full_row_fills_in_a_rebuilt_one(store: Store) -> None:
    opened = full(8).opened_utc_ns
    store.add([verdict(8, Word.NG, is_rebuilt=True, opened_utc_ns=opened)])
    assert store.add([full(8)]).new == 1
    assert store.add([verdict(8, Word.NG, is_rebuilt=True, opened_utc_ns=opened)]).known == 1
    row = store.part(8)
    assert row is not None and not row.verdict.is_rebuilt


def test_odd_texts_and_numbers_are_kept(store: Store) -> None:
    nan, inf = float("nan"), float("inf")
    store.add([verdict(1, part_text="a\0b ü '", margin=nan, map_max=inf, features=(1.0, nan))])
    row = store.part(1)
    assert row is not None
    assert row.verdict.part_text == "a\ufffdb ü '"
    assert row.verdict.margin is None
    assert row.verdict.map_max == inf
    assert row.verdict.features[1] != row.verdict.features[1]


def test_questions_of_pages_and_ledger(store: Store) -> None:
    store.add([verdict(n, Word.NG if n % 3 == 0 else Word.OK) for n in (1, 2, 3, 6, 7)])
    assert [row.verdict.part_id for row in store.last(2)] == [7, 6]
    assert [row.verdict.part_id for row in store.last(9, [Word.NG])] == [6, 3]
    assert store.counts()[Word.NG] == 2
    assert list(store.missing(1, 8)) == [range(4, 6), range(8, 9)]


def test_tables_are_what_the_migrations_make_forward_and_back(store: Store) -> None:
    def difference() -> list[Any]:
        with store._engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            return compare_metadata(context, tables.metadata)

    assert difference() == []
    store.add([verdict(1, Word.NG)])
    migrate(store._engine, "0001")
    assert set(sa.inspect(store._engine).get_table_names()) == {"alembic_version", "parts"}
    with store._engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT word FROM parts").scalar() == "NG"
    migrate(store._engine, REVISION)
    assert difference() == []
    assert store.counts()[Word.NG] == 1


def test_reports_count_what_was_opened_in_the_shift(store: Store) -> None:
    shift = 100 * HOUR_NS
    rows = [
        verdict(
            n,
            word,
            opened_utc_ns=shift + at,
            latency_ns=n * 1_000_000,
            reasons=(why,),
            reason=reason,
        )
        for n, (word, at, why, reason) in enumerate(
            [
                (Word.OK, -1, "", Reason.NONE),
                (Word.OK, 0, "", Reason.NONE),
                (Word.NG, 5, "segment busbar: q99.5 of a is high, mean of a is high", Reason.SEGAD),
                (Word.NG, 6, "segment busbar: skewness of a raises the margin", Reason.SEGAD),
                (Word.UNCERTAIN, 7, "segment rim: mean of a is high", Reason.UNCERTAIN_BAND),
                (Word.ERROR, 8, "", Reason.LATE),
                (Word.OK, 8 * HOUR_NS, "", Reason.NONE),
            ],
            1,
        )
    ]
    store.add(rows)
    tally = store.tallied(shift, shift + 8 * HOUR_NS)
    assert sorted((w.name, r.name, n) for w, r, n in tally) == [
        ("ERROR", "LATE", 1), ("NG", "SEGAD", 2), ("OK", "NONE", 1),
        ("UNCERTAIN", "UNCERTAIN_BAND", 1),
    ]  # fmt: skip
    assert sorted(store.latencies_ns(shift, shift + 8 * HOUR_NS)) == [
        n * 1_000_000 for n in (2, 3, 4, 5, 6)
    ]
    begun = datetime.fromtimestamp(shift / 1e9, timezone.utc)
    report = shift_report(store, begun, begun + timedelta(hours=8), 200)
    assert report["counts"] == {
        "parts": 5, "good": 1, "rejected": 2, "uncertain": 1, "error": 1,
        "parts_per_hour": 0.6, "quality": 0.25, "inspected": 0.8,
    }  # fmt: skip
    assert report["reasons"] == {"SEGAD": 2, "UNCERTAIN_BAND": 1, "LATE": 1}
    assert report["regions"] == {"busbar": 2, "rim": 1}
    assert report["latency_ms"]["p50"] == 4.0
    assert report["latency_ms"]["max"] == 6.0
    empty = shift_report(store, begun - timedelta(days=9), begun - timedelta(days=8), 200)
    assert empty["counts"]["quality"] is None
    assert empty["latency_ms"]["p99"] is None
    table = list(rows_of(report))
    assert ("regions", "busbar", 2) in table
    assert table[0][:2] == ("shift", "from")


def test_every_row_reaches_the_central_database_once_and_in_its_last_state(
    store: Store, postgres: Postgres, where: Where, tmp_path: Path
) -> None:
    central_where = postgres.address if isinstance(where, Path) else tmp_path / "central.db"
    if isinstance(where, Path):
        postgres.drop_tables()
    store.add([verdict(n, opened_utc_ns=n) for n in range(1, 1201)])
    forwarder = Forwarder(where, central_where, "box-1")
    while forwarder.turn():
        pass
    store.add([], images={5: "images/5.png"})
    assert owed(store.where) == 1
    forwarder.turn()
    assert owed(store.where) == 0
    central = Store(central_where)
    try:
        assert of_boxes(central.where) == {"box-1": 1200}
        with central._engine.connect() as connection:
            query = "SELECT image FROM line_parts WHERE part_id = 5"
            assert connection.exec_driver_sql(query).scalar() == "images/5.png"
    finally:
        central.close()
        forwarder.close()


def test_a_central_database_that_is_away_and_back_loses_and_doubles_nothing(
    postgres: Postgres, tmp_path: Path
) -> None:
    postgres.drop_tables()
    local = Store(tmp_path / "parts.db", is_forwarding=True)
    forwarder = Forwarder(tmp_path / "parts.db", postgres.address, "box-1")
    forwarder.start()
    try:
        local.add([verdict(n, opened_utc_ns=n) for n in range(1, 101)])
        until("the first rows", lambda: owed(local.where) == 0)
        postgres.stop()
        for first in range(101, 601, 100):
            local.add([verdict(n, opened_utc_ns=n) for n in range(first, first + 100)])
        local.add([], images={50: "images/50.png"})
        until("a note of the failure", lambda: forwarder.note != "")
        assert owed(local.where) == 501
        postgres.start()
        until("all rows", lambda: owed(local.where) == 0, 20)
        assert forwarder.note == ""
    finally:
        forwarder.close()
        local.close()
    assert of_boxes(postgres.address) == {"box-1": 600}


def test_rights_that_are_missing_are_noted_and_the_rows_go_when_they_come(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "AWAY_S", 0.05)
    postgres.drop_tables()
    owner = sa.create_engine(postgres.address, isolation_level="AUTOCOMMIT")
    local = Store(tmp_path / "parts.db", is_forwarding=True)
    local.add([verdict(n, opened_utc_ns=n) for n in range(1, 11)])
    address = postgres.address.replace("inspectd@", "box@")
    forwarder = Forwarder(tmp_path / "parts.db", address, "box-1")
    try:
        with owner.connect() as connection:
            connection.exec_driver_sql("CREATE ROLE box LOGIN; GRANT USAGE ON SCHEMA public TO box")
            forwarder.start()
            until("a note of the failure", lambda: forwarder.note != "")
            assert "permission denied" in forwarder.note
            connection.exec_driver_sql("GRANT ALL ON SCHEMA public TO box")
        until("all rows", lambda: owed(local.where) == 0)
        until("an end of the note", lambda: forwarder.note == "")
    finally:
        forwarder.close()
        local.close()
        with owner.connect() as connection:
            connection.exec_driver_sql("DROP OWNED BY box; DROP ROLE box")
        owner.dispose()


def test_rows_of_before_the_central_database_was_named_are_sent_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "LOOK_ROWS", 7)
    monkeypatch.setattr(forward, "ROWS", 5)
    with contextlib.closing(Store(tmp_path / "parts.db")) as local:
        local.add([verdict(n, opened_utc_ns=n) for n in (*range(1, 31), 65_600)])
    places = tmp_path / "parts.db", tmp_path / "central.db"
    with (
        contextlib.closing(Store(places[0], is_forwarding=True)) as local,
        contextlib.closing(Central(places[1])) as central,
    ):
        local.add([verdict(65_601, opened_utc_ns=65_601)])
        new = Forwarder(*places, "box-1", is_looking_back=False)
        while new.turn():
            pass
        assert of_boxes(central.where) == {"box-1": 1}
        new.close()
        forwarder = Forwarder(*places, "box-1")
        while forwarder.turn():
            pass
        assert of_boxes(central.where) == {"box-1": 32}
        assert owed(local.where) == 0
        forwarder.close()
        again = Forwarder(*places, "box-1")
        assert again.turn() == again.turn() == again.forwarded == 0, "nothing is sent twice"
        again.close()


class Buggy(Forwarder):
    """One that meets a bug at first."""

    bugs = 1

    def turn(self) -> int:
        """Raises what is in no taxonomy, then as ever."""
        if self.bugs:
            self.bugs -= 1
            raise ZeroDivisionError
        return super().turn()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_that_ends_the_forwarding_is_told_and_it_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "AWAY_S", 0.5)
    local = Store(tmp_path / "parts.db", is_forwarding=True)
    local.add([verdict(n, opened_utc_ns=n) for n in range(1, 11)])
    forwarder = Buggy(tmp_path / "parts.db", tmp_path / "central.db", "box-1")
    forwarder.start()
    try:

        def is_told() -> bool:
            forwarder.look_after()
            return forwarder.failed == 1

        until("the bug", is_told)
        assert "a bug ended the forwarding (no. 1)" in forwarder.note
        until("all rows", lambda: owed(local.where) == 0)
        until("an end of the note", lambda: forwarder.note == "")
        assert of_boxes(tmp_path / "central.db") == {"box-1": 10}
    finally:
        forwarder.close()
        local.close()


def test_a_row_that_the_central_database_refuses_is_noted_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "AWAY_S", 0.05)
    central = Store(tmp_path / "central.db")
    refuse = "CREATE TRIGGER no BEFORE INSERT ON line_parts BEGIN SELECT RAISE(ABORT, 'full'); END"
    with central._engine.begin() as connection:
        connection.exec_driver_sql(refuse)
    local = Store(tmp_path / "parts.db", is_forwarding=True)
    local.add([verdict(1, opened_utc_ns=1)])
    forwarder = Forwarder(tmp_path / "parts.db", tmp_path / "central.db", "box-1")
    forwarder.start()
    try:
        until("a note of the failure", lambda: forwarder.note != "")
        assert forwarder.note == "central database: IntegrityError: full"
        with central._engine.begin() as connection:
            connection.exec_driver_sql("DROP TRIGGER no")
        until("the row", lambda: owed(local.where) == 0)
        until("an end of the note", lambda: forwarder.note == "")
    finally:
        forwarder.close()
        local.close()
        central.close()


@pytest.mark.parametrize(
    "failure", ["InsufficientPrivilege", "DuplicateTable", "ReadOnlySqlTransaction"]
)
def test_what_a_server_refuses_is_a_device_error(failure: str) -> None:
    errors = pytest.importorskip("psycopg").errors

    def refuses(*_: object) -> None:
        raise getattr(errors, failure)("not for you")

    event.listen(sa.Engine, "do_connect", refuses)
    try:
        with pytest.raises(DeviceError, match="not for you"):
            Store("postgresql+psycopg://me@127.0.0.1:1/none")
    finally:
        event.remove(sa.Engine, "do_connect", refuses)


def test_the_report_command_prints_csv(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        'root = "."\ndeadline_ms = 200\n[[camera]]\nname = "top"\nkind = "files"\nfolder = "x"\n'
    )
    store = Store(tmp_path / "data" / "parts.db")
    store.add([verdict(1, Word.NG, opened_utc_ns=time.time_ns() - 10**9, latency_ns=5_000_000)])
    store.close()
    arguments = ["report", "--config", str(tmp_path / "config.toml"), "--csv"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "counts,rejected,1" in done.stdout.splitlines()
    done = CliRunner().invoke(app, [*arguments, "--from", "soon"])
    assert isinstance(done.exception, ConfigError)
    assert "expected an ISO time" in str(done.exception)


def test_an_address_that_is_none_is_named() -> None:
    with pytest.raises(ArtefactError, match=r"record\.database"):
        Store("mysql://somewhere/else")
    with pytest.raises(ArtefactError, match=r"record\.database"):
        Store("nonsense")


def test_a_server_that_is_not_there_is_a_device_error_without_the_password() -> None:
    pytest.importorskip("psycopg")
    begun = time.monotonic()
    with pytest.raises(DeviceError) as caught:
        Store("postgresql+psycopg://me:secret@127.0.0.1:1/none")
    assert "secret" not in str(caught.value)
    assert time.monotonic() - begun < 30
