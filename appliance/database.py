"""A database opened: SQLite or PostgreSQL, of the right version, its errors in words.

Enters: where it is. Leaves: connections. Every write is one transaction, on the disk when it ends
(WAL, `synchronous=FULL`). What cannot be used now raises DeviceError, and opening it anew may
succeed later; a database that this software must not touch raises ArtefactError.
"""

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DataError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
)

from appliance.codes import OfflineReason
from appliance.config import Config
from appliance.errors import ArtefactError, DeviceError
from appliance.migrations import REVISION, known_revisions, migrate, revision_of

BUSY_S = 0.25
"""How long a write waits for another process's lock before the store counts as unwritable."""
CONNECT_S = 2
"""How long a PostgreSQL may take to answer."""
_ROWS_AT_ONCE = 8
"""SQLite keeps a prepared statement for each number of rows that was ever inserted at once, up to
0.2 MB each: with few numbers memory is flat, at the same speed."""
StoreBug = SQLAlchemyError
"""What a database raises besides DeviceError and ArtefactError, if it does: a bug of ours."""
Where: TypeAlias = Path | str
"""A file, or `postgresql+psycopg://user@host/database`."""


class Database:
    """The database, opened and of the right version.

    Raises ArtefactError where the file is no database, damaged, or of a newer software; DeviceError
    where it cannot be opened or migrated now. is_reader: nothing is written, migrations included.
    """

    def __init__(self, where: Where, is_reader: bool = False) -> None:
        self.where = where
        self._name = place(where)
        self._engine = _connect(where, is_reader)
        try:
            with self._translated():
                if is_reader:
                    self._expect_revision()
                else:
                    self._migrate()
        except BaseException:
            self._engine.dispose()
            raise

    @property
    def dialect(self) -> str:
        """ "sqlite" or "postgresql"."""
        return self._engine.dialect.name

    @contextlib.contextmanager
    def reading(self) -> Generator[sa.Connection]:
        """A connection for questions. Raises DeviceError, ArtefactError."""
        with self._translated(), self._engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Generator[sa.Connection]:
        """One transaction: all of it, or, where DeviceError or ArtefactError is raised, nothing."""
        with self._translated(), self._engine.begin() as connection:
            yield connection

    def insert(self, table: sa.Table) -> Any:
        """INSERT as the dialect has it, with ON CONFLICT."""
        insert: Any = postgresql.insert if self.dialect == "postgresql" else sqlite.insert
        return insert(table)

    def prove(self) -> None:
        """Write without changing anything. Raises DeviceError where the disk takes no write."""
        with self.writing() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = version_num")

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _translated(self) -> Generator[None]:
        try:
            yield
        except (IntegrityError, DataError):
            raise  # a bug of ours
        except (OperationalError, InterfaceError) as err:
            raise self._unusable(err) from err
        except DatabaseError as err:
            # A server is other people's: rights, a standby, a table that another box just makes.
            if self.dialect == "postgresql":
                raise self._unusable(err) from err
            if type(err) is not DatabaseError:
                raise  # programming: a bug of ours
            raise ArtefactError(
                self._name, "an SQLite database", str(err.orig), OfflineReason.STORAGE_POLICY
            ) from err

    def _unusable(self, err: DBAPIError) -> DeviceError:
        return DeviceError(f"{self._name}: expected a usable database, got {err.orig}")

    def _migrate(self) -> None:
        with self._engine.connect() as connection:
            current = revision_of(connection)
        if current not in (None, *known_revisions()):
            raise self._foreign(str(current))
        if current != REVISION:
            migrate(self._engine, REVISION)

    def _expect_revision(self) -> None:
        with self._engine.connect() as connection:
            current = revision_of(connection)
        if current != REVISION:
            raise self._foreign(str(current))

    def _foreign(self, got: str) -> ArtefactError:
        return ArtefactError(
            self._name,
            f"a database of revision {REVISION} or older",
            f"revision {got}, written by another version of inspectd",
            OfflineReason.STORAGE_POLICY,
        )


def where(config: Config) -> Where:
    """The database of this installation."""
    return config.record.database or config.data_dir / "parts.db"


def place(where: Where) -> str:
    """For messages: without a password."""
    if isinstance(where, Path):
        return str(where)
    try:
        # The driver takes a password among the options, too.
        return sa.make_url(where).set(query={}).render_as_string(hide_password=True)
    except ArgumentError as err:
        expected = "postgresql+psycopg://user@host/database"
        raise ArtefactError("record.database", expected, "another text") from err


def _connect(where: Where, is_reader: bool) -> sa.Engine:
    """An engine whose transactions are real: SQLite's driver alone opens none before DDL."""
    serializers: dict[str, Any] = {
        "json_serializer": lambda value: msgspec.json.encode(value).decode(),
        "json_deserializer": msgspec.json.decode,
    }
    if isinstance(where, str):
        address = sa.make_url(where)
        if address.drivername != "postgresql+psycopg":
            expected = "postgresql+psycopg://user@host/database"
            raise ArtefactError("record.database", expected, address.drivername)
        try:
            return sa.create_engine(
                address, connect_args={"connect_timeout": CONNECT_S}, pool_size=1, **serializers
            )
        except ImportError as err:
            raise ArtefactError(
                "record.database", "the extra `postgres` installed", str(err)
            ) from err
    if is_reader:
        try:
            where.stat()
        except OSError as err:
            expected = "the rows of a line that has run"
            raise DeviceError(f"{where}: expected {expected}, got {err.strerror}") from err
        address = f"sqlite:///file:{where}?mode=ro&uri=true"
    else:
        address = f"sqlite:///{where}"
        try:
            where.parent.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise DeviceError(f"{where.parent}: expected a directory to write, got {err}") from err
    engine = sa.create_engine(
        address,
        connect_args={"timeout": BUSY_S, "check_same_thread": False},
        insertmanyvalues_page_size=_ROWS_AT_ONCE,
        **serializers,
    )

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        connection.isolation_level = None
        if not is_reader:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")

    @event.listens_for(engine, "begin")
    def on_begin(connection: sa.Connection) -> None:  # pyright: ignore[reportUnusedFunction]
        connection.exec_driver_sql("BEGIN" if is_reader else "BEGIN IMMEDIATE")

    return engine
