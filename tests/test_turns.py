"""A request that waited for a loop that was held up is as old as the loop was late."""

import asyncio
import struct

from appliance.config import Plc
from appliance.plc_modbus import ModbusPort
from appliance.turns import Turns
from appliance.words import Bank, PlcInput
from tests.ports import free_port

MS = 1_000_000


def test_what_is_read_in_time_came_now_and_what_is_read_late_when_the_turn_was_due() -> None:
    now = [0]
    turns = Turns(lambda: now[0])
    assert turns.came_ns() == 0
    turns.due(50 * MS)
    for read_ms, came_ms in ((10, 10), (50, 50), (51, 50), (350, 50)):
        now[0] = read_ms * MS
        assert turns.came_ns() == came_ms * MS


def test_a_trigger_that_waited_in_the_kernel_is_told_as_old() -> None:
    """The camera refuses it then: it would show the part after the next."""
    now = [0]
    turns = Turns(lambda: now[0])
    turns.due(50 * MS)
    wrote: list[int] = []

    def on_write(plc: PlcInput, received_ns: int) -> None:
        wrote.append(received_ns)

    async def ask() -> None:
        port = ModbusPort(Plc(port=free_port()), Bank(), on_write, turns.came_ns)
        await port.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", port.port)
        writer.write(struct.pack(">HHHBBHH", 1, 0, 6, 1, 6, 0, 3))  # Enable and Trigger
        now[0] = 400 * MS
        await reader.readexactly(12)
        writer.close()
        await port.stop()

    asyncio.run(ask())
    assert wrote == [50 * MS]
