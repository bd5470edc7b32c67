"""Wrong configuration, files and devices, given to the real processes.

Configuration ends with one clear line and exit 78. Anything else keeps the box from being Ready,
is named in its notes, ends no process, and is forgotten once it is mended.
"""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from appliance.bundle import hash_file, load_bundle
from appliance.codes import OfflineReason, Word
from tests.rig import Ear, Rig, numbered
from tests.waiting import until

EXIT_CONFIG = 78


def run_to_end(rig: Rig, *command: str) -> subprocess.CompletedProcess[str]:
    """One command of the line that must end by itself."""
    line = [sys.executable, "-m", "appliance", *command, "--config", str(rig.config_path)]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)


def check_refused(done: subprocess.CompletedProcess[str], *says: str) -> None:
    """Exit 78, nothing on stdout, one line that says it all, no traceback."""
    assert done.returncode == EXIT_CONFIG, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    # What had just begun to start may be slow to stop on a loaded machine: said, but no complaint.
    chatter = ("level=info", "does not stop")
    lines = done.stderr.splitlines()
    complaints = [line for line in lines if not any(word in line for word in chatter)]
    assert len(complaints) == 1, done.stderr
    for word in says:
        assert word in complaints[0], complaints[0]


@pytest.fixture
def rig():
    """An installation that is never started."""
    with Rig(pictures=2) as rig:
        yield rig


@pytest.mark.parametrize(
    ("command", "old", "new", "says"),
    [
        (("run",), "deadline_ms", "dedline_ms", ("config.toml", "dedline_ms", "only known keys")),
        (("process", "decide"), "deadline_ms", "dedline_ms", ("config.toml", "dedline_ms")),
        (("config", "check"), "deadline_ms", "dedline_ms", ("config.toml", "dedline_ms")),
        (("run",), "deadline_ms = 200", 'deadline_ms = "x"', ("deadline_ms", "`int`", "`str`")),
        (("run",), "deadline_ms = 200", "deadline_ms = 0", ("deadline_ms", "1 to 60000", "got 0")),
        (("run",), 'kind = "null"', 'kind = "magic"', ("engine.kind", "magic")),
        (("run",), "[engine]", "[engine", ("config.toml", "expected valid TOML")),
    ],
)
def test_a_wrong_key_is_one_line_and_78(
    rig: Rig, command: tuple[str, ...], old: str, new: str, says: tuple[str, ...]
) -> None:
    text = rig.config_path.read_text()
    assert old in text
    rig.config_path.write_text(text.replace(old, new, 1))
    check_refused(run_to_end(rig, *command), *says)


def test_no_configuration_at_all(rig: Rig) -> None:
    rig.config_path.unlink()
    check_refused(run_to_end(rig, "run"), str(rig.config_path), "no such file")


def test_a_port_in_use_is_named_before_anything_is_started(rig: Rig) -> None:
    with socket.create_server(("127.0.0.1", rig.port)):
        check_refused(run_to_end(rig, "run"), "plc.port", f"127.0.0.1:{rig.port}", "in use")
    assert not rig.config.data_dir.exists(), "something was written"


@pytest.mark.parametrize("content", [None, b"not a library"], ids=["missing", "no library"])
def test_a_producer_that_cannot_be_loaded_ends_the_run(content: bytes | None) -> None:
    pytest.importorskip("harvesters")
    with Rig(camera={"kind": "genicam", "producer": "/nowhere"}) as rig:
        producer = rig.root / "vendor.cti"
        if content is not None:
            producer.write_bytes(content)
        text = rig.config_path.read_text().replace("/nowhere", str(producer))
        rig.config_path.write_text(text)
        done = run_to_end(rig, "run")
        check_refused(done, "camera.top.producer", str(producer), "GenTL producer")


STARTING = {OfflineReason.STARTING, OfflineReason.CAMERA}
BUNDLE = {OfflineReason.NO_RECIPE, OfflineReason.ENGINE, OfflineReason.PASSPORT}
LINE = ("camera", "infer", "decide", "record")
HEARD = ("camera:top", "infer:0", "decide", "record")


def check_offline(ear: Ear, offline: set[OfflineReason], *says: str) -> None:
    """Not Ready for one of these reasons, and the notes say all of this."""

    def is_shown() -> bool:
        words, notes = ear.listen().words, " ".join(ear.notes)
        return words is not None and words.offline in offline and all(s in notes for s in says)

    try:
        until(f"note with {says}", is_shown, 40)
    except AssertionError as err:
        raise AssertionError(f"{err}; shown: {ear.words}") from err
    assert not ear.is_ready


def pids(rig: Rig) -> dict[str, int]:
    """Of all processes of the line."""
    assert rig.handle is not None and rig.handle.poll() is None
    return {process: rig.pid(process) for process in LINE}


def edit(path: Path) -> None:
    """One bit is another one."""
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)


def test_a_picture_and_a_bundle_that_are_none_are_named_and_mended() -> None:
    # The camera process renews itself after 20 openings that failed, so let it try less often.
    with Rig(pictures=4, camera={"backoff_max_s": 2.0}) as rig:
        bundle = rig.config.bundles_dir / "null"
        copies = Path(shutil.copytree(bundle, rig.root / "copies"))
        picture, labels, manifest = (
            rig.root / "pictures" / "0002.png", bundle / "segments.png", bundle / "manifest.json",
        )  # fmt: skip
        picture.write_bytes(b"not an image")
        edit(labels)
        rig.start()
        with rig.ear(*HEARD) as ear:
            check_offline(ear, BUNDLE | STARTING, str(labels), "SHA-256", str(picture), "an image")
            before = pids(rig)

            (copies / labels.name).replace(labels)
            check_offline(ear, STARTING, str(picture), "an image")
            assert cv2.imwrite(str(rig.root / "other.png"), numbered(2))
            (rig.root / "other.png").replace(picture)
            until("Ready", lambda: ear.is_ready, 40)
            files = (str(labels), str(picture))
            until(
                "no note of the files",
                lambda: ear.listen().words and not any(f in n for n in ear.notes for f in files),
            )
            assert pids(rig) == before, "a process was restarted"

            # The same again where decide is well and infer alone starts afresh.
            os.truncate(manifest, manifest.stat().st_size // 2)
            rig.kill("infer")
            check_offline(ear, BUNDLE, str(manifest), "expected JSON")
            before = pids(rig)
            (copies / manifest.name).replace(manifest)
            until("Ready", lambda: ear.is_ready, 40)
            assert pids(rig) == before, "a process was restarted"
            _, parts = rig.drive(parts=4)
            assert {part.word for part in parts} == {Word.OK}
            assert ear.unaccounted == 0
        assert rig.stop() == 0
        assert "Traceback" not in rig.log.read_text()


def test_a_segment_map_of_another_size_is_named() -> None:
    """Its hashes are right and the recipe names it: only the sizes do not fit."""
    with Rig(pictures=2) as rig:
        bundle = rig.config.bundles_dir / "null"
        labels, manifest = bundle / "segments.png", bundle / "manifest.json"
        old_id = load_bundle(bundle).id
        old_hash = hash_file(labels)
        assert cv2.imwrite(str(labels), np.zeros((32, 48), np.uint8))
        manifest.write_text(manifest.read_text().replace(old_hash, hash_file(labels)))
        recipe = rig.config.recipes_dir / "cell" / "1.toml"
        recipe.write_text(recipe.read_text().replace(old_id, hash_file(manifest)))
        rig.start()
        with rig.ear(*HEARD) as ear:
            check_offline(ear, BUNDLE, str(labels), "expected 64x64 labels, got 48x32")
            assert len(pids(rig)) == len(LINE)


def test_no_camera_is_a_state_and_no_end() -> None:
    pytest.importorskip("harvesters")
    camera = {"kind": "genicam", "producer": "viky", "device": {"serial_number": "9"}}
    with Rig(camera=camera) as rig:
        rig.start()
        with rig.ear(*HEARD) as ear:
            check_offline(ear, STARTING, "serial_number 9", "got 0 among Viky 0; Viky 1; Viky 2")
            assert len(pids(rig)) == len(LINE)
            assert not ear.health["camera:top"].is_serving
        assert "Traceback" not in rig.log.read_text()
