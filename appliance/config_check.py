"""What a process would refuse at its start: said by `inspectd config check` before anything
is started, with the key's name.

`config.py` reads one file and knows its words; here they are held against each other and against
this machine: packages, files, addresses. Nothing is opened that a running line uses.
"""

import importlib
import importlib.util
import socket
import stat
from pathlib import Path

from appliance.config import Config
from appliance.config_camera import Camera
from appliance.config_io import VIRTUAL
from appliance.errors import ConfigError
from appliance.opcua_users import read_users, users_file
from appliance.plc_modbus import allowed_networks
from appliance.supervise import ports, probe
from appliance.tls import files_of
from appliance.wire import CHANNELS, IPC_PATH_MOST
from appliance.wire_keys import key_of

_PACKAGES = {
    "openvino": ("openvino", "openvino"),
    "tensorrt": ("tensorrt", "tensorrt"),
    "opcua": ("asyncua", "bus"),
    "mqtt": ("paho", "bus"),
    "logix": ("pycomm3", "bus"),
    "s7": ("snap7", "bus"),
}
"""Word of config.toml → what is imported, and the extra that brings it."""
_PRECISIONS = {
    "onnx": ("fp32", "int8"),
    "onnx-cuda": ("fp32",),
    "openvino": ("fp32", "bf16", "fp16", "int8"),
    "tensorrt": ("fp32", "fp16", "int8"),
    "null": ("fp32",),
}
_SEARCH_KEYS = (
    "id_", "model", "serial_number", "tl_type", "user_defined_name", "vendor", "version",
)  # fmt: skip


def check(config: Config) -> None:
    """Raises ConfigError for the first thing that a process would refuse."""
    _check_ports(config)
    _check_engine(config)
    for camera in config.camera:
        _check_camera(camera)
    _check_wire(config)
    _check_buses(config)
    _check_record(config)
    if config.hmi.is_enabled or config.hmi.tool_port:
        _need("hmi.is_enabled" if config.hmi.is_enabled else "hmi.tool_port", "nicegui", "hmi")
    if config.hmi.tool_port:
        _need("hmi.tool_port", "argon2", "hmi")
    if config.io is not None and config.io.chip != VIRTUAL:
        _need("io.chip", "gpiod", "io")
        if not Path(config.io.chip).exists():
            raise ConfigError("io.chip", "a GPIO chip", f"no {config.io.chip}")
    files_of(config)


def _check_ports(config: Config) -> None:
    allowed_networks(config.plc)
    seen: dict[int, str] = {}
    for key, host, port in ports(config):
        if port in seen:
            raise ConfigError(key, f"another port than {seen[port]} = {port}", str(port))
        seen[port] = key
        try:
            probe(host, 0)
        except OSError as err:
            where = f"{key.rpartition('.')[0]}.host"
            got = f"{host!r}: {err.strerror or err}"
            raise ConfigError(where, "an address of this machine", got) from err


def _check_engine(config: Config) -> None:
    engine = config.engine
    if engine.precision not in _PRECISIONS[engine.kind]:
        expected = f"{' or '.join(_PRECISIONS[engine.kind])} with engine.kind {engine.kind}"
        raise ConfigError("engine.precision", expected, engine.precision)
    if engine.kind in _PACKAGES:
        _need("engine.kind", *_PACKAGES[engine.kind])


def _check_camera(camera: Camera) -> None:
    where = f"camera.{camera.name}"
    if camera.kind == "files":  # a folder that is not there yet is a camera that is not there yet
        return
    _need(f"{where}.kind", "harvesters", "camera")
    try:
        importlib.import_module("genicam.gentl")
    except ImportError as err:
        expected = "a package genicam that loads (docs/install.md)"
        raise ConfigError(f"{where}.kind", expected, str(err)) from err
    if camera.producer != "viky" and not Path(camera.producer).is_file():
        raise ConfigError(
            f"{where}.producer", "a GenTL producer (.cti)", f"no file {camera.producer}"
        )
    for key in camera.device:
        if key not in _SEARCH_KEYS:
            raise ConfigError(f"{where}.device", f"only {', '.join(_SEARCH_KEYS)}", key)


def _check_wire(config: Config) -> None:
    cameras, workers = config.cameras, [label.replace(":", "-") for label in config.workers]
    peers = {*cameras, *workers, *(f"camera-{name}" for name in cameras)}
    peers |= {"decide", "record", "hmi", "bus", "metrics", "tool"}
    for name, address in config.wire.remote.items():
        channel, _, peer = name.partition("-")
        where = f"wire.remote.{name}"
        if channel not in CHANNELS or (peer and peer not in peers):
            expected = f"a channel ({', '.join(CHANNELS)}), or one with a peer (frames-top)"
            raise ConfigError(where, expected, repr(name))
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        if not address.startswith("tcp://") or not host or not port.isdecimal():
            raise ConfigError(where, '"tcp://host:port"', repr(address))
        if _is_elsewhere(host) and not key_of(config.keys_dir, host).is_file():
            expected = f"the public key of {host} (box.key there) as {config.keys_dir / host}.key"
            raise ConfigError(where, expected, "no such file")
    names = (*CHANNELS, *(f"health-{peer}" for peer in peers), *(f"prepare-{p}" for p in peers))
    longest = max(names, key=len)
    room = IPC_PATH_MOST - len(longest) - 1
    if len(str(config.runtime_dir)) > room:
        got = f"{len(str(config.runtime_dir))}"
        raise ConfigError("runtime", f"a directory of at most {room} characters", got)


def _is_elsewhere(host: str) -> bool:
    """Certainly no address of this machine: a process here connects to it, and asks for its key."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)
    except OSError:  # "*", or the name of an interface
        return False
    for family, kind, _, _, address in found:
        with socket.socket(family, kind) as probe:
            try:
                probe.bind(address)
            except OSError:
                continue
            return False
    return True


def _check_buses(config: Config) -> None:
    bus = config.bus
    for section in ("opcua", "mqtt", "logix", "s7"):
        if getattr(bus, section) is not None:
            _need(f"bus.{section}", *_PACKAGES[section])
    if bus.opcua is not None:
        read_users(users_file(config.keys_dir))
        from appliance.plc_opcua_keys import check_keys  # cryptography came with asyncua

        check_keys(config.keys_dir / "opcua")
    if bus.mqtt is not None:
        for key in ("password_file", "ca_file"):
            name = getattr(bus.mqtt, key)
            path = config.root_dir / name
            if name and not path.is_file():
                raise ConfigError(f"bus.mqtt.{key}", "a file", f"no {path}")
        secret = config.root_dir / bus.mqtt.password_file
        if bus.mqtt.password_file and secret.stat().st_mode & 0o077:
            got = f"{stat.S_IMODE(secret.stat().st_mode):04o}"
            raise ConfigError("bus.mqtt.password_file", "mode 0600", got)


def _check_record(config: Config) -> None:
    for key in ("database", "central"):
        address = getattr(config.record, key)
        if not address:
            continue
        if not address.startswith("postgresql+psycopg://"):
            expected = '"postgresql+psycopg://user@host/database"'
            raise ConfigError(f"record.{key}", expected, "another text")
        _need(f"record.{key}", "psycopg", "postgres")


def _need(key: str, package: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        expected = f"the extra `{extra}` installed (docs/install.md)"
        raise ConfigError(key, expected, f"no package {package}")
