"""Connections of the Modbus server: addresses, how many, dead and noisy ones, start and stop."""

import asyncio
import contextlib
import random
import socket
import struct
import time
from collections.abc import Callable

import pytest

from appliance.config import Plc
from appliance.errors import AddressInUse, ConfigError
from appliance.plc_modbus import MAX_CONNECTIONS, ModbusPort
from appliance.words import Bank
from tests.modbus_clients import HOST, Raw, Server, raw, read, server, serving, write, write_read
from tests.ports import free_port
from tests.waiting import until

__all__ = ["raw", "server"]


@pytest.mark.parametrize("host", ["192.0.2.77", "2001:db8::77"])
def test_it_listens_at_an_address_that_comes_with_the_cable(host: str) -> None:
    """Five starts in vain would be a spent restart budget, and a minute's rest after the PLC is
    there."""
    server = Server(Plc(host=host, port=free_port()))
    assert server.port.remark == f"[plc] host = {host} is no address of this machine yet"
    server.close()


def test_a_host_that_is_no_address_at_all_is_refused() -> None:
    port = ModbusPort(Plc(host="no.such.host.invalid"), Bank(), lambda *_: None, lambda: 0)
    with pytest.raises(AddressInUse, match="expected a free address of this machine"):
        asyncio.run(port.start())


def test_the_longest_idle_reader_makes_room(server: Server, raw: Callable[..., Raw]) -> None:
    writer = raw()
    assert writer.ask(write(1, 1))[0] == 16
    readers = [raw() for _ in range(MAX_CONNECTIONS - 1)]
    for reader in readers:
        server.now_ns += 1
        reader.ask(read(1, 1))
    server.now_ns += 1
    readers[0].ask(read(1, 1))
    late = raw()
    assert late.ask(read(1, 1)) == b"\x03\x02\x00\x01"
    assert readers[1].take(1) == b"", "it had been idle for longest"
    assert readers[0].ask(read(1, 1)) == b"\x03\x02\x00\x01"
    assert writer.ask(write(1, 2))[0] == 16, "the writer stays, however long it was silent"
    assert server.on_loop(lambda: server.port.open_connections) == MAX_CONNECTIONS


def test_a_dead_peer_is_noticed(server: Server, raw: Callable[..., Raw]) -> None:
    raw().ask(read(1, 1))

    def options() -> list[int]:
        (connection,) = server.port._connections.values()
        line = connection.transport.get_extra_info("socket")
        tcp = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        return [line.getsockopt(socket.IPPROTO_TCP, option) for option in tcp]

    assert server.on_loop(options) == [5, 5, 3]


def test_requests_may_come_in_pieces_and_in_heaps(raw: Callable[..., Raw]) -> None:
    line = raw()
    for byte in line.frame(read(900, 1)):
        line.line.sendall(bytes([byte]))
        time.sleep(0.001)
    assert line.answer() == b"\x03\x02\x01\x00"
    line.line.sendall(b"".join(line.frame(write(1, n)) for n in range(200)))
    for n in range(200):
        assert line.answer(transaction=2 + n) == b"\x10\x00\x01\x00\x01"
    assert line.ask(read(1, 1)) == b"\x03\x02\x00\xc7"


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: box\r\n\r\n",
        struct.pack(">HHHB", 1, 7, 6, 1) + read(0, 1),
        struct.pack(">HHHB", 1, 0, 1, 1),
        struct.pack(">HHHB", 1, 0, 0, 1),
        struct.pack(">HHHB", 1, 0, 255, 1),
    ],
)
def test_what_is_not_modbus_is_hung_up_on(
    server: Server, raw: Callable[..., Raw], data: bytes
) -> None:
    line = raw()
    line.line.sendall(data)
    assert line.take(1) == b""
    assert server.port.counters["bad_requests"] == 1


def test_a_client_that_asks_and_never_reads_is_dropped(
    server: Server, raw: Callable[..., Raw]
) -> None:
    deaf, good = raw(), raw()
    heap = b"".join(deaf.frame(read(0, 125)) for _ in range(1000))
    with contextlib.suppress(ConnectionError):
        for _ in range(100):  # 25 MB of answers, more than the kernel's buffers hold
            deaf.line.sendall(heap)
    until("one connection", lambda: server.on_loop(lambda: server.port.open_connections) == 1)
    assert good.ask(read(900, 1)) == b"\x03\x02\x01\x00"


def test_noise_never_stops_the_server(server: Server, raw: Callable[..., Raw]) -> None:
    """Random bytes, cut frames, honest headers around noise; then everything still works."""
    dice = random.Random(1)
    for _ in range(150):
        line = raw()
        kind = dice.randrange(3)
        if kind == 0:
            data = dice.randbytes(dice.randrange(1, 600))
        elif kind == 1:
            data = b"".join(
                line.frame(bytes([dice.choice((3, 4, 6, 16, 23))]) + dice.randbytes(n))
                for n in dice.choices(range(250), k=20)
            )
        else:
            whole = line.frame(write_read(0, [1] * dice.randrange(1, 60), 100, 50))
            data = whole[: dice.randrange(len(whole))]
        with contextlib.suppress(ConnectionError):
            line.line.sendall(data)
        if dice.random() < 0.7:
            line.close()
    block = server.on_loop(lambda: server.bank.read(0, 64))
    assert block[0] <= 0xFF
    assert block[8] <= 3
    assert server.on_loop(lambda: server.bank.read(900, 2)) == [256, 1]
    assert raw("127.0.0.3").ask(read(900, 1)) == b"\x03\x02\x01\x00"
    assert server.on_loop(lambda: server.port.open_connections) <= MAX_CONNECTIONS


def test_a_port_in_use_is_named(server: Server) -> None:
    async def start() -> None:
        plc = Plc(host=HOST, port=server.number)
        await ModbusPort(plc, Bank(), lambda _, __: None, time.monotonic_ns).start()

    with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{server.number}: expected a free"):
        asyncio.run(start())


def test_stop_hangs_up_and_frees_the_port(server: Server, raw: Callable[..., Raw]) -> None:
    line = raw()
    line.ask(write(1, 1))
    server.wait(server.port.stop())
    assert line.take(1) == b""
    assert server.port.writer == ""
    with serving(Plc(host=HOST, port=server.number)) as again:
        after = Raw(again)
        assert after.ask(read(900, 1)) == b"\x03\x02\x01\x00"
        after.close()
