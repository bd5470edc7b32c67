"""Who may speak to the OPC UA server, asked by clients that do not keep to the rules."""
# asyncua annotates what travels, not what its functions take, and exports by star imports.
# pyright: reportArgumentType=false, reportPrivateImportUsage=false

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import structlog

from appliance.codes import CommandError
from appliance.config import Camera, Config
from appliance.config_bus import Bus, OpcUa
from appliance.messages import CommandResult
from appliance.opcua_users import put_user, users_file
from tests.rig import free_port

pytest.importorskip("asyncua", reason="the extra `bus` is not installed")

from asyncua import Client, ua
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256
from cryptography.x509.oid import ExtendedKeyUsageOID

from appliance.plc_opcua import OpcUaServer

USER, PASSWORD = "mes", "a long password"


class Box:
    """The server alone, and what it asked of decide."""

    def __init__(self, root: Path) -> None:
        self.root, self.asked = root, list[tuple[str, str, str]]()
        settings = OpcUa(host="127.0.0.1", port=free_port())
        self.url = f"opc.tcp://127.0.0.1:{settings.port}/inspectd"
        config = Config(
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
            await asyncio.sleep(0)
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def client(self, name: str, password: str = PASSWORD) -> Client:
        """With a certificate of its own; not connected yet."""
        client, uri = Client(self.url, timeout=10), f"urn:tests:{name}"
        key, certificate = self.root / f"{name}.pem", self.root / f"{name}.der"
        usage = [ExtendedKeyUsageOID.CLIENT_AUTH]
        await setup_self_signed_certificate(key, certificate, uri, "tests", usage, {})
        client.application_uri = uri
        mode = ua.MessageSecurityMode.SignAndEncrypt
        await client.set_security(SecurityPolicyBasic256Sha256, certificate, key, mode=mode)
        client.set_user(USER)
        client.set_password(password)
        return client

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
