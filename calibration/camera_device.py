"""A camera's device in a process of its own, for the tool: never beside a line that has it.

Enters: what a person wants to see or set. Leaves: what `inspectd camera` answers. A GenTL producer
that hangs or crashes takes its own process with it and nothing else.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from appliance.camera_settings import Feature
from appliance.config import Config
from appliance.config_camera import Camera
from appliance.errors import DeviceError
from appliance.wire import Wiring

_PATIENCE_S = 60.0


def has_line(config: Config, camera: str) -> bool:
    """The camera process of a line serves, and owns the device."""
    with Wiring(config.runtime_dir, config.wire.remote, config.keys_dir) as wiring:
        return wiring.is_served("trigger", camera)


def features(config: Config, camera: Camera) -> list[Feature]:
    """All of them, set up as the line would. Raises DeviceError."""
    answer = _ask(config, camera, "show", "--json")
    return msgspec.convert(answer["features"], list[Feature])


def change(config: Config, camera: Camera, name: str, value: str) -> Feature:
    """Write one, or run a command; as it is then. Raises DeviceError: who refused, and why."""
    entry = f"{name}={value}" if value else name
    answer = _ask(config, camera, "set", "--json", "--", entry)
    return msgspec.convert(answer["features"][0], Feature)


def snap(config: Config, camera: Camera) -> tuple[bytes, dict[str, Any]]:
    """A PNG and its figures. Raises DeviceError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "snap.png"
        figures = _ask(config, camera, "snap", str(path), "--frames", "3", "--json")
        return path.read_bytes(), {k: v for k, v in figures.items() if k != "file"}


def _ask(config: Config, camera: Camera, command: str, *arguments: str) -> dict[str, Any]:
    wiring = {"remote": config.wire.remote} if config.wire.remote else {}
    written = tomli_w.dumps(
        {
            "root": config.root,
            "runtime": config.runtime,
            "deadline_ms": config.deadline_ms,
            "wire": wiring,
            "camera": [_without_none(msgspec.to_builtins(camera))],
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.toml"
        path.write_text(written, encoding="utf-8")
        call = [sys.executable, "-m", "appliance", "camera", command, "--config", str(path)]
        try:
            done = subprocess.run(
                [*call, *arguments], capture_output=True, text=True, timeout=_PATIENCE_S
            )
        except subprocess.TimeoutExpired as err:
            expected = f"camera {camera.name}: expected an answer within {_PATIENCE_S:.0f} s"
            raise DeviceError(f"{expected}, got none") from err
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise DeviceError(lines[-1].removeprefix("inspectd: "))
    return json.loads(done.stdout)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return value
