"""What `config.py` can read and a process would refuse: said before anything is started."""

import re
import sys
from pathlib import Path

import pytest

from appliance import config_check
from appliance.config import load_config
from appliance.errors import ConfigError

GOOD = 'root = "."\ndeadline_ms = 200\n[[camera]]\nname = "top"\n'
FILES = GOOD + 'kind = "files"\nfolder = "pictures"\n'
VIKY = GOOD + 'kind = "genicam"\nproducer = "viky"\n'


def checked(folder: Path, text: str) -> None:
    path = folder / "config.toml"
    path.write_text(text)
    config_check.check(load_config(path))


@pytest.mark.parametrize(
    "text",
    [
        FILES,
        VIKY + 'device = { serial_number = "0" }\n',
        FILES + '[plc]\nallow = ["10.0.0.5", "10.1.0.0/16", "::1"]\n',
        FILES + '[wire.remote]\nframes-top = "tcp://127.0.0.2:5561"\nlive = "tcp://*:5562"\n',
        FILES + '[io]\nchip = "virtual"\nok = 1\nhealthy = 2\nwatchdog = "external"\n',
        FILES + "[bus.opcua]\n[metrics]\nport = 9108\n[hmi]\ntool_port = 8081\n",
    ],
)
def test_what_every_process_takes_is_good(tmp_path: Path, text: str) -> None:
    checked(tmp_path, text)


def test_the_key_of_another_box_has_to_be_there(tmp_path: Path) -> None:
    text = FILES + '[wire.remote]\nscored = "tcp://192.0.2.7:5561"\n'
    with pytest.raises(ConfigError, match=r"^wire\.remote\.scored: .* of 192\.0\.2\.7 .*7\.key"):
        checked(tmp_path, text)
    (tmp_path / "keys").mkdir()
    for name in ("192.0.2.7.key", "server.key"):
        file = tmp_path / "keys" / name
        file.touch()
        checked(tmp_path, text)
        file.unlink()


@pytest.mark.parametrize(
    ("text", "key", "expected", "got"),
    [
        (
            VIKY.replace("viky", "/opt/none.cti"),
            "camera.top.producer", "a GenTL producer", "no file /opt/none.cti",
        ),
        (VIKY + 'device = { serial = "0" }\n', "camera.top.device", "only id_, model", "serial"),
        (
            FILES + '[engine]\nprecision = "fp16"\n',
            "engine.precision", "fp32 or int8 with engine.kind onnx", "fp16",
        ),
        (
            FILES + '[engine]\nkind = "null"\nprecision = "int8"\n',
            "engine.precision", "fp32 with engine.kind null", "int8",
        ),
        (FILES + '[plc]\nallow = ["plc1"]\n', "[plc] allow", "an IP address", "plc1"),
        (
            FILES + "[metrics]\nport = 8080\n",
            "metrics.port", "another port than hmi.port = 8080", "8080",
        ),
        (
            FILES + "[bus.opcua]\nport = 5020\n",
            "bus.opcua.port", "another port than plc.port = 5020", "5020",
        ),
        (
            FILES + '[wire.remote]\npixels = "tcp://a:1"\n',
            "wire.remote.pixels", "a channel (trigger, frames", "'pixels'",
        ),
        (
            FILES + '[wire.remote]\nframes-side = "tcp://a:1"\n',
            "wire.remote.frames-side", "a channel", "'frames-side'",
        ),
        (
            FILES + '[wire.remote]\nframes = "10.0.0.2:5561"\n',
            "wire.remote.frames", '"tcp://host:port"', "10.0.0.2:5561",
        ),
        (
            FILES + '[wire.remote]\nframes = "tcp://10.0.0.2"\n',
            "wire.remote.frames", '"tcp://host:port"', "tcp://10.0.0.2",
        ),
        (
            FILES.replace('root = "."', f'root = "."\nruntime = "/{"r" * 100}"'),
            "runtime", "a directory of at most", "101",
        ),
        (
            FILES + '[bus.mqtt]\nhost = "a"\npassword_file = "keys/none"\n',
            "bus.mqtt.password_file", "a file", "keys/none",
        ),
        (
            FILES + '[bus.mqtt]\nhost = "a"\nca_file = "keys/none.pem"\n',
            "bus.mqtt.ca_file", "a file", "keys/none.pem",
        ),
        (
            FILES + '[record]\ndatabase = "mysql://a/b"\n',
            "record.database", '"postgresql+psycopg://', "another text",
        ),
        (
            FILES + '[record]\ncentral = "parts.db"\n',
            "record.central", '"postgresql+psycopg://', "another text",
        ),
        (
            FILES + '[io]\nchip = "/dev/none"\nok = 1\nhealthy = 2\nwatchdog = "external"\n',
            "io.chip", "a GPIO chip", "no /dev/none",
        ),
        (
            FILES + '[metrics]\nhost = "192.0.2.9"\nport = 9108\n',
            "metrics.host", "an address of this machine", "'192.0.2.9': Cannot assign",
        ),
        (
            FILES + '[bus.opcua]\nhost = "2001:db8::9"\n',
            "bus.opcua.host", "an address of this machine", "'2001:db8::9': Cannot assign",
        ),
        (
            FILES + '[hmi]\nhost = "no name at all"\n',
            "hmi.host", "an address of this machine", "'no name at all': ",
        ),
        (FILES + "[tls]\n", "tls.certificate", "a PEM file at", "No such file"),
    ],
)  # fmt: skip
def test_what_a_process_would_refuse_is_named(
    tmp_path: Path, text: str, key: str, expected: str, got: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^{re.escape(f'{key}: expected {expected}')}") as err:
        checked(tmp_path, text)
    assert got in err.value.got
    assert "\n" not in str(err.value)


def test_a_secret_that_others_can_read_and_a_damaged_file_of_users(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "mqtt").write_text("secret")
    (keys / "mqtt").chmod(0o644)
    with pytest.raises(ConfigError, match="password_file: expected mode 0600, got 0644"):
        checked(tmp_path, FILES + '[bus.mqtt]\nhost = "a"\npassword_file = "keys/mqtt"\n')
    (keys / "opcua-users").write_text("ada:x\n")
    with pytest.raises(ConfigError, match="opcua-users: line 1: expected name:salt:hash"):
        checked(tmp_path, FILES + "[bus.opcua]\n")
    (keys / "opcua-users").unlink()
    (keys / "opcua").mkdir()
    (keys / "opcua" / "server.der").touch()
    with pytest.raises(ConfigError, match=r"server\.der: expected a certificate in DER"):
        checked(tmp_path, FILES + "[bus.opcua]\n")


@pytest.mark.parametrize(
    ("text", "package", "key", "extra"),
    [
        (FILES, "nicegui", "hmi.is_enabled", "hmi"),
        (FILES + "[hmi]\ntool_port = 8081\n", "argon2", "hmi.tool_port", "hmi"),
        (VIKY, "harvesters", "camera.top.kind", "camera"),
        (FILES + "[bus.opcua]\n", "asyncua", "bus.opcua", "bus"),
        (FILES + '[engine]\nkind = "openvino"\n', "openvino", "engine.kind", "openvino"),
    ],
)
def test_a_package_that_is_missing_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, package: str, key: str, extra: str
) -> None:
    find = config_check.importlib.util.find_spec
    monkeypatch.setattr(
        config_check.importlib.util,
        "find_spec",
        lambda name: None if name == package else find(name),
    )
    with pytest.raises(ConfigError, match=rf"^{re.escape(key)}: expected the extra `{extra}`"):
        checked(tmp_path, text)


def test_a_camera_package_without_its_libraries_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Installed is not enough: the wheel wants Debian's libpython."""
    pytest.importorskip("harvesters")
    monkeypatch.setitem(sys.modules, "genicam.gentl", None)
    expected = r"^camera\.top\.kind: expected a package genicam that loads"
    with pytest.raises(ConfigError, match=expected):
        checked(tmp_path, VIKY)
