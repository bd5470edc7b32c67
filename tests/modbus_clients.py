"""A Modbus server on its own loop, and clients made of bytes: they share no code with it."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from pyModbusTCP.client import ModbusClient

from appliance.codes import Control, Status1
from appliance.config import Plc
from appliance.plc_modbus import ModbusPort
from appliance.words import Bank, PlcInput

T = TypeVar("T")
HOST = "127.0.0.1"


class Server:
    """A ModbusPort on its own loop, as in the decision process; tests are blocking clients."""

    def __init__(self, plc: Plc) -> None:
        self.bank = Bank()
        self.inputs: list[PlcInput] = []
        self.received_ns: list[int] = []
        self.bugs: list[str] = []
        self.now_ns = 1_000
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda _, context: self.bugs.append(str(context)))
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.shown: list[bool] = []
        self.port = ModbusPort(plc, self.bank, self.on_write, lambda: self.now_ns, self.on_shown)
        self.wait(self.port.start())
        self.number = self.port.port

    def on_write(self, plc: PlcInput, received_ns: int) -> None:
        self.inputs.append(plc)
        self.received_ns.append(received_ns)
        ack = Status1.TRIGGER_ACK if Control.TRIGGER in plc.control else Status1(0)
        self.bank.set("Status1", Status1.ONLINE | ack)
        self.bank.set("AcqID", len(self.inputs))

    def on_shown(self, is_shown: bool) -> None:
        self.shown.append(is_shown)

    def wait(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    def on_loop(self, call: Callable[[], T]) -> T:
        async def run() -> T:
            return call()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(10)

    def close(self) -> None:
        self.wait(self.port.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()
        assert self.bugs == []


@contextlib.contextmanager
def serving(plc: Plc | None = None) -> Iterator[Server]:
    server = Server(plc or Plc(host=HOST, port=0))
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[ModbusClient]:
    line = ModbusClient(HOST, server.number, timeout=5)
    yield line
    line.close()


class Raw:
    """A client made of bytes."""

    def __init__(self, server: Server, source: str = HOST) -> None:
        self.line = socket.create_connection((HOST, server.number), 5, (source, 0))
        self.transaction = 0

    def frame(self, pdu: bytes, unit: int = 1) -> bytes:
        self.transaction += 1
        return struct.pack(">HHHB", self.transaction, 0, len(pdu) + 1, unit) + pdu

    def ask(self, pdu: bytes, unit: int = 1) -> bytes:
        """The answering PDU; b"" where the server hung up."""
        self.line.sendall(self.frame(pdu, unit))
        return self.answer(unit)

    def answer(self, unit: int = 1, transaction: int | None = None) -> bytes:
        header = self.take(7)
        if not header:
            return b""
        number, protocol, length, echoed_unit = struct.unpack(">HHHB", header)
        assert (number, protocol) == (transaction or self.transaction, 0)
        assert echoed_unit == unit
        return self.take(length - 1)

    def take(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            try:
                more = self.line.recv(count - len(data))
            except ConnectionError:
                more = b""
            if not more:
                assert not data, "the server hung up in the middle of an answer"
                return b""
            data += more
        return data

    def close(self) -> None:
        self.line.close()


@pytest.fixture
def raw(server: Server) -> Iterator[Callable[..., Raw]]:
    clients: list[Raw] = []

    def connect(source: str = HOST) -> Raw:
        clients.append(Raw(server, source))
        return clients[-1]

    yield connect
    for each in clients:
        each.close()


def read(address: int, count: int, code: int = 3) -> bytes:
    return struct.pack(">BHH", code, address, count)


def write(address: int, *words: int) -> bytes:
    return struct.pack(f">BHHB{len(words)}H", 16, address, len(words), 2 * len(words), *words)


def write_read(address: int, words: list[int], read_address: int, count: int) -> bytes:
    head = struct.pack(">BHHHHB", 23, read_address, count, address, len(words), 2 * len(words))
    return head + struct.pack(f">{len(words)}H", *words)
