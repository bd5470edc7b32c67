"""A whole line of real processes below a short-named directory, for tests of the line.

The pictures of the folder camera are numbered: picture n is grey with a mean of n grey levels
over a known step, and the null engine gives that mean back as the margin, so that a result tells
which picture it was made from.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import tomli_w

from appliance.config import Config, load_config
from appliance.database import where
from appliance.engine_null import write_null_bundle
from appliance.messages import Health, Words
from appliance.recipe import Limits, Recipe, View, write_recipe
from appliance.rows import PartRow
from appliance.store import Store
from appliance.supervise import process_table
from appliance.wire import Wiring
from tests.ports import free_port
from tests.waiting import PATIENCE_S, until
from tools.plc_program import Part, PlcOptions
from tools.plc_sim import PlcReport, run_plc

SIDE_PX = 64
STEP = 16
"""Pixels that differ per number: a mean of number x STEP x 255 / SIDE_PX² grey levels."""
PICTURES = SIDE_PX * SIDE_PX // STEP
T = TypeVar("T")


def numbered(number: int) -> np.ndarray:
    """(64, 64) uint8 whose mean codes 0 <= number < 256."""
    pixels = np.zeros(SIDE_PX * SIDE_PX, np.uint8)
    pixels[: number * STEP] = 255
    return pixels.reshape(SIDE_PX, SIDE_PX)


def number_of(margin: float) -> int:
    """Back from a margin; fails where it lies between two numbers."""
    exact = margin * SIDE_PX * SIDE_PX / (STEP * 255)
    number = round(exact)
    assert abs(exact - number) < 0.01, f"{margin} is no picture's mean"
    return number


class Rig:
    """One installation and its `inspectd run`."""

    def __init__(
        self,
        changes: dict[str, Any] | None = None,
        camera: dict[str, Any] | None = None,
        pictures: int = PICTURES,
        limits: tuple[float, float] = (1e6, 2e6),
        size: tuple[int, int] = (SIDE_PX, SIDE_PX),
        view: View | None = None,
        picture: Callable[[int], np.ndarray] = numbered,
        others: dict[str, Callable[[int], np.ndarray]] | None = None,
        special: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        """others: further cameras beside "top", and what they show of the same parts. special:
        settings of one camera alone."""
        self.root = Path(tempfile.mkdtemp(prefix="insp", dir="/tmp"))
        self.port = free_port()
        settings: dict[str, Any] = {
            "root": ".",
            "deadline_ms": 200,
            "camera": [
                {
                    "name": name,
                    "kind": "files",
                    "folder": f"pictures-{name}" if name != "top" else "pictures",
                    "order": "tag",
                    "backoff_max_s": 0.2,
                    **(camera or {}),
                    **(special or {}).get(name, {}),
                }
                for name in ("top", *(others or {}))
            ],
            "engine": {"kind": "null"},
            "plc": {"port": self.port},
            "hmi": {"is_enabled": False},
            "record": {"images": "none", "min_free_gb": 0.0},
            "restart_limit": 0,
        }
        for key, value in (changes or {}).items():
            old = settings.get(key)
            settings[key] = {**old, **value} if isinstance(old, dict) else value
        self.config_path = self.root / "config.toml"
        self.config_path.write_text(tomli_w.dumps(settings))
        self._settings = settings
        self.config: Config = load_config(self.config_path)
        if settings["camera"][0]["kind"] == "files":
            for each, show in {"top": picture, **(others or {})}.items():
                folder = self.root / (f"pictures-{each}" if each != "top" else "pictures")
                folder.mkdir()
                for number in range(pictures):
                    assert cv2.imwrite(str(folder / f"{number:04d}.png"), show(number))
        bundle = write_null_bundle(self.config.bundles_dir / "null", "null", *size)
        for recipe in ("cell", "other"):
            write_recipe(
                self.config,
                Recipe(
                    id=recipe,
                    version=1,
                    bundle=bundle.id,
                    bundle_dir="null",
                    decides="map_max",
                    limits=Limits(t1=limits[0], t2=limits[1]),
                    camera={"top": view} if view else {},
                ),
            )
        (self.root / "products.toml").write_text(
            '[[product]]\nnumber = 1\nrecipe = "cell/1"\n'
            '[[product]]\nnumber = 2\nrecipe = "other/1"\n'
        )
        self.log = self.root / "log"
        self.handle: subprocess.Popen[bytes] | None = None
        self._singles: list[subprocess.Popen[bytes]] = []

    def start(self, *extra: str) -> None:
        """`inspectd run`, its log kept for the failure message."""
        command = [sys.executable, "-m", "appliance", "run", "--config", str(self.config_path)]
        with self.log.open("ab") as log:
            self.handle = subprocess.Popen([*command, *extra], stdout=log, stderr=log)

    def start_singly(self, remote: dict[str, dict[str, str]]) -> None:
        """Each process by itself with a configuration of its own: process → its `wire.remote`."""
        for process, name in process_table(self.config):
            path = self.root / f"config-{process}.toml"
            wire = {"remote": remote.get(process, {})}
            path.write_text(tomli_w.dumps({**self._settings, "wire": wire}))
            command = [sys.executable, "-m", "appliance", "process", process]
            command += ["--config", str(path), "--name", name]
            with self.log.open("ab") as log:
                self._singles.append(subprocess.Popen(command, stdout=log, stderr=log))

    def drive(self, **options: Any) -> tuple[PlcReport, list[Part]]:
        """The desk PLC on this line until all its parts are judged; latency is not its point."""
        parts: list[Part] = []
        settings = {"deadline_ms": 5000.0, "accept_simulated": True, **options}
        report = asyncio.run(run_plc(PlcOptions(port=self.port, **settings), parts.append))
        return report, parts

    def stop(self) -> int:
        """SIGTERM, then what it ends with."""
        assert self.handle is not None
        self.handle.send_signal(signal.SIGTERM)
        return self.handle.wait(PATIENCE_S)

    def pid(self, process: str) -> int:
        """Of the live process with this name."""
        return until(f"process {process}", lambda: self._pid(process))

    def _pid(self, process: str) -> int:
        assert self.handle is not None
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal():
                try:
                    arguments = (folder / "cmdline").read_bytes().split(b"\0")
                    parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                except (OSError, IndexError):
                    continue
                if parent == self.handle.pid and process.encode() in arguments:
                    return int(folder.name)
        return 0

    def kill(self, process: str, number: int = signal.SIGKILL) -> int:
        """Send a signal to one process; returns its pid."""
        pid = self.pid(process)
        os.kill(pid, number)
        return pid

    def rows(self, count: int = 100_000) -> list[PartRow]:
        """The newest rows, newest first."""
        store = Store(where(self.config), is_reader=True)
        try:
            return list(store.last(count))
        finally:
            store.close()

    @contextmanager
    def ear(self, *processes: str) -> Iterator["Ear"]:
        """Listen to `live` and `health`."""
        with Wiring(self.config.runtime_dir) as wiring:
            yield Ear(wiring, processes)

    def close(self) -> None:
        """Stop what runs and remove all files."""
        running = [h for h in (self.handle, *self._singles) if h is not None and h.poll() is None]
        for handle in running:
            handle.terminate()
        for handle in running:
            try:
                handle.wait(10)
            except subprocess.TimeoutExpired:
                handle.kill()
                handle.wait()
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.rmtree(self.config.rings_dir, ignore_errors=True)

    def __enter__(self) -> "Rig":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None and self.log.exists():
            sys.stderr.write(self.log.read_text(errors="replace")[-6000:])
        self.close()


class Ear:
    """What the line says of itself."""

    def __init__(self, wiring: Wiring, processes: tuple[str, ...]) -> None:
        self._live = wiring.receiver("live")
        self._health = wiring.receiver("health", *processes) if processes else None
        self.words: Words | None = None
        self.health: dict[str, Health] = {}

    def listen(self) -> "Ear":
        """Take in all that has come."""
        while (message := self._live.receive()) is not None:
            if isinstance(message, Words):
                self.words = message
        while self._health is not None and (message := self._health.receive()) is not None:
            if isinstance(message, Health):
                self.health[message.process] = message
        return self

    @property
    def is_ready(self) -> bool:
        """State is READY or CONTINUOUS, camera and engine are there."""
        words = self.listen().words
        return words is not None and words.offline == 0 and words.registers[104] in (6, 7, 8)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the line says is wrong, in sentences."""
        return self.words.notes if self.words else ()

    @property
    def said(self) -> Words:
        """The newest words; there are some once the line was Ready."""
        words = self.listen().words
        assert words is not None, "decide has not said anything yet"
        return words

    @property
    def unaccounted(self) -> int:
        """As last published; -1 before the first word."""
        words = self.listen().words
        return -1 if words is None else words.ledger["unaccounted"]

    def has_rows(self, count: int) -> bool:
        """At least `count` parts were accepted, and every accepted one has a row."""
        words = self.listen().words
        ledger = words.ledger if words else {"accepted": -1, "verdicts": 0, "rows_pending": 1}
        is_closed = ledger["accepted"] == ledger["verdicts"] and ledger["rows_pending"] == 0
        return is_closed and ledger["accepted"] >= count

    @property
    def rows_pending(self) -> int:
        """Verdicts without a row yet."""
        words = self.listen().words
        return -1 if words is None else words.ledger["rows_pending"]
