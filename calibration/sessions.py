"""Who is logged in. In memory: a restart of the tool logs everybody out, and that is fine.

A session ends fifteen minutes after its last action, and at once where the user was disabled or got
another password or role. What a user may do is asked of the database every time.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from calibration.people import People, User

COOKIE = "inspectd_session"
IDLE_S = 900.0
_MOST = 200


@dataclass
class _Session:
    name: str
    revision: str
    seen_s: float


class Sessions:
    """Tokens and whose they are."""

    def __init__(self, people: People, clock: Callable[[], float] = time.monotonic) -> None:
        self._people, self._clock = people, clock
        self._open: dict[str, _Session] = {}

    def open(self, user: User) -> str:
        """A new token, unguessable. The oldest session ends where there are too many."""
        token = secrets.token_urlsafe(32)
        self._open[token] = _Session(user.name, user.revision, self._clock())
        while len(self._open) > _MOST:
            self._open.pop(next(iter(self._open)))
        return token

    def user(self, token: str, *, is_action: bool = True) -> User | None:
        """Whose it is, None where it ended. is_action: False = only looking whether it still is."""
        session = self._open.get(token)
        if session is None:
            return None
        now_s = self._clock()
        user = self._people.user(session.name) if now_s - session.seen_s <= IDLE_S else None
        if user is None or not user.is_enabled or user.revision != session.revision:
            self.close(token)
            return None
        if is_action:
            session.seen_s = now_s
        return user

    def names(self) -> set[str]:
        """Everybody who is logged in."""
        return {
            user.name
            for token in tuple(self._open)
            if (user := self.user(token, is_action=False)) is not None
        }

    def close(self, token: str) -> None:
        """Log out; an unknown token is none."""
        self._open.pop(token, None)
