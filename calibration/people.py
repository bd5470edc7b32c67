"""Who may do what: users with argon2 passwords, roles, lock-out. In `people.db`.

Nothing is there by default: without `inspectd users add` nobody can log in. Every change goes
through the audit journal first; passwords and their hashes never do.
"""

import contextlib
import hashlib
import time
from collections.abc import Callable, Generator
from enum import IntEnum
from typing import Any, NamedTuple

import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy.exc import DatabaseError

from appliance.audit import AuditJournal
from appliance.config import Config
from appliance.errors import ConfigError, DeviceError
from calibration.people_file import BIG, connect, metadata

LOCK_AFTER = 5
LOCK_S = 300
LEAST_PASSWORD = 10
_LONGEST_PASSWORD = 200

_users = sa.Table(
    "users",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("password", sa.Text, nullable=False),
    sa.Column("is_enabled", sa.Boolean, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("locked_until_utc_ns", BIG, nullable=False),
    sa.Column("created_utc_ns", BIG, nullable=False),
)
tokens_table = sa.Table(
    "tokens",
    metadata,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("user", sa.String(64), nullable=False, index=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("created_utc_ns", BIG, nullable=False),
    sa.Column("expires_utc_ns", BIG, nullable=False),
    sa.Column("used_utc_ns", BIG, nullable=False),
    sa.Column("revoked_utc_ns", BIG, nullable=False),
    sa.Column("revoked_by", sa.String(64), nullable=False),
)
"""Of `tokens.py`; here because a user's tokens end with the password."""


class Role(IntEnum):
    """What a person may do; each may do all that the ones before may."""

    OPERATOR = 1
    """See everything, judge parts."""
    TECHNICIAN = 2
    """Challenge parts, unlock the line."""
    ENGINEER = 3
    """Propose limits; approve those of somebody else; roll back."""
    ADMIN = 4
    """Users."""


class User(NamedTuple):
    """One person, as the pages know them."""

    name: str
    role: Role
    is_enabled: bool = True
    is_locked: bool = False
    revision: str = ""
    """Another one after a change of password, role or whether enabled: older sessions end."""


class LogInError(Exception):
    """Not let in; the text is for the person at the door and tells nothing about accounts."""


class People:
    """The database, opened.

    hasher: argon2id with 19 MiB and one lane (OWASP's smallest): a log-in must not take the line's
    memory. Raises DeviceError where the file cannot be used.
    """

    def __init__(
        self,
        config: Config,
        journal: AuditJournal,
        clock: Callable[[], int] = time.time_ns,
        hasher: PasswordHasher | None = None,
    ) -> None:
        self.path = config.data_dir / "people.db"
        self.journal, self._clock = journal, clock
        self._hasher = hasher or PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
        self._nobody = self._hasher.hash("nobody")
        self.engine = connect(self.path)

    def users(self) -> tuple[User, ...]:
        """All, by name."""
        with self.transaction() as connection:
            rows = connection.execute(sa.select(_users).order_by(_users.c.name)).mappings().all()
        return tuple(self._user(row) for row in rows)

    def user(self, name: str) -> User | None:
        """As the database knows them now."""
        with self.transaction() as connection:
            row = self._row(connection, name)
        return self._user(row) if row is not None else None

    def add(self, name: str, role: Role, password: str, by: str) -> User:
        """A new user. Raises ConfigError on a name, password or double that cannot be."""
        if not name.replace("-", "").replace(".", "").replace("_", "").isalnum() or len(name) > 64:
            raise ConfigError("user", "letters, digits, - . _, at most 64", repr(name[:80]))
        _check_password(name, password)
        if self.user(name) is not None:
            raise ConfigError("user", "a new name", f"{name!r}, who is there already")
        hashed = self._hasher.hash(password)
        self.journal.append(by, "user.added", subject=name, new={"role": role.name})
        with self.transaction() as connection:
            connection.execute(
                sa.insert(_users).values(
                    name=name, role=role.name, password=hashed, is_enabled=True, failures=0,
                    locked_until_utc_ns=0, created_utc_ns=self._clock(),
                )
            )  # fmt: skip
        added = self.user(name)
        assert added is not None
        return added

    def change(
        self,
        name: str,
        by: str,
        *,
        role: Role | None = None,
        password: str | None = None,
        is_enabled: bool | None = None,
        unlock: bool = False,
    ) -> User:
        """Change what is given. Another password and being disabled revoke the user's tokens.

        Raises ConfigError where there is no such user, or where nobody would be left who may manage
        users."""
        old = self.user(name)
        if old is None:
            raise ConfigError("user", "a known name", repr(name))
        values: dict[str, Any] = {}
        told: dict[str, Any] = {}
        if role is not None and role is not old.role:
            values["role"] = told["role"] = role.name
        if is_enabled is not None and is_enabled != old.is_enabled:
            values["is_enabled"] = told["is_enabled"] = is_enabled
        if password is not None:
            _check_password(name, password)
            values["password"], told["password"] = self._hasher.hash(password), "changed"
        if unlock or password is not None:
            values |= {"failures": 0, "locked_until_utc_ns": 0}
            told["unlocked"] = True
        if not values:
            return old
        loses = old.role is Role.ADMIN and ("role" in values or not values.get("is_enabled", True))
        if loses and not self._other_admin(name):
            raise ConfigError("user", "at least one enabled admin", f"{name!r} is the last one")
        before = {"role": old.role.name, "is_enabled": old.is_enabled}
        self.journal.append(by, "user.changed", subject=name, old=before, new=told)
        with self.transaction() as connection:
            connection.execute(sa.update(_users).where(_users.c.name == name).values(**values))
            if "password" in values or not values.get("is_enabled", True):
                self._revoke_tokens(connection, name, by)
        changed = self.user(name)
        assert changed is not None
        return changed

    def _revoke_tokens(self, connection: sa.Connection, name: str, by: str) -> None:
        """Those that still work, each with an entry of its own."""
        table, now_ns = tokens_table.c, self._clock()
        is_good = (
            (table.user == name) & (table.revoked_utc_ns == 0) & (table.expires_utc_ns > now_ns)
        )
        for row in connection.execute(sa.select(table.id, table.name).where(is_good)).all():
            self.journal.append(
                by, "token.revoked", subject=f"{name} {row.id}", old=row.name,
                reason="its user got another password or was disabled",
            )  # fmt: skip
        connection.execute(
            sa.update(tokens_table).where(is_good).values(revoked_utc_ns=now_ns, revoked_by=by)
        )

    def log_in(self, name: str, password: str, source: str = "") -> User:
        """The user, if the password is theirs. Raises LogInError.

        Takes as long for a name that nobody has. After five wrong passwords in a row the account is
        locked for five minutes, and that is journalled.
        """
        now_ns = self._clock()
        with self.transaction() as connection:
            row = self._row(connection, name)
        hashed = row["password"] if row is not None else self._nobody
        is_right = False
        with contextlib.suppress(VerificationError, InvalidHashError):
            is_right = self._hasher.verify(hashed, password[:_LONGEST_PASSWORD])
        if row is None or not row["is_enabled"]:
            raise LogInError("wrong name or password")
        if row["locked_until_utc_ns"] > now_ns:
            raise LogInError("too many wrong passwords: wait five minutes or ask an admin")
        if not is_right:
            self._failed(row, now_ns, source)
            raise LogInError("wrong name or password")
        with self.transaction() as connection:
            connection.execute(
                sa.update(_users)
                .where(_users.c.name == name)
                .values(failures=0, locked_until_utc_ns=0)
            )
        user = self._user(row)
        self.journal.append(
            name, "user.logged_in", subject=name, role=user.role.name, source=source
        )
        return user

    def _failed(self, row: sa.RowMapping, now_ns: int, source: str) -> None:
        name = str(row["name"])
        with self.transaction() as connection:
            failures = connection.execute(
                sa.update(_users)
                .where(_users.c.name == name)
                .values(failures=_users.c.failures + 1)
                .returning(_users.c.failures)
            ).scalar_one()
            if failures >= LOCK_AFTER:
                until = now_ns + LOCK_S * 1_000_000_000
                connection.execute(
                    sa.update(_users)
                    .where(_users.c.name == name)
                    .values(failures=0, locked_until_utc_ns=until)
                )
        if failures >= LOCK_AFTER:
            self.journal.append(
                "system", "user.locked", subject=name, source=source,
                reason=f"{failures} wrong passwords in a row",
            )  # fmt: skip

    def _other_admin(self, name: str) -> bool:
        others = (user for user in self.users() if user.name != name)
        return any(user.role is Role.ADMIN and user.is_enabled for user in others)

    def _user(self, row: sa.RowMapping) -> User:
        is_locked = row["locked_until_utc_ns"] > self._clock()
        told = f"{row['password']} {row['role']} {row['is_enabled']}"
        revision = hashlib.sha256(told.encode()).hexdigest()[:16]
        return User(row["name"], Role[row["role"]], row["is_enabled"], is_locked, revision)

    @staticmethod
    def _row(connection: sa.Connection, name: str) -> sa.RowMapping | None:
        query = sa.select(_users).where(_users.c.name == name)
        return connection.execute(query).mappings().one_or_none()

    @contextlib.contextmanager
    def transaction(self) -> Generator[sa.Connection]:
        """One transaction, on the disk when it ends. Raises DeviceError."""
        try:
            with self.engine.begin() as connection:
                yield connection
        except DatabaseError as err:
            raise DeviceError(f"{self.path}: expected a usable database, got {err.orig}") from err

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _check_password(name: str, password: str) -> None:
    if not LEAST_PASSWORD <= len(password) <= _LONGEST_PASSWORD:
        raise ConfigError(
            "password", f"{LEAST_PASSWORD} to {_LONGEST_PASSWORD} signs", f"{len(password)}"
        )
    if name.lower() in password.lower():
        raise ConfigError("password", "one without the user's name", "one with it")
