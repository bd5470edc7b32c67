"""Tables that are made, brought up to date or refused: nothing is left half done."""

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from appliance import database
from appliance.errors import ArtefactError, DeviceError
from appliance.migrations import REVISION, known_revisions, migrate
from appliance.migrations.tables import metadata
from appliance.store import Store
from tests.verdicts import store, verdict
from tests.waiting import until

__all__ = ["store"]


def test_tables_are_what_the_migrations_make_forward_and_back(store: Store) -> None:
    assert known_revisions()[0] == REVISION

    def difference() -> list[object]:
        with store._engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            return compare_metadata(context, metadata)

    def tables() -> set[str]:
        return set(sa.inspect(store._engine).get_table_names())

    assert difference() == []
    store.add([verdict(1)])
    migrate(store._engine, "base")
    assert tables() == {"alembic_version"}
    migrate(store._engine, REVISION)
    assert tables() == {"alembic_version", "line_parts", "outbox", "parts"}
    assert difference() == []
    assert store.last(1) == ()


def test_opening_again_keeps_the_rows(store: Store) -> None:
    store.add([verdict(1)])
    store.close()
    again = Store(store.where)
    assert again.part(1) is not None
    again.close()


def test_a_migration_that_is_cut_off_leaves_no_table(tmp_path: Path) -> None:
    engine = database._connect(tmp_path / "parts.db", is_reader=False)
    with engine.connect() as connection:
        # A table in the way of the second statement of the migration.
        connection.exec_driver_sql("CREATE TABLE other (x)")
        connection.exec_driver_sql("CREATE INDEX ix_parts_opened_utc_ns ON other (x)")
        connection.commit()
    with pytest.raises(OperationalError, match="already exists"):
        migrate(engine, REVISION)
    assert "parts" not in sa.inspect(engine).get_table_names()
    engine.dispose()


def test_two_databases_that_one_process_migrates_do_not_end_each_other(tmp_path: Path) -> None:
    """Its own and the central one, after an upgrade: each in a thread, and one takes minutes."""
    is_first, may_go_on, order = threading.Event(), threading.Event(), list[str]()

    def watch(connection: sa.Connection, cursor: object, statement: str, *_: object) -> None:
        path = Path(str(connection.engine.url.database)).name
        if statement.lstrip().startswith("CREATE INDEX"):
            order.append(path)
            if path == "own.db":
                is_first.set()
                assert may_go_on.wait(60)
        elif path == "central.db":
            may_go_on.set()

    event.listen(sa.Engine, "before_cursor_execute", watch)
    try:
        with ThreadPoolExecutor(2) as pool:
            own = pool.submit(Store, tmp_path / "own.db")
            until("one migrates", is_first.is_set)
            central = pool.submit(Store, tmp_path / "central.db")
            for store in (own, central):
                store.result().close()
    finally:
        event.remove(sa.Engine, "before_cursor_execute", watch)
    assert order == sorted(order, reverse=True), "one after the other"


def test_a_database_of_a_newer_software_is_refused_untouched(store: Store) -> None:
    store.add([verdict(1)])
    store.close()
    with sqlite3.connect(store.where) as plain:
        plain.execute("UPDATE alembic_version SET version_num = '9001'")
    plain.close()
    for is_reader in (False, True):
        with pytest.raises(ArtefactError) as caught:
            Store(store.where, is_reader=is_reader)
        assert str(store.where) in str(caught.value)
        assert "9001" in str(caught.value)
    with sqlite3.connect(store.where) as plain:
        assert plain.execute("SELECT count(*) FROM parts").fetchone() == (1,)
    plain.close()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "parts.db"
    path.write_bytes(b"this is not a database at all, whatever its name says " * 40)
    with pytest.raises(ArtefactError, match=r"parts\.db.*SQLite.*not a database"):
        Store(path)


def test_a_directory_that_cannot_be_made_is_a_device_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(DeviceError, match="data"):
        Store(tmp_path / "data" / "parts.db")
