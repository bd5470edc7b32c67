"""The real process of the page, and the rest of the line played by the test."""

import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from typing import Any

import numpy as np

from appliance.codes import Word
from appliance.config import Config
from appliance.messages import Health
from appliance.wire import Inbox
from tests.line_feed import Feed, remove_root, write_root
from tests.ports import free_port
from tests.processes import let_go, stopped
from tests.waiting import until


def frame(grey: int) -> np.ndarray:
    """A picture whose mean tells which part it shows."""
    return np.full((240, 320), grey, np.uint8)


class Box:
    """An installation, the page's process, and the rest of the line played by the test."""

    def __init__(self, roi: tuple[int, int, int, int] | None = None) -> None:
        self.port = free_port()
        self.config: Config = write_root(self.port, roi)
        self.feed = Feed(self.config)
        heard = self.feed.wiring.receiver("health", "hmi")
        self._inbox = Inbox(heard)
        self._part = 0
        self.health: Health | None = None
        self.process: subprocess.Popen[str] | None = None
        self._beating = threading.Event()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._beats = threading.Thread(target=self._beat)
        self._beats.start()

    def next_part(self) -> int:
        """A part id that no test has used on this box."""
        self._part += 1
        return self._part

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> "subprocess.Popen[str]":
        code = (
            "import sys; from pathlib import Path; from appliance.service import run_process;"
            "from appliance.hmi import main;"
            "sys.exit(run_process(main, 'hmi', Path(sys.argv[1]), '', False))"
        )
        environment = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
        self.health = None
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, str(self.config.root_dir / "config.toml")],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._beating.set()
        until("health of the page", lambda: self.health)
        return self.process

    def stop(self) -> str:
        """End the process as the supervisor does; what it wrote to stderr."""
        return stopped(self.process)

    def pause(self) -> None:
        """Decide and all others fall silent."""
        with self._lock:
            self._beating.clear()

    def resume(self) -> None:
        """They speak again."""
        self._beating.set()

    def verdict(self, part_id: int, word: Word, *pixels: Any, **changes: Any) -> None:
        with self._lock:
            self.feed.verdict(part_id, word, *pixels, **changes)

    def get(self, path: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as err:
            with err:
                return err.code, err.read()

    def counter(self, name: str) -> int:
        return self.health.counters[name] if self.health else -1

    def _beat(self) -> None:
        while not self._stopping.is_set():
            with self._lock:
                if self._beating.is_set():
                    self.feed.beat()
                for _, message in self._inbox.poll(0):
                    if isinstance(message, Health):
                        self.health = message
            self._stopping.wait(0.1)

    def close(self) -> None:
        self._stopping.set()
        self._beats.join()
        let_go(self.process)
        self.feed.close()
        remove_root(self.config)
