"""The command line as a user meets it: help, version, exit codes, one clear line for bad input."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from appliance.__main__ import COMMANDS, app, mendable
from tests.rig import Rig


def inspectd(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "appliance", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_help_lists_every_command() -> None:
    """From the table alone."""
    done = inspectd("--help")
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    """Each target of the table exists and has a help page. In this process, which has most of it
    loaded: 31 processes would import it all again."""
    done = CliRunner().invoke(app, [name, "--help"])
    assert done.exit_code == 0, done.stderr
    assert "--help" in done.stdout
    assert done.stderr == ""


def test_what_every_process_comes_through_loads_no_pictures_networks_or_buses() -> None:
    heavy = {"numpy", "cv2", "onnx", "pymodbus", "sqlalchemy", "zmq"}
    code = f"import sys, appliance.commands; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_version() -> None:
    """One line."""
    done = inspectd("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("inspectd ")


@pytest.mark.parametrize("arguments", [["no-such"], ["process", "no-such"], ["run", "--no-such"]])
def test_wrong_usage_is_exit_2(arguments: list[str]) -> None:
    """What was expected stands on standard error."""
    done = inspectd(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "no-such" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["config", "check"],
        ["run"],
        ["process", "camera"],
        ["process", "infer"],
        ["process", "decide"],
        ["process", "record"],
    ],
)
def test_a_missing_configuration_is_exit_78(arguments: list[str], tmp_path: Path) -> None:
    """One line that names the file; no traceback."""
    missing = tmp_path / "none.toml"
    done = inspectd(*arguments, "--config", str(missing))
    assert done.returncode == 78
    assert f"{missing}: expected a TOML file, got no such file" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_folder_that_cannot_be_made_is_exit_78_and_one_line() -> None:
    """Here the sockets would lie below a file."""
    with Rig() as rig:
        (rig.root / "file").write_text("")
        rig.config_path.write_text(f'runtime = "file/run"\n{rig.config_path.read_text()}')
        done = inspectd("run", "--config", str(rig.config_path))
        assert done.returncode == 78
        assert f"{rig.root}/file/run: expected a path that can be used, got not a " in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_only_what_a_person_can_mend_is_told_without_a_traceback() -> None:
    full = mendable(OSError(errno.ENOSPC, "No space left on device", "/data/x.png"))
    assert str(full) == "/data/x.png: expected room for the files, got no space left on device"
    nameless = mendable(OSError(errno.ENOSPC, "No space left on device"))
    assert str(nameless) == "disk: expected room for the files, got no space left on device"
    denied = mendable(PermissionError(errno.EACCES, "Permission denied", "/etc/x"))
    assert str(denied) == "/etc/x: expected a path that can be used, got permission denied"
    assert mendable(OSError(errno.EBADF, "Bad file descriptor")) is None
    assert mendable(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")) is None


def test_config_check() -> None:
    """Products, recipes and bundles with their hashes; a damaged bundle is named."""
    with Rig() as rig:
        done = inspectd("config", "check", "--config", str(rig.config_path))
        assert done.returncode == 0, done.stderr
        assert "product 1: recipe cell/1" in done.stdout
        assert "product 2: recipe other/1" in done.stdout
        recipe = rig.config.recipes_dir / "other" / "1.toml"
        recipe.write_text(recipe.read_text() + "[camera.top]\nroi = [0, 1, 64, 64]\n")
        done = inspectd("config", "check", "--config", str(rig.config_path))
        assert done.returncode == 78
        assert f"{recipe}: camera.top.roi: expected a region within the camera's" in done.stderr
        segments = rig.config.bundles_dir / "null" / "segments.png"
        segments.write_bytes(segments.read_bytes() + b"x")
        done = inspectd("config", "check", "--config", str(rig.config_path))
        assert done.returncode == 78
        assert f"{segments}: expected SHA-256" in done.stderr


def test_a_wrong_key_is_named(tmp_path: Path) -> None:
    """File, key, expected, got."""
    path = tmp_path / "config.toml"
    path.write_text('root = "."\ndeadline_ms = "soon"\ncamera = []\n')
    done = inspectd("config", "check", "--config", str(path))
    assert done.returncode == 78
    assert f"{path}: deadline_ms: expected `int`, got `str`" in done.stderr


def test_doctor_reports_what_is_installed() -> None:
    """A good machine is exit 0, as text and as JSON."""
    with Rig() as rig:
        done = inspectd("doctor", "--config", str(rig.config_path), "--json")
        report = json.loads(done.stdout)
        grades = {finding["what"]: finding["grade"] for finding in report["findings"]}
        assert grades["config"] == grades["product 1"] == grades["numpy"] == "good"
        assert done.returncode == (0 if report["good"] else 1)


def test_doctor_names_what_is_broken(tmp_path: Path) -> None:
    """The same sentence as everywhere, and exit 1."""
    done = inspectd("doctor", "--config", str(tmp_path / "none.toml"))
    assert done.returncode == 1
    assert "none.toml: expected a TOML file, got no such file" in done.stdout
