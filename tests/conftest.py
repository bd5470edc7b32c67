"""What holds for every test: one thread a process, patience with examples that take long on a
loaded machine, a log that ends with its test, which files are fast, and a browser for a file."""

import os
import re
import socket
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog
from hypothesis import settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.guest import Enter
    from tests.tool_world import Shop

# Before anything loads OpenMP, and for what the tests start: threads that wait for each other on a
# loaded machine take half as much time again.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Hypothesis fails an example after 200 ms of wall time otherwise.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

_SLOW = re.compile(
    r"^ *(?:from|import) (?:subprocess|multiprocessing|playwright|torch|models|tools|asyncua"
    r"|tests\.(?:rig|tool_world|lesson_world|guest|gentl|postgres|systemd_world|line_feed|fuzz|test_))",
    re.MULTILINE,
)
"""What a file imports that starts processes or a browser, makes keys, compiles or trains."""


@cache
def _is_fast(path: Path) -> bool:
    return _SLOW.search(path.read_text(encoding="utf-8")) is None


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Side by side, tests ask the main process for second tries in two small messages each, of
    which TCP holds the second one back for 40 ms."""
    asked = getattr(getattr(config, "failures_db", None), "sock", None)
    if isinstance(asked, socket.socket):
        asked.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m fast` alone, files without such tests need not even be read: torch takes seconds."""
    is_skipped = config.option.markexpr == "fast" and collection_path.match("test_*.py")
    return True if is_skipped and not _is_fast(collection_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark `fast`, and have them last: side by side they fill the time while the last long file
    is still at it."""
    for item in items:
        if _is_fast(item.path):
            item.add_marker("fast")
    items.sort(key=lambda item: _is_fast(item.path))


@pytest.fixture(autouse=True)
def _log_ends_with_its_test() -> Iterator[None]:
    """A command that a test calls in this process sends the log to a stream of that test's own."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """One for the tests of a file."""
    from tests.guest import chromium

    with chromium() as browser:
        yield browser


@pytest.fixture
def guest(browser: "Browser", shop: "Shop") -> "Iterator[Enter]":
    """Lets people of the file's `shop` in; what they left under way ends with the test."""
    from playwright.sync_api import expect

    from tests.guest import Guest

    guests: list[Guest] = []

    def enter(name: str) -> Guest:
        guests.append(Guest(browser, shop.url).log_in(name))
        expect(guests[-1].page.locator(".who")).to_contain_text(name)
        return guests[-1]

    yield enter
    for one in guests:
        one.context.close()
    shop.calm_down()
