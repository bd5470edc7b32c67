"""The live page in a real browser, fed by real messages."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from appliance.codes import OfflineReason, Word
from tests.guest import needs_chromium
from tests.line_feed import blob
from tests.rig_hmi import Box, frame
from tests.waiting import until


@pytest.fixture
def box() -> Iterator[Box]:
    box = Box()
    yield box
    box.close()


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
@needs_chromium
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
    until("two pictures", lambda: seen.page.locator(".card .base[src]").count() == 2)
    assert seen.page.locator(".card-title").all_inner_texts()[:3] == ["Part 5", "Part 2", ""]
    # All fits on the panel.
    assert seen.page.evaluate(
        "() => document.documentElement.scrollHeight <= 800 && document.body.scrollWidth <= 1280"
    )
    seen.page.screenshot(path=tmp_path / "live.png")
    assert seen.complaints == []
    assert seen.hosts == {f"127.0.0.1:{box.port}"}


@pytest.mark.browser
@needs_chromium
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
@needs_chromium
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
@needs_chromium
def test_a_page_outlives_a_restart_of_its_process(box: Box, watch: Callable[..., Watched]) -> None:
    """It must not go on showing the last OK, and comes back without a hand at the panel."""
    box.start()
    seen = watch(box)
    box.verdict(box.next_part(), Word.OK, frame(90), blob())
    seen.until(".word", "OK")
    box.stop()
    seen.page.wait_for_selector(".deaf", state="visible")
    box.start()
    seen.page.wait_for_selector(".deaf", state="hidden", timeout=60_000)

    def shows_the_next() -> bool:
        box.verdict(box.next_part(), Word.NG, frame(60), blob())
        return seen.text(".word") == "NG"

    until("the next verdict", shows_the_next)
    assert seen.page.locator(".deaf").is_hidden()


@pytest.mark.browser
@needs_chromium
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
@needs_chromium
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
    until("opacity", lambda: opacity(seen) == "0.25")
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
@needs_chromium
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
@needs_chromium
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
@needs_chromium
def test_it_stops_while_browsers_look_on(box: Box, watch: Callable[..., Watched]) -> None:
    box.start()
    watch(box)
    watch(box)
    errors = box.stop()
    assert "Traceback" not in errors


@pytest.mark.browser
@needs_chromium
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
    until("update", lambda: updates)
    updates.clear()
    began = time.monotonic()
    for part_id in range(1, 501):
        box.verdict(part_id, Word.OK, frame(part_id % 200))
    seen.until(".part-title", "Part 500")
    elapsed = time.monotonic() - began
    until("verdicts", lambda: box.counter("verdicts") + box.counter("skipped") == 500)
    assert len(updates) < 25 * elapsed + 25  # an update and its acknowledgement per turn
    assert seen.complaints == []
