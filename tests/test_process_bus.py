"""The process `bus` on a real line: what it shows, what it asks, and that its death is nobody's."""
# asyncua annotates what travels, not what its functions take, and exports by star imports.
# pyright: reportArgumentType=false, reportPrivateImportUsage=false

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from appliance.codes import CommandError, OfflineReason, Status2, Word
from appliance.messages import Command, CommandResult
from appliance.opcua_users import users_file
from appliance.wire import Wiring
from tests.rig import Rig
from tests.waiting import until

pytest.importorskip("asyncua", reason="the extra `bus` is not installed")

from asyncua import Node

from tests.rig_bus import below, client, is_listening, rig

__all__ = ["rig"]


def ask(rig: Rig, name: str, argument: str = "", by: str = "anna") -> CommandResult:
    """A command as the page or a bus sends it."""

    async def send() -> CommandResult:
        with Wiring(rig.config.runtime_dir) as wiring:
            sender = wiring.async_sender("command")
            await sender.send(Command(id="1", name=name, argument=argument, by=by))
            _, answer = await asyncio.wait_for(sender.receive(), 10)
            assert isinstance(answer, CommandResult)
            return answer

    return asyncio.run(send())


def test_a_person_takes_control_and_gives_it_back(rig: Rig) -> None:
    """Maintenance: no part, no command of others; then Ready again by itself."""
    with rig.ear() as ear:
        until("Ready", lambda: ear.is_ready)
        assert ask(rig, "take_control").code == CommandError.DONE
        until("maintenance", lambda: ear.listen().said.owner == "anna")
        assert ear.said.registers[105] == OfflineReason.MAINTENANCE
        assert ear.said.registers[101] & Status2.MAINTENANCE
        for by in ("opcua:mes", "mqtt:x"):
            assert ask(rig, "load_recipe", "2", by).code == CommandError.NOT_IN_CONTROL
        assert ask(rig, "take_control", by="bert").code == CommandError.NOT_IN_CONTROL
        assert ask(rig, "release_control").code == CommandError.DONE
        until("Ready", lambda: ear.is_ready)
        _, parts = rig.drive(parts=2)
        assert [part.word for part in parts] == [Word.OK] * 2


def test_death_and_silence_of_the_bus_touch_no_verdict(rig: Rig) -> None:
    """Killed in the middle of a run: every part has its verdict, and the bus comes back."""
    with rig.ear("bus") as ear:
        old = rig.pid("bus")

        async def drive() -> tuple[Any, Any]:
            driving = asyncio.create_task(asyncio.to_thread(rig.drive, parts=30, rate_hz=20))
            await asyncio.sleep(0.5)
            rig.kill("bus")
            return await driving

        report, parts = asyncio.run(drive())
        assert [part.word for part in parts] == [Word.OK] * 30
        assert report.rejected == 0
        assert ear.unaccounted == 0
        until("another bus", lambda: rig.pid("bus") != old)
        until("its health", lambda: ear.listen().health["bus"].pid != old, 60)
    opcua = rig.config.bus.opcua
    assert opcua is not None
    until("its port", lambda: is_listening(opcua.port))


def test_when_decide_dies_no_number_is_good_any_more(rig: Rig) -> None:
    """Status bad on every register, SEMI E10 unscheduled down; and back by itself."""

    async def watch() -> None:
        async with client(rig) as opc:
            register = await below(opc, "Inspectd.Registers.Status1")
            system = await below(opc, "SystemState")
            assert await is_soon(register, True)
            pid = rig.kill("decide", signal.SIGSTOP)
            try:
                assert await is_soon(register, False)
                assert int((await system.read_value()).State) == 5
            finally:
                with suppress(ProcessLookupError):  # the supervisor was quicker
                    os.kill(pid, signal.SIGCONT)
            assert await is_soon(register, True)

    asyncio.run(watch())


async def is_soon(node: Node, is_good: bool) -> bool:
    """The status of a value becomes good, or bad."""
    for _ in range(1000):
        value = await node.read_data_value(raise_on_bad_status=False)
        if value.StatusCode is not None and value.StatusCode.is_good() == is_good:
            return True
        await asyncio.sleep(0.02)
    return False


def test_the_key_of_the_server_is_ours_alone(rig: Rig) -> None:
    key: Path = rig.config.keys_dir / "opcua" / "server.key.pem"
    assert key.stat().st_mode & 0o077 == 0
    assert users_file(rig.config.keys_dir).stat().st_mode & 0o077 == 0
