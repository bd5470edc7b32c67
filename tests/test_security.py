"""What security.md promises: no pickle, no eval, no shell; modes; what is installed."""

import ast
import re
import stat
from pathlib import Path

import pytest

from appliance.wire_keys import curve_keys
from tests.rig import Rig
from tests.waiting import until
from tools.sbom import document

ROOT = Path(__file__).parent.parent
LINE_FILES = sorted((ROOT / "appliance").rglob("*.py")) + sorted(
    (ROOT / "calibration").rglob("*.py")
)
FORBIDDEN = {"eval", "exec", "compile", "__import__"}


@pytest.mark.parametrize("path", LINE_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_runs_on_the_line_makes_code_of_data(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            assert name not in FORBIDDEN, f"{path.name}:{node.lineno}: {name}"
            shell = [keyword for keyword in node.keywords if keyword.arg == "shell"]
            assert not shell, f"{path.name}:{node.lineno}: a shell"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            said = f"{node.value.id}.{node.attr}"
            assert said not in ("os.system", "os.popen", "yaml.load", "marshal.loads"), said
            assert not re.fullmatch(r"(pickle|dill|joblib|shelve)\.\w+", said), said


def test_every_library_is_listed_with_its_version() -> None:
    said = document()
    components = {component["name"]: component for component in said["components"]}
    assert said["metadata"]["component"]["name"] == "inspectd"
    assert components["numpy"]["purl"] == f"pkg:pypi/numpy@{components['numpy']['version']}"
    pins = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    base = {"msgspec", "numpy", "onnxruntime", "pyzmq", "pymodbus", "sqlalchemy"}
    assert base <= components.keys() & {pin.lower() for pin in pins}


def test_keys_sockets_and_rings_are_for_the_line_alone(tmp_path: Path) -> None:
    curve_keys(tmp_path / "keys", "decide")
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    secret = tmp_path / "keys" / "decide.key_secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    with Rig() as rig:
        rig.start()
        with rig.ear() as ear:
            until("Ready", lambda: ear.is_ready, 30)
        for folder in (rig.config.runtime_dir, rig.config.rings_dir):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        rings = list(rig.config.rings_dir.iterdir())
        assert rings and all(stat.S_IMODE(ring.stat().st_mode) == 0o600 for ring in rings)
