"""Sessions of the OPC UA server: whose connection they are, and whose subscriptions.

asyncua lets whoever names a session or a subscription use it, and counts both up from numbers that
are easy to guess. Here each belongs to the one who made it.
"""
# asyncua annotates what travels, not what its functions take, and exports by star imports.
# pyright: reportArgumentType=false, reportPrivateImportUsage=false

import logging
import secrets
from collections.abc import Iterator, MutableMapping
from typing import Any

from asyncua import ua
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.internal_server import InternalServer
from asyncua.server.internal_session import InternalSession
from asyncua.server.monitored_item_service import __name__ as monitored_items
from asyncua.server.subscription_service import SubscriptionService

_NOBODY = User(role=UserRole.Anonymous)
_ITEMS = logging.getLogger(monitored_items)
"""asyncua gives each subscription a logger below this one, and `logging` keeps what has a name for
ever: where this one did not exist, in a second place, too."""


class _Own(MutableMapping[int, Any]):
    """Of all subscriptions of a server those of one session."""

    def __init__(self, everyone: dict[int, Any], session_id: ua.NodeId) -> None:
        self._everyone, self._session_id = everyone, session_id

    def __getitem__(self, key: int) -> Any:
        subscription = self._everyone[key]
        if subscription.session_id != self._session_id:
            raise KeyError(key)
        return subscription

    def __setitem__(self, key: int, value: Any) -> None:
        self._everyone[key] = value

    def __delitem__(self, key: int) -> None:
        self[key]  # KeyError where it is another's
        del self._everyone[key]

    def __iter__(self) -> Iterator[int]:
        return iter([k for k, s in self._everyone.items() if s.session_id == self._session_id])

    def __len__(self) -> int:
        return len(list(iter(self)))


class _OwnSubscriptions(SubscriptionService):
    """The service as one session sees it: what is another's is not there.

    asyncua lets every session change, end and take over any subscription; their ids count from 78.
    """

    def __init__(self, everyone: SubscriptionService, session_id: ua.NodeId) -> None:
        super().__init__(everyone.aspace, everyone.iserver)
        self._everyone = everyone
        self.subscriptions = _Own(everyone.subscriptions, session_id)  # type: ignore[assignment]

    async def create_subscription(self, *args: Any, **kwargs: Any) -> Any:
        """Ids and the largest number are those of the whole server."""
        made = await self._everyone.create_subscription(*args, **kwargs)
        logging.Logger.manager.loggerDict.pop(f"{_ITEMS.name}.{made.SubscriptionId}", None)
        return made


class Sessions(InternalServer):
    """A session belongs to the connection that it was created on, and so does what it subscribes.

    asyncua would hand a session to any connection that names its authentication token, before it
    looks at signature and password, and counts these tokens up from 1000. What waits to be taken up
    again (`external`) lives on for ten minutes after its connection, subscriptions and all: one
    that hangs up a hundred times would leave no place for others. Here it ends with its connection.
    """

    def lookup_external_session(self, auth_token: ua.NodeId) -> InternalSession | None:
        """Nobody takes over a session: a client that was cut off logs in again."""
        return None

    def create_session(
        self, name: str, user: User = _NOBODY, external: bool = False
    ) -> InternalSession:
        """With a token that cannot be guessed."""
        session = super().create_session(name, user, external=False)
        token = secrets.token_bytes(32)
        session.auth_token = ua.NodeId(token, 0, ua.NodeIdType.ByteString)
        everyone = self.subscription_service
        session.subscription_service = _OwnSubscriptions(everyone, session.session_id)
        return session
