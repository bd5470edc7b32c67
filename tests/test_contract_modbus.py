"""The Modbus contract against a real server over TCP.

Clients are pyModbusTCP and bytes written by hand: neither shares code with the server.
"""

import asyncio
import struct
import time
from collections.abc import Callable

import pytest
from pyModbusTCP.client import ModbusClient

from appliance.codes import Status1
from appliance.config import Plc
from appliance.errors import ConfigError
from appliance.plc_modbus import ModbusPort
from appliance.words import Bank
from tests.modbus_clients import (
    HOST,
    Raw,
    Server,
    client,
    raw,
    read,
    server,
    serving,
    write,
    write_read,
)
from tests.waiting import until

__all__ = ["client", "raw", "server"]


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
