"""Sections of `config.toml` for the buses beside Modbus TCP: a bus is on where its section is.

`[bus.…]` sections start the process `bus`, which may lag and never decides; `[io]` belongs to the
decision process.
"""

from collections.abc import Iterator
from typing import Literal

from appliance.toml_file import Section


class OpcUa(Section, frozen=True, kw_only=True):
    """OPC UA server with the model of OPC 40100-1. Users: `inspectd opcua-user`."""

    host: str = "127.0.0.1"
    port: int = 4840
    anonymous: Literal["refused", "read_only"] = "refused"
    """"read_only" opens an unencrypted endpoint that can read and subscribe, never call."""
    clients: Literal["any", "trusted"] = "any"
    """"trusted": only application certificates that lie in root/keys/opcua/trusted."""


class Mqtt(Section, frozen=True, kw_only=True):
    """Sparkplug B edge node on an MQTT broker."""

    host: str
    port: int = 1883
    group: str = "inspectd"
    node: str = ""
    """Edge node id; "" = the host name."""
    user: str = ""
    password_file: str = ""
    """File below root with the password alone, mode 0600."""
    ca_file: str = ""
    """Certificate authority of the broker, below root; a path switches TLS on."""
    keep: int = 10_000
    """Verdicts kept while the broker is away; the oldest go first, counted."""


class Logix(Section, frozen=True, kw_only=True):
    """Results into a tag of a Logix controller, as an EtherNet/IP client (explicit messages)."""

    path: str
    """IP address, or a pycomm3 path such as "10.0.0.5/1"."""
    tag: str = "Inspectd"
    """A controller tag of type INT[230]: HR 100–329."""
    period_ms: int = 100
    """Longest pause between two writes: the heartbeat."""


class S7(Section, frozen=True, kw_only=True):
    """Results into a data block of a Siemens S7, as a client (PUT, not optimised block access)."""

    host: str
    port: int = 102
    rack: int = 0
    slot: int = 1
    db: int = 100
    """A data block of at least 460 bytes: HR 100–329, two bytes each, high byte first."""
    period_ms: int = 100
    """Longest pause between two writes: the heartbeat."""


class Bus(Section, frozen=True, kw_only=True):
    """The slow buses; none of them gives a verdict to a reject gate in time."""

    opcua: OpcUa | None = None
    mqtt: Mqtt | None = None
    logix: Logix | None = None
    s7: S7 | None = None

    @property
    def is_used(self) -> bool:
        """The process `bus` has something to do."""
        return any(bus is not None for bus in (self.opcua, self.mqtt, self.logix, self.s7))


def ranges(bus: Bus) -> Iterator[tuple[str, float, float, float]]:
    """Key, value, lowest and highest of every figure that has limits."""
    if bus.opcua is not None:
        yield "bus.opcua.port", bus.opcua.port, 1, 65_535
    if bus.mqtt is not None:
        yield "bus.mqtt.port", bus.mqtt.port, 1, 65_535
        yield "bus.mqtt.keep", bus.mqtt.keep, 1, 1_000_000
    if bus.logix is not None:
        yield "bus.logix.period_ms", bus.logix.period_ms, 10, 10_000
    if bus.s7 is not None:
        yield "bus.s7.port", bus.s7.port, 1, 65_535
        yield "bus.s7.rack", bus.s7.rack, 0, 7
        yield "bus.s7.slot", bus.s7.slot, 0, 31
        yield "bus.s7.db", bus.s7.db, 1, 65_535
        yield "bus.s7.period_ms", bus.s7.period_ms, 10, 10_000
