"""Wheel and sdist: built without a network, complete, and a wheel that works beside no checkout."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("appliance", "models", "calibration", "tools")

WORKS_ALONE = """
import sys
from pathlib import Path

import appliance
from appliance import hmi_page
from appliance.plc_opcua_model import NODESET
from appliance.store import Store

here = Path(sys.argv[1])
assert Path(appliance.__file__).is_relative_to(here), appliance.__file__
assert NODESET.is_relative_to(here) and NODESET.is_file()
assert Path(hmi_page.__file__).is_relative_to(here)
Store(Path(sys.argv[2])).close()  # runs every migration
"""


def version() -> str:
    """The one place. Read as text: Python 3.10 has no tomllib."""
    found = re.search(r'^version = "(.+?)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found
    return found[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both. hatchling of this environment: pip would fetch one of its own."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    """The one wheel, named after the version."""
    (found,) = built.glob("*.whl")
    assert found.name == f"inspectd-{version()}-py3-none-any.whl"
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the wheel alone; its libraries come from this environment."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--quiet"]
    command += ["--disable-pip-version-check", "--target", str(folder), str(wheel)]
    subprocess.run(command, check=True)
    return folder


def call(installed: Path, *command: str) -> str:
    """Standard output of a command beside the installed wheel, away from the checkout."""
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(
        command, cwd=installed, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_every_file_of_every_room_and_the_licences(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    ours = {
        path.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert ours - inside == set()
    about = f"inspectd-{version()}.dist-info"
    assert {f"{about}/licenses/LICENSE", f"{about}/licenses/NOTICE"} <= inside
    kinds = {Path(name).suffix for name in ours}
    assert {".py", ".xml", ".css", ".js", ".mako"} <= kinds, "what is not Python travels, too"


def test_the_sdist_holds_what_an_installation_needs(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    folders = ("docs", "systemd", "tests", *ROOMS)
    wanted = {"constraints.txt", "pyproject.toml", "LICENSE", "NOTICE", "CHANGELOG.md"}
    wanted |= {
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted - inside == set()
    assert not {name for name in inside if name.startswith((".venv", ".ci-venv", "var/"))}


def test_the_wheel_works_beside_no_checkout(installed: Path, tmp_path: Path) -> None:
    inspectd = str(installed / "bin" / "inspectd")
    assert "Commands" in call(installed, inspectd, "--help")
    assert call(installed, inspectd, "--version") == f"inspectd {version()}\n"
    call(installed, sys.executable, "-c", WORKS_ALONE, str(installed), str(tmp_path / "parts.db"))


def test_the_change_log_begins_with_this_version() -> None:
    said = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert said and said[1] == version()


def test_the_notice_names_every_library_that_is_asked_for() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    project = text.partition("[project.scripts]")[0].partition("dependencies = [")[2]
    asked = set(re.findall(r'"([A-Za-z][\w-]*)(?:\[[\w,]+\])?[<>=]', project))
    assert {"numpy", "asyncua", "psycopg", "torch", "elpv-dataset"} <= asked
    notice = (ROOT / "NOTICE").read_text()
    missing = {name for name in asked if not re.search(rf"\b{re.escape(name)}\b", notice)}
    assert missing == set()


def test_the_licence_of_the_opc_foundation_travels_with_its_model() -> None:
    text = (ROOT / "appliance/nodesets/Opc.Ua.MachineVision.NodeSet2.xml").read_text()
    assert "Permission is hereby granted, free of charge" in text[:1000]
    assert "OPC\n  Foundation, MIT licence" in (ROOT / "NOTICE").read_text()
