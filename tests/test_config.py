"""Wrong input of the integrator: one line with file, key, what was expected and what came."""

import os
import stat
from pathlib import Path

import pytest

from appliance.atomic import write_atomically
from appliance.config import Config, load_config
from appliance.errors import ConfigError
from appliance.product_table import load_products

GOOD = 'root = "."\ndeadline_ms = 200\n'
CAMERA = '[[camera]]\nname = "top"\nkind = "files"\nfolder = "pictures"\n'

IO = '[io]\nchip = "virtual"\nok = 1\nhealthy = 2\n'
GUARDED = 'watchdog = "external"\n'


def written(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


def refusal(folder: Path, text: str) -> str:
    """The message, which is one line and begins with the file."""
    path = written(folder, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    assert "expected " in message
    assert ", got " in message
    return message.removeprefix(str(path))


def test_a_small_file_is_enough(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, GOOD + CAMERA))
    assert config.deadline_ms == 200
    assert config.results == "level"
    assert config.root_dir == tmp_path.resolve()
    assert config.camera[0].rate_hz == 10.0
    assert config.rings_dir.parent == Path("/dev/shm")


@pytest.mark.parametrize(
    ("text", "where", "expected", "got"),
    [
        ("deadline_ms = 200\n" + CAMERA, "", "the key `root`", "no such key"),
        ('root = "."\n' + CAMERA, "", "the key `deadline_ms`", "no such key"),
        (GOOD, "", "the key `camera`", "no such key"),
        (GOOD + "camera = []\n", "camera", "at least one [[camera]]", "none"),
        (GOOD + "speed = 3\n" + CAMERA, "", "only known keys", "unknown field `speed`"),
        (GOOD + CAMERA + "zoom = 3\n", "camera[0]", "only known keys", "unknown field `zoom`"),
        (GOOD + CAMERA + "[plc]\nprot = 5\n", "plc", "only known keys (perhaps `port`)", "`prot`"),
        (GOOD + CAMERA + "[engin]\n", "", "only known keys (perhaps `engine`)", "`engin`"),
        (GOOD + CAMERA + "rat_hz = 3\n", "camera[0]", "only known keys (perhaps `rate_hz`)", ""),
        ('root = "."\ndeadline_ms = "200"\n' + CAMERA, "deadline_ms", "`int`", "`str`"),
        ('root = "."\ndeadline_ms = 1.5\n' + CAMERA, "deadline_ms", "`int`", "`float`"),
        ('root = 3\ndeadline_ms = 200\n' + CAMERA, "root", "`str`", "`int`"),
        (GOOD + '[camera]\nname = "top"\n', "camera", "`array`", "`object`"),
        (GOOD + CAMERA + 'rate_hz = "fast"\n', "camera[0].rate_hz", "`float`", "`str`"),
        (GOOD + CAMERA + "[bus.opcua]\nprot = 5\n", "bus.opcua", "only known keys", "`prot`"),
        (GOOD + CAMERA + "[bus.profinet]\n", "bus", "only known keys", "`profinet`"),
        (GOOD + CAMERA + "[bus.mqtt]\nport = 1\n", "bus.mqtt", "the key `host`", "no such key"),
        (GOOD + CAMERA + "[bus.opcua]\nport = 0\n", "bus.opcua.port", "1 to 65535", "0"),
        (
            GOOD + CAMERA + '[bus.opcua]\nanonymous = "all"\n',
            "bus.opcua.anonymous", "'read_only' or 'refused'", "'all'",
        ),
        (GOOD + CAMERA + IO, "io", "the key `watchdog`", "no such key"),
        (GOOD + CAMERA + IO + 'watchdog = "none"\n', "io.watchdog", "'external'", "'none'"),
        (GOOD + CAMERA + IO + GUARDED + "ng = 1\n", "io.ok", "a line of its own", "1, as io.ng"),
        (GOOD + CAMERA + IO + GUARDED + "trigger = 4\n", "io.enable", "a line, with io.tr", "-1"),
        (GOOD + CAMERA + IO + GUARDED + "pulse_ms = 1\n", "io.pulse_ms", "5 to 10000", "1"),
        (
            GOOD + CAMERA + "rate_hz = 20\n" + IO + GUARDED,
            "io.pulse_ms", "less than 50, the distance of parts at camera rate_hz = 20", "50",
        ),
        (
            GOOD + CAMERA.replace('"files"', '"webcam"'),
            "camera[0].kind", "'files' or 'genicam'", "'webcam'",
        ),
        (
            GOOD + CAMERA + '[engine]\nkind = "magic"\n',
            "engine.kind", "'null' or 'onnx' or ", "'magic'",
        ),
        (GOOD + 'trigger = "laser"\n' + CAMERA, "trigger", "'free' or", "'laser'"),
        (
            GOOD + 'trigger = "hardware"\n' + CAMERA,
            "camera.top.kind", 'a device with a trigger input: "genicam"', '"files"',
        ),
        (GOOD + CAMERA + CAMERA, "camera.name", "each name once", "'top' twice"),
        (
            GOOD + 'trigger = "free"\n' + CAMERA + CAMERA.replace("top", "side"),
            "trigger", 'with several cameras "plc" or "hardware"', '"free"',
        ),
        (
            GOOD + CAMERA + CAMERA.replace("top", "side")
            + '[wire.remote]\nframes = "tcp://box:1"\n',
            "wire.remote", "an address for each camera, frames-top", "frames for all of them",
        ),
        (
            GOOD + CAMERA.replace('"top"', '"top cam"'),
            "camera.name", "letters, digits and _", "'top cam'",
        ),
        (
            GOOD + '[[camera]]\nname = "top"\nkind = "files"\n',
            "camera.top.folder", "a path", "nothing",
        ),
        (
            GOOD + '[[camera]]\nname = "top"\nkind = "genicam"\n',
            "camera.top.producer", "a path", "nothing",
        ),
        ('root = "."\ndeadline_ms = 0\n' + CAMERA, "deadline_ms", "1 to 60000", "0"),
        ('root = "."\ndeadline_ms = -5\n' + CAMERA, "deadline_ms", "1 to 60000", "-5"),
        ('root = "."\ndeadline_ms = 60001\n' + CAMERA, "deadline_ms", "1 to 60000", "60001"),
        (GOOD + CAMERA + "[plc]\nport = 0\n", "plc.port", "1 to 65535", "0"),
        (GOOD + CAMERA + "[plc]\nport = 65536\n", "plc.port", "1 to 65535", "65536"),
        (GOOD + CAMERA + "[hmi]\nport = 70000\n", "hmi.port", "1 to 65535", "70000"),
        (
            GOOD + CAMERA + "[hmi]\nport = 5020\n",
            "hmi.port", "another port than plc.port = 5020", "5020",
        ),
        (
            GOOD + CAMERA + "[plc]\nheartbeat_timeout_ms = 0\n",
            "plc.heartbeat_timeout_ms", "100 to 60000", "0",
        ),
        (
            GOOD + CAMERA + "[plc]\nacknowledge_timeout_ms = -1\n",
            "plc.acknowledge_timeout_ms", "1 to 60000", "-1",
        ),
        (GOOD + CAMERA + "rate_hz = 0\n", "camera.top.rate_hz", "0.001 to 100000", "0.0"),
        (GOOD + CAMERA + "rate_hz = nan\n", "camera.top.rate_hz", "0.001 to 100000", "nan"),
        (GOOD + CAMERA + "buffers = 0\n", "camera.top.buffers", "1 to 1000", "0"),
        (GOOD + "restart_limit = -1\n" + CAMERA, "restart_limit", "0 to 1000", "-1"),
        (GOOD + CAMERA + "[record]\ngrace_ms = -1\n", "record.grace_ms", "0 to 60000", "-1"),
        (
            GOOD + 'trigger = "free"\n' + CAMERA + '[plc]\nresults = "level"\n',
            "plc.results", '"ring" with trigger "free"', '"level"',
        ),
        (
            GOOD + CAMERA + '[challenge]\nshift_starts = ["6:00"]\n',
            "challenge.shift_starts", '"00:00" to "23:59"', "'6:00'",
        ),
        (
            GOOD + CAMERA + "[challenge]\nevery_hours = nan\n",
            "challenge.every_hours", "0 to 10000", "nan",
        ),
        (
            GOOD + CAMERA + "[challenge]\nhold_after_min = -1\n",
            "challenge.hold_after_min", "0 to 100000", "-1",
        ),
        (
            GOOD + 'trigger = "free"\n' + CAMERA + "[challenge]\nafter_fault = true\n",
            "trigger", '"plc", with a [challenge]', "'free'",
        ),
        ("root = \n", "", "valid TOML", "nvalid value"),
        ("deadline_ms = 1\ndeadline_ms = 2\n", "", "valid TOML", "overwrite"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(
    tmp_path: Path, text: str, where: str, expected: str, got: str
) -> None:
    message = refusal(tmp_path, text)
    assert message.startswith(f": {where}: expected " if where else ": expected ")
    assert f"expected {expected}" in message
    assert got in message.partition(", got ")[2]


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: expected a TOML file, got no such file"):
        load_config(tmp_path / "none.toml")


def test_a_folder_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a readable TOML file in UTF-8, got "):
        load_config(tmp_path)
    path = tmp_path / "config.toml"
    path.write_bytes(b"root = '\xff\xfe'")
    with pytest.raises(ConfigError, match="expected a readable TOML file in UTF-8, got "):
        load_config(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD + CAMERA)
    path.chmod(0)
    with pytest.raises(ConfigError, match="Permission denied"):
        load_config(path)


@pytest.mark.parametrize(
    ("trigger", "results", "expected"),
    [("plc", "", "level"), ("free", "", "ring"), ("plc", "ring", "ring")],
)
def test_how_results_are_fetched(tmp_path: Path, trigger: str, results: str, expected: str) -> None:
    text = GOOD + f'trigger = "{trigger}"\n' + CAMERA + f'[plc]\nresults = "{results}"\n'
    assert load_config(written(tmp_path, text)).results == expected


def test_paths_hang_off_the_root(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    text = 'root = "../var"\ndeadline_ms = 200\nrings = "/dev/shm/x"\n' + CAMERA
    config = load_config(written(tmp_path / "etc", text))
    root = tmp_path.resolve() / "var"
    folders = (
        config.runtime_dir, config.state_dir, config.recipes_dir, config.bundles_dir,
        config.engines_dir, config.data_dir, config.keys_dir,
    )  # fmt: skip
    assert [folder.relative_to(root).as_posix() for folder in folders] == [
        "run", "state", "recipes", "bundles", "engines", "data", "keys",
    ]  # fmt: skip
    assert config.rings_dir == Path("/dev/shm/x")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config(written(tmp_path, GOOD + CAMERA))


def test_products(config: Config) -> None:
    row = '[[product]]\nnumber = {}\nrecipe = "{}"\n'
    (config.root_dir / "products.toml").write_text(
        row.format(7, "cell/1") + row.format(4_294_967_295, "cell/2")
    )
    assert load_products(config) == {7: "cell/1", 4_294_967_295: "cell/2"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "expected a TOML file, got no such file"),
        ("", "expected the key `product`"),
        ("[[product]]\nnumber = 1\n", "product[0]: expected the key `recipe`"),
        ('[[product]]\nnumber = "1"\nrecipe = "a/1"\n', "product[0].number: expected `int`"),
        ('[[product]]\nnumber = 0\nrecipe = "a/1"\n', "expected 1 to 4294967295, got 0"),
        ('[[product]]\nnumber = 4294967296\nrecipe = "a/1"\n', "got 4294967296"),
        ('[[product]]\nnumber = 1\nrecipe = "a/1"\n' * 2, "expected each number once, got 1 twice"),
    ],
)
def test_wrong_products(config: Config, text: str | None, message: str) -> None:
    path = config.root_dir / "products.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_products(config)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.mkdir()  # a folder cannot be replaced by a file
    with pytest.raises(OSError, match="file"):
        write_atomically(path, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
