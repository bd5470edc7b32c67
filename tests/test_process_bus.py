"""The process `bus` on a real line: what it shows, what it asks, and that its death is nobody's."""
# asyncua annotates what travels, not what its functions take, and exports by star imports.
# pyright: reportArgumentType=false, reportPrivateImportUsage=false

import asyncio
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from appliance.codes import CommandError, OfflineReason, State, Status2, Word
from appliance.messages import Command, CommandResult
from appliance.opcua_users import put_user, users_file
from appliance.recipe import load_recipe
from appliance.wire import Wiring
from tests.fuzz_buses import Counts, fuzz_opcua
from tests.ports import free_port
from tests.rig import Rig, number_of, until

pytest.importorskip("asyncua", reason="the extra `bus` is not installed")

from asyncua import Client, Node, ua
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256
from cryptography.x509.oid import ExtendedKeyUsageOID

USER, PASSWORD = "mes", "a long password"
ROOT = Path(__file__).parent.parent
types: Any = ua


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    opcua = {"port": free_port(), "anonymous": "read_only"}
    with Rig({"deadline_ms": 1000, "bus": {"opcua": opcua}}) as rig:
        put_user(users_file(rig.config.keys_dir), USER, PASSWORD)
        rig.start()
        with rig.ear("bus") as ear:
            until("Ready", lambda: ear.is_ready, 30)
            until("bus", lambda: "bus" in ear.listen().health, 60)
        until("its port", lambda: is_listening(opcua["port"]))
        yield rig


def is_listening(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def url(rig: Rig) -> str:
    opcua = rig.config.bus.opcua
    assert opcua is not None
    return f"opc.tcp://127.0.0.1:{opcua.port}/inspectd"


@asynccontextmanager
async def client(rig: Rig, user: str = USER, password: str = PASSWORD) -> AsyncIterator[Client]:
    """A client of its own process with its own certificate; user "" = anonymous, in clear."""
    client = Client(url(rig), timeout=10)
    if user:
        folder, uri = rig.root / "client", "urn:tests:client"
        folder.mkdir(exist_ok=True)
        key, certificate = folder / "key.pem", folder / "certificate.der"
        usage = [ExtendedKeyUsageOID.CLIENT_AUTH]
        await setup_self_signed_certificate(key, certificate, uri, "tests", usage, {})
        client.application_uri = uri
        await client.set_security(
            SecurityPolicyBasic256Sha256,
            certificate,
            key,
            mode=ua.MessageSecurityMode.SignAndEncrypt,
        )
        client.set_user(user)
        client.set_password(password)
    await client.connect()
    try:
        if not hasattr(ua, "ResultDataType"):  # once per process: the classes stay in `ua`
            await client.load_data_type_definitions()
        yield client
    finally:
        await client.disconnect()


async def below(client: Client, path: str) -> Node:
    """A node by its readable id."""
    index = await client.get_namespace_index("urn:inspectd:line")
    return client.get_node(ua.NodeId(f"VisionSystem.{path}".removesuffix("."), index))


async def call(client: Client, path: str, *arguments: Any) -> Any:
    """A method of the VisionSystem, called as any client does."""
    method = await below(client, path)
    parent = await below(client, path.rpartition(".")[0])
    return await parent.call_method(method, *arguments)


def text(value: str) -> ua.Variant:
    return ua.Variant(value, ua.VariantType.String)


def number(value: int, kind: ua.VariantType = ua.VariantType.Int32) -> ua.Variant:
    return ua.Variant(value, kind)


# ---- OPC UA --------------------------------------------------------------------------------


def test_every_mandatory_node_is_there_and_every_method_answers(rig: Rig) -> None:
    """As the nodeset demands: each mandatory member of each instance, read or called."""

    async def walk() -> None:
        async with client(rig) as opc:
            index = await opc.get_namespace_index("http://opcfoundation.org/UA/MachineVision")
            system = await below(opc, "")
            assert (await system.read_browse_name()).Name == "VisionSystem"
            seen, methods = 0, set[str]()
            todo = [system]
            while todo:
                node = todo.pop()
                kind = (await node.get_referenced_nodes(ua.ObjectIds.HasTypeDefinition))[:1]
                here = {(await c.read_browse_name()).Name for c in await node.get_children()}
                for member in await members(kind[0]) if kind else []:
                    rule = await member.get_referenced_nodes(ua.ObjectIds.HasModellingRule)
                    is_mandatory = rule and rule[0].nodeid == ua.NodeId(
                        ua.ObjectIds.ModellingRule_Mandatory
                    )
                    name = await member.read_browse_name()
                    if is_mandatory and name.NamespaceIndex in (0, index):
                        assert name.Name in here, f"{node}: no {name.Name}"
                        seen += 1
                for child in await node.get_children():
                    kind_of = await child.read_node_class()
                    if kind_of == ua.NodeClass.Object:
                        todo.append(child)
                    elif kind_of == ua.NodeClass.Variable:
                        value = await child.read_data_value(raise_on_bad_status=False)
                        assert value.Value is not None or value.StatusCode is not None
                    elif kind_of == ua.NodeClass.Method:
                        methods.add((await child.read_browse_name()).Name)
            assert seen >= 25
            assert methods == {
                "ActivateConfiguration", "GetConfigurationById", "GetConfigurationList",
                "GetRecipeListFiltered", "PrepareRecipe", "UnprepareRecipe",
                "GetResultById", "GetResultComponentsById", "GetResultListFiltered",
                "ReportSafetyState", "Halt", "Reset", "ConfirmAll", "SelectModeAutomatic",
                "StartSingleJob", "StartContinuous", "Stop", "Abort",
            }  # fmt: skip

    asyncio.run(walk())


def test_a_client_calls_every_method_and_gets_what_it_declares(rig: Rig) -> None:
    """Those that the other tests leave out; a positive number is a CommandError."""
    nothing = {
        "meas": types.MeasIdDataType(Id=""),
        "part": types.PartIdDataType(Id=""),
        "recipe": types.RecipeIdExternalDataType(Id=""),
        "product": types.ProductIdDataType(Id=""),
        "parameters": ua.Variant([], ua.VariantType.Variant, is_array=True),
    }
    automatic = "VisionStateMachine.AutomaticModeStateMachine"
    configuration = types.ConfigurationIdDataType(Id="config.toml")
    most = number(0, ua.VariantType.UInt32)
    internal = types.RecipeIdInternalDataType(Id="cell/1")

    async def ask_all() -> None:
        async with client(rig) as opc:

            async def answered(path: str, *arguments: Any) -> list[Any]:
                method = await below(opc, path)
                outputs = await call(opc, path, *arguments)
                outputs = outputs if isinstance(outputs, list) else [outputs]
                with suppress(ua.UaError):
                    declared = await method.get_child("0:OutputArguments")
                    assert len(outputs) == len(await declared.read_value()), path
                return outputs

            _, error = await answered(f"{automatic}.StartContinuous", *nothing.values())
            assert error == CommandError.WRONG_STATE  # the PLC triggers this line
            for name in ("Stop", "Abort"):
                (error,) = await answered(f"{automatic}.{name}", number(0), text(""))
                assert error == CommandError.WRONG_STATE
            assert await answered(
                "VisionStateMachine.SelectModeAutomatic", number(0), text("")
            ) == [0]
            await answered("VisionStateMachine.ConfirmAll", number(0), text(""))
            recipe = nothing["recipe"]
            *_, error = await answered("RecipeManagement.UnprepareRecipe", recipe, internal)
            assert error == CommandError.NOT_SUPPORTED
            management = "ConfigurationManagement"
            _, found, error = await answered(
                f"{management}.GetConfigurationById", configuration, number(0)
            )
            assert (found.InternalId.Id, error) == ("config.toml", 0)
            _, count, _, listed, error = await answered(
                f"{management}.GetConfigurationList", most, most, number(0)
            )
            assert (count, listed[0].InternalId.Id, error) == (1, "config.toml", 0)
            assert await answered(f"{management}.ActivateConfiguration", configuration) == [0]
            safety = "SafetyStateManagement"
            index = await opc.get_namespace_index("http://opcfoundation.org/UA/MachineVision")
            kind = await opc.nodes.base_event_type.get_child(f"{index}:VisionSafetyEventType")
            heard = Heard()
            subscription = await opc.create_subscription(20, heard)
            await subscription.subscribe_events(opc.nodes.server, [kind])
            told = ua.Variant(True, ua.VariantType.Boolean)
            assert await answered(f"{safety}.ReportSafetyState", told, text("door open")) == [0]
            assert await (await below(opc, f"{safety}.VisionSafetyTriggered")).read_value() is True
            told = ua.Variant(False, ua.VariantType.Boolean)
            assert await answered(f"{safety}.ReportSafetyState", told, text("")) == [0]
            for _ in range(200):
                if len(heard.events) >= 2:
                    break
                await asyncio.sleep(0.05)
            assert [
                (event.VisionSafetyTriggered, event.VisionSafetyInformation)
                for event in heard.events
            ] == [(True, "door open"), (False, "")]
            await subscription.delete()

    asyncio.run(ask_all())


async def members(kind: Node) -> list[Node]:
    """Of a type and all its supertypes."""
    found = await kind.get_children()
    for parent in await kind.get_referenced_nodes(
        ua.ObjectIds.HasSubtype, direction=ua.BrowseDirection.Inverse
    ):
        found += await members(parent)
    return found


class Heard:
    """Events as they come."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def event_notification(self, event: Any) -> None:
        self.events.append(event)

    def named(self, kind: ua.NodeId) -> list[Any]:
        return [event for event in self.events if event.EventType == kind]


def test_events_carry_typed_fields_and_the_same_ids_as_the_plc(rig: Rig) -> None:
    """JobStarted, ResultReady and Ready of each part; nothing arrives as None."""

    async def listen() -> None:
        async with client(rig) as opc:
            index = await opc.get_namespace_index("http://opcfoundation.org/UA/MachineVision")
            base = opc.nodes.base_event_type
            kinds = {
                name: await base.get_child(f"{index}:{name}EventType")
                for name in ("JobStarted", "ResultReady", "Ready")
            }
            heard = Heard()
            subscription = await opc.create_subscription(20, heard)
            await subscription.subscribe_events(opc.nodes.server, list(kinds.values()))
            _, parts = await asyncio.to_thread(rig.drive, parts=3)
            ready = kinds["ResultReady"].nodeid
            for _ in range(200):
                if len(heard.named(ready)) >= 3:
                    break
                await asyncio.sleep(0.05)
            results = heard.named(ready)
            assert [event.MeasId.Id for event in results] == [str(part.acq_id) for part in parts]
            for event, part in zip(results, parts, strict=True):
                assert event.IsPartial is False
                assert event.IsSimulated is True
                assert event.ResultState == 1
                assert event.PartId.Id == f"SIM-{part.tag:010d}"
                assert event.InternalRecipeId.HashAlgorithm == "SHA-256"
                hashed = load_recipe(rig.config, "cell/1").hash
                assert event.InternalRecipeId.Hash.hex() == hashed
                word, name, reason = (variant.Value for variant in event.ResultContent[:3])
                assert (word, name, reason) == (part.word, "OK", 0)
                assert event.ResultContent[3].Value == pytest.approx(part.margin)
                assert event.ProcessingTimes.ProcessingDuration > 0
            started = heard.named(kinds["JobStarted"].nodeid)
            assert [e.JobId.Id for e in started] == [e.JobId.Id for e in results]
            assert all(a.Time < b.Time for a, b in zip(started, results, strict=True))
            await subscription.delete()

            # Results can be asked for afterwards, by id and by filter.
            job = results[0].JobId
            handle, found, error = await call(
                opc, "ResultManagement.GetResultById", types.ResultIdDataType(Id=job.Id), number(0)
            )
            assert (handle, error) == (0, 0)
            assert found.JobId == job and found.ResultContent[0].Value == Word.OK
            parts_of = await call(
                opc, "ResultManagement.GetResultComponentsById",
                types.ResultIdDataType(Id=job.Id), number(0),
            )  # fmt: skip
            assert parts_of[12].Id == job.Id and parts_of[-1] == 0
            is_complete, count, _, listed, error = await call(
                opc, "ResultManagement.GetResultListFiltered",
                number(0), types.MeasIdDataType(Id=""), types.PartIdDataType(Id=""),
                types.RecipeIdExternalDataType(Id=""), types.RecipeIdInternalDataType(Id="cell"),
                types.ConfigurationIdDataType(Id=""), types.ConfigurationIdDataType(Id=""),
                types.ProductIdDataType(Id=""), types.JobIdDataType(Id=""),
                number(2, ua.VariantType.UInt32), number(0, ua.VariantType.UInt32), number(0),
            )  # fmt: skip
            assert (is_complete, count, error) == (False, 2, 0)
            assert listed[0].JobId.Id == results[-1].JobId.Id

    asyncio.run(listen())


def test_a_recipe_is_prepared_and_the_numbers_are_those_of_the_map(rig: Rig) -> None:
    async def change() -> None:
        async with client(rig) as opc:
            no_recipe = types.RecipeIdInternalDataType(Id="")
            listed = await call(
                opc, "RecipeManagement.GetRecipeListFiltered",
                types.RecipeIdExternalDataType(Id=""), types.ProductIdDataType(Id=""),
                number(types.TriStateBooleanDataType.DONTCARE_2),
                number(0, ua.VariantType.UInt32), number(0, ua.VariantType.UInt32), number(0),
            )  # fmt: skip
            assert [(r.Id, r.Version) for r in listed[3]] == [("cell", "1"), ("other", "1")]
            for wanted, name in ((2, "other/1"), (1, "cell/1")):
                prepared, is_completed, error = await call(
                    opc, "RecipeManagement.PrepareRecipe",
                    types.RecipeIdExternalDataType(Id=name), no_recipe,
                )  # fmt: skip
                assert (is_completed, error) == (True, CommandError.DONE)
                assert prepared.Id == name.partition("/")[0]
                shown = await below(opc, "Inspectd.Registers.RecipeId")
                for _ in range(100):
                    if await shown.read_value() == wanted:
                        break
                    await asyncio.sleep(0.02)
                assert await shown.read_value() == wanted
            _, is_completed, error = await call(
                opc, "RecipeManagement.PrepareRecipe",
                types.RecipeIdExternalDataType(Id="nothing"), no_recipe,
            )  # fmt: skip
            assert (is_completed, error) == (False, CommandError.UNKNOWN_PRODUCT)
            assert await (await below(opc, "Inspectd.Ledger.unaccounted")).read_value() == 0

    asyncio.run(change())


def test_halt_and_reset_move_the_state_machines(rig: Rig) -> None:
    async def halt() -> None:
        async with client(rig) as opc:
            outer = await below(opc, "VisionStateMachine.CurrentState")
            machine = "VisionStateMachine"
            inner = await below(opc, f"{machine}.AutomaticModeStateMachine.CurrentState")
            assert await becomes(outer, "Operational")
            assert await becomes(inner, "Ready")
            assert await call(opc, f"{machine}.Halt", number(0), text("")) == 0
            assert await becomes(outer, "Halted")
            _, error = await call(
                opc, f"{machine}.AutomaticModeStateMachine.StartSingleJob",
                types.MeasIdDataType(Id="7"), types.PartIdDataType(Id=""),
                types.RecipeIdExternalDataType(Id=""), types.ProductIdDataType(Id=""),
                ua.Variant([], ua.VariantType.Variant, is_array=True),
            )  # fmt: skip
            assert error == CommandError.WRONG_STATE
            assert await call(opc, f"{machine}.Reset", number(0), text("")) == 0
            assert await becomes(outer, "Operational")
            assert await becomes(inner, "Ready")

    asyncio.run(halt())


async def becomes(node: Node, name: str) -> bool:
    """A state variable shows this name, soon."""
    for _ in range(250):
        value = await node.read_data_value(raise_on_bad_status=False)
        if value.Value is not None and value.Value.Value.Text == name:
            return True
        await asyncio.sleep(0.02)
    return False


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


# ---- the process itself --------------------------------------------------------------------


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
