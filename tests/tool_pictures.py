"""The pictures of the tool in docs/: `python -m tests.tool_pictures`. All of it is drawn."""

import shutil
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from appliance.audit import AuditJournal
from appliance.recipe import load_recipe
from calibration.publish import publish, use
from tests.tool_world import SECRET, Shop

IMAGES = Path(__file__).parent.parent / "docs" / "images"


def main() -> None:
    """One box, three pages."""
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
        with sync_playwright() as play:
            browser = play.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            for scheme in ("light", "dark"):
                page = browser.new_context(
                    viewport={"width": 1280, "height": 800}, color_scheme=scheme
                ).new_page()
                _take(page, shop, "" if scheme == "light" else "-dark")
            browser.close()
    finally:
        shop.close()


def _take(page: Page, shop: Shop, suffix: str) -> None:
    page.goto(shop.url)
    page.fill("input[name=name]", "eva")
    page.fill("input[name=password]", SECRET)
    page.click("button[type=submit]")
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


def _shot(page: Page, name: str) -> None:
    time.sleep(1.5)
    page.screenshot(path=IMAGES / f"{name}.png")


if __name__ == "__main__":
    main()
