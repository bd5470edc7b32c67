"""A temporary installation with real processes, and what they say of themselves, to measure on.

A folder camera, the null engine (which reads every pixel), decide and record as `inspectd run`
starts them; the desk PLC in a process of its own.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import tomli_w

from appliance.bundle import Bundle, GateLimits
from appliance.config import load_config
from appliance.database import where
from appliance.engine_null import write_null_bundle
from appliance.messages import Health, Verdict, Words
from appliance.recipe import Limits, Recipe, write_recipe
from appliance.store import Store
from appliance.supervise import process_table
from appliance.wire import Wiring
from tools.bench_row import NotMeasuredError

START_S = 30.0
_SIDE_PX = 64
_STEP = 16
NUMBERS = _SIDE_PX * _SIDE_PX // _STEP
"""How many numbered pictures there are."""

Picture = Callable[[int], npt.NDArray[np.uint8]]
MakeBundle = Callable[[Path, int, int], Bundle]
"""Folder, height and width of the pictures → a bundle there."""


def numbered(number: int) -> npt.NDArray[np.uint8]:
    """(64, 64) whose mean, and so the null engine's margin, codes 0 <= number < NUMBERS."""
    pixels = np.zeros(_SIDE_PX * _SIDE_PX, np.uint8)
    pixels[: number * _STEP] = 255
    return pixels.reshape(_SIDE_PX, _SIDE_PX)


def number_of(margin: float) -> float:
    """Back from a margin; a whole number for a picture that was scored as it is."""
    return round(margin * _SIDE_PX * _SIDE_PX / (_STEP * 255), 3)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _null_bundle(gates: GateLimits | None) -> MakeBundle:
    return lambda folder, height_px, width_px: write_null_bundle(
        folder, "null", height_px, width_px, gates=gates
    )


class BenchLine:
    """One line of real processes below a directory of its own. A context manager."""

    def __init__(
        self,
        picture: Picture,
        pictures: int,
        gates: GateLimits | None = None,
        cameras: Sequence[str] = ("top",),
        make_bundle: MakeBundle | None = None,
        **changes: dict[str, Any] | str | int,
    ) -> None:
        """`changes`: keys of config.toml; a table is merged, `camera` is what all cameras share.

        make_bundle: another one than that of the null engine with `gates`.
        """
        self.root = Path(tempfile.mkdtemp(prefix="insp", dir="/tmp"))
        self.port = free_port()
        camera = {"kind": "files", "folder": "pictures", "backoff_max_s": 0.2}
        settings: dict[str, Any] = {
            "root": ".",
            "deadline_ms": 200,
            "engine": {"kind": "null"},
            "plc": {"port": self.port},
            "hmi": {"is_enabled": False},
            "record": {"images": "none", "min_free_gb": 0.0},
            "restart_limit": 0,
            "camera": camera,
        }
        for key, value in changes.items():
            settings[key] = settings.get(key, {}) | value if isinstance(value, dict) else value
        settings["camera"] = [{"name": name, **settings["camera"]} for name in cameras]
        self.config_path = self.root / "config.toml"
        self.config_path.write_text(tomli_w.dumps(settings))
        self.config = load_config(self.config_path)
        self._write(picture, pictures, make_bundle or _null_bundle(gates))
        self._log_path = self.root / "log"
        self._log = self._log_path.open("wb")
        self._run: subprocess.Popen[bytes] | None = None
        self._plc: subprocess.Popen[bytes] | None = None

    def _write(self, picture: Picture, pictures: int, make_bundle: MakeBundle) -> None:
        folder = self.root / "pictures"
        folder.mkdir()
        first = picture(0)
        for number in range(pictures):
            # Uncompressed: five megapixels of noise take half a second to squeeze.
            done = cv2.imwrite(str(folder / f"{number:04d}.tiff"), picture(number), _PLAIN_TIFF)
            if not done:
                raise NotMeasuredError(f"{folder}: a picture could not be written")
        bundle = make_bundle(self.config.bundles_dir / "null", first.shape[0], first.shape[1])
        recipe = Recipe(
            id="bench",
            version=1,
            bundle=bundle.id,
            bundle_dir="null",
            decides="map_max",
            limits=Limits(t1=1e6, t2=2e6),
        )
        write_recipe(self.config, recipe)
        (self.root / "products.toml").write_text('[[product]]\nnumber = 1\nrecipe = "bench/1"\n')

    def start(self, **environment: str) -> None:
        """`inspectd run`."""
        # Who ends a measurement with SIGTERM, as timeout(1) does, ends its line, too.
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL and _is_main_thread():
            signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        command = [sys.executable, "-m", "appliance", "run", "--config", str(self.config_path)]
        self._run = subprocess.Popen(
            command, stdout=self._log, stderr=self._log, env=os.environ | environment
        )

    def cut_power(self) -> None:
        """SIGKILL for all of it at once: the supervisor may not see its processes die."""
        if self._run is None:
            raise RuntimeError("the line was not started")
        self._run.send_signal(signal.SIGSTOP)
        for pid in self.pids().values():
            os.kill(pid, signal.SIGKILL)
        self._run.kill()
        self._run.wait()

    def start_plc(self, *options: str) -> None:
        """The desk PLC; see `inspectd plc-sim --help` for its options."""
        command = [sys.executable, "-m", "appliance", "plc-sim", "--port", str(self.port)]
        command += ["--accept-simulated", "--json", *options]
        self._plc = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log)

    def plc_report(self, seconds: float | None = None) -> dict[str, Any]:
        """What the desk PLC saw: stopped now, or awaited for `seconds` where these are given."""
        if self._plc is None:
            raise RuntimeError("the desk PLC was not started")
        if seconds is None:
            self._plc.send_signal(signal.SIGTERM)
        try:
            output, _ = self._plc.communicate(timeout=seconds or START_S)
        except subprocess.TimeoutExpired as err:
            raise NotMeasuredError(f"the desk PLC did not end: {self.log_end()}") from err
        if not output:
            raise NotMeasuredError(f"the desk PLC said nothing: {self.log_end()}")
        report: dict[str, Any] = json.loads(output)
        return report

    def pids(self) -> dict[str, int]:
        """Live processes of the line by name: camera, infer, decide, record."""
        if self._run is None:
            raise RuntimeError("the line was not started")
        found: dict[str, int] = {}
        names = [process for process, _ in process_table(self.config)]
        for folder in Path("/proc").iterdir():
            if not folder.name.isdecimal():
                continue
            try:
                arguments = (folder / "cmdline").read_bytes().decode().split("\0")
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            if parent == self._run.pid:
                found.update({name: int(folder.name) for name in names if name in arguments})
        return found

    def verdicts(self, count: int) -> list[Verdict]:
        """The newest rows, oldest first."""
        store = Store(where(self.config), is_reader=True)
        try:
            return [row.verdict for row in reversed(store.last(count))]
        finally:
            store.close()

    def log_end(self) -> str:
        """The last lines that the processes wrote, for an error message."""
        return self._log_path.read_text(errors="replace")[-1500:]

    def stop(self) -> None:
        """Stop what runs."""
        running = [p for p in (self._plc, self._run) if p is not None and p.poll() is None]
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def close(self) -> None:
        """Stop what runs and remove all files."""
        self.stop()
        if self._plc is not None and self._plc.stdout is not None:
            self._plc.stdout.close()
        self._log.close()
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.rmtree(self.config.rings_dir, ignore_errors=True)

    def __enter__(self) -> "BenchLine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Ear:
    """What the line says of itself on `live` and `health`. A context manager."""

    def __init__(self, line: BenchLine) -> None:
        self._line = line
        self._wiring = Wiring(line.config.runtime_dir)
        self._live = self._wiring.receiver("live")
        self._health = self._wiring.receiver("health", "camera:top", "infer:0", "decide", "record")
        self.words: Words | None = None
        self.health: dict[str, Health] = {}

    def listen(self) -> None:
        """Take in all that has come."""
        while (message := self._live.receive()) is not None:
            if isinstance(message, Words):
                self.words = message
        while (message := self._health.receive()) is not None:
            if isinstance(message, Health):
                self.health[message.process] = message

    def figure(self, name: str) -> int:
        """One figure of the ledger; -1 before anything was heard."""
        self.listen()
        return self.words.ledger[name] if self.words else -1

    def await_parts(self, count: int, seconds: float = START_S) -> None:
        """Until so many parts have their verdict. Raises NotMeasuredError."""
        self._await(f"{count} verdicts", lambda: self.figure("verdicts") >= count, seconds)

    def await_ready(self, seconds: float = START_S) -> None:
        """Until camera, engine and recipe are there. Raises NotMeasuredError."""
        self._await("line that is ready", self._is_ready, seconds)

    def await_rows(self, seconds: float = START_S) -> None:
        """Until every verdict has its row. Raises NotMeasuredError."""
        self._await("row for every verdict", lambda: self.figure("rows_pending") == 0, seconds)

    def _is_ready(self) -> bool:
        self.listen()
        words = self.words
        return words is not None and words.registers[104] in (6, 7, 8) and words.offline == 0

    def _await(self, what: str, check: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not check():
            if time.monotonic() > end:
                why = f"after {seconds:.0f} s still no {what}: {self._line.log_end()}"
                raise NotMeasuredError(why)
            time.sleep(0.01)

    def sleep(self, seconds: float) -> None:
        """Wait and listen, so that nothing piles up here."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(0.05, left))
            self.listen()

    def __enter__(self) -> "Ear":
        return self

    def __exit__(self, *_: object) -> None:
        self._wiring.close()


_PLAIN_TIFF = (cv2.IMWRITE_TIFF_COMPRESSION, 1)


def free_port() -> int:
    """A TCP port that nobody listens on, below those that Linux gives to whoever asks for any: the
    process that is to listen on it takes its time to start."""
    for port in random.sample(range(14_000, 20_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise NotMeasuredError("of 100 ports of 127.0.0.1 from 14000 to 19999 none is free")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
