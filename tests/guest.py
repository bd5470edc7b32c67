"""People in front of the tool: a real Chromium, and all that goes wrong in it.

The fixtures `browser` and `guest` of tests/conftest.py give them to a test.
"""

import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.rig import Rig
from tests.tool_world import SECRET, Shop
from tools.plc_program import Part

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
expect.set_options(timeout=30_000)  # a busy machine is no failure
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@contextmanager
def chromium() -> Iterator[Browser]:
    """While it is open, nothing in this thread can run an event loop of its own."""
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Guest:
    """One person's browser, and all that went wrong in it."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.url, self.problems = url, []
        self.context: BrowserContext = browser.new_context(
            viewport={"width": 1280, "height": 800}, color_scheme="dark"
        )
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", self._asked)

    problems: list[str]

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.url, "data:")):
            self.problems.append(f"asked {request.url}")

    def log_in(self, name: str, password: str = SECRET) -> "Guest":
        self.page.goto(self.url)
        self.page.fill("input[name=name]", name)
        self.page.fill("input[name=password]", password)
        self.page.click("button[type=submit]")
        return self

    def go(self, address: str) -> Page:
        self.page.goto(f"{self.url}/{address}")
        return self.page

    def press(self, text: str) -> None:
        self.page.get_by_role("button", name=text, exact=True).first.click()

    def approves(self, address: str, recipe: str) -> Page:
        """Opens the verify parts of the newest proposal there, and has it written as `recipe`."""
        page = self.go(address)
        self.press("Open the verify parts")
        expect(page.get_by_text("Verify parts, opening number 1")).to_be_visible()
        page.locator(".proposal").get_by_label("Reason").first.fill("agreed in the meeting")
        self.press("Approve")
        self.told(f"{recipe} is written. The line: has taken it")
        return page

    def told(self, text: str) -> None:
        """A message of the page."""
        expect(self.page.locator(".q-notification").filter(has_text=text).first).to_be_visible()


Enter = Callable[[str], Guest]
"""A name → that person, logged in."""


def ask(shop: Shop, path: str, data: bytes | None = None, **headers: str) -> tuple[int, str]:
    """Without a browser and without following."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *args: Any, **kwargs: Any) -> None:
            return None

    request = urllib.request.Request(f"{shop.url}{path}", data, headers)
    try:
        with urllib.request.build_opener(Stay).open(request, timeout=20) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as err:
        with err:
            return err.code, err.read().decode(errors="replace")


def driven(rig: Rig, count: int) -> list[Part]:
    """The desk PLC in a thread: Playwright keeps a loop of its own in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(rig.drive, parts=count).result()[1]
