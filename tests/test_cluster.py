"""Work dealt out to Ray: the answers of one process, and a worker that dies is replaced.

Skipped where the extra `cluster` is not installed.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.recorded_world import Recorded

needs_ray = pytest.mark.skipif(
    find_spec("ray") is None, reason="Ray is not installed: pip install .[cluster]"
)
pytestmark = pytest.mark.timeout(300)  # a cluster takes its time to come up
TIMED = ("seconds", "parts_per_s", "engine_share")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command as a process of its own: Ray starts threads and processes that must end with it."""
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, **environment}, cwd=Path(__file__).parent.parent,
    )  # fmt: skip


def table(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What `--json` printed, but for what is measured in seconds."""
    assert done.returncode in (0, 1), done.stderr
    found = json.loads(done.stdout)
    found.pop("stages_ms")
    assert all(found["replay"].pop(name) is not None for name in TIMED)
    return found


@needs_ray
def test_two_workers_give_the_table_of_one_process(tmp_path: Path) -> None:
    world = Recorded(tmp_path)
    recordings = [str(world.record(f"r{n}", range(12 * n, 12 * n + 12))) for n in range(3)]
    command = ["-m", "appliance", "replay", *recordings, "--config", str(world.config_path)]
    for options in ([], ["--recipe", "net/2"]):
        alone = table(run(*command, *options, "--json"))
        dealt = run(*command, *options, "--json", "--ray", "local:2")
        assert table(dealt) == alone
        assert alone["parts"] == 36
        assert "3 of 3" in dealt.stderr
    assert alone["replay"]["flips"], "another limit flips something, in one table as in the other"


DIES_ONCE = """
import os, signal, sys
from pathlib import Path
from appliance.cluster import deal
from appliance.errors import ConfigError

def work(call):
    number, marker = call
    if number == 1 and (marker == "always" or not Path(marker).exists()):
        if marker != "always":
            Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 9:
        raise ConfigError("call 9", "something", "nothing")
    return number * number, os.environ.get("RAY_USAGE_STATS_ENABLED")

print("=", list(deal(work, [(n, sys.argv[1]) for n in range(4)], "local:2")))
for calls in ([(9, "")], [(1, "always")]):
    try:
        list(deal(work, calls, "local:1"))
    except ConfigError as err:
        print("=", err)
"""


@needs_ray
def test_a_worker_that_dies_is_replaced_and_errors_come_back_in_words(tmp_path: Path) -> None:
    done = run("-c", DIES_ONCE, str(tmp_path / "died"))
    assert done.returncode == 0, done.stderr
    said = [line[2:] for line in done.stdout.splitlines() if line.startswith("= ")]
    answers, wrong, lost = said
    assert answers == str([(n * n, "0") for n in range(4)])
    assert (tmp_path / "died").exists()
    assert wrong == "call 9: expected something, got nothing"
    assert lost.startswith("--ray: expected a worker that lives to answer call 1 (4 tries), got ")


@needs_ray
def test_held_out_images_are_scored_the_same_by_two_workers(tmp_path: Path) -> None:
    import cv2
    import numpy as np

    from tests.networks import write_network_bundle

    write_network_bundle(tmp_path / "bundle")
    for folder, count, level in (
        ("train/good", 8, 90),
        ("test/good", 20, 90),
        ("test/bad", 15, 180),
    ):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for number in range(count):
            rng = np.random.default_rng(hash(folder) % 1000 + number)
            image = np.clip(rng.normal(level, 12, (64, 96)), 0, 255).astype(np.uint8)
            cv2.imwrite(str(tmp_path / "data" / folder / f"{number}.png"), image)
    command = ["-m", "appliance", "evaluate", str(tmp_path / "bundle"), str(tmp_path / "data")]
    alone = run(*command, "--official", "--json")
    dealt = run(*command, "--official", "--json", "--ray", "local:2")
    assert alone.returncode == dealt.returncode == 0, dealt.stderr
    assert json.loads(alone.stdout) == json.loads(dealt.stdout)


def test_without_ray_the_extra_is_named(tmp_path: Path) -> None:
    world = Recorded(tmp_path)
    recording = str(world.record("r", range(2)))
    block = "import sys; sys.modules['ray'] = None; from appliance.__main__ import main; main()"
    done = run("-c", block, "replay", recording, "--config", str(world.config_path), "--ray", "x:1")
    assert done.returncode == 78
    assert "--ray: expected the extra `cluster` installed" in done.stderr
