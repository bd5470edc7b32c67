"""Steps of the database from revision to revision, forward and back; run by store.py at start.

Each step is one transaction: a power cut leaves the old tables or the new ones.
"""

import threading
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

REVISION = "0004"
"""Of tables.py; the newest file in versions/."""

_FOLDER = Path(__file__).parent
_one_at_a_time = threading.Lock()
"""What Alembic's scripts import is one for the process: two migrations end each other's."""


def known_revisions() -> tuple[str, ...]:
    """Newest first."""
    return tuple(script.revision for script in ScriptDirectory(str(_FOLDER)).walk_revisions())


def revision_of(connection: sa.Connection) -> str | None:
    """What the database says of itself; None = it has no tables yet."""
    return MigrationContext.configure(connection).get_current_revision()


def migrate(engine: sa.Engine, revision: str) -> None:
    """Take the database to `revision`, or to "base": no tables."""
    settings = Config()
    settings.set_main_option("script_location", str(_FOLDER))
    settings.set_main_option("path_separator", "os")
    with _one_at_a_time, engine.connect() as connection:
        settings.attributes["connection"] = connection
        known = known_revisions()
        current = revision_of(connection)
        is_back = revision == "base" or (
            current in known and known.index(current) < known.index(revision)
        )
        connection.commit()
        (command.downgrade if is_back else command.upgrade)(settings, revision)
        connection.commit()
