"""People judge parts and put limits in force: each test has a box of its own."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from appliance.audit import AuditJournal
from appliance.product_table import load_products
from tests.guest import Enter, needs_chromium
from tests.tool_world import T1, T2, Shop

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def shop() -> Iterator[Shop]:
    with Shop(parts=600, pictures=4) as shop:
        shop.judge(1, 150)
        shop.start()
        yield shop


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
