"""Damaged OPC UA: whole sessions with messages changed on their way, and pieces of them."""
# asyncua annotates what travels, not what its functions take, and exports by star imports.
# pyright: reportArgumentType=false, reportPrivateImportUsage=false

import asyncio
import random
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tests.fuzz import changed
from tests.fuzz_counts import CHECK_EVERY, PATIENCE_S, Counts


@dataclass
class Relay:
    """Between a client and the server; what the client sends may be changed on its way."""

    target: tuple[str, int]
    change: Callable[[bytes], bytes]
    answered: int = 0
    sent: list[bytes] = field(default_factory=list[bytes])
    """Of the newest connection, as the client sent it."""

    async def serve(self) -> tuple[asyncio.Server, int]:
        """The server and its port."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return server, server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.sent = []
        try:
            there, back = await asyncio.open_connection(*self.target)
        except OSError:
            writer.close()
            return
        tasks = [
            asyncio.ensure_future(self._pump(reader, back, self._changed)),
            asyncio.ensure_future(self._pump(there, writer, self._counted)),
        ]
        with suppress(asyncio.CancelledError):  # the relay itself ends
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for end in (back, writer):
            end.close()

    def _changed(self, data: bytes) -> bytes:
        self.sent.append(data)
        return self.change(data)

    def _counted(self, data: bytes) -> bytes:
        self.answered += 1
        return data

    @staticmethod
    async def _pump(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, see: Callable[[bytes], bytes]
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(see(data))
                await writer.drain()


async def _session(port: int, timeout_s: float) -> None:
    """What an anonymous client does: log in, browse, read, call, subscribe, hang up."""
    from asyncua import Client, ua

    client = Client(f"opc.tcp://127.0.0.1:{port}/inspectd", timeout=timeout_s)
    await client.connect_socket()
    try:
        await client.send_hello()
        await client.open_secure_channel()
        await client.create_session()
        await client.activate_session()
        server: Any = client.nodes.server
        await client.nodes.objects.get_children()
        await client.nodes.namespace_array.read_value()
        with suppress(ua.UaError):
            method = ua.NodeId(ua.ObjectIds.Server_GetMonitoredItems)
            await server.call_method(method, ua.Variant(1, ua.VariantType.UInt32))
        subscription = await client.create_subscription(100, _Deaf())
        await subscription.subscribe_events()
        await subscription.subscribe_data_change(client.nodes.server_state)
        await subscription.delete()
        await client.close_session()
    finally:
        client.disconnect_socket()


class _Deaf:
    """Takes what comes."""

    def event_notification(self, event: Any) -> None:
        """An event."""

    def datachange_notification(self, node: Any, value: Any, data: Any) -> None:
        """A value."""


async def fuzz_opcua(address: tuple[str, int], seconds: float, seed: int, least: int = 0) -> Counts:
    """For so long, and until `least` inputs were sent: whole sessions with some messages changed on
    their way, and pieces of such sessions thrown at the port; needs the endpoint of anonymous
    readers, which is in clear."""
    draw, counts = random.Random(seed), Counts()
    damage = [0.0]

    def change(data: bytes) -> bytes:
        if draw.random() >= damage[0]:
            return data
        counts.inputs += 1
        head = 8 if draw.random() < 0.7 else 0  # mostly: a header that is believed
        body = data[:head] + changed(draw, data[head:])
        if head and len(body) >= 8 and draw.random() < 0.8:
            body = body[:4] + struct.pack("<I", len(body)) + body[8:]
        return body

    relay = Relay(address, change)
    server, port = await relay.serve()
    end = time.monotonic() + seconds
    async with server:
        await _session(port, PATIENCE_S)
        seeds = tuple(relay.sent)
        checked = 0
        while time.monotonic() < end or counts.inputs < least:
            damage[0] = draw.choice((0.05, 0.2, 0.5))
            # The client gets answers to what it never said: whatever it makes of them is its own.
            sessions = [asyncio.wait_for(_session(port, 1), 3) for _ in range(4)]
            throws = [_throw(address, draw, seeds, counts) for _ in range(20)]
            await asyncio.gather(*sessions, *throws, return_exceptions=True)
            if counts.inputs - checked >= CHECK_EVERY:
                checked = counts.inputs
                damage[0] = 0.0
                await _check_opcua(port, counts)
        damage[0] = 0.0
        await _check_opcua(port, counts)
    counts.answers += relay.answered
    return counts


async def _throw(
    address: tuple[str, int], draw: random.Random, seeds: tuple[bytes, ...], counts: Counts
) -> None:
    with suppress(OSError, asyncio.TimeoutError):
        reader, writer = await asyncio.open_connection(*address)
        try:
            # As a session begins, up to a message that is wrong; or wrong from the first on.
            good = draw.randrange(min(3, len(seeds))) if draw.random() < 0.6 else 0
            for data in seeds[:good]:
                writer.write(data)
                await asyncio.wait_for(reader.read(4096), 1)
            for _ in range(draw.choice((1, 2, 5))):
                counts.inputs += 1
                is_noise = draw.random() < 0.2
                data = draw.randbytes(draw.randrange(1, 300)) if is_noise else b""
                writer.write(data or changed(draw, draw.choice((seeds[good], *seeds))))
                await writer.drain()
            with suppress(asyncio.TimeoutError):
                counts.answers += bool(await asyncio.wait_for(reader.read(4096), 0.05))
        finally:
            writer.close()


async def _check_opcua(port: int, counts: Counts) -> None:
    counts.good_requests += 1
    for _ in range(5):  # noise may hold every place for a moment
        with suppress(Exception):
            await _session(port, PATIENCE_S)
            counts.good_answers += 1
            return
        await asyncio.sleep(0.5)
