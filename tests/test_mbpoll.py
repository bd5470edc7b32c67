"""mbpoll, the Modbus client that Debian has, reads and writes the same words as everybody else."""

import random
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from pyModbusTCP.client import ModbusClient

from appliance.codes import Control, Status1
from appliance.registers import FROM_VISION, MAP_VERSION, REGISTERS, RING_ADDRESS
from tests.modbus_clients import HOST, Server, serving

pytestmark = pytest.mark.skipif(
    shutil.which("mbpoll") is None, reason="no mbpoll: apt-get install mbpoll"
)
SPANS = ((100, 53), (160, 26), (RING_ADDRESS - 5, 125), (900, 40))


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def mbpoll(server: Server, first: int, count: int, *more: str, kind: str = "4:hex") -> list[int]:
    """Registers from the zero-based address `first`; `more`: what to write there instead."""
    command = ["mbpoll", "-m", "tcp", "-p", str(server.number), "-a", "1", "-0", "-1", "-q"]
    command += ["-t", kind, "-r", str(first)] + ([] if more else ["-c", str(count)])
    done = subprocess.run(
        [*command, HOST, *more], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(r"^\[(\d+)\]:\s*0x([0-9A-Fa-f]+)", done.stdout, re.MULTILINE)
    assert [int(address) for address, _ in found] == (
        [] if more else [*range(first, first + count)]
    )
    return [int(word, 16) for _, word in found]


def test_three_clients_read_the_same_words(server: Server) -> None:
    draw = random.Random(6)

    def fill() -> None:
        for register in FROM_VISION:
            words = [draw.randrange(1 << 16) for _ in range(register.size)]
            server.bank.write(register.address, words)
        server.bank.write(RING_ADDRESS, [draw.randrange(1 << 16) for _ in range(120)])

    server.on_loop(fill)
    second = ModbusClient(HOST, server.number, timeout=5)
    for first, count in SPANS:
        ours = server.on_loop(lambda first=first, count=count: server.bank.read(first, count))
        assert len(set(ours)) > count // 2, "words that tell each other apart"
        assert mbpoll(server, first, count) == ours
        assert mbpoll(server, first, count, kind="3:hex") == ours, "function 4 gives the same"
        assert second.read_holding_registers(first, count) == ours
    second.close()


def test_the_map_version_is_where_the_document_says(server: Server) -> None:
    address = REGISTERS["MapVersion"].address
    assert mbpoll(server, address, 1) == [MAP_VERSION]


def test_what_mbpoll_writes_arrives_and_is_answered(server: Server) -> None:
    control = Control.ENABLE | Control.TRIGGER
    mbpoll(server, 0, 0, str(int(control)), "7", kind="4")
    assert server.inputs[-1].control == control
    assert server.inputs[-1].heartbeat == 7
    (status,) = mbpoll(server, 100, 1)
    assert Status1.TRIGGER_ACK in Status1(status)
