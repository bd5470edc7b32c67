"""The pictures of the tool in docs/: `python -m tests.tool_pictures`. All of it is drawn."""

import shutil
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from playwright.sync_api import Browser, Page

from appliance.audit import AuditJournal
from appliance.camera_settings import Found, write_found
from appliance.codes import Word
from appliance.recipe import load_recipe
from calibration.challenge_rules import Kind, Shown
from calibration.challenges import Challenges
from calibration.publish import publish, use
from calibration.studies import make_study
from calibration.study_log import StudyLog
from tests.guest import chromium
from tests.lesson_world import School
from tests.ports import free_port
from tests.processes import has_tool
from tests.tool_world import FIRST_NS, SECRET, Shop
from tests.waiting import until
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
        _tell(shop)
        _give_camera(shop)
        shop.start()
        with chromium() as browser:
            for scheme in _SCHEMES:
                _take(_page(browser, scheme), shop, "" if scheme == "light" else "-dark")
    finally:
        shop.close()
    _teach_and_paint()


def _tell(shop: Shop) -> None:
    """What a line and a technician have done before the pictures are taken."""
    shop.said |= {
        "challenge_due_utc_s": (FIRST_NS + 400_000_000_000) // 1_000_000_000,
        "ledger": {"accepted": 1600, "verdicts": 1600, "pending": 0, "unaccounted": 0},
        "counters": {"triggers": 1600, "ok": 1244, "ng": 238, "uncertain": 118, "late": 0},
    }
    challenges = Challenges(shop.people)
    for name, word, note in (
        ("C-01", Word.NG, "scratch, 0.4 mm"), ("C-02", Word.NG, "hole missing"),
        ("C-10", Word.OK, "master"),
    ):  # fmt: skip
        challenges.add(name, word, 365, note, shop.user("tim"))
    rng = np.random.default_rng(5)
    first = shop.passes("C-01", Word.NG, picture=_noisy(rng))
    for _ in range(9):
        for name, word in (("C-01", Word.NG), ("C-02", Word.NG), ("C-10", Word.OK)):
            last = shop.passes(name, word, picture=_noisy(rng))
    last = shop.passes("C-02", Word.NG, picture=_noisy(rng))
    truth = {"C-01": True, "C-02": True, "C-10": False}
    study = make_study(shop.config, first, last, truth, "tim")
    StudyLog(shop.people).add(first, last, study, shop.user("tim"))
    good = [
        Shown(last - 2, "C-01", Word.NG, Word.NG),
        Shown(last - 1, "C-10", Word.OK, Word.OK),
        Shown(last, "C-02", Word.NG, Word.NG),
    ]
    trials: tuple[tuple[Kind, list[Shown], tuple[str, ...]], ...] = (
        ("consecutive", good, ()),
        ("fail-safe", [], ("bin: the line did not stop",)),
    )
    for kind, shown, problems in trials:
        trial = challenges.begin(kind, first, shop.user("tim"))
        state = "failed" if problems else "passed"
        challenges.end(trial, state, problems, shown, last, shop.user("tim"))
    for _ in range(3):
        shop.passes("", Word.OK, is_challenge=False)


def _give_camera(shop: Shop) -> None:
    """A simulated one, and what the line found in it."""
    path = shop.root / "config.toml"
    device = 'kind = "genicam"\nproducer = "viky"\ndevice = { serial_number = "2" }\n'
    path.write_text(path.read_text().replace('kind = "files"\nfolder = "x"\n', device))
    settings = {"Device": "Machine Vision Games Ltd. Viky 2", "Height": "400", "Width": "400"}
    write_found(shop.config, "top", Found(recipe="plate/2", settings=settings))


def _noisy(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """The same plate, seen again."""
    plate = draw(7, "good", 1).astype(np.int16)
    return np.clip(plate + rng.normal(0, 3, plate.shape), 0, 255).astype(np.uint8)


def _take(page: Page, shop: Shop, suffix: str) -> None:
    _enter(page, shop.url, "ada")
    page.wait_for_selector(".part-row")
    page.get_by_role("button", name="NG", exact=True).click()
    page.wait_for_selector(".part-row:not(.is-ng)", state="detached")
    page.locator(".part-row").nth(28).click()  # past those of the study
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
    page.goto(f"{shop.url}/camera")
    page.get_by_role("button", name="Read the features", exact=True).click()
    page.wait_for_selector(".feature-group")
    page.get_by_label("Feature or category").fill("acquisition")
    _shot(page, f"tool-camera{suffix}")
    page.goto(f"{shop.url}/report")
    when = datetime.fromtimestamp(FIRST_NS / 1e9).isoformat(timespec="seconds")
    page.get_by_label("Date or time").fill(when)
    page.get_by_role("button", name="Show", exact=True).click()
    page.wait_for_selector(".pareto")
    _shot(page, f"tool-report{suffix}")
    for name in ("health", "challenge", "msa", "tokens", "audit", "users"):
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
        until("the tool", lambda: has_tool(url), 60)
        with chromium() as browser:
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


def _page(browser: Browser, scheme: Literal["light", "dark"]) -> Page:
    return browser.new_context(
        viewport={"width": 1280, "height": 800}, color_scheme=scheme
    ).new_page()


def _enter(page: Page, url: str, name: str = "eva") -> None:
    page.goto(url)
    page.fill("input[name=name]", name)
    page.fill("input[name=password]", SECRET)
    page.click("button[type=submit]")
    page.wait_for_selector(".who")


def _shot(page: Page, name: str) -> None:
    page.locator(".desk-body").evaluate("body => body.scrollTo(0, 0)")
    time.sleep(1.5)
    page.screenshot(path=IMAGES / f"{name}.png")


if __name__ == "__main__":
    main()
