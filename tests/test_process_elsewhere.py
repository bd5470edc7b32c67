"""infer on another box: pixels and maps travel over CURVE, and the line lacks nothing for it."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli_w

from appliance.codes import Word
from appliance.messages import Scored
from appliance.recording import Recording
from appliance.wire import decode
from appliance.wire_keys import curve_keys
from tests.ports import free_port
from tests.recorded_world import check_replay
from tests.rig import PICTURES, Rig, number_of
from tests.waiting import until
from tools.plc_program import Ring

HERE, THERE = "127.0.0.1", "127.0.0.2"
PARTS = 24


def address(host: str) -> str:
    return f"tcp://{host}:{free_port(host)}"


@contextmanager
def box_beside(rig: Rig, settings: dict[str, Any]) -> Iterator[Path]:
    """Another installation with the same recipes and bundles, its own sockets and rings; each box
    knows the key of the other."""
    root = Path(tempfile.mkdtemp(prefix="insp", dir="/tmp"))
    try:
        for folder in (rig.config.recipes_dir, rig.config.bundles_dir):
            shutil.copytree(folder, root / folder.relative_to(rig.root))
        here, there = rig.config.keys_dir, root / rig.config.keys_dir.relative_to(rig.root)
        for keys in (here, there):
            curve_keys(keys, "box")
            (keys / "allowed").mkdir()
            shutil.copy(here / "box.key", keys / f"{HERE}.key")
            shutil.copy(here / "box.key", keys / "allowed" / "here.key")
        shutil.copy(there / "box.key", here / f"{THERE}.key")
        shutil.copy(there / "box.key", here / "allowed" / "there.key")
        (root / "config.toml").write_text(tomli_w.dumps({**settings, "rings": str(root / "rings")}))
        yield root
    finally:
        shutil.rmtree(root)


def test_a_worker_of_another_box_shares_the_parts_and_all_is_recorded() -> None:
    remote = {
        "frames-top": address(HERE),
        "scored": address(HERE),
        "prepare-infer-1": address(THERE),
        "health-infer-1": address(THERE),
    }
    changes = {
        "engine": {"kind": "null", "null_delay_ms": 40.0, "workers": 2},
        "plc": {"results": "ring"},
        "deadline_ms": 1000,
        "wire": {"remote": remote},
    }
    with Rig(changes, {"rate_hz": 20.0, "record": "all"}) as rig:
        settings = rig._settings  # pyright: ignore[reportPrivateUsage]
        with box_beside(rig, settings) as root:
            rig.start()
            command = [sys.executable, "-m", "appliance", "process", "infer", "--name", "1"]
            with rig.log.open("ab") as log:
                worker = subprocess.Popen(
                    [*command, "--config", str(root / "config.toml")], stdout=log, stderr=log
                )
            try:
                with rig.ear("camera:top", "infer:0", "decide", "record") as ear:
                    until("Ready", lambda: ear.is_ready, 60)
                    _, parts = rig.drive(parts=PARTS, rate_hz=20.0, ring=Ring.PLC)
                    until("every row", lambda: ear.has_rows(PARTS), 60)
                    assert ear.unaccounted == 0
                rows = {row.verdict.acq_id: row.verdict for row in rig.rows()}
                for part in parts:
                    margin = rows[part.acq_id].margin
                    assert margin is not None and part.word == Word.OK, rows[part.acq_id]
                    assert number_of(margin) == (part.tag - 1) % PICTURES
                assert rig.stop() == 0
            finally:
                worker.terminate()
                worker.wait(10)
        (recording,) = rig.config.recordings_dir.iterdir()
        said = [decode(entry.data) for entry in Recording(recording).entries("/tape/scored")]
        workers = {message.worker for message in said if isinstance(message, Scored)}
        assert workers == {"0", "1"}, "both boxes scored some"
        topics = [topic for topic, _ in Recording(recording).image_keys]
        assert topics.count("/camera/top") == topics.count("/map/top") == PARTS
        check_replay(rig.config, len(rows))
