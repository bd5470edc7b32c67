"""`config.toml` and `products.toml`: what is good loads, what is bad is named in one line."""

from pathlib import Path

import pytest

from appliance.config import (
    Config,
    load_config,
    load_products,
    write_atomically,
)
from appliance.errors import ConfigError

GOOD = """
root = "data"
deadline_ms = 100
[[camera]]
name = "top"
kind = "files"
folder = "pictures"
"""


def written(folder: Path, text: str) -> Path:
    """A configuration file."""
    path = folder / "config.toml"
    path.write_text(text)
    return path


def test_defaults(tmp_path: Path) -> None:
    """The root is absolute, results follow the trigger, every directory hangs off the root."""
    config = load_config(written(tmp_path, GOOD))
    assert config.root_dir == tmp_path / "data"
    assert config.results == "level"
    for folder in (
        config.runtime_dir,
        config.state_dir,
        config.recipes_dir,
        config.bundles_dir,
        config.engines_dir,
        config.data_dir,
        config.keys_dir,
    ):
        assert folder.parent == config.root_dir
    assert config.rings_dir.parent == Path("/dev/shm")


def test_two_installations_share_no_ring(tmp_path: Path) -> None:
    """The ring directory is named after the root."""
    first = load_config(written(tmp_path, GOOD))
    second = load_config(written(tmp_path, GOOD.replace('"data"', '"other"')))
    assert first.rings_dir != second.rings_dir


def test_free_run_reads_results_from_the_ring(tmp_path: Path) -> None:
    """There is nobody to acknowledge a level."""
    assert load_config(written(tmp_path, 'trigger = "free"\n' + GOOD)).results == "ring"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("root = 1", "root: expected `str`, got `int`"),
        (GOOD + "[plc]\nprot = 1", "plc: expected only known keys, got unknown field `prot`"),
        ('root = "."\ncamera = []', "expected the key `deadline_ms`, got no such key"),
        ("= 1", "config.toml: expected valid TOML, got"),
        ('root = "."\ndeadline_ms = 1\ncamera = []', "camera: expected exactly one [[camera]]"),
        (GOOD + GOOD[GOOD.index("[[") :], "camera: expected exactly one [[camera]], got 2"),
        (GOOD.replace("top", "top/up"), "camera.name: expected letters, digits and _"),
        (GOOD.replace('folder = "pictures"', ""), "camera.top.folder: expected a path"),
        (GOOD.replace('"files"', '"genicam"'), "camera.top.producer: expected a path"),
        (GOOD.replace('"files"', '"usb"'), "invalid enum value 'usb'"),
        (GOOD.replace("100", "0"), "deadline_ms: expected 1 to 60000, got 0"),
        (GOOD + "[plc]\nport = 70000", "plc.port: expected 1 to 65535, got 70000"),
        (GOOD + "[hmi]\nport = 0", "hmi.port: expected 1 to 65535, got 0"),
        ('trigger = "hardware"\n' + GOOD, 'trigger: expected "plc" or "free"'),
        (
            'trigger = "free"\n' + GOOD + '[plc]\nresults = "level"',
            'plc.results: expected "ring" with trigger "free", got "level"',
        ),
    ],
)
def test_bad_input_is_named(tmp_path: Path, text: str, message: str) -> None:
    """File, key, what was expected, what came."""
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing, a directory, not text."""
    with pytest.raises(ConfigError, match="expected a TOML file, got no such file"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="expected a readable TOML file"):
        load_config(tmp_path)
    (tmp_path / "config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="expected a readable TOML file in UTF-8"):
        load_config(tmp_path / "config.toml")


def good(folder: Path) -> Config:
    """A loaded configuration with an existing root."""
    config = load_config(written(folder, GOOD))
    config.root_dir.mkdir()
    return config


def test_products(tmp_path: Path) -> None:
    """Number → recipe; a doubled or impossible number is refused."""
    config = good(tmp_path)
    path = config.root_dir / "products.toml"
    row = '[[product]]\nnumber = {}\nrecipe = "cell/1"\n'
    path.write_text(row.format(1) + row.format(7))
    assert load_products(config) == {1: "cell/1", 7: "cell/1"}
    path.write_text(row.format(1) + row.format(1))
    with pytest.raises(ConfigError, match=r"product\.number: expected each number once, got 1"):
        load_products(config)
    path.write_text(row.format(0))
    with pytest.raises(ConfigError, match=r"product\.number: expected 1 to 4294967295, got 0"):
        load_products(config)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """An existing file is replaced; where that fails nothing half-written stays."""
    path = tmp_path / "new" / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    folder = tmp_path / "folder"
    (folder / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="irectory"):
        write_atomically(folder, b"cannot replace a folder")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "new"]
