"""The Modbus contract against a real server over TCP.

Clients are pyModbusTCP and bytes written by hand: neither shares code with the server.
"""

import asyncio
import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from pyModbusTCP.client import ModbusClient

from appliance.codes import Control, Status1
from appliance.config import Plc
from appliance.errors import AddressInUse, ConfigError
from appliance.plc_modbus import MAX_CONNECTIONS, ModbusPort
from appliance.words import Bank, PlcInput
from tests.ports import free_port
from tests.waiting import until

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


# ---- reading and writing -------------------------------------------------------------------


def test_a_fault_counts_as_shown_where_the_writer_has_read_it(
    server: Server, client: ModbusClient
) -> None:
    assert client.write_multiple_registers(0, [1, 1])
    assert client.read_holding_registers(102, 4) and client.read_holding_registers(180, 2)
    assert server.shown == [False], "neither a write nor these registers tell of a fault"
    for address in (100, 106, 209):
        assert client.read_holding_registers(address, 1)
    assert client.write_read_multiple_registers(0, [1, 2], 100, 53)
    assert server.shown == [False] + 4 * [True]


def test_who_has_read_before_the_first_write_knows_the_fault(
    server: Server, client: ModbusClient
) -> None:
    assert client.read_holding_registers(100, 53)
    assert client.write_multiple_registers(0, [1, 1])
    assert server.shown == [True]


def test_an_independent_client_reads_and_writes(server: Server, client: ModbusClient) -> None:
    server.on_loop(lambda: server.bank.set("PartTagEcho", 70_000))
    assert client.read_holding_registers(122, 2) == [1, 4464]
    assert client.read_input_registers(122, 2) == [1, 4464], "FC 4 returns the same numbers"
    assert client.read_holding_registers(900, 1) == [256]
    assert client.write_single_register(1, 7)
    assert client.write_multiple_registers(6, [0xABCD, 0x0123])
    assert client.read_holding_registers(0, 8) == [0, 7, 0, 0, 0, 0, 0xABCD, 0x0123]
    assert [plc.heartbeat for plc in server.inputs] == [7, 7]
    assert server.inputs[-1].part_tag == 0xABCD_0123
    assert server.port.counters == {"connections": 1, "refused_writes": 0, "bad_requests": 0}


def test_the_whole_map_can_be_read_and_nothing_beyond(client: ModbusClient) -> None:
    for address in range(0, 1024, 125):
        assert client.read_holding_registers(address, min(125, 1024 - address)) is not None
    assert client.read_holding_registers(1000, 25) is None
    assert client.last_except == 2


def test_the_answer_of_fc_23_shows_what_its_own_write_caused(
    server: Server, client: ModbusClient
) -> None:
    assert client.write_read_multiple_registers(0, [0x03, 1], 100, 53) == (
        [Status1.ONLINE | Status1.TRIGGER_ACK] + [0] * 13 + [1] + [0] * 38
    )
    assert client.write_read_multiple_registers(0, [0x01, 2], 100, 1) == [Status1.ONLINE]
    assert len(server.inputs) == 2


def test_a_write_is_stamped_with_its_receipt(server: Server, client: ModbusClient) -> None:
    server.now_ns = 123_456_789
    assert client.write_single_register(1, 1)
    assert server.received_ns == [123_456_789]


def test_every_read_is_one_image(server: Server, client: ModbusClient) -> None:
    """The decision loop writes word by word; nobody ever sees half of it."""
    is_running = True

    async def decide() -> None:
        value = 0
        while is_running:
            value = (value + 1) & 0xFFFF
            for address in range(205, 330):
                server.bank.write(address, [value])
            # A pause, or the two threads of this test fight for the interpreter without end.
            await asyncio.sleep(0.0005)

    deciding = asyncio.run_coroutine_threadsafe(decide(), server.loop)
    seen: set[int] = set()
    for _ in range(2000):
        words = client.read_holding_registers(205, 125)
        assert words is not None
        assert len(set(words)) == 1
        seen.add(words[0])
        if len(seen) > 200:
            break
    is_running = False
    deciding.result(10)
    assert len(seen) > 100, "the image never changed: nothing was tested"


# ---- refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pdu", "code"),
    [
        (struct.pack(">BHH", 1, 0, 1), 1),
        (struct.pack(">BHH", 5, 0, 0xFF00), 1),
        (struct.pack(">BHHH", 22, 0, 0, 1), 1),
        (b"\x2b\x0e\x01\x00", 1),
        (b"\x00", 1),
        (b"\x83\x02", 1),
        (read(0, 0), 3),
        (read(0, 126), 3),
        (read(0, 65_535, code=4), 3),
        (read(1000, 25), 2),
        (read(1024, 1), 2),
        (read(65_535, 1, code=4), 2),
        (b"\x03\x00\x00\x00", 3),
        (read(0, 1) + b"\x00", 3),
        (b"\x06\x00\x01", 3),
        (struct.pack(">BHH", 6, 100, 1), 2),
        (struct.pack(">BHH", 6, 64, 1), 2),
        (struct.pack(">BHH", 6, 0, 0x0100), 3),
        (struct.pack(">BHH", 6, 8, 4), 3),
        (write(60, 1, 2, 3, 4, 5), 2),
        (write(116, 0xA5C3), 2),
        (write(0, 0x8001, 5), 3),
        (write(7, 5, 9, 5), 3),
        (b"\x10\x00\x00\x00\x00\x00", 3),
        (struct.pack(">BHHB4H", 16, 0, 3, 8, 1, 2, 3, 4), 3),
        (struct.pack(">BHHB2H", 16, 0, 3, 6, 1, 2), 3),
        (write(1, 1, 2) + b"\x00", 3),
        (write_read(0, [3, 9], 1000, 25), 2),
        (write_read(64, [3], 100, 1), 2),
        (write_read(0, [0x0103, 9], 100, 1), 3),
        (write_read(0, [3], 100, 0), 3),
        (write_read(0, [3], 100, 126), 3),
        (write_read(0, [], 100, 1), 3),
        (struct.pack(">BHHHHB2H", 23, 100, 1, 0, 3, 6, 1, 2), 3),
        (b"\x17\x00\x00", 3),
    ],
)
def test_a_refused_request_says_why_and_changes_nothing(
    server: Server, raw: Callable[..., Raw], pdu: bytes, code: int
) -> None:
    line = raw()
    before = server.on_loop(lambda: server.bank.read(0, 1024))
    assert line.ask(pdu, unit=17) == bytes([pdu[0] | 0x80, code])
    assert server.on_loop(lambda: server.bank.read(0, 1024)) == before
    assert server.inputs == []
    counters = server.port.counters
    assert counters["refused_writes"] + counters["bad_requests"] == 1
    assert server.port.refusals.newest
    assert server.port.writer == "", "a refused write makes nobody the writer"
    assert line.ask(read(900, 1)) == b"\x03\x02\x01\x00", "the connection goes on"


def test_any_unit_id_is_served_and_echoed(raw: Callable[..., Raw]) -> None:
    line = raw()
    for unit in (0, 1, 255):
        assert line.ask(read(900, 1), unit) == b"\x03\x02\x01\x00"


# ---- who may write -------------------------------------------------------------------------


def test_a_second_address_reads_but_does_not_write(server: Server, raw: Callable[..., Raw]) -> None:
    plc, stranger = raw(), raw("127.0.0.2")
    assert plc.ask(write(1, 5))[0] == 16
    assert stranger.ask(read(1, 1)) == b"\x03\x02\x00\x05"
    for pdu in (write(1, 6), write_read(1, [6], 100, 1), struct.pack(">BHH", 6, 1, 6)):
        assert stranger.ask(pdu) == bytes([pdu[0] | 0x80, 1])
    assert plc.ask(read(1, 1)) == b"\x03\x02\x00\x05"
    assert server.port.writer == HOST
    assert server.port.counters["refused_writes"] == 3
    assert "127.0.0.2" in server.port.refusals.newest
    assert [plc.heartbeat for plc in server.inputs] == [5]


def test_a_write_on_a_newer_connection_takes_over_and_closes_the_old_one(
    server: Server, raw: Callable[..., Raw]
) -> None:
    old, new = raw(), raw()
    assert old.ask(write(1, 1))[0] == 16
    assert new.ask(read(1, 1)) == b"\x03\x02\x00\x01", "reading takes nothing over"
    assert old.ask(write(1, 2))[0] == 16
    assert new.ask(write(0, 0x0100)) == b"\x90\x03", "neither does a refused write"
    assert old.ask(write(1, 3))[0] == 16
    assert new.ask(write(1, 4))[0] == 16
    assert old.take(1) == b"", "the old connection is closed"
    assert [plc.heartbeat for plc in server.inputs] == [1, 2, 3, 4]


def test_an_older_connection_does_not_take_over(server: Server, raw: Callable[..., Raw]) -> None:
    older, newer = raw(), raw()
    assert newer.ask(write(1, 1))[0] == 16
    assert older.ask(write(1, 2)) == b"\x90\x01"
    assert newer.ask(write(1, 3))[0] == 16
    assert older.ask(read(1, 1)) == b"\x03\x02\x00\x03"
    assert server.port.counters["refused_writes"] == 1


def test_when_the_writer_leaves_another_may_write(server: Server, raw: Callable[..., Raw]) -> None:
    first, second = raw(), raw("127.0.0.2")
    assert first.ask(write(1, 1))[0] == 16
    first.close()
    until("end of the writer", lambda: server.on_loop(lambda: server.port.writer) == "")
    assert second.ask(write(1, 2))[0] == 16
    assert server.port.writer == "127.0.0.2"


@pytest.mark.parametrize("allow", [("127.0.0.2",), ("10.0.0.9", "127.0.0.2/31")])
def test_only_allowed_addresses_write(allow: tuple[str, ...]) -> None:
    with serving(Plc(host=HOST, port=0, allow=allow)) as server:
        stranger, plc = Raw(server), Raw(server, "127.0.0.2")
        assert stranger.ask(write(1, 1)) == b"\x90\x01"
        assert "allow" in server.port.refusals.newest
        assert plc.ask(write(1, 1))[0] == 16
        stranger.close()
        plc.close()


def test_an_allow_list_that_is_none() -> None:
    with pytest.raises(ConfigError, match=r"\[plc\] allow: expected an IP address .*'plc-7'"):
        ModbusPort(Plc(allow=("plc-7",)), Bank(), lambda _, __: None, time.monotonic_ns)


# ---- connections ---------------------------------------------------------------------------


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


# ---- start and stop ------------------------------------------------------------------------


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
