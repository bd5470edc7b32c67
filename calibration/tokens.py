"""Tokens for programs: whose they are, until when, and who may not try any more. In `people.db`.

A token is `insp_ID_SECRET`: 256 random bits that are shown once and kept as their SHA-256 (a slow
hash protects what people can remember; nobody guesses 256 bits). It lends a program the role that
its user has at that moment, and ends with the user's password, when the user is disabled, at its
date, or when somebody revokes it.
"""

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import sqlalchemy as sa

from appliance.errors import ConfigError
from calibration.people import LOCK_AFTER, LOCK_S, People, Role, User, tokens_table

LONGEST_DAYS = 366
MOST = 20
"""Of one user, those that still work."""
_DAY_NS = 86_400_000_000_000
_USED_NS = 3_600_000_000_000
"""How exactly it is known when a token was used last: one write an hour, not one a request."""
_SOURCES = 1000


class Token(NamedTuple):
    """What is known of one; never its secret."""

    id: str
    user: str
    name: str
    created_utc_ns: int
    expires_utc_ns: int
    used_utc_ns: int
    """0 = never; exact to an hour."""
    revoked_utc_ns: int
    """0 = not."""
    revoked_by: str


class TokenError(Exception):
    """Not let in; tells nothing about tokens or accounts."""


class TooManyTries(TokenError):
    """Wrong tokens from this address; try again later."""


class Tokens:
    """Of all users of one box."""

    def __init__(self, people: People, clock: Callable[[], int] = time.time_ns) -> None:
        self._people, self._clock = people, clock
        self._tries: OrderedDict[tuple[str, str], tuple[int, int]] = OrderedDict()

    def make(self, name: str, days: int, by: User) -> tuple[str, Token]:
        """A new token of this user: its text, for the only time, and what is kept.

        Raises ConfigError on a name or a number of days that cannot be, and on too many.
        """
        name = name.strip()
        if not name or len(name) > 64 or not name.isprintable():
            raise ConfigError("token", "a name of 1 to 64 signs", repr(name[:80]))
        if not 1 <= days <= LONGEST_DAYS:
            raise ConfigError("token", f"1 to {LONGEST_DAYS} days", str(days))
        now_ns = self._clock()
        count = sum(self.is_good(one) for one in self.tokens(by.name))
        if count >= MOST:
            raise ConfigError("token", f"at most {MOST} of one user", f"{count} that still work")
        identity, secret = secrets.token_hex(6), secrets.token_hex(32)
        token = Token(identity, by.name, name, now_ns, now_ns + days * _DAY_NS, 0, 0, "")
        self._people.journal.append(
            by.name, "token.added", subject=f"{by.name} {identity}",
            new={"name": name, "days": days}, role=by.role.name, source="page",
        )  # fmt: skip
        with self._people.transaction() as connection:
            values = token._asdict() | {"digest": _digest(secret)}
            connection.execute(sa.insert(tokens_table).values(**values))
        return f"insp_{identity}_{secret}", token

    def tokens(self, user: str = "") -> tuple[Token, ...]:
        """Of one user or of all, newest first."""
        columns = [column for column in tokens_table.c if column.name != "digest"]
        query = sa.select(*columns).order_by(tokens_table.c.created_utc_ns.desc())
        if user:
            query = query.where(tokens_table.c.user == user)
        with self._people.transaction() as connection:
            return tuple(Token(**row) for row in connection.execute(query).mappings())

    def is_good(self, token: Token) -> bool:
        """Neither revoked nor past its date; its user is another question."""
        return not token.revoked_utc_ns and token.expires_utc_ns > self._clock()

    def revoke(self, identity: str, by: User) -> None:
        """It opens nothing any more. By its user or an admin; raises ConfigError otherwise."""
        found = next((one for one in self.tokens() if one.id == identity), None)
        if found is None or (found.user != by.name and by.role < Role.ADMIN):
            raise ConfigError("token", "one of your own", repr(identity[:80]))
        if found.revoked_utc_ns:
            return
        self._people.journal.append(
            by.name, "token.revoked", subject=f"{found.user} {identity}", old=found.name,
            role=by.role.name, source="page",
        )  # fmt: skip
        self._set(identity, revoked_utc_ns=self._clock(), revoked_by=by.name)

    def open(self, text: str, source: str) -> tuple[User, Token]:
        """Whose token this is. source: the address that shows it.

        Raises TokenError; TooManyTries after five wrong ones in a row from one address, for five
        minutes. A wrong secret locks its token for that address alone, so that nobody can lock out
        somebody else's program.
        """
        now_ns = self._clock()
        head, _, rest = text.partition("_")
        identity, _, secret = rest.partition("_")
        row = self._row(identity) if head == "insp" else None
        key = source, identity if row is not None else ""
        failures, locked_until_ns = self._tries.get(key, (0, 0))
        if locked_until_ns > now_ns:
            raise TooManyTries("too many wrong tokens: wait five minutes")
        is_right = row is not None and hmac.compare_digest(str(row["digest"]), _digest(secret))
        if row is None or not is_right:
            self._failed(key, failures + 1, now_ns)
            raise TokenError("unknown token")
        self._tries.pop(key, None)
        token = Token(**{name: row[name] for name in Token._fields})
        user = self._people.user(token.user)
        if not self.is_good(token) or user is None or not user.is_enabled:
            raise TokenError("this token has ended")
        if now_ns - token.used_utc_ns > _USED_NS:
            self._set(identity, used_utc_ns=now_ns)
        return user, token

    def _failed(self, key: tuple[str, str], failures: int, now_ns: int) -> None:
        until_ns = now_ns + LOCK_S * 1_000_000_000 if failures >= LOCK_AFTER else 0
        self._tries[key] = (0 if until_ns else failures, until_ns)
        self._tries.move_to_end(key)
        while len(self._tries) > _SOURCES:
            self._tries.popitem(last=False)
        if until_ns:
            source, identity = key
            self._people.journal.append(
                "system", "token.locked", subject=identity or "unknown tokens", source=source,
                reason=f"{failures} wrong tokens in a row",
            )  # fmt: skip

    def _row(self, identity: str) -> sa.RowMapping | None:
        query = sa.select(tokens_table).where(tokens_table.c.id == identity)
        with self._people.transaction() as connection:
            return connection.execute(query).mappings().one_or_none()

    def _set(self, identity: str, **values: object) -> None:
        query = sa.update(tokens_table).where(tokens_table.c.id == identity).values(**values)
        with self._people.transaction() as connection:
            connection.execute(query)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
