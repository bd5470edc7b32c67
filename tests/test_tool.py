"""The operator's tool: the real process, real files and people, a real browser."""

import contextlib
import http.client
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import datetime

import pytest
from playwright.sync_api import Browser, expect

from appliance.audit import AuditJournal
from appliance.codes import CommandError, Word
from appliance.product_table import load_products
from appliance.shifts import shift_at
from appliance.store import Store
from calibration.frame import PAGES
from calibration.limits import outcome, parts_of
from calibration.page_audit import changed
from calibration.people import People, Role
from calibration.proposals import lines
from calibration.publish import newest, publish, use
from tests.guest import Enter, Guest, ask, driven, needs_chromium
from tests.processes import has_tool
from tests.rig import Rig, free_port
from tests.tool_world import FIRST_NS, SECRET, T1, T2, Shop
from tests.waiting import until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    shop = Shop(parts=600, pictures=4)
    try:
        shop.judge(1, 150)
        shop.start()
        yield shop
    finally:
        shop.close()


def form(**fields: str) -> bytes:
    return urllib.parse.urlencode(fields).encode()


# ---- the door ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [address for address, _, _ in PAGES])
def test_every_page_asks_who_is_there(shop: Shop, path: str) -> None:
    status, _ = ask(shop, path)
    assert status == 303


def test_pictures_are_for_people_who_are_logged_in(shop: Shop) -> None:
    assert ask(shop, "/part/600.jpg")[0] == 401
    assert ask(shop, "/part/600.jpg", Cookie="inspectd_session=guess")[0] == 401
    request = urllib.request.Request(f"{shop.url}/login", form(name="ole", password=SECRET))
    cookie = _cookie_of(request)
    assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower()
    token = cookie.partition(";")[0]
    assert ask(shop, "/part/600.jpg", Cookie=token)[0] == 200
    for odd in ("/part/%3Cscript%3E.jpg", "/part/0.jpg", "/part/99999999999999999999.jpg"):
        assert ask(shop, odd, Cookie=token)[0] in (404, 422)
    assert ask(shop, "/logout", b"", Cookie=token)[0] == 303
    assert ask(shop, "/part/600.jpg", Cookie=token)[0] == 401


def _cookie_of(request: urllib.request.Request) -> str:
    host = urllib.parse.urlsplit(request.full_url)
    connection = http.client.HTTPConnection(host.hostname or "", host.port or 0, timeout=20)
    connection.request("POST", host.path, request.data)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.getheader("set-cookie") or ""


def test_what_is_no_log_in_form_stays_outside(shop: Shop) -> None:
    assert ask(shop, "/login", form(name="eva", password="wrong"))[0] == 401
    assert ask(shop, "/login", b"x" * 5000)[0] == 400
    assert ask(shop, "/login", b"x" * 200_000)[0] == 413
    foreign = ask(shop, "/login", form(name="ole", password=SECRET), Origin="http://evil.example")
    assert foreign[0] == 400
    status, page = ask(
        shop, "/login", form(name="<script>alert(1)</script>", password="x", next="x")
    )
    assert status == 401 and "<script>alert" not in page
    answer = ask(shop, "/login", form(name="ole", password=SECRET, next="http://evil.example"))
    assert answer[0] == 303


def test_of_two_tables_the_journal_shows_what_differs() -> None:
    old, new = {"t1": -1.0, "t2": 1.5, "gone": 1}, {"t1": -0.6, "t2": 1.5, "new": None}
    assert changed(old, new) == ({"t1": -1.0, "gone": 1}, {"t1": -0.6, "new": None})
    assert changed("OPERATOR", "ADMIN") == ("OPERATOR", "ADMIN")
    assert changed(None, {"t1": 1.0}) == (None, {"t1": 1.0})


def test_parts_per_million_are_told_without_powers_of_ten() -> None:
    parts = parts_of(list("abcdefgh"), ["good"] * 4 + ["bump"] * 4, [0.0] * 4 + [9.0] * 4)
    told = {name: bound for name, _, bound in lines(outcome(parts, 1.0, 2.0, 0.95), 0.005)}
    assert told["Escapes per million delivered"] == "95 %: at most 2\N{NO-BREAK SPACE}640"


# ---- pages ---------------------------------------------------------------------------------


@needs_chromium
@pytest.mark.browser
def test_an_operator_finds_parts_and_judges_them(shop: Shop, guest: Enter) -> None:
    one = guest("ole")
    page = one.page
    expect(page.locator(".part-row")).to_have_count(50)
    expect(page.locator(".nav-link", has_text="Users")).to_have_count(0)
    page.get_by_label("Part, tag, text, lot or recipe").fill("7590")
    expect(page.locator(".part-row")).to_have_count(1)
    expect(page.locator(".row-id")).to_have_text("590")
    page.get_by_label("Part, tag, text, lot or recipe").fill("<img src=x onerror=alert(1)>")
    expect(page.get_by_text("No parts found.")).to_be_visible()
    page.get_by_label("Part, tag, text, lot or recipe").fill("")
    expect(page.locator(".part-row")).to_have_count(50)
    one.press("NG")
    expect(page.locator(".part-row:not(.is-ng)")).to_have_count(0)
    one.press("All")
    expect(page.locator(".row-id").first).to_have_text("600")
    page.locator(".part-row").first.click()
    # Half a minute of a shift: judge, and the next part is there by itself.
    for part_id in range(600, 570, -1):
        expect(page.locator(".part-title")).to_have_text(str(part_id))
        kind = shop.kinds[part_id]
        one.press("Good" if kind == "good" else kind)
    expect(page.locator(".part-title")).to_have_text("570")
    expect(page.locator(".part-row.is-here")).to_be_in_viewport()
    page.locator(".part-row").last.click()
    expect(page.locator(".part-title")).to_have_text("551")
    one.press("Good" if shop.kinds[551] == "good" else shop.kinds[551])
    expect(page.locator(".part-title")).to_have_text("550")  # of the next fifty
    labels = shop.opinions.labels(range(571, 601))
    assert {part: label.kind for part, label in labels.items()} == {
        part: shop.kinds[part] for part in range(571, 601)
    }
    assert {label.by for label in labels.values()} == {"ole"}
    for oldest in range(501, 0, -50):
        expect(page.locator(".row-id").last).to_have_text(str(oldest))
        one.press("Older")
    page.locator(".part-row").last.click()  # the last of a whole page, and nothing is older
    one.press("Good" if shop.kinds[1] == "good" else shop.kinds[1])
    expect(page.locator(".row-label").last).to_have_text(shop.kinds[1])
    expect(page.locator(".part-row")).to_have_count(50)
    expect(page.locator(".part-title")).to_have_text("1")
    assert one.problems == []


@needs_chromium
@pytest.mark.browser
def test_limits_are_dragged_proposed_verified_and_approved_by_somebody_else(
    shop: Shop, guest: Enter
) -> None:
    eva = guest("eva")
    page = eva.go("tokens")
    days = page.get_by_label("Days")
    days.fill("")
    days.press_sequentially("1,000")
    expect(days).to_have_value("1000")
    page = eva.go("calibrate")
    expect(page.get_by_text("In force: plate/1")).to_be_visible()
    most = page.get_by_label("Escapes at most, %")
    most.fill("")
    most.press_sequentially("7,5")  # a comma would be left out: 75
    expect(most).to_have_value("7.5")
    most.fill("5")
    eva.press("Find limits that prove this")
    expect(page.get_by_text(re.compile("cannot prove at most 5 %")).first).to_be_visible()
    load = page.locator(".estimates > :nth-child(14)")
    expect(page.locator(".estimates > :nth-child(13)")).to_have_text("To be looked at by a person")
    before = load.inner_text()
    chart = page.locator(".chart svg").bounding_box()
    assert chart is not None
    handle = page.locator(".chart-limit.is-t2").bounding_box()
    assert handle is not None
    page.mouse.move(handle["x"] + 1, chart["y"] + 100)
    page.mouse.down()
    page.mouse.move(chart["x"] + 0.55 * chart["width"], chart["y"] + 100, steps=8)
    page.mouse.up()
    expect(load).not_to_have_text(before)
    t2 = float(page.locator(".chart-limit.is-t2").inner_text().split()[1])
    assert t2 < T2
    reason = page.locator(".calibrate-right .panel:nth-child(2)").get_by_label("Reason")
    eva.press("Propose these limits")
    eva.told("reason: expected at least 8 letters")
    reason.fill("fewer parts to look at")
    eva.press("Propose these limits")
    eva.told("Somebody else has to approve")
    asked = shop.opinions.proposals("plate")[0]
    assert asked.t2 == pytest.approx(t2, abs=1e-3) and asked.t1 == pytest.approx(T1)
    page.locator(".proposal").get_by_label("Reason").first.fill("mine is the best")
    eva.press("Approve")
    eva.told("another person than eva, got eva")

    max_ = guest("max")
    page = max_.go("calibrate")
    reason = page.locator(".calibrate-right .panel:nth-child(2)").get_by_label("Reason")
    reason.fill("another idea of mine")
    max_.press("Propose these limits")
    max_.told("none that is open for plate")
    page.locator(".proposal").get_by_label("Reason").first.fill("agreed in the meeting")
    max_.press("Approve")
    max_.told("the verify parts opened first")
    expect(page.get_by_text("its bounds hold with 97.50 %")).to_be_visible()
    expect(page.get_by_text(re.compile(r"^\d+ of them are bad: .* proves at most"))).to_be_visible()
    max_.press("Open the verify parts")
    expect(page.get_by_text("Verify parts, opening number 1")).to_be_visible()
    expect(page.get_by_role("button", name="Open the verify parts")).to_have_count(0)
    page.locator(".proposal").get_by_label("Reason").first.fill("agreed in the meeting")
    max_.press("Approve")
    max_.told("plate/2 is written. The line: has taken it")
    assert shop.limits(2).t2 == asked.t2 and shop.limits(2).set_by == "max"
    assert load_products(shop.config) == {1: "plate/2"}
    assert "the integrator's own words" in (shop.root / "products.toml").read_text()
    assert [(order.name, order.by) for order in shop.orders] == [("reload_products", "max")]
    expect(page.get_by_text("In force: plate/2")).to_be_visible()
    entries = AuditJournal(shop.config).entries()
    entry = next(entry for entry in entries if entry.what == "limits.approved")
    assert (entry.who, entry.subject, entry.old["t2"]) == ("max", "plate/2", T2)
    assert entry.new["evidence"]["proposed_by"] == "eva"
    assert eva.problems == [] and max_.problems == []


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
    shop.answer = CommandError.DONE
    assert eva.problems == []


@needs_chromium
@pytest.mark.browser
def test_an_admin_sees_health_users_and_the_journal(shop: Shop, guest: Enter) -> None:
    ada = guest("ada")
    page = ada.go("health")
    expect(page.get_by_text("trigger → verdict")).to_be_visible()
    page = ada.go("users")
    page.get_by_label("Name").fill("new.person")
    page.get_by_label("Password").last.fill("short")
    ada.page.get_by_role("button", name="Add user").click()
    ada.told("password: expected 10 to 200 signs, got 5")
    page.get_by_label("Password").last.fill(SECRET)
    ada.page.get_by_role("button", name="Add user").click()
    until("person", lambda: shop.people.user("new.person"))
    user = shop.people.user("new.person")
    assert user is not None and user.role is Role.OPERATOR
    expect(page.get_by_text("new.person").first).to_be_visible()  # the page has come anew
    page = ada.go("audit")
    expect(page.get_by_text("the chain is whole")).to_be_visible()
    expect(page.locator(".rows.audit")).to_contain_text("user.added")
    page.get_by_label("Who, what, subject or reason").fill("new.person")
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


# ---- the line ------------------------------------------------------------------------------


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


@needs_chromium
@pytest.mark.browser
def test_the_next_verdict_of_a_running_line_uses_what_was_approved(browser: Browser) -> None:
    port = free_port()
    with Rig({"hmi": {"tool_port": port}}, limits=(300.0, 400.0)) as rig:
        people = People(rig.config, AuditJournal(rig.config))
        for name in ("eva", "max"):
            people.add(name, Role.ENGINEER, SECRET, "root@shell")
        people.close()
        rig.start()
        with rig.ear() as ear:
            until("Ready", lambda: ear.is_ready, 60)
            first = driven(rig, 6)
            assert {part.word for part in first} == {Word.OK}
            until("rows", lambda: ear.has_rows(6), 30)
            url = f"http://127.0.0.1:{port}"
            until("the tool", lambda: has_tool(url), 60)
            eva, max_ = Guest(browser, url).log_in("eva"), Guest(browser, url).log_in("max")
            page = eva.go("calibrate")
            chart = page.locator(".chart svg").bounding_box()
            assert chart is not None
            for name in ("t1", "t2"):
                label = page.locator(f".chart-limit.is-{name}").bounding_box()
                assert label is not None
                x = label["x"] + (label["width"] if name == "t1" else 0)
                page.mouse.move(x - 1, chart["y"] + 50)
                page.mouse.down()
                page.mouse.move(chart["x"] + 1, chart["y"] + 50, steps=5)
                page.mouse.up()
            page.locator(".calibrate-right .panel:nth-child(2)").get_by_label("Reason").fill(
                "all of them are bad"
            )
            eva.press("Propose these limits")
            eva.told("Somebody else has to approve")
            page = max_.go("calibrate")
            max_.press("Open the verify parts")
            expect(page.get_by_text("opening number 1")).to_be_visible()
            page.locator(".proposal").get_by_label("Reason").first.fill("so be it then")
            max_.press("Approve")
            max_.told("cell/2 is written. The line: has taken it")
            second = driven(rig, 3)
            assert {part.word for part in second} == {Word.NG}
            until("rows", lambda: ear.has_rows(9), 30)
            assert [row.verdict.recipe for row in rig.rows()] == ["cell/2"] * 3 + ["cell/1"] * 6
            assert ear.unaccounted == 0
            assert eva.problems == [] and max_.problems == []
            eva.context.close()
            max_.context.close()
