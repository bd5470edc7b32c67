"""The pictures of the tool in docs/: `python -m tests.tool_pictures`. All of it is drawn."""

import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page, sync_playwright

from appliance.audit import AuditJournal
from appliance.recipe import load_recipe
from calibration.publish import publish, use
from tests.lesson_world import School
from tests.rig import until
from tests.tool_world import SECRET, Shop, free_port
from tools.draw_parts import DEFECTS, SIDE_PX, draw

_SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
IMAGES = Path(__file__).parent.parent / "docs" / "images"


def main() -> None:
    """One box for what needs no network, and one for Segments and Teach."""
    shop = Shop(parts=1600, pictures=240)
    try:
        shop.judge(1, 260)
        base = load_recipe(shop.config, "plate/1")
        journal = AuditJournal(shop.config)
        publish(
            shop.config, journal, base.recipe, (-0.6, 1.5), who="max",
            reason="260 plates of week 12, agreed with quality",
        )  # fmt: skip
        use(shop.config, "plate/1", "plate/2")
        shop.start()
        with _browser() as browser:
            for scheme in _SCHEMES:
                _take(_page(browser, scheme), shop, "" if scheme == "light" else "-dark")
    finally:
        shop.close()
    _teach_and_paint()


def _take(page: Page, shop: Shop, suffix: str) -> None:
    _enter(page, shop.url)
    page.wait_for_selector(".part-row")
    page.get_by_role("button", name="NG", exact=True).click()
    page.wait_for_selector(".part-row:not(.is-ng)", state="detached")
    page.locator(".part-row").nth(3).click()
    page.wait_for_selector(".part-word")
    _shot(page, f"tool-parts{suffix}")
    page.goto(f"{shop.url}/calibrate")
    page.wait_for_selector(".chart")
    box = page.locator(".chart svg").bounding_box()
    handle = page.locator(".chart-limit.is-t2").bounding_box()
    assert box is not None and handle is not None
    page.mouse.move(handle["x"] + 1, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(handle["x"] - 60, box["y"] + 60, steps=6)
    page.mouse.up()
    page.get_by_label("Escapes at most, %").fill("20")
    _shot(page, f"tool-calibrate{suffix}")
    page.goto(f"{shop.url}/recipes")
    page.wait_for_selector(".version")
    _shot(page, f"tool-recipes{suffix}")
    for name in ("health", "audit"):
        page.goto(f"{shop.url}/{name}")
        page.wait_for_selector(".panel")
        _shot(page, f"tool-{name}{suffix}")


def _teach_and_paint() -> None:
    """A second box, with a small real network: its map is how bright the plate is."""
    root = Path(tempfile.mkdtemp(prefix="insp", dir="/tmp"))
    kinds = ("good", "good", *DEFECTS, "good", "") * 22
    port = free_port()
    settings = f'[record]\nimages = "all"\n[hmi]\nis_enabled = false\ntool_port = {port}\n'
    school = School(
        root, kinds, settings, net=(96, 96), size=(SIDE_PX, SIDE_PX),
        picture=lambda part_id, kind: draw(7, kind or "good", part_id),
    )  # fmt: skip
    command = [sys.executable, "-m", "appliance", "process", "tool", "--config"]
    tool = subprocess.Popen([*command, str(root / "config.toml")])
    url = f"http://127.0.0.1:{port}"
    try:
        until("the tool", lambda: _answers(url), 60)
        with _browser() as browser:
            for scheme in _SCHEMES:
                page = _page(browser, scheme)
                _enter(page, url)
                suffix = "" if scheme == "light" else "-dark"
                page.goto(f"{url}/segments")
                page.wait_for_selector(".painter-canvas")
                _paint(page, is_first=not suffix)
                _shot(page, f"tool-segments{suffix}")
                page.goto(f"{url}/teach")
                page.wait_for_selector(".estimates")
                page.get_by_label("Newest OK parts nobody has judged").fill("20")
                page.wait_for_selector(".teach-gallery figure")
                _shot(page, f"tool-teach{suffix}")
    finally:
        tool.terminate()
        tool.wait(20)
        school.people.close()
        shutil.rmtree(root, ignore_errors=True)


def _paint(page: Page, is_first: bool) -> None:
    canvas = page.locator(".painter-canvas").bounding_box()
    assert canvas is not None

    def drag(left: float, top: float, right: float, bottom: float) -> None:
        page.mouse.move(canvas["x"] + left * canvas["width"], canvas["y"] + top * canvas["height"])
        page.mouse.down()
        page.mouse.move(
            canvas["x"] + right * canvas["width"], canvas["y"] + bottom * canvas["height"], steps=4
        )
        page.mouse.up()

    def named(place: int, name: str) -> None:
        box = page.get_by_label("Name of the region").nth(place)
        box.fill(name)
        box.blur()

    page.get_by_role("button", name="Rectangle", exact=True).click()
    named(0, "conveyor")
    named(1, "plate")
    drag(0.1, 0.12, 0.9, 0.88)
    page.get_by_role("button", name="Add region", exact=True).click()
    named(2, "window")
    page.get_by_role("button", name="Brush", exact=True).click()
    page.get_by_label("Size", exact=True).fill("30")
    drag(0.5, 0.53, 0.5, 0.56)
    page.locator(".region-pick").last.click()
    page.get_by_role("button", name="Rectangle", exact=True).click()
    drag(0.43, 0.78, 0.6, 0.86)
    if is_first:
        page.get_by_role("button", name="Score 24 parts").click()
        page.wait_for_selector(".region-scores table", timeout=120_000)
        page.get_by_role("button", name="Fit the forest to this map").click()
        page.wait_for_selector("text=Propose this bundle", timeout=300_000)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/login", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


@contextmanager
def _browser() -> Generator[Browser]:
    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        yield browser
        browser.close()


def _page(browser: Browser, scheme: Literal["light", "dark"]) -> Page:
    return browser.new_context(
        viewport={"width": 1280, "height": 800}, color_scheme=scheme
    ).new_page()


def _enter(page: Page, url: str) -> None:
    page.goto(url)
    page.fill("input[name=name]", "eva")
    page.fill("input[name=password]", SECRET)
    page.click("button[type=submit]")
    page.wait_for_selector(".who")


def _shot(page: Page, name: str) -> None:
    time.sleep(1.5)
    page.screenshot(path=IMAGES / f"{name}.png")


if __name__ == "__main__":
    main()
