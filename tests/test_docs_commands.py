"""The commands in the code blocks of the documents are run: as they stand there, in their order, in
a shell, beside a small line. `CANNOT` names those that are not, and says why."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from appliance.recipe import load_recipe, write_recipe
from tests.gentl import producer
from tests.rig import SIDE_PX, Rig, numbered
from tests.test_docs import FENCE, documents
from tests.waiting import until

ROOT = Path(__file__).parent.parent

CANNOT = {
    "./tools/demo": "installs and trains for minutes",
    "./tools/test": "is what runs this test",
    "tools/install": "as root on a machine with systemd: tools/install_check",
    ".venv/bin/ruff": "tools/test runs it",
    ".venv/bin/pyright": "tools/test runs it",
    ".venv/bin/python -m pytest": "tools/test runs it",
    "python3 -m venv": "needs a package index: every run of tools/demo on a bare machine",
    ".venv/bin/python -m pip install": "needs a package index",
    "editor ": "a person's",
    "cp -r products.toml": "onto an installed box: tools/install_check",
    "chown ": "onto an installed box: tools/install_check",
    "systemctl ": "onto an installed box: tools/install_check",
    "curl ": "test_api.py runs each against a tool of its own and compares the answers",
    "inspectd train": "trains for minutes: test_models_bundle.py",
    "inspectd evaluate": "needs a trained bundle: test_models_bundle.py",
    "inspectd export-model": "needs the authors' weights: test_models_authors.py",
    "inspectd segments": "needs a trained bundle: test_models_segad.py",
    "inspectd segad": "needs a trained bundle: test_refit.py",
    "inspectd quantise": "needs a trained bundle: test_models_quantise.py",
    "inspectd engine": "needs a trained bundle and a GPU: test_engine_command.py",
    "inspectd repeatability": "needs a study of 500 parts: test_repeatability.py",
    "inspectd plc-sim --ring hardware": "needs a light barrier: test_process_hardware.py",
    "inspectd plc-sim --port 5020 --ring plc": "needs a line with a ring: test_plc_sim.py",
    "inspectd plc-conformance 192.168.": "a box on somebody's network",
    "inspectd plc-conformance 127.0.0.1 --port 5020 --mode ring": "minutes, and a line with a ring",
    "inspectd approve-camera": "needs a camera that was changed: test_camera_settings.py",
}
"""Beginning of a command → why nobody runs it here."""

ADDED = {
    ".venv/bin/python -m tools.draw_parts": "--train 8 --good 1 --each 2",
    "inspectd calibrate": "--engine null",
}
"""Beginning of a command → options that keep it short, or fit the network of this line."""

TYPED = {
    "inspectd users add": "a long pass phrase\na long pass phrase\n",
    "inspectd opcua-user": "a long pass phrase\n",
}
"""Beginning of a command → what a person types."""

SERIAL = "12345"


def commands(name: str) -> list[str]:
    """Every command of a document's code blocks, in order; lines that go on are joined."""
    text = (ROOT / name).read_text(encoding="utf-8")
    bodies = [body.replace("\\\n", " ") for kind, body in FENCE.findall(text) if not kind]
    lines = [line.strip() for body in bodies for line in body.splitlines()]
    tools = r"inspectd|\.venv/|\./tools/|tools/|python3?|sqlite3|curl|cp|chown|editor|systemctl"
    return [line for line in lines if re.match(rf"({tools})(\s|\S*/|-)|({tools})\S* ", line + " ")]


def is_run(command: str) -> bool:
    return not command.startswith(tuple(CANNOT))


NAMES = [path.relative_to(ROOT).as_posix() for path, _ in documents()]
DOCUMENTS = [name for name in NAMES if commands(name)]


class Desk:
    """A directory in which the documents' names exist, and a shell in it."""

    def __init__(self, rig: Rig, stands_for: dict[str, str]) -> None:
        self.rig, self._stands_for = rig, {"5020": str(rig.port), **stands_for}
        shims = rig.root / "shims"
        python = f'exec "{sys.executable}" '
        for path, text in {
            shims / "inspectd": f'{python} -m appliance "$@"',
            shims / "sqlite3": f'{python} "{shims}/sqlite.py" "$@"',
            rig.root / ".venv" / "bin" / "python": f'{python} "$@"',
            rig.root / ".venv" / "bin" / "inspectd": f'{python} -m appliance "$@"',
        }.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"#!/bin/sh\n{text}\n")
            path.chmod(0o755)
        (shims / "sqlite.py").write_text(
            "import sqlite3, sys\n"
            "assert sys.argv[1] == '-readonly'\n"
            "store = sqlite3.connect(f'file:{sys.argv[2]}?mode=ro', uri=True)\n"
            "for row in store.execute(sys.argv[3]): print(*row, sep='|')\n"
        )
        (rig.root / "tools").symlink_to(ROOT / "tools")
        search = f"{shims}{os.pathsep}{os.environ['PATH']}"
        self.environment = os.environ | {"PATH": search, "PYTHONPATH": str(ROOT)}

    def start(self, command: str) -> "subprocess.Popen[str]":
        """In a session of its own: what asks for a password finds no terminal."""
        for word, here in self._stands_for.items():
            command = command.replace(word, here)
        for beginning, more in ADDED.items():
            command += f" {more}" * command.startswith(beginning)
        return subprocess.Popen(
            ["bash", "-c", command],
            cwd=self.rig.root, env=self.environment, start_new_session=True, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, command: str) -> str:
        """Standard output of a command that succeeds."""
        typed = next((text for name, text in TYPED.items() if command.startswith(name)), "")
        with self.start(command) as running:
            out, errors = running.communicate(typed, timeout=100)
        assert running.returncode == 0, f"{command}\n{out[-2000:]}\n{errors[-2000:]}"
        return out


@pytest.fixture
def desk() -> Iterator[Desk]:
    """A line of drawn pictures that records, and good and bad parts to calibrate with."""
    with Rig(camera={"record": "all"}) as rig:
        for kind, mean, count in (("good", 60, 320), ("bad", 120, 160)):
            folder = rig.root / "parts" / kind
            folder.mkdir(parents=True)
            rng = np.random.default_rng(count)
            for number in range(count):
                level = rng.normal(mean, 8)
                noise = np.clip(rng.normal(level, 3, (SIDE_PX, SIDE_PX)), 1, 254)
                cv2.imwrite(str(folder / f"{number}.png"), noise.astype(np.uint8))
        shutil.copytree(rig.config.bundles_dir / "null", rig.config.bundles_dir / "plate-1")
        cell = load_recipe(rig.config, "cell/1").recipe
        write_recipe(rig.config, msgspec.structs.replace(cell, id="plate", bundle_dir="plate-1"))
        yield Desk(rig, {"/etc/inspectd/config.toml": "config.toml"})


def test_every_document_with_commands_has_its_test() -> None:
    tested = {"docs/first-line.md", "docs/plc.md", "docs/replay.md", "docs/camera.md", *ALONE}
    for name in DOCUMENTS:
        if name not in tested:
            assert [*filter(is_run, commands(name))] == [], f"{name}: run it, or say why not"


def test_every_reason_is_still_needed() -> None:
    said = [command for name in DOCUMENTS for command in commands(name)]
    known = [*CANNOT, *ADDED, *TYPED]
    assert [b for b in known if not any(command.startswith(b) for command in said)] == []


ALONE = (
    "docs/buses.md",
    "docs/calibration.md",
    "docs/install.md",
    "docs/limits.md",
    "docs/security.md",
)
"""Their commands need no running line."""


@pytest.mark.parametrize("name", ALONE)
def test_commands_that_need_no_running_line(name: str, desk: Desk) -> None:
    found = [*filter(is_run, commands(name))]
    assert found
    for command in found:
        desk.run(command)


def test_the_first_line_the_desk_plc_and_a_replay_step_by_step(desk: Desk) -> None:
    steps = [*filter(is_run, commands("docs/first-line.md") + commands("docs/plc.md"))]
    place = next(n for n, command in enumerate(steps) if command.startswith("inspectd run"))
    assert place >= 3, "pictures and both checks come before the line runs"
    for command in steps[:place]:
        desk.run(command)
    with desk.start(steps[place]) as line:
        try:
            with desk.rig.ear() as ear:
                until("Ready", lambda: ear.is_ready, 40)
            for command in steps[place + 1 :]:
                if "--forever" in command:
                    endless(desk, command)
                else:
                    desk.run(command)
        finally:
            os.killpg(line.pid, signal.SIGINT)
            line.communicate(timeout=20)
    (recording,) = desk.rig.config.recordings_dir.iterdir()
    for command in filter(is_run, commands("docs/replay.md")):
        desk.run(re.sub(r"data/recordings/\S+", f"data/recordings/{recording.name}", command))


def endless(desk: Desk, command: str) -> None:
    """Runs until Ctrl-C, and writes its file meanwhile."""
    words = shlex.split(command)
    file = desk.rig.root / words[words.index("--parts-file") + 1]
    with desk.start(command) as running:
        until("a part in the file", lambda: file.exists() and file.read_text(), 40)
        os.killpg(running.pid, signal.SIGINT)
        running.communicate(timeout=20)
    assert running.returncode == 0


def test_a_camera_is_commissioned(tmp_path: Path) -> None:
    cti = producer(tmp_path, **{SERIAL: [numbered(n) for n in range(3)]})
    camera = {"kind": "genicam", "producer": str(cti), "device": {"serial_number": SERIAL}}
    with Rig(camera=camera | {"folder": ""}) as rig:
        (rig.root / "cameras").mkdir()
        (rig.root / "pictures").mkdir()
        cv2.imwrite(str(rig.root / "pictures" / "0.pgm"), numbered(7))
        desk = Desk(rig, {"/opt/vendor/lib/producer.cti": str(cti)})
        found = [*filter(is_run, commands("docs/camera.md"))]
        assert len(found) >= 8
        for command in found:
            desk.run(command)
        assert (rig.root / "part.png").is_file()
