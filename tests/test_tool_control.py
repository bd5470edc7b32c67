"""Control on every page, and what goes wrong at pages: two people, no connection, no session."""

import time
import urllib.request
from collections.abc import Iterator

import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from appliance.audit import AuditJournal
from appliance.codes import CommandError, Word
from calibration.challenges import Challenges
from calibration.people import Role
from calibration.publish import versions
from calibration.sessions import COOKIE
from calibration.study_log import StudyLog
from tests.guest import Enter, needs_chromium
from tests.tool_world import SECRET, Shop
from tests.waiting import until

pytestmark = [pytest.mark.timeout(300), pytest.mark.browser, needs_chromium]


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    with Shop(parts=80) as shop:
        shop.judge(1, 20)
        shop.start()
        yield shop


def entries(shop: Shop, what: str) -> list[tuple[str, str, str]]:
    found = (entry for entry in AuditJournal(shop.config).entries() if entry.what == what)
    return [(entry.who, entry.role, entry.reason) for entry in found]


def test_control_is_taken_with_a_reason_seen_everywhere_and_given_back(
    shop: Shop, guest: Enter
) -> None:
    tim = guest("tim")
    ole = guest("ole")
    expect(ole.page.get_by_role("button", name="Control", exact=True)).to_have_count(0)
    tim.press("Control")
    tim.press("Take control")
    tim.told("reason: expected at least 8 letters")
    tim.page.get_by_label("Reason for the change of control").fill("cleaning the lens")
    tim.press("Take control")
    expect(tim.page.locator(".control.is-held")).to_contain_text("tim has control")
    expect(ole.page.locator(".control.is-held")).to_contain_text("tim has control")
    expect(ole.page.locator(".control-form")).to_be_hidden()
    for address in ("calibrate", "recipes", "health", "tokens"):
        expect(ole.go(address).locator(".control.is-held")).to_contain_text("tim has control")
    eva = guest("eva")  # somebody has to be able to end it when he went home
    eva.page.get_by_label("Reason for the change of control").fill("he is at lunch")
    eva.press("Give control back to the PLC")
    expect(eva.page.locator(".control.is-held")).to_have_count(0)
    assert [(o.name, o.by, o.argument) for o in shop.orders] == [
        ("take_control", "tim", "cleaning the lens"),
        ("release_control", "eva", "he is at lunch"),
    ]
    assert entries(shop, "control.taken")[-1] == ("tim", "TECHNICIAN", "cleaning the lens")
    assert entries(shop, "control.released")[-1] == ("eva", "ENGINEER", "he is at lunch")
    assert tim.problems == [] and ole.problems == [] and eva.problems == []


def test_what_the_line_refuses_is_said_and_journalled(shop: Shop, guest: Enter) -> None:
    tim = guest("tim")
    tim.press("Control")
    tim.page.get_by_label("Reason for the change of control").fill("cleaning the lens")
    shop.answer = CommandError.WRONG_STATE
    tim.press("Take control")
    tim.told("expected the line to obey, got wrong state: a detail")
    assert entries(shop, "control.taken.refused")[-1][2] == "wrong state: a detail"
    expect(tim.page.locator(".control-says")).to_have_text("The PLC has control.")


TELLS = """new MutationObserver(() => told(document.querySelector(".control-says").textContent))
    .observe(document.querySelector(".control"), {subtree: true, childList: true, attributes: true})
"""


@pytest.mark.parametrize("how", ["logs out", "is disabled"])
def test_control_ends_with_the_session(shop: Shop, guest: Enter, how: str) -> None:
    name = f"{how.replace(' ', '.')}.{time.monotonic_ns()}"
    shop.people.add(name, Role.TECHNICIAN, SECRET, "root@shell")
    one = guest(name)
    one.press("Control")
    one.page.get_by_label("Reason for the change of control").fill("cleaning the lens")
    one.press("Take control")
    until(f"control of {name}", lambda: shop.owner == name)
    told: list[str] = []
    if how == "logs out":
        one.press("Log out")
    else:
        expect(one.page.locator(".control-says")).to_contain_text(f"{name} has control")
        one.page.expose_function("told", lambda text: told.append(text))
        one.page.evaluate(TELLS)
        shop.people.change(name, "ada", is_enabled=False)
    until("release of control", lambda: shop.owner == "")
    released = ("system", "", "the session of the one who had it ended")
    until("entry in the journal", lambda: released in entries(shop, "control.released"))
    # Nobody is there any more to be told that control went back to the PLC.
    expect(one.page.locator("input[name=password]")).to_be_visible()
    assert told == []


def test_the_older_of_two_pages_cannot_undo_the_newer(shop: Shop, guest: Enter) -> None:
    eva = guest("eva")
    seen = shop.publishes(1.6)
    page = eva.go("recipes")
    page.locator("summary", has_text="plate/1").click()
    first = page.locator("details", has_text="first proposal").last
    first.get_by_label("Reason").fill("back to the first")
    count = len(versions(shop.config, "plate"))
    shop.publishes(1.7)
    first.get_by_role("button", name="Use these limits again").click()
    eva.told(f"expected {seen} still in force, got another version: look again")
    assert len(versions(shop.config, "plate")) == count + 1


def test_a_lost_connection_is_said_and_mended(shop: Shop, guest: Enter) -> None:
    ole = guest("ole")
    page = ole.page
    expect(page.locator(".part-row").first).to_be_visible()
    shop.stop()
    expect(page.locator("#popup")).to_be_visible(timeout=60_000)
    shop.start()
    # The tool forgot who was logged in, and the page comes back by itself.
    expect(page.locator("input[name=password]")).to_be_visible(timeout=60_000)
    ole.log_in("ole")
    expect(page.locator(".part-row").first).to_be_visible()


def test_what_is_too_long_for_a_page_is_refused_and_harms_nobody(shop: Shop, guest: Enter) -> None:
    """A field keeps to its length; what a browser sends past it is not to be trusted."""
    eva, ole = guest("eva"), guest("ole")
    before = shop.opinions.proposals()
    page = eva.go("calibrate")
    reason = page.locator(".calibrate-right .panel:nth-child(2)").get_by_label("Reason")
    reason.fill("x" * 600)
    expect(reason).to_have_value("x" * 500)
    reason.evaluate(SENDS, 600)
    eva.press("Propose these limits")
    eva.told("reason: expected at most 500 letters, got 600 of them")
    reason.evaluate(SENDS, 20_000_000)  # more than a connection takes: it is cut
    expect(ole.go("parts").locator(".part-row").first).to_be_visible()
    page = eva.go("calibrate")
    reason = page.locator(".calibrate-right .panel:nth-child(2)").get_by_label("Reason")
    reason.fill("short")
    eva.press("Propose these limits")
    eva.told("reason: expected at least 8 letters")
    assert shop.process is not None and shop.process.poll() is None
    assert shop.opinions.proposals() == before and ole.problems == []


SENDS = """(field, count) => {
    field.removeAttribute("maxlength");
    field.value = "x".repeat(count);
    field.dispatchEvent(new Event("input", {bubbles: true}));
}"""


EVIL = "<img src=x onerror=\"document.title='taken'\" alt={}>"


def test_markup_in_names_and_reasons_is_shown_as_text_on_every_page(
    shop: Shop, guest: Enter
) -> None:
    evil, rng = EVIL.format(shop.newest), np.random.default_rng()
    ids = [
        shop.passes(evil, word, picture=rng.integers(0, 255, (16, 16), np.uint8))
        for word in (Word.NG, Word.OK)
    ]
    delivered = shop.passes(evil, Word.OK, is_challenge=False)
    Challenges(shop.people).add(evil, Word.NG, 30, evil, shop.user("tim"))
    asked = shop.opinions.propose("plate", 1, (-1.0, 2.0), evil, {}, shop.user("eva"))
    shop.opinions.decide(asked.id, "rejected", evil, shop.user("max"))
    shop.publishes(1.8, evil)
    ada = guest("ada")
    page = ada.page
    page.get_by_label("Part, tag, text, lot or recipe").fill(evil)
    expect(page.locator(".part-row")).to_have_count(3)
    page.locator(".part-row").first.click()
    expect(page.locator(".facts-grid")).to_contain_text(evil)
    page = ada.go("msa")
    page.get_by_label("First part").fill(str(ids[0]))
    page.get_by_label("Last part").fill(str(ids[1]))
    ada.press("Make the study")
    expect(page.get_by_text("Not always the same verdict")).to_contain_text(evil)
    for address, place in (
        ("calibrate", ".proposal"), ("recipes", ".version[open]"), ("audit", ".rows.audit"),
        ("challenge", ".person"), ("challenge/quarantine.html", "table"),
    ):  # fmt: skip
        expect(ada.go(address).locator(place).filter(has_text=evil).first).to_be_visible()
        assert page.title() != "taken" and page.locator("img[src=x]").count() == 0, address
    expect(page.locator("td", has_text=str(delivered))).to_be_visible()
    study = StudyLog(shop.people).studies(1)[0].id
    expect(ada.go(f"msa/{study}.html").locator("table").nth(1)).to_contain_text(evil)
    assert page.title() != "taken" and ada.problems == []


def test_a_session_of_the_past_meets_the_door(shop: Shop, browser: Browser) -> None:
    context = browser.new_context()
    context.add_cookies([{"name": COOKIE, "value": "of yesterday", "url": shop.url}])
    page = context.new_page()
    page.goto(f"{shop.url}/health")
    expect(page.locator("input[name=password]")).to_be_visible()
    context.close()
    request = urllib.request.Request(f"{shop.url}/health", headers={"Cookie": f"{COOKIE}=<script>"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert b"<script>" not in answer.read().split(b"</head>")[1]
