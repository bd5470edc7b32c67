"""The real page: the real process, fed by real messages, looked at in a real browser."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from appliance.archive import Archive, image_path
from appliance.codes import OfflineReason, Word
from appliance.config import Config
from appliance.frames import RingReader
from appliance.messages import Health
from appliance.store import Store
from appliance.wire import Inbox
from tests.line_feed import Feed, blob, remove_root, write_root
from tests.waiting import until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def frame(grey: int) -> np.ndarray:
    """A picture whose mean tells which part it shows."""
    return np.full((240, 320), grey, np.uint8)


def wait(holds: Callable[[], Any], seconds: float = 15, what: str = "") -> Any:
    return until(what or "answer", holds, seconds)


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
        wait(lambda: self.health, 30, "the page reports no health")
        return self.process

    def stop(self) -> str:
        """End the process as the supervisor does; what it wrote to stderr."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=10)
        assert self.process.returncode == 0, errors
        return errors

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
        if self.process is not None:
            if self.process.poll() is None:
                self.process.terminate()
            try:
                self.process.communicate(timeout=10)
            finally:
                self.process.kill()
        self.feed.close()
        remove_root(self.config)


@pytest.fixture
def box() -> Iterator[Box]:
    box = Box()
    yield box
    box.close()


# ---- without a browser ---------------------------------------------------------------------


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
    began = time.monotonic()
    errors = box.stop()
    assert time.monotonic() - began < 5
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
    wait(lambda: box.counter("verdicts") == 2)
    for _ in range(3):
        assert grey_of(box.get("/part/1.jpg?e=4")[1]) == 40
        assert grey_of(box.get("/part/2.jpg?e=4")[1]) == 200
        status, heat = box.get("/part/1/heat.png?e=4")
        assert (status, heat[:4]) == (200, b"\x89PNG")
    wait(lambda: box.counter("pictures") == 2)
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
    wait(lambda: box.counter("verdicts") == 1)
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
    assert wait(lambda: box.get("/part/3.jpg")[0] == 200)
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


# ---- in a browser --------------------------------------------------------------------------

browser_test = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Watched:
    """A page at the size of an operator's panel; what it complains about and what it asks for."""

    def __init__(self, browser: Browser, box: Box, theme: Any = "dark") -> None:
        self.context = browser.new_context(
            viewport={"width": 1280, "height": 800}, color_scheme=theme
        )
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))
        self.page.on("websocket", lambda ws: self.hosts.add(ws.url.split("/")[2]))
        self.page.goto(box.url)
        self.page.wait_for_selector(".word")

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def until(self, selector: str, text: str) -> None:
        """Wait until the element shows this text."""
        self.page.wait_for_function(
            "([s, t]) => document.querySelector(s)?.innerText.includes(t)", arg=[selector, text]
        )

    def classes(self, selector: str) -> set[str]:
        return set((self.page.locator(selector).get_attribute("class") or "").split())


@pytest.fixture(scope="module")
def running() -> Iterator[Box]:
    """One running box for all tests that ask for nothing special of its start."""
    box = Box()
    box.start()
    yield box
    box.close()


@pytest.fixture
def watch(browser: Browser) -> Iterator[Callable[..., Watched]]:
    opened: list[Watched] = []

    def look(box: Box, theme: str = "dark") -> Watched:
        opened.append(Watched(browser, box, theme))
        return opened[-1]

    yield look
    for watched in opened:
        watched.context.close()


@pytest.mark.browser
@browser_test
def test_the_page_shows_the_line(box: Box, watch: Callable[..., Watched], tmp_path: Path) -> None:
    box.start()
    seen = watch(box)
    for part_id, word in enumerate((Word.OK, Word.NG, Word.OK, Word.UNCERTAIN, Word.NG), start=1):
        box.verdict(
            part_id,
            word,
            frame(30 * part_id),
            blob(),
            region_px=(160, 40, 80, 60) if word is Word.NG else None,
        )
        seen.until(".part-title", f"Part {part_id}")
    seen.until(".caption", "Part 5")
    assert seen.text(".word") == "NG"
    assert "is-ng" in seen.classes(".verdict")
    assert seen.text(".reason") == "Region statistics above the limit"
    assert seen.text(".tag") == "Tag 7005"
    assert seen.text(".reason-row >> nth=0") == "segment busbar: q99.5 of supersimplenet is high"
    assert seen.text(".unaccounted") == "0"
    assert "is-ok" in seen.classes(".ledger")
    seen.until(".ledger-row", "6 accepted = 5 verdicts + 1 open")
    assert seen.page.locator(".simulated").is_visible()
    counters = dict(
        zip(
            seen.page.locator(".counters .tile-label").all_inner_texts(),
            seen.page.locator(".counters .tile-value").all_inner_texts(),
            strict=True,
        )
    )
    assert (counters["Triggers"], counters["OK"], counters["NG"]) == ("6", "2", "2")
    assert seen.page.locator(".process-name").all_inner_texts() == [
        "Camera top",
        "Model",
        "Decision",
        "Records",
    ]
    # The picture is the picture of this part, with heat map and worst place over it.
    assert (seen.page.locator(".frame .base").get_attribute("src") or "").startswith("/part/5.jpg")
    shown = seen.page.evaluate(
        "() => [...document.querySelectorAll('.frame img')].map(i => [i.className, i.naturalWidth])"
    )
    assert dict(shown) == {"base": 320, "heat": 512}
    assert seen.page.locator(".frame").evaluate("e => getComputedStyle(e).opacity") == "1"
    frame_box = seen.page.locator(".frame").bounding_box()
    worst = seen.page.locator(".worst").bounding_box()
    assert frame_box is not None
    assert worst is not None
    assert (worst["x"] - frame_box["x"]) / frame_box["width"] == pytest.approx(0.5, abs=0.01)
    assert worst["height"] / frame_box["height"] == pytest.approx(0.25, abs=0.01)
    # The last rejects, newest first.
    wait(lambda: seen.page.locator(".card .base[src]").count() == 2)
    assert seen.page.locator(".card-title").all_inner_texts()[:3] == ["Part 5", "Part 2", ""]
    # All fits on the panel.
    assert seen.page.evaluate(
        "() => document.documentElement.scrollHeight <= 800 && document.body.scrollWidth <= 1280"
    )
    seen.page.screenshot(path=tmp_path / "live.png")
    assert seen.complaints == []
    assert seen.hosts == {f"127.0.0.1:{box.port}"}


@pytest.mark.browser
@browser_test
def test_a_silent_decision_takes_the_green_away(
    running: Box, watch: Callable[..., Watched]
) -> None:
    seen = watch(running)
    running.verdict(running.next_part(), Word.OK, frame(90), blob())
    seen.until(".word", "OK")
    assert "is-ok" in seen.classes(".verdict")
    running.pause()
    seen.until(".word", "DECISION SILENT")
    assert "is-silent" in seen.classes(".verdict")
    assert "is-ok" not in seen.classes(".verdict")
    assert "is-ok" not in seen.classes(".ledger")
    seen.until(".state-name", "DECISION SILENT")
    seen.until(".process-state", "silent for")
    running.resume()
    seen.until(".word", "OK")
    assert seen.complaints == []


@pytest.mark.browser
@browser_test
def test_a_page_that_hears_nothing_covers_itself(
    running: Box, watch: Callable[..., Watched]
) -> None:
    """The page's process is stopped, not ended: the connection stays, nothing comes."""
    process = running.process
    assert process is not None
    seen = watch(running)
    running.verdict(running.next_part(), Word.OK, frame(90))
    seen.until(".word", "OK")
    assert not seen.page.locator(".deaf").is_visible()
    process.send_signal(signal.SIGSTOP)
    seen.page.wait_for_selector(".deaf", state="visible", timeout=5000)
    process.send_signal(signal.SIGCONT)
    seen.page.wait_for_selector(".deaf", state="hidden", timeout=10000)


@pytest.mark.browser
@browser_test
def test_markup_in_what_comes_is_shown_as_text(running: Box, watch: Callable[..., Watched]) -> None:
    seen = watch(running)
    evil = "<img src=x onerror=\"document.title='taken'\"><b>bold</b>"
    running.feed.notes = (evil,)
    running.feed.health_notes = {"record": evil}
    running.verdict(
        running.next_part(),
        Word.NG,
        frame(90),
        part_text=evil,
        detail=evil,
        reasons=(evil,),
        recipe=evil,
    )
    seen.until(".tag", evil)
    seen.until(".notice", evil)
    for selector in (".detail", ".reason-row", ".card-reason", ".recipe"):
        seen.until(selector, evil)
    assert seen.page.title() == "inspectd"
    assert seen.page.locator("img[src=x]").count() == 0
    assert seen.complaints == []
    running.feed.notes, running.feed.health_notes = (), {}


@pytest.mark.browser
@browser_test
def test_opacity_regions_and_colours_are_the_viewers_own(
    running: Box, watch: Callable[..., Watched]
) -> None:
    seen, other = watch(running), watch(running, "light")
    part = running.next_part()
    running.verdict(part, Word.NG, frame(90), blob())
    for page in (seen, other):
        page.until(".caption", f"Part {part}")

    def opacity(watched: Watched) -> str:
        return watched.page.locator(".frame .heat").evaluate("e => e.style.opacity")

    assert opacity(seen) == "0.8"
    seen.page.get_by_label("Heat map").fill("25")
    wait(lambda: opacity(seen) == "0.25")
    assert seen.page.locator(".frame .regions").count() == 0
    seen.page.get_by_label("Regions").fill("60")
    regions = seen.page.locator(".frame .regions")
    assert regions.evaluate("e => e.style.opacity") == "0.6"
    seen.page.get_by_label("Regions").fill("0")
    regions.wait_for(state="detached")

    def theme(watched: Watched) -> str:
        return watched.page.evaluate("() => document.documentElement.dataset.theme")

    assert (theme(seen), theme(other)) == ("dark", "light")
    seen.page.locator(".theme").click()
    assert theme(seen) == "light"
    assert opacity(other) == "0.8"
    seen.page.reload()
    seen.until(".caption", f"Part {part}")
    assert theme(seen) == "light"
    assert opacity(seen) == "0.25"
    assert seen.complaints == other.complaints == []


@pytest.mark.browser
@browser_test
def test_a_touched_reject_stays_while_the_line_goes_on(
    running: Box, watch: Callable[..., Watched]
) -> None:
    seen, other = watch(running), watch(running)
    first, second, third = running.next_part(), running.next_part(), running.next_part()
    running.verdict(first, Word.NG, frame(60), blob(), detail="the first")
    seen.until(".card-title", f"Part {first}")
    seen.page.wait_for_selector(f".card .base[src^='/part/{first}.']")
    running.verdict(second, Word.OK, frame(120), blob())
    seen.until(".caption", f"Part {second}")
    seen.page.locator(".card").first.click()
    seen.until(".caption", f"Part {first}")
    assert seen.text(".detail") == "the first"
    assert seen.page.locator(".pin").is_visible()
    assert seen.text(".why-part") == f"Looking back: Part {first}, NG"
    running.verdict(third, Word.OK, frame(180), blob())
    seen.until(".part-title", f"Part {third}")
    assert seen.text(".word") == "OK"  # the verdict is the live one
    assert seen.text(".caption") == f"Part {first}"
    other.until(".caption", f"Part {third}")
    seen.page.locator(".pin").click()
    seen.until(".caption", f"Part {third}")
    assert seen.complaints == []


@pytest.mark.browser
@browser_test
def test_trouble_is_said_in_words(box: Box, watch: Callable[..., Watched], tmp_path: Path) -> None:
    box.feed.offline = OfflineReason.CAMERA
    box.feed.notes = ("camera top: expected a device, got none",)
    box.feed.health_notes = {"camera:top": "next try in 8 s"}
    box.feed.silent = {"record"}
    box.feed.unaccounted = 2
    box.feed.is_simulated = False
    box.start()
    seen = watch(box)
    box.verdict(1, Word.ERROR)
    seen.until(".word", "ERROR")
    assert seen.text(".sign") == "!"
    assert seen.text(".reason") == "Not judged before the deadline"
    assert seen.text(".margin") == "No score for this part"
    assert seen.text(".state-name") == "Not ready: the camera is not available"
    assert seen.text(".notice") == "camera top: expected a device, got none"
    assert seen.text(".unaccounted") == "2"
    assert "is-ng" in seen.classes(".ledger")
    states = seen.page.locator(".process-state").all_inner_texts()
    assert states == ["not usable", "well", "well", "never heard"]
    assert not seen.page.locator(".simulated").is_visible()
    assert seen.page.locator(".viewer .empty").inner_text() == "No picture"
    seen.page.screenshot(path=tmp_path / "trouble.png")
    assert seen.complaints == []


@pytest.mark.browser
@browser_test
def test_it_stops_while_browsers_look_on(box: Box, watch: Callable[..., Watched]) -> None:
    box.start()
    watch(box)
    watch(box)
    began = time.monotonic()
    errors = box.stop()
    assert time.monotonic() - began < 5
    assert "Traceback" not in errors


@pytest.mark.browser
@browser_test
def test_a_flood_is_thinned_for_the_browser_and_counted_in_full(
    box: Box, watch: Callable[..., Watched]
) -> None:
    """500 verdicts as fast as they go: the page changes ten times a second at most."""
    box.start()
    seen = watch(box)
    seen.until(".state-name", "Ready")
    updates: list[int] = []
    seen.page.on(
        "websocket", lambda ws: ws.on("framereceived", lambda data: updates.append(len(data)))
    )
    seen.page.reload()
    seen.page.wait_for_selector(".word")
    wait(lambda: updates)
    updates.clear()
    began = time.monotonic()
    for part_id in range(1, 501):
        box.verdict(part_id, Word.OK, frame(part_id % 200))
    seen.until(".part-title", "Part 500")
    elapsed = time.monotonic() - began
    wait(lambda: box.counter("verdicts") + box.counter("skipped") == 500)
    assert len(updates) < 25 * elapsed + 25  # an update and its acknowledgement per turn
    assert seen.complaints == []
