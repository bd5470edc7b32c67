"""The process of the live page, asked over HTTP."""

import contextlib
import http.client
import re
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from appliance.archive import Archive, image_path
from appliance.codes import Word
from appliance.frames import RingReader
from appliance.store import Store
from tests.line_feed import blob
from tests.rig_hmi import Box, frame
from tests.waiting import until


@pytest.fixture
def box() -> Iterator[Box]:
    box = Box()
    yield box
    box.close()


def test_a_port_in_use_is_a_configuration_error_in_one_line(box: Box) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", box.port))
        other.listen()
        code = "from appliance.hmi import main\n" + (
            "import sys; from pathlib import Path; from appliance.service import run_process\n"
            "sys.exit(run_process(main, 'hmi', Path(sys.argv[1]), '', False))"
        )
        run = subprocess.run(
            [sys.executable, "-c", code, str(box.config.root_dir / "config.toml")],
            capture_output=True,
            text=True,
            check=False,
        )
    assert run.returncode == 78
    assert len(run.stderr.strip().splitlines()) == 1
    assert "hmi.port" in run.stderr
    assert f"127.0.0.1:{box.port}" in run.stderr
    assert "in use" in run.stderr


def test_the_process_starts_serves_and_ends_cleanly(box: Box) -> None:
    box.start()
    status, page = box.get("/")
    assert status == 200
    assert b"inspectd" in page
    assert box.health is not None
    assert box.health.is_serving
    errors = box.stop()
    assert "Traceback" not in errors
    assert "error" not in errors.lower()


def test_no_network_of_a_trainer_comes_along() -> None:
    code = (
        "import sys, appliance.hmi;"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'xgboost') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def grey_of(jpeg: bytes) -> int:
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture is not None
    return round(float(picture.mean()))


def test_images_come_from_the_ring_once_for_all_clients(box: Box) -> None:
    box.start()
    box.verdict(1, Word.NG, frame(40), blob())
    box.verdict(2, Word.OK, frame(200), blob())
    until("verdicts", lambda: box.counter("verdicts") == 2)
    for _ in range(3):
        assert grey_of(box.get("/part/1.jpg?e=4")[1]) == 40
        assert grey_of(box.get("/part/2.jpg?e=4")[1]) == 200
        status, heat = box.get("/part/1/heat.png?e=4")
        assert (status, heat[:4]) == (200, b"\x89PNG")
    until("pictures", lambda: box.counter("pictures") == 2)
    assert box.get("/part/77.jpg")[0] == 404
    assert box.get("/part/77/heat.png")[0] == 404
    assert box.get("/regions/nothing.png")[0] == 404
    assert box.get("/part/../../etc/passwd.jpg")[0] in (404, 422)
    status, regions = box.get(f"/regions/{'ab' * 8}.png")
    assert (status, regions[:4]) == (200, b"\x89PNG")


def test_an_overwritten_frame_is_no_image_of_another_part(box: Box) -> None:
    box.start()
    box.verdict(1, Word.OK, frame(40))
    for _ in range(40):
        box.feed.frames.put(frame(99))
    until("verdicts", lambda: box.counter("verdicts") == 1)
    assert box.get("/part/1.jpg")[0] == 404


def test_a_part_of_yesterday_comes_from_the_archive(box: Box) -> None:
    config = box.config
    archive = Archive(
        config.data_dir,
        config.record,
        RingReader(config.rings_dir),
        time.monotonic_ns,
        lambda _: 10**12,
    )
    old = box.feed.verdict(3, Word.NG, frame(123))
    archive.offer(old)
    archive.close()
    assert archive.collect() == {3: image_path(3, old.opened_utc_ns)}
    store = Store(config.data_dir / "parts.db")
    store.add([old])
    store.close()
    for _ in range(40):
        box.feed.frames.put(frame(0))
    box.start()
    until("picture", lambda: box.get("/part/3.jpg")[0] == 200)
    assert grey_of(box.get("/part/3.jpg")[1]) == 123
    assert box.get("/part/3/heat.png")[0] == 404  # maps are not archived
    with sqlite3.connect(store.where, timeout=1) as writer:  # the reader blocks no writer
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("ROLLBACK")
    writer.close()


def test_a_database_that_is_no_database_harms_nobody(box: Box) -> None:
    box.config.data_dir.mkdir()
    (box.config.data_dir / "parts.db").write_bytes(b"nonsense" * 1000)
    process = box.start()
    assert box.get("/")[0] == 200
    assert box.get("/part/3.jpg")[0] == 404
    assert process.poll() is None


def peak_kb(process: "subprocess.Popen[str]") -> int:
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
    assert found is not None
    return int(found[1])


def test_a_huge_upload_takes_no_memory(box: Box) -> None:
    process = box.start()
    assert box.get("/")[0] == 200
    before = peak_kb(process)
    connection = http.client.HTTPConnection("127.0.0.1", box.port, timeout=60)
    connection.putrequest("POST", "/")
    connection.putheader("Content-Length", str(1 << 30))
    connection.endheaders()
    with contextlib.suppress(OSError):  # it may hang up
        for _ in range(128):
            connection.send(bytes(1 << 20))
    connection.close()
    assert box.get("/")[0] == 200 and process.poll() is None
    assert peak_kb(process) - before < 32_000
