"""The pages of the operator's tool: the real process, real files and people, a real browser."""

import contextlib
import time
from collections.abc import Iterator
from datetime import datetime

import pytest
from playwright.sync_api import expect

from appliance.audit import AuditJournal
from appliance.codes import CommandError, Word
from appliance.product_table import load_products
from appliance.shifts import shift_at
from appliance.store import Store
from calibration.frame import PAGES
from calibration.limits import outcome, parts_of
from calibration.page_audit import changed
from calibration.people import Role
from calibration.proposal_panel import lines
from calibration.publish import newest, publish, use
from tests.guest import Enter, needs_chromium
from tests.tool_world import FIRST_NS, SECRET, T1, T2, Shop
from tests.waiting import until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    with Shop(parts=600, pictures=4) as shop:
        shop.judge(1, 150)
        shop.start()
        yield shop


def test_of_two_tables_the_journal_shows_what_differs() -> None:
    old, new = {"t1": -1.0, "t2": 1.5, "gone": 1}, {"t1": -0.6, "t2": 1.5, "new": None}
    assert changed(old, new) == ({"t1": -1.0, "gone": 1}, {"t1": -0.6, "new": None})
    assert changed("OPERATOR", "ADMIN") == ("OPERATOR", "ADMIN")
    assert changed(None, {"t1": 1.0}) == (None, {"t1": 1.0})


def test_parts_per_million_are_told_without_powers_of_ten() -> None:
    parts = parts_of(list("abcdefgh"), ["good"] * 4 + ["bump"] * 4, [0.0] * 4 + [9.0] * 4)
    told = {name: bound for name, _, bound in lines(outcome(parts, 1.0, 2.0, 0.95), 0.005)}
    assert told["Escapes per million delivered"] == "95 %: at most 2\N{NO-BREAK SPACE}640"


@needs_chromium
@pytest.mark.browser
def test_the_way_back_is_one_step_and_says_what_the_line_answered(shop: Shop, guest: Enter) -> None:
    current = newest(shop.config, "plate")
    assert current is not None
    last = publish(
        shop.config, AuditJournal(shop.config), current.recipe, (T1, 1.2), who="max",
        reason="fewer parts to look at",
    )  # fmt: skip
    use(shop.config, current.name, last.name)
    made = last.recipe.version + 1
    shop.answer = CommandError.TIMED_OUT
    eva = guest("eva")
    page = eva.go("recipes")
    expect(page.get_by_text(f"Changes against version {current.recipe.version}")).to_be_visible()
    expect(page.locator(".diff").first).to_contain_text("limits.t2")
    page.locator("summary", has_text="plate/1").click()
    old = page.locator("details", has_text="first proposal").last
    old.get_by_label("Reason").fill("escapes at the customer")
    old.get_by_role("button", name="Use these limits again").click()
    eva.told("has not taken it: a detail")
    assert (shop.limits(made).t1, shop.limits(made).t2) == (T1, T2)
    assert load_products(shop.config) == {1: f"plate/{made}"}
    assert eva.problems == []


@needs_chromium
@pytest.mark.browser
def test_an_admin_sees_health_users_and_the_journal(shop: Shop, guest: Enter) -> None:
    ada = guest("ada")
    page = ada.go("health")
    expect(page.get_by_text("trigger → verdict")).to_be_visible()
    page = ada.go("users")
    name = f"new.{time.monotonic_ns()}"
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").last.fill("short")
    ada.page.get_by_role("button", name="Add user").click()
    ada.told("password: expected 10 to 200 signs, got 5")
    page.get_by_label("Password").last.fill(SECRET)
    ada.page.get_by_role("button", name="Add user").click()
    user = until("person", lambda: shop.people.user(name))
    assert user.role is Role.OPERATOR
    expect(page.get_by_text(name).first).to_be_visible()  # the page has come anew
    page = ada.go("audit")
    expect(page.get_by_text("the chain is whole")).to_be_visible()
    expect(page.locator(".rows.audit")).to_contain_text("user.added")
    page.get_by_label("Who, what, subject or reason").fill(name)
    expect(page.locator(".rows.audit tbody tr")).to_have_count(1)
    expect(page.locator(".rows.audit")).to_contain_text("user.added")
    page.get_by_label("Who, what, subject or reason").fill("limits.approved ")
    expect(page.locator(".rows.audit tbody")).not_to_contain_text("user.added")
    assert ada.problems == []


@needs_chromium
@pytest.mark.browser
def test_an_operator_reads_the_report_of_a_shift_and_takes_it_along(
    shop: Shop, guest: Enter
) -> None:
    ole = guest("ole")
    page = ole.go("report")
    expect(page.get_by_text("No parts in this shift.")).to_be_visible()
    when = datetime.fromtimestamp(FIRST_NS / 1e9).isoformat(timespec="seconds")
    page.get_by_label("Date or time").fill("yesterday")
    page.get_by_role("button", name="Show").click()
    ole.told("expected a date or time like 2026-11-27")
    for odd in ("0001-01-01", "9999-12-31T23:00"):  # no shift before or after, no nanoseconds
        page.get_by_label("Date or time").fill(odd)
        page.get_by_role("button", name="Show").click()
        ole.told(f"expected a year from 1971 to 2199, got {int(odd[:4])}")
    page.get_by_label("Date or time").fill(when)
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_text("Quality: OK of all inspected")).to_be_visible()
    begin = shift_at(datetime.fromisoformat(when).astimezone()).begin
    with contextlib.closing(Store(shop.config.data_dir / "parts.db", is_reader=True)) as store:
        words = store.counts()
    first = page.locator(".rows.numbers").first
    expect(first).to_contain_text(f"{sum(words.values())}")
    expect(page.locator(".pareto").first).to_contain_text("Region statistics above")
    expect(page.get_by_text("top left")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    assert download.value.suggested_filename == f"shift-{begin:%Y%m%dT%H%M}.csv"
    lines = download.value.path().read_text().splitlines()
    assert f"counts,rejected,{words[Word.NG]}" in lines
    page.get_by_role("button", name="Shift before").click()
    expect(page.get_by_text("No parts in this shift.")).to_be_visible()
    page.get_by_role("button", name="Shift after").click()
    expect(first).to_contain_text(f"{sum(words.values())}")
    assert ole.problems == []


@needs_chromium
@pytest.mark.browser
def test_at_the_size_of_a_panel_nothing_is_cut(shop: Shop, guest: Enter) -> None:
    """1280 × 800, as a browser measures it; of a placeholder every letter."""
    ada = guest("ada")
    cut: dict[str, list[str]] = {}
    for address, name, _ in PAGES:
        page = ada.go(address.strip("/"))
        expect(page.locator(".nav-link.is-here")).to_have_text(name)
        page.get_by_role("button", name="Control", exact=True).click()
        expect(page.locator(".control-form")).to_be_visible()
        if found := page.evaluate(CUT):
            cut[address] = found
    assert cut == {} and ada.problems == []


CUT = """() => {
    const found = [];
    const pen = document.createElement("canvas").getContext("2d");
    for (const one of document.querySelectorAll(".desk *")) {
        const style = getComputedStyle(one), box = one.getBoundingClientRect();
        const said = one.placeholder || one.textContent.trim().slice(0, 60);
        if (!said || !box.width || style.visibility === "hidden") continue;
        if (box.right > innerWidth + 1) found.push(`outside: ${said}`);
        if (one.placeholder) {
            pen.font = style.font;
            const wide = pen.measureText(said).width;
            if (wide > one.clientWidth + 1) found.push(`field: ${said}`);
        } else if (!one.children.length && style.overflowX !== "visible"
                   && one.scrollWidth > one.clientWidth + 1) {
            found.push(`cut: ${said}`);
        }
    }
    return found;
}"""


@needs_chromium
@pytest.mark.browser
def test_a_session_that_ended_leads_to_the_door_and_changes_nothing(
    shop: Shop, guest: Enter
) -> None:
    name = f"gone.{time.monotonic_ns()}"
    shop.people.add(name, Role.ENGINEER, SECRET, "root@shell")
    one = guest(name)
    page = one.go("calibrate")
    page.locator(".calibrate-right .panel:nth-child(2)").get_by_label("Reason").fill("too late now")
    shop.people.change(name, "ada", is_enabled=False)
    before = len(shop.opinions.proposals())
    one.press("Propose these limits")
    expect(page.get_by_text("Your session has ended")).to_be_visible()
    assert len(shop.opinions.proposals()) == before
    page.fill("input[name=name]", "eva")
    page.fill("input[name=password]", SECRET)
    page.click("button[type=submit]")
    expect(page.get_by_text("What you need")).to_be_visible()  # the page that was left


@needs_chromium
@pytest.mark.browser
def test_a_part_of_two_cameras_shows_each_view_with_its_own_reasons(
    shop: Shop, guest: Enter
) -> None:
    part_id = shop.seen_twice()
    one = guest("ole")
    page = one.page
    page.locator(".part-row").first.click()
    expect(page.locator(".part-title")).to_have_text(str(part_id))
    expect(page.locator(".part-why")).to_contain_text("side: segment side centre")
    picture = page.locator(".part-picture img").first
    decided = picture.get_attribute("src") or ""
    page.get_by_role("button", name="top", exact=False).click()
    expect(page.locator(".part-why")).to_contain_text("−3.0")
    expect(page.locator(".part-why .reason-row")).to_have_count(0)
    expect(page.locator(".do.is-on", has_text="top")).to_have_count(1)
    expect(picture).not_to_have_attribute("src", decided)
    assert one.problems == []
