"""The file `people.db`: how it is opened, and what all its tables hang on. One writer: the tool."""

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DatabaseError

from appliance.errors import DeviceError

REVISION = 1
"""Of the tables; kept in the file's `user_version`."""

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""64 bits: times in ns, ids of parts."""
metadata = sa.MetaData()


def connect(path: Path) -> sa.Engine:
    """Its own tables are there afterwards. Raises DeviceError where the file cannot be used."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError as err:
        raise DeviceError(f"{path}: expected a file to write, got {err}") from err
    engine = sa.create_engine(
        f"sqlite:///{path}", connect_args={"timeout": 5, "check_same_thread": False}
    )

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    @event.listens_for(engine, "begin")
    def on_begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    try:
        with engine.begin() as connection:
            found = int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
            if found not in (0, REVISION):
                raise DeviceError(f"{path}: expected revision {REVISION} or older, got {found}")
            metadata.create_all(connection)
            connection.exec_driver_sql(f"PRAGMA user_version = {REVISION}")
    except DatabaseError as err:
        raise DeviceError(f"{path}: expected an SQLite database, got {err.orig}") from err
    return engine
