"""The Segments page on a running line: painted, fitted, proposed, approved, and judged by."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from appliance.audit import AuditJournal
from appliance.codes import Word
from appliance.recipe import load_recipe
from calibration.opinions import Opinions
from calibration.people import Role
from tests.guest import Guest, driven, needs_chromium
from tests.lesson_world import SECRET, SIZE, SPOT, STICKER, lesson_line, quick_people
from tests.rig import Rig
from tests.waiting import until

PARTS = 48
pytestmark = pytest.mark.timeout(300)


def is_bad(number: int) -> bool:
    return number % 3 == 0


@pytest.fixture
def line() -> Iterator[tuple[Rig, str]]:
    with lesson_line(PARTS, is_bad) as line:
        yield line


def drag(page: Page, place: tuple[slice, slice]) -> None:
    """From corner to corner of a place in the picture."""
    canvas = page.locator(".painter-canvas").bounding_box()
    assert canvas is not None
    x, y = canvas["width"] / SIZE[1], canvas["height"] / SIZE[0]
    page.mouse.move(canvas["x"] + place[1].start * x, canvas["y"] + place[0].start * y)
    page.mouse.down()
    page.mouse.move(canvas["x"] + place[1].stop * x, canvas["y"] + place[0].stop * y, steps=4)
    page.mouse.up()


@needs_chromium
@pytest.mark.browser
def test_a_painted_region_decides_the_next_verdicts_and_an_ignored_one_is_not_seen(
    line: tuple[Rig, str],
    browser: Browser,
) -> None:
    rig, url = line
    people = quick_people(rig.config)
    users = {n: people.add(n, Role.ENGINEER, SECRET, "root@shell") for n in ("eva", "max")}
    rig.start()
    with rig.ear() as ear:
        until("Ready", lambda: ear.is_ready, 90)
        first = driven(rig, PARTS)
        assert {part.word for part in first} == {Word.OK}
        until("rows", lambda: ear.has_rows(PARTS), 60)
        until("pictures", lambda: all(row.image for row in rig.rows()), 60)
        opinions = Opinions(people)
        for row in rig.rows():
            bad = is_bad((row.verdict.part_tag - 1) % PARTS)
            opinions.label(row.verdict.part_id, "spot" if bad else "good", users["eva"])
        assert rig.rows(1)[0].verdict.features[-1] > 245, "the sticker is the highest place"

        eva = Guest(browser, url).log_in("eva")
        page = eva.go("segments")
        expect(page.locator(".region-name")).to_have_count(2)
        eva.press("Fit the forest to this map")
        eva.told("another map than the one in force")
        eva.press("Add region")
        name = page.get_by_label("Name of the region").nth(2)
        name.fill("window")
        name.blur()
        eva.press("Fit the forest to this map")
        eva.told("region window: expected at least one pixel")
        eva.press("Rectangle")
        drag(page, SPOT)
        page.locator(".region-pick").last.click()
        drag(page, STICKER)
        expect(page.get_by_text("in force)")).not_to_contain_text("Ignored: 0.0%")

        eva.press("Score 24 parts")
        scores = page.locator(".region-scores")
        expect(scores).to_contain_text("window")
        expect(scores.locator("thead tr").nth(1).locator("th").last).to_have_text("1.00")

        eva.press("Fit the forest to this map")
        expect(page.get_by_text("Regions help")).to_be_visible(timeout=120_000)
        page.locator(".job").last.get_by_label("Reason").fill("the window is what breaks")
        eva.press("Propose this bundle")
        eva.told("Somebody else has to approve")
        page.locator(".proposal").get_by_label("Reason").first.fill("mine is the best")
        eva.press("Approve")
        eva.told("another person than eva, got eva")

        max_ = Guest(browser, url).log_in("max")
        page = max_.approves("segments", "cell/2")
        expect(page.get_by_text("The same parts by cell/1:")).to_be_visible()

        until("Ready", lambda: ear.is_ready, 60)
        driven(rig, 6)
        until("rows", lambda: ear.has_rows(PARTS + 6), 60)
        rows = {row.verdict.part_tag: row.verdict for row in rig.rows(6)}
        assert {verdict.recipe for verdict in rows.values()} == {"cell/2"}
        for tag, verdict in rows.items():
            assert verdict.features[-1] < 245, "what is ignored is not seen"
            if is_bad((tag - 1) % PARTS):
                assert verdict.word is Word.NG
                assert "window" in verdict.reasons[0]
            else:
                assert verdict.word is not Word.NG
        assert ear.unaccounted == 0
        told = {entry.what: entry for entry in AuditJournal(rig.config).entries()}
        assert told["regions.painted"].new["regions"] == ["top", "bottom", "window"]
        assert told["regions.painted"].old["ignored"] == 0 < told["regions.painted"].new["ignored"]
        assert (told["bundle.proposed"].who, told["bundle.approved"].who) == ("eva", "max")
        assert told["bundle.approved"].new["evidence"]["verified"]["in_force"]
        assert load_recipe(rig.config, "cell/2").recipe.decides in ("segad", "average")
        assert eva.problems == [] and max_.problems == []
        eva.context.close()
        max_.context.close()
    people.close()
