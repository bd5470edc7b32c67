"""The channel table, and the only room that knows ZeroMQ; `wire_keys.py` has its keys.

A channel is declared once: who sends, who receives, how, and how many messages may wait. Sending
never waits: a refused send returns False and the caller counts it by name. On one box every
address is a socket file in one 0700 directory; between boxes it is `tcp://` with CURVE.
"""
# pyzmq's stubs leave the parts of a message open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import fcntl
import os
import socket as posix
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import zmq
import zmq.asyncio
from zmq.auth.thread import ThreadAuthenticator

from appliance.errors import AddressInUse, ConfigError
from appliance.messages import AnyMessage
from appliance.wire_keys import curve_keys, server_key

_PIXELS_BYTES = 256 << 20
"""Room for a frame or the maps of one: 128 million pixels of 12 bits."""


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table. `binds` names the end that owns the address."""

    sender: int
    receiver: int
    binds: str
    high_water: int
    largest_bytes: int = 4 << 20
    """Of one part of a message that comes from another box. A longer one ends its connection; the
    end that owns the address takes the next one, the other end connects no more."""


def _work(binds: str, high_water: int, **more: int) -> Channel:
    """Each message to one receiver."""
    return Channel(sender=zmq.PUSH, receiver=zmq.PULL, binds=binds, high_water=high_water, **more)


def _news(high_water: int) -> Channel:
    """Each message to whoever listens."""
    return Channel(sender=zmq.PUB, receiver=zmq.SUB, binds="sender", high_water=high_water)


CHANNELS: Mapping[str, Channel] = {
    "trigger": _work("receiver", 16),
    "frames": _work("sender", 2, largest_bytes=_PIXELS_BYTES),
    "seen": _work("receiver", 1000),
    "scored": _work("receiver", 1000, largest_bytes=_PIXELS_BYTES),
    "prepare": _work("receiver", 16),
    "command": Channel(sender=zmq.DEALER, receiver=zmq.ROUTER, binds="receiver", high_water=100),
    "verdicts": _work("receiver", 1000),
    "stored": _work("receiver", 1000),
    "tape": _work("receiver", 10_000),
    "live": _news(1000),
    "health": _news(100),
}
"""By name: who owns the address, and how many messages may wait."""

IPC_PATH_MOST: int = zmq.IPC_PATH_MAX_LEN
"""Longest path of a socket on this box."""
# A box that lost its power closes nothing, and who only receives from it would wait for ever: the
# kernels ask each other. Not ZMQ_HEARTBEAT: it ends the connection of a receiver that is full, with
# what that has accepted, and aborts it (libzmq issue 3937, seen with 4.3.5).
_FAR: Mapping[int, int] = {
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 1,
    zmq.TCP_KEEPALIVE_INTVL: 1,
    zmq.TCP_KEEPALIVE_CNT: 3,
    zmq.TCP_MAXRT: 5000,  # for keepalive, too; and as long may a receiver be full
    zmq.CONNECT_TIMEOUT: 3000,
    zmq.HANDSHAKE_IVL: 5000,
}
SETUP_ANSWER_MS = 500
"""Longest wait for decide to take the answer about a set-up."""
COMMAND_MS = 2000
"""Longest wait for decide to take a command: started afresh, it is there again by then."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(AnyMessage)


def encode(message: AnyMessage) -> bytes:
    """The bytes that are sent and recorded."""
    return _encoder.encode(message)


def decode(data: bytes | memoryview) -> AnyMessage:
    """Back from bytes. Raises msgspec.ValidationError or DecodeError on anything foreign."""
    try:
        return _decoder.decode(data)
    except UnicodeDecodeError as err:  # msgspec lets text that is no UTF-8 out as it is
        raise msgspec.DecodeError(str(err)) from err


class Wiring:
    """Addresses and sockets of one process. Close it at the end; sockets close with it.

    sockets: directory of the ipc files, mode 0700, made if missing.
    remote: address by "channel" or "channel-peer" for whatever does not stay on this box.
    keys: directory of CURVE keys, as `wire_keys.py` has them.
    """

    def __init__(
        self, sockets: Path, remote: Mapping[str, str] | None = None, keys: Path | None = None
    ) -> None:
        self._folder = sockets
        self._remote = dict(remote or {})
        self._keys = keys
        self._context = zmq.Context()
        self._async_context: zmq.asyncio.Context | None = None
        self._locks: list[int] = []
        self._sockets: list[zmq.Socket[Any]] = []
        self._authenticator: ThreadAuthenticator | None = None
        sockets.mkdir(mode=0o700, parents=True, exist_ok=True)

    def address(self, channel: str, peer: str = "") -> str:
        """Where a channel's owner listens. Raises ConfigError where the path is too long."""
        name = f"{channel}-{peer.replace(':', '-')}" if peer else channel
        for key in (name, channel):
            if key in self._remote:
                return self._remote[key]
        address = f"ipc://{self._folder / name}"
        if len(address) - len("ipc://") > IPC_PATH_MOST:
            raise ConfigError(
                self._folder,
                f"a socket directory of at most {IPC_PATH_MOST - len(name) - 1} characters",
                f"{len(str(self._folder))}",
            )
        return address

    def leaves_box(self, channel: str, peer: str = "") -> bool:
        """The other end lies on another box: it sees no ring of ours."""
        return self.address(channel, peer).startswith("tcp:")

    def is_served(self, channel: str, peer: str = "") -> bool:
        """A process of this box listens there now; False for what lies on another box."""
        address = self.address(channel, peer)
        if not address.startswith("ipc:"):
            return False
        with posix.socket(posix.AF_UNIX, posix.SOCK_STREAM) as probe:
            return probe.connect_ex(address.removeprefix("ipc://")) == 0

    def sender(self, channel: str, peer: str = "") -> "Sender":
        """The sending end of a channel; `peer` tells channels of the same name apart."""
        return Sender(self._open(channel, peer, "sender", self._context))

    def receiver(self, channel: str, *peers: str) -> "Receiver":
        """The receiving end; several peers share one socket."""
        socket = self._open(channel, peers[0] if peers else "", "receiver", self._context)
        for peer in peers[1:]:
            self._attach(socket, channel, peer, "receiver")
        return Receiver(socket)

    def async_receiver(self, channel: str, *peers: str) -> "AsyncReceiver":
        """The receiving end for an asyncio loop."""
        if self._async_context is None:
            self._async_context = zmq.asyncio.Context(self._context)
        socket = self._open(channel, peers[0] if peers else "", "receiver", self._async_context)
        for peer in peers[1:]:
            self._attach(socket, channel, peer, "receiver")
        return AsyncReceiver(socket)

    def async_sender(self, channel: str, peer: str = "") -> "AsyncReceiver":
        """A sending end that can also receive (the DEALER of `command`) for an asyncio loop."""
        if self._async_context is None:
            self._async_context = zmq.asyncio.Context(self._context)
        return AsyncReceiver(self._open(channel, peer, "sender", self._async_context))

    def _open(self, channel: str, peer: str, end: str, context: zmq.Context[Any]) -> Any:
        row = CHANNELS[channel]
        socket = context.socket(row.sender if end == "sender" else row.receiver)
        self._sockets.append(socket)
        socket.set(zmq.LINGER, 200)
        socket.set(zmq.SNDHWM, row.high_water)
        socket.set(zmq.RCVHWM, row.high_water)
        if row.sender in (zmq.PUSH, zmq.DEALER):
            # Nothing may wait for a peer that is not there: it would arrive as history. A command,
            # too: whoever gave it was told long ago that nobody answers.
            socket.set(zmq.IMMEDIATE, 1)
        socket.set(zmq.RECONNECT_IVL, 20)
        socket.set(zmq.RECONNECT_IVL_MAX, 200)
        if row.receiver == zmq.SUB and end == "receiver":
            socket.set(zmq.SUBSCRIBE, b"")
        self._attach(socket, channel, peer, end)
        return socket

    def _attach(self, socket: Any, channel: str, peer: str, end: str) -> None:
        address = self.address(channel, peer)
        is_owner = CHANNELS[channel].binds == end
        if address.startswith("tcp:"):
            self._secure(socket, address, is_owner)
            for option, value in _FAR.items():
                socket.set(option, value)
            socket.set(zmq.MAXMSGSIZE, CHANNELS[channel].largest_bytes)
        else:
            # One socket may hear of this box and of others: what was asked of a peer before holds
            # for the next one, until it is taken back.
            socket.set(zmq.CURVE_SERVER, False)
            socket.set(zmq.MAXMSGSIZE, -1)
        if not is_owner:
            socket.connect(address)
            return
        if address.startswith("ipc:"):
            self._lock(Path(address.removeprefix("ipc://")))
        try:
            socket.bind(address)
        except zmq.ZMQError as err:
            raise AddressInUse(channel, f"a free address {address}", str(err)) from err

    def _lock(self, path: Path) -> None:
        """Hold a lock for this address: a second bind to a live ipc path would steal it."""
        handle = os.open(f"{path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            os.close(handle)
            raise AddressInUse(path, "an address nobody serves", "another live process") from err
        self._locks.append(handle)

    def _secure(self, socket: Any, address: str, is_owner: bool) -> None:
        if self._keys is None:
            raise ConfigError("wire", "a key directory for tcp addresses", "none")
        public, secret = curve_keys(self._keys, "box")
        socket.set(zmq.CURVE_PUBLICKEY, public)
        socket.set(zmq.CURVE_SECRETKEY, secret)
        if is_owner:
            socket.set(zmq.CURVE_SERVER, True)
            if self._authenticator is None:
                self._authenticator = ThreadAuthenticator(self._context)
                self._authenticator.start()
                allowed = self._keys / "allowed"
                allowed.mkdir(mode=0o700, exist_ok=True)
                self._authenticator.configure_curve(domain="*", location=str(allowed))
        else:
            host = address.removeprefix("tcp://").rpartition(":")[0]
            socket.set(zmq.CURVE_SERVERKEY, server_key(self._keys, host))

    def close(self) -> None:
        """Close all sockets; what was not sent within 200 ms is given up."""
        while self._sockets:
            self._sockets.pop().close()
        if self._authenticator is not None:
            self._authenticator.stop()
            self._authenticator = None
        self._context.term()
        while self._locks:
            os.close(self._locks.pop())

    def __enter__(self) -> "Wiring":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Sender:
    """One sending end."""

    def __init__(self, socket: "zmq.Socket[bytes]") -> None:
        self._socket = socket
        self.refused = 0
        """Messages that no peer took: counted, never waited for."""

    def send(self, message: AnyMessage, pixels: Any = None, wait_ms: int = 0) -> bool:
        """Send now or not at all; `pixels` (a contiguous buffer) travels behind the message.

        wait_ms is for the answers about a set-up alone: no part is on its way then, and a peer
        that has just started may need its reconnect interval to be there.
        """
        if wait_ms:
            self._socket.poll(wait_ms, zmq.POLLOUT)
        parts: list[Any] = [encode(message)]
        if pixels is not None:
            parts.append(pixels)
        if self._is_sent(parts):
            return True
        # Between two sends in quick succession libzmq does not look what the peer has taken; asked
        # for its events, it does.
        self._socket.get(zmq.EVENTS)
        if self._is_sent(parts):
            return True
        self.refused += 1
        return False

    @property
    def is_heard(self) -> bool:
        """Somebody could take a message now."""
        return bool(int(self._socket.get(zmq.EVENTS)) & zmq.POLLOUT)

    def _is_sent(self, parts: list[Any]) -> bool:
        try:
            self._socket.send_multipart(parts, zmq.NOBLOCK, copy=True)
        except zmq.Again:
            return False
        return True


class Receiver:
    """One receiving end of a blocking poll loop."""

    def __init__(self, socket: "zmq.Socket[bytes]") -> None:
        self.socket = socket
        self.foreign = 0
        """Messages that could not be decoded: counted and dropped."""
        self.inline: bytes | None = None
        """Pixels that came behind the last message; None where they lie in a ring."""

    def receive(self) -> AnyMessage | None:
        """The next message, or None when nothing waits."""
        while True:
            try:
                parts = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return None
            try:
                message = decode(parts[0])
            except (msgspec.ValidationError, msgspec.DecodeError):
                self.foreign += 1
                continue
            self.inline = parts[1] if len(parts) > 1 else None
            return message


class Inbox:
    """Several receiving ends behind one poll."""

    def __init__(self, *receivers: Receiver) -> None:
        self._poller = zmq.Poller()
        self._receivers = {receiver.socket: receiver for receiver in receivers}
        for socket in self._receivers:
            self._poller.register(socket, zmq.POLLIN)

    def poll(self, timeout_ms: int) -> Iterator[tuple[Receiver, AnyMessage]]:
        """Wait at most `timeout_ms`, then yield all that has come."""
        try:
            events = self._poller.poll(timeout_ms)
        except InterruptedError:
            return
        for socket, _ in events:
            receiver = self._receivers[socket]
            while (message := receiver.receive()) is not None:
                yield receiver, message


class AsyncReceiver:
    """One receiving end of an asyncio loop."""

    def __init__(self, socket: "zmq.asyncio.Socket") -> None:
        self._socket = socket
        self._is_routed = socket.type == zmq.ROUTER
        self.foreign = 0
        self.inline: bytes | None = None
        """Pixels that came behind the last message; None where they lie in a ring."""

    async def receive(self) -> tuple[list[bytes], AnyMessage]:
        """Route (empty but for ROUTER sockets) and message; foreign bytes are counted, dropped."""
        while True:
            parts = await self._socket.recv_multipart()
            first = len(parts) - 1 if self._is_routed else 0
            try:
                message = decode(parts[first])
            except (msgspec.ValidationError, msgspec.DecodeError):
                self.foreign += 1
                continue
            self.inline = parts[first + 1] if len(parts) > first + 1 else None
            return parts[:first], message

    async def send(self, message: AnyMessage, route: list[bytes] | None = None) -> bool:
        """Send, for DEALER and ROUTER ends; dropped silently by a ROUTER whose peer is gone.

        False: nobody took it within 2 s, and nobody will.
        """
        if not self._is_routed:
            # Its stub knows no flags.
            waiting = self._socket.poll(COMMAND_MS, zmq.POLLOUT)  # pyright: ignore[reportCallIssue]
            if not await waiting:
                return False
        try:
            await self._socket.send_multipart([*(route or []), encode(message)], zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True
