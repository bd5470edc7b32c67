"""The picture of the live page in the README, taken from the real page of a real running line.

Runs `inspectd demo` on plates drawn by `tools.draw_parts` (pictures that may be shown), opens its
page in Debian's Chromium, waits for a reject and keeps what the browser shows.

    python -m tools.screenshot
"""

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from playwright.sync_api import Page, sync_playwright

_CHECKOUT = Path(__file__).parent.parent
_UP_S = 1800.0
"""Training included, on a machine that does other things too."""
_REJECT_S = 120.0
_PARTS = 60
"""Counters and strip are filled by then."""


def main(
    out: Annotated[Path, typer.Option(help="PNG to write.")] = _CHECKOUT / "docs/images/live.png",
    root: Annotated[Path, typer.Option(help="Where the line and its pictures live.")] = Path(
        "var/screenshot"
    ),
    theme: Annotated[str, typer.Option(help="light or dark")] = "light",
    width: Annotated[int, typer.Option(help="Of the browser's window, pixels.")] = 1280,
    height: Annotated[int, typer.Option(help="Of the browser's window, pixels.")] = 800,
) -> None:
    """Draw plates, run the demo on them, photograph its page."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise typer.BadParameter("expected Chromium on the path (apt-get install chromium)")
    if theme not in ("light", "dark"):
        raise typer.BadParameter(f"--theme: expected light or dark, got {theme!r}")
    plates = root / "plate"
    if not plates.exists():
        subprocess.run([sys.executable, "-m", "tools.draw_parts", str(plates)], check=True)
    with _line(plates, root / "line") as url, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        scheme: Literal["light", "dark"] = "light" if theme == "light" else "dark"
        page = browser.new_page(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )  # fmt: skip
        page.goto(url)
        picture = _of_a_reject(page)
        browser.close()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(picture)
    typer.echo(f"{out}: {len(picture)} bytes")


@contextmanager
def _line(plates: Path, root: Path) -> Generator[str]:
    """`inspectd demo` until the end of the block; gives the address of its page."""
    port, plc_port = _free_port(), _free_port()
    command = [sys.executable, "-m", "appliance", "demo", "--data", str(plates)]
    command += ["--root", str(root), "--port", str(port), "--plc-port", str(plc_port)]
    demo = subprocess.Popen(command)
    try:
        end = time.monotonic() + _UP_S
        while not _answers(port):
            if demo.poll() is not None or time.monotonic() > end:
                sys.exit(f"inspectd demo gave no page (exit code {demo.poll()})")
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/"
    finally:
        demo.send_signal(signal.SIGINT)
        demo.wait(30)


def _of_a_reject(page: Page) -> bytes:
    """PNG of the page while it shows one NG part, the same before and after the shot."""
    page.wait_for_function(
        f"() => Number((document.querySelector('.part-title')?.textContent || '')"
        f".replace(/\\D/g, '')) >= {_PARTS}",
        timeout=_REJECT_S * 1000,
    )
    shown = (
        "() => { const text = (place) => document.querySelector(place)?.textContent.trim();"
        " return text('.word') === 'NG' && text('.caption') === text('.part-title')"
        " && text('.part-title'); }"
    )
    end = time.monotonic() + _REJECT_S
    while time.monotonic() < end:
        part = page.wait_for_function(shown, polling=20, timeout=_REJECT_S * 1000).json_value()
        picture = page.screenshot()
        if page.evaluate(shown) == part:
            return picture
    sys.exit(f"no reject stood still for a picture in {_REJECT_S:.0f} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    typer.run(main)
