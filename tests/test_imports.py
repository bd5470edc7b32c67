"""Who may import what: the rooms, and one SDK per file. Read from the sources, lazy imports too."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("appliance", "models", "calibration", "tools")

ONLY_IN = {
    "argon2": ("calibration/people.py",),
    "asyncua": ("appliance/plc_opcua",),
    "gpiod": ("appliance/plc_io",),
    "paho": ("appliance/plc_mqtt.py",),
    "pycomm3": ("appliance/plc_logix.py",),
    "snap7": ("appliance/plc_s7.py",),
    "alembic": ("appliance/migrations/",),
    "pydantic": ("calibration/api_models.py",),
    "cryptography": ("appliance/certificate.py", "appliance/plc_opcua_keys.py"),
    "genicam": ("appliance/camera_genicam",),
    "harvesters": ("appliance/camera_genicam",),
    "mcap": ("appliance/recording",),
    "nicegui": ("appliance/hmi", "calibration/"),
    # Not by decide and record: they start without it.
    "onnx": (
        "appliance/head.py",
        "appliance/half.py",
        "appliance/engine",
        "models/",
        "tools/bench",
        "tools/chaos_pictures.py",
    ),
    "onnxruntime": ("appliance/engine_onnx.py", "models/", "tools/bench_runtimes.py"),
    "openvino": ("appliance/engine_openvino.py", "models/"),
    "prometheus_client": ("appliance/metrics.py",),
    "cuda": ("appliance/engine_tensorrt_memory.py",),
    "pycuda": ("appliance/engine_tensorrt_memory.py",),
    "tensorrt": ("appliance/engine_tensorrt_sdk.py",),
    "pymodbus": ("appliance/plc_modbus.py", "tools/plc_"),
    "sqlalchemy": (
        "appliance/database.py",
        "appliance/outbox.py",
        "appliance/store.py",
        "appliance/migrations/",
        "calibration/people.py",
        "calibration/people_file.py",
        "calibration/opinions.py",
        "calibration/tokens.py",
        "calibration/baselines.py",
        "calibration/challenges.py",
        "calibration/study_log.py",
    ),
    "torch": ("models/",),
    "xgboost": ("appliance/forest.py",),
    "zmq": ("appliance/wire.py", "appliance/wire_keys.py"),
    "pickle": (),
}
"""SDK → where it may be imported."""


def imports(path: Path) -> Iterator[str]:
    """Top-level names of all that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


FILES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_imports_what_its_room_may(path: Path) -> None:
    name, used = path.relative_to(ROOT).as_posix(), set(imports(path))
    for sdk in used & ONLY_IN.keys():
        assert name.startswith(ONLY_IN[sdk]), f"{name} imports {sdk}"
    if name.startswith("appliance/"):
        assert not used & {"models", "calibration", "tools", "tests"}
    if name.startswith("models/"):
        assert not used & {"tools", "calibration", "tests"}
    assert "tests" not in used


def names(path: Path) -> Iterator[str]:
    """What a file binds at its top level, as often as it does so."""
    for node in ast.parse(path.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        for target in targets:
            parts = target.elts if isinstance(target, ast.Tuple) else [target]
            yield from (part.id for part in parts if isinstance(part, ast.Name))
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_name_means_two_things_in_one_file(path: Path) -> None:
    """The second text of one name would silently replace the first."""
    assert [name for name, count in Counter(names(path)).items() if count > 1] == []
