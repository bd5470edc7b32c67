"""A line with the process `bus`, and a client of OPC UA with a certificate of its own."""
# asyncua annotates what travels, not what its functions take, and exports by star imports.
# pyright: reportArgumentType=false, reportPrivateImportUsage=false

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from appliance.opcua_users import put_user, users_file
from tests.ports import free_port
from tests.rig import Rig
from tests.waiting import until

pytest.importorskip("asyncua", reason="the extra `bus` is not installed")

from asyncua import Client, Node, ua
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256
from cryptography.x509.oid import ExtendedKeyUsageOID

USER, PASSWORD = "mes", "a long password"


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
