"""OPC UA of a real line: every node and method, events, recipes, and the state machines."""
# asyncua annotates what travels, not what its functions take, and exports by star imports.
# pyright: reportArgumentType=false, reportPrivateImportUsage=false

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from appliance.codes import CommandError, Word
from appliance.recipe import load_recipe
from tests.rig import Rig

pytest.importorskip("asyncua", reason="the extra `bus` is not installed")

from asyncua import Node, ua

from tests.rig_bus import below, call, client, number, rig, text

__all__ = ["rig"]

types: Any = ua


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
