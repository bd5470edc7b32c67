"""Who may speak to the OPC UA server, asked by clients that do not keep to the rules."""
# asyncua annotates what travels, not what its functions take, and exports by star imports.
# pyright: reportArgumentType=false, reportPrivateImportUsage=false

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import structlog

from appliance.codes import CommandError, State
from appliance.config import Config
from appliance.config_bus import Bus, OpcUa
from appliance.config_camera import Camera
from appliance.messages import CommandResult, Words
from appliance.opcua_users import put_user, users_file
from appliance.recipe import Limits, Recipe, load_recipe, write_recipe
from appliance.words import Bank
from tests.ports import free_port

pytest.importorskip("asyncua", reason="the extra `bus` is not installed")

from asyncua import Client, ua
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256
from asyncua.ua.uaerrors import BadSubscriptionIdInvalid
from cryptography.x509.oid import ExtendedKeyUsageOID

from appliance.plc_opcua import OpcUaServer

USER, PASSWORD = "mes", "a long password"


class Box:
    """The server alone, and what it asked of decide."""

    def __init__(self, root: Path, **more: Any) -> None:
        self.root, self.asked = root, list[tuple[str, str, str]]()
        settings = OpcUa(host="127.0.0.1", port=free_port(), **more)
        self.address = "127.0.0.1", settings.port
        self.url = f"opc.tcp://127.0.0.1:{settings.port}/inspectd"
        config = self.config = Config(
            root=str(root), deadline_ms=200, bus=Bus(opcua=settings),
            camera=(Camera(name="top", kind="files", folder="x"),),
        )  # fmt: skip
        config.keys_dir.mkdir(parents=True)
        put_user(users_file(config.keys_dir), USER, PASSWORD)
        self.server = OpcUaServer(settings, config, self._ask, structlog.get_logger())

    async def _ask(self, name: str, argument: str, by: str) -> CommandResult:
        self.asked.append((name, argument, by))
        return CommandResult(id="", code=CommandError.DONE)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        await self.server.prepare()
        task = asyncio.create_task(self.server.serve())
        try:
            while not task.done() and not await self._is_listening():
                await asyncio.sleep(0.01)
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _is_listening(self) -> bool:
        with suppress(OSError):
            _, writer = await asyncio.open_connection(*self.address)
            writer.close()
            return True
        return False

    async def client(self, name: str, password: str = PASSWORD) -> Client:
        """With a certificate of its own; not connected yet."""
        client = Client(self.url, timeout=10)
        client.application_uri, key, certificate = await self.certificate(name)
        mode = ua.MessageSecurityMode.SignAndEncrypt
        await client.set_security(SecurityPolicyBasic256Sha256, certificate, key, mode=mode)
        client.set_user(USER)
        client.set_password(password)
        return client

    async def certificate(self, name: str) -> tuple[str, Path, Path]:
        """Its URI, key and certificate."""
        uri = f"urn:tests:{name}"
        key, certificate = self.root / f"{name}.pem", self.root / f"{name}.der"
        usage = [ExtendedKeyUsageOID.CLIENT_AUTH]
        await setup_self_signed_certificate(key, certificate, uri, "tests", usage, {})
        return uri, key, certificate

    async def channel(self, name: str, password: str = PASSWORD) -> Client:
        """As far as anybody comes: connected and encrypted, without a session."""
        client = await self.client(name, password)
        await client.connect_socket()
        await client.send_hello()
        await client.open_secure_channel()
        return client


async def halt(client: Client, index: int) -> Any:
    """One Call, and nothing else."""
    machine = client.get_node(ua.NodeId("VisionSystem.VisionStateMachine", index))
    return await machine.call_method(ua.NodeId("VisionSystem.VisionStateMachine.Halt", index))


def test_a_stranger_does_not_take_over_the_session_of_another(tmp_path: Path) -> None:
    """With the very token of a user who is logged in, and with those that are easy to guess."""
    box = Box(tmp_path)

    async def attack() -> None:
        async with box.serving():
            mes = await box.client("mes")
            await mes.connect()
            index = await mes.get_namespace_index("urn:inspectd:line")
            await halt(mes, index)
            assert box.asked == [("halt", "", "opcua:mes")]
            line: Any = mes.uaclient.protocol
            token = line.authentication_token
            assert token.NodeIdType == ua.NodeIdType.ByteString
            assert len(token.Identifier) == 32
            for stolen in (token, *map(ua.NodeId, range(1000, 1003))):
                stranger = await box.channel("stranger", "a wrong password")
                line = stranger.uaclient.protocol
                line.authentication_token = stolen
                with pytest.raises(ua.UaError):
                    await stranger.activate_session(USER, "a wrong password")
                with pytest.raises(ua.UaError):
                    await halt(stranger, index)
                stranger.disconnect_socket()
            assert box.asked == [("halt", "", "opcua:mes")]
            await halt(mes, index)
            assert len(box.asked) == 2
            await mes.disconnect()

    asyncio.run(attack())


def put_in_force(box: Box, version: int) -> None:
    """A version of the one product, as decide says so."""
    config = box.config
    recipe = Recipe(
        id="cell", version=version, bundle="ab" * 32, bundle_dir="b", decides="map_max",
        limits=Limits(t1=float(version), t2=9.0),
    )  # fmt: skip
    write_recipe(config, recipe)
    table = f'[[product]]\nnumber = 1\nrecipe = "cell/{version}"\n'
    (box.root / "products.toml").write_text(table)
    image = Bank()
    image.set("State", State.READY)
    image.set("RecipeId", 1)
    image.set("RecipeHash32", load_recipe(config, f"cell/{version}").hash32)
    box.server.words(image, Words(registers={}))


def test_a_new_version_of_the_product_in_force_is_known_by_its_name(tmp_path: Path) -> None:
    """A person put it in force, no client; the number of the product stays the same."""
    box = Box(tmp_path)

    async def follow() -> None:
        async with box.serving():
            for version in (1, 2):
                put_in_force(box, version)
                expected = {1: (f"cell/{version}", load_recipe(box.config, f"cell/{version}").hash)}
                while box.server._recipes != expected:
                    await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(follow(), 15))


class Heard:
    """Values as they come."""

    def __init__(self) -> None:
        self.values: asyncio.Queue[Any] = asyncio.Queue()

    def datachange_notification(self, node: Any, value: Any, data: Any) -> None:
        self.values.put_nowait(value)


def test_a_subscription_is_its_sessions_own(tmp_path: Path) -> None:
    """Another user's client, logged in as well, can neither take it over, change nor end it."""
    box = Box(tmp_path)

    async def meddle() -> None:
        async with box.serving():
            mes, other = await box.client("mes"), await box.client("other")
            await mes.connect()
            await other.connect()
            heard = Heard()
            shown = await mes.create_subscription(20, heard)
            watched = mes.get_node(ua.NodeId(ua.ObjectIds.Server_ServiceLevel))
            await shown.subscribe_data_change(watched)
            assert await asyncio.wait_for(heard.values.get(), 30) is not None
            theirs = shown.subscription_id
            assert theirs is not None
            line: Any = other.uaclient
            for attempt in (
                line.set_publishing_mode(
                    ua.SetPublishingModeParameters(
                        PublishingEnabled=False, SubscriptionIds=[theirs]
                    )
                ),
                line.delete_subscriptions([theirs]),
                line.transfer_subscriptions(
                    ua.TransferSubscriptionsParameters(SubscriptionIds=[theirs])
                ),
            ):
                with suppress(BadSubscriptionIdInvalid):  # for the whole, or for this one
                    (status,) = await attempt
                    status = getattr(status, "StatusCode", status)
                    assert status.value == ua.StatusCodes.BadSubscriptionIdInvalid
            for attempt in (
                line.modify_subscription(ua.ModifySubscriptionParameters(SubscriptionId=theirs)),
                line.create_monitored_items(
                    ua.CreateMonitoredItemsParameters(SubscriptionId=theirs)
                ),
                line.delete_monitored_items(
                    ua.DeleteMonitoredItemsParameters(SubscriptionId=theirs)
                ),
                line.set_monitoring_mode(ua.SetMonitoringModeParameters(SubscriptionId=theirs)),
            ):
                with pytest.raises(BadSubscriptionIdInvalid):
                    await attempt
            own = await other.create_subscription(20, Heard())
            assert own.subscription_id not in (None, theirs)
            await own.delete()
            # What was theirs still is, and lives.
            value = ua.DataValue(ua.Variant(77, ua.VariantType.Byte))
            await box.server._server.write_attribute_value(watched.nodeid, value)
            while await asyncio.wait_for(heard.values.get(), 30) != 77:
                pass
            everyone = box.server._server.iserver.subscription_service.subscriptions
            assert list(everyone) == [theirs]
            await other.disconnect()
            # It ends with its connection: else a hundred that hang up leave no place for others.
            mes.disconnect_socket()
            while everyone:
                await asyncio.sleep(0.02)
            # Nor does its logger stay: a client that comes back for years would fill the memory.
            gc.collect()
            # By type: `isinstance` asks the object, and some of torch's answer with a warning.
            loggers = [one for one in gc.get_objects() if issubclass(type(one), logging.Logger)]
            assert [one for one in loggers if one.name.endswith(f".{theirs}")] == []

    asyncio.run(meddle())


def test_with_trusted_clients_only_a_known_certificate_comes_in(tmp_path: Path) -> None:
    """A good user name and password do not help a client whose certificate nobody put there."""
    box = Box(tmp_path, clients="trusted")

    async def knock() -> None:
        _, _, certificate = await box.certificate("known")
        trusted = tmp_path / "keys" / "opcua" / "trusted"
        trusted.mkdir(parents=True)
        (trusted / "known.der").write_bytes(certificate.read_bytes())
        async with box.serving():
            known, unknown = await box.client("known"), await box.client("unknown")
            with pytest.raises((ua.UaError, ConnectionError, asyncio.TimeoutError)):
                await unknown.connect()
            unknown.disconnect_socket()
            await known.connect()
            index = await known.get_namespace_index("urn:inspectd:line")
            await halt(known, index)
            await known.disconnect()
        assert box.asked == [("halt", "", "opcua:mes")]

    asyncio.run(knock())
