"""Who comes to the OPC UA server of a real line: anonymous, wrong, foreign and damaged clients."""
# asyncua annotates what travels, not what its functions take, and exports by star imports.
# pyright: reportArgumentType=false, reportPrivateImportUsage=false

import asyncio
import json
import logging
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from appliance.codes import State, Word
from tests.fuzz_counts import Counts
from tests.fuzz_opcua import fuzz_opcua
from tests.rig import Rig, number_of

pytest.importorskip("asyncua", reason="the extra `bus` is not installed")

from asyncua import ua

from tests.rig_bus import PASSWORD, USER, below, call, client, number, rig, text, url

__all__ = ["rig"]

ROOT = Path(__file__).parent.parent


def test_the_anonymous_read_and_nothing_else(rig: Rig) -> None:
    async def look() -> None:
        async with client(rig, user="") as opc:
            register = await below(opc, "Inspectd.Registers.State")
            for _ in range(250):
                if await register.read_value() == State.READY:
                    break
                await asyncio.sleep(0.02)
            assert await register.read_value() in [*State]
            for attempt in (
                register.write_value(3, ua.VariantType.UInt16),
                call(opc, "VisionStateMachine.Halt", number(0), text("")),
            ):
                with pytest.raises(ua.UaError):
                    await attempt

    asyncio.run(look())


@pytest.mark.parametrize(("user", "password"), [(USER, "wrong"), ("nobody", PASSWORD)])
def test_a_wrong_password_is_refused(rig: Rig, user: str, password: str) -> None:
    async def knock() -> None:
        with pytest.raises(ua.UaError):
            async with client(rig, user, password):
                pass

    asyncio.run(knock())


NODE_MODULES = Path(os.environ.get("OPCUA_MODULES", ROOT / ".venv" / "node"))


@pytest.mark.skipif(
    shutil.which("node") is None
    or not (NODE_MODULES / "node_modules" / "node-opcua-client").is_dir(),
    reason="no node, or no node-opcua-client: npm install --prefix .venv/node node-opcua-client",
)
def test_a_client_of_another_language_browses_calls_and_hears(rig: Rig) -> None:
    """node-opcua, which shares no line with the server."""
    command = ["node", str(ROOT / "tools" / "opcua_check.mjs"), url(rig), USER, "2"]
    environment = {**os.environ, "OPCUA_MODULES": str(NODE_MODULES), "OPCUA_PASSWORD": PASSWORD}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as checking:
        assert checking.stderr is not None
        said: list[str] = []
        while "listening\n" not in said:
            said.append(checking.stderr.readline())
            assert said[-1], "".join(said)
        _, parts = rig.drive(parts=2)
        output, errors = checking.communicate(timeout=120)
    assert checking.returncode == 0, errors
    found = json.loads(output)
    assert found["bad"] == [] and found["variables"] > 100
    assert len(found["methods"]) == 18
    for name, answer in found["methods"].items():
        assert answer["status"] == "Good", name
        assert answer["outputs"] == answer["declared"], name
    assert found["results"][:2] == [{"job": ANY, "isSimulated": True}] * 2
    assert len(parts) == 2
    assert found["events"]["JobStartedEventType"] >= 2
    assert found["anonymous"] == "let in", "this line lets readers in"


def test_damaged_messages_end_nothing_and_touch_no_verdict(rig: Rig) -> None:
    """Three seconds of noise; for as long as wanted: python -m tests.fuzz_buses opcua."""
    opcua = rig.config.bus.opcua
    assert opcua is not None
    before = rig.pid("bus"), rig.pid("decide")

    async def drive() -> tuple[Counts, list[Any]]:
        driving = asyncio.create_task(asyncio.to_thread(rig.drive, parts=30))
        counts = await fuzz_opcua(("127.0.0.1", opcua.port), 3, seed=20, least=50)
        return counts, (await driving)[1]

    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    counts, parts = asyncio.run(drive())
    assert counts.inputs >= 50
    assert counts.good_answers == counts.good_requests > 0
    judged = [part for part in parts if part.word not in (Word.NONE, Word.ERROR)]
    assert judged, "a machine that does other things may be late now and then"
    assert {part.word for part in judged} == {Word.OK}
    assert [number_of(part.margin) for part in judged] == [part.tag - 1 for part in judged]
    assert (rig.pid("bus"), rig.pid("decide")) == before
