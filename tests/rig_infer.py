"""The real infer process with real peers: the test plays camera and decide."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import tomli_w

from appliance.bundle import Bundle
from appliance.codes import Reason
from appliance.config import load_config
from appliance.frames import RingReader, RingWriter
from appliance.messages import (
    FrameReady,
    Health,
    InferFailed,
    Prepare,
    Prepared,
    Swap,
)
from appliance.recipe import Limits, Recipe, View, load_recipe, write_recipe
from appliance.wire import Inbox, Wiring
from tests.networks import write_network_bundle
from tests.waiting import PATIENCE_S, until

T = TypeVar("T")
SLOTS = 16


class Rig:
    """An installation, its infer process, and everybody else around it."""

    def __init__(self, cameras: tuple[str, ...] = ("top",), **engine: Any) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="insp", dir="/tmp"))
        settings: dict[str, Any] = {
            "root": ".",
            "deadline_ms": 200,
            "camera": [{"name": name, "kind": "files", "folder": "x"} for name in cameras],
            "engine": {"kind": "onnx", "threads": 1, **engine},
        }
        self.config_path = self.root / "config.toml"
        self.config_path.write_text(tomli_w.dumps(settings))
        self.config = load_config(self.config_path)
        self.wiring = Wiring(self.config.runtime_dir)
        self.rings = {
            name: RingWriter(self.config.rings_dir, f"frame-{name}", SLOTS, 50_000)
            for name in cameras
        }
        self.frames = {name: self.wiring.sender("frames", name) for name in cameras}
        self.orders = self.wiring.sender("prepare", "infer:0")
        self.scored = self.wiring.receiver("scored")
        self.healths = self.wiring.receiver("health", "infer:0")
        self.inbox = Inbox(self.scored, self.healths)
        self.reader = RingReader(self.config.rings_dir)
        self.health: Health | None = None
        self.came: list[Any] = []
        self.log = (self.root / "log").open("wb")
        self.process: subprocess.Popen[bytes] | None = None
        self.sent = 0
        self.setup_hash = ""
        self.prepared: Prepared | None = None

    def start(self) -> "Rig":
        command = [sys.executable, "-m", "appliance", "process", "infer", "--name", "0"]
        self.process = subprocess.Popen(
            [*command, "--config", str(self.config_path)], stderr=self.log, stdout=self.log
        )
        self.until("health", lambda: self.health)
        return self

    def until(self, what: str, check: Callable[[], T], seconds: float = PATIENCE_S) -> T:
        return until(what, check, seconds, between=self.listen)

    def listen(self) -> None:
        """Take in what comes within 20 ms."""
        for receiver, message in self.inbox.poll(20):
            if receiver is self.healths:
                assert isinstance(message, Health)
                self.health = message
            else:
                self.came.append(message)

    def said(self) -> str:
        return (self.root / "log").read_text()

    def answer(self) -> Any:
        return self.until("answer", lambda: self.came and [self.came.pop(0)])[0]

    def recipe(self, bundle: Bundle, name: str = "cell", **views: View) -> tuple[str, str]:
        """Written to disk: name and set-up hash."""
        recipe = Recipe(
            id=name,
            version=1,
            bundle=bundle.id,
            bundle_dir=bundle.folder.name,
            decides="map_max",
            limits=Limits(t1=1, t2=2),
            camera=views,
        )
        write_recipe(self.config, recipe)
        return f"{name}/1", load_recipe(self.config, f"{name}/1").setup_hash

    def order(self, order: Prepare | Swap) -> None:
        self.until("taker of the order", lambda: self.orders.send(order))

    def prepare(self, recipe: tuple[str, str]) -> Any:
        self.order(Prepare(recipe=recipe[0], setup_hash=recipe[1]))
        return self.answer()

    def use(self, recipe: tuple[str, str]) -> Prepared:
        prepared = self.prepare(recipe)
        assert isinstance(prepared, Prepared), prepared
        self.order(Swap(setup_hash=recipe[1]))
        self.until("swap", lambda: self.health and self.health.setup_hash == recipe[1])
        return prepared

    def show(self, picture: np.ndarray, setup_hash: str, camera: str = "top", **more: Any) -> int:
        """Put it into the ring and tell infer, as a folder camera does; returns the part."""
        self.sent += 1
        ready = FrameReady(
            camera=camera,
            part_id=self.sent,
            frame_id=1000 + self.sent,
            setup_hash=setup_hash,
            age_ns=0,
            **{"pixels": self.rings[camera].put(picture), "is_simulated": True, **more},
        )
        self.until("room for a frame", lambda: self.frames[camera].send(ready))
        return self.sent

    def exit_code(self) -> int:
        process = self.process
        assert process is not None
        self.until("end of the process", lambda: process.poll() is not None)
        return process.returncode

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()
        self.wiring.close()
        for ring in self.rings.values():
            ring.close()
        shutil.rmtree(self.config.rings_dir, ignore_errors=True)
        shutil.rmtree(self.root)


def expect_failure(answer: Any, part: int, reason: Reason, text: str) -> InferFailed:
    assert isinstance(answer, InferFailed)
    assert (answer.part_id, answer.frame_id, answer.reason) == (part, 1000 + part, reason)
    assert text in answer.detail
    return answer


@pytest.fixture
def rig(request):
    made = Rig(**getattr(request, "param", {}))
    yield made
    made.close()


@pytest.fixture(scope="module")
def line():
    """One infer for all tests that only show it frames; a network bundle is in force."""
    made = Rig()
    bundle = write_network_bundle(made.config.bundles_dir / "b")
    recipe = made.recipe(bundle)
    made.start()
    made.prepared = made.use(recipe)
    made.setup_hash = recipe[1]
    yield made
    made.close()
