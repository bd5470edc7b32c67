"""The Teach page on a running line: counted, trained beside it, proposed, approved, judged by."""

import os
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from appliance.audit import AuditJournal
from appliance.codes import Word
from appliance.recipe import load_recipe
from calibration.opinions import Opinions
from calibration.people import Role
from calibration.workers import LEAST_CORES
from tests.guest import Guest, driven, needs_chromium
from tests.lesson_world import SECRET, lesson_line, quick_people
from tests.rig import Rig
from tests.waiting import until

PARTS, JUDGED = 80, 68
pytestmark = pytest.mark.timeout(300)


def is_bad(number: int) -> bool:
    return number % 8 == 0


@pytest.fixture
def line() -> Iterator[tuple[Rig, str]]:
    with lesson_line(PARTS, is_bad, net=(32, 48)) as line:
        yield line


@needs_chromium
@pytest.mark.browser
def test_a_network_taught_beside_the_line_decides_the_next_verdicts(
    line: tuple[Rig, str],
    browser: Browser,
) -> None:
    rig, url = line
    people = quick_people(rig.config)
    users = {n: people.add(n, Role.ENGINEER, SECRET, "root@shell") for n in ("eva", "max")}
    people.add("ole", Role.OPERATOR, SECRET, "root@shell")
    rig.start()
    with rig.ear() as ear:
        until("Ready", lambda: ear.is_ready, 90)
        driven(rig, PARTS)
        until("rows", lambda: ear.has_rows(PARTS), 60)
        until("pictures", lambda: all(row.image for row in rig.rows()), 60)
        opinions = Opinions(people)
        for row in rig.rows()[PARTS - JUDGED :]:
            kind = "spot" if is_bad((row.verdict.part_tag - 1) % PARTS) else "good"
            opinions.label(row.verdict.part_id, kind, users["eva"])

        ole = Guest(browser, url).log_in("ole")
        expect(ole.go("teach").get_by_text("needs the role engineer")).to_be_visible()

        eva = Guest(browser, url).log_in("eva")
        page = eva.go("teach")
        counts = page.locator(".estimates .number")
        expect(counts).to_have_count(5)
        assert sum(map(int, counts.all_inner_texts())) == JUDGED
        page.get_by_label("Newest OK parts nobody has judged").fill("9")
        expect(counts.last).to_have_text("9")
        expect(page.get_by_text("Nobody has looked at 9 of these parts")).to_be_visible()
        expect(page.locator(".teach-gallery figure")).to_have_count(9)

        if (os.cpu_count() or 1) < LEAST_CORES:
            expect(page.get_by_text("training would have to be forced")).to_be_visible()
            eva.press("Train")
            eva.told("expected 4 cores, or a line that is not Ready")
            assert not (rig.root / "jobs").exists()
        page.get_by_label("Epochs").fill("1")
        page.get_by_role("checkbox").click()
        eva.press("Train")
        expect(page.locator(".job-bar")).to_be_visible()
        eva.press("Train")
        eva.told("job: expected one at a time")
        driven(rig, 3)  # the line goes on
        assert ear.is_ready and ear.unaccounted == 0
        expect(page.get_by_text("New bundle cell-")).to_be_visible(timeout=180_000)
        page.locator(".job").get_by_label("Reason").fill("eighty parts of this line")
        eva.press("Propose this bundle")
        eva.told("Somebody else has to approve")

        max_ = Guest(browser, url).log_in("max")
        page = max_.approves("teach", "cell/2")
        expect(page.locator(".proposal")).to_contain_text("With the new bundle cell-")
        expect(page.get_by_text("The same parts by cell/1:")).to_be_visible()

        until("Ready", lambda: ear.is_ready, 60)
        driven(rig, 4)
        until("rows", lambda: ear.has_rows(PARTS + 7), 60)
        made = load_recipe(rig.config, "cell/2").recipe
        for row in rig.rows(4):
            assert (row.verdict.recipe, row.verdict.bundle) == ("cell/2", made.bundle)
            assert row.verdict.word is not Word.ERROR and row.verdict.margin is not None
        assert ear.unaccounted == 0
        told = {entry.what: entry for entry in AuditJournal(rig.config).entries()}
        assert told["network.taught"].new["unjudged"] == 9 and told["network.taught"].new["forced"]
        assert (told["bundle.proposed"].who, told["bundle.approved"].who) == ("eva", "max")
        assert told["bundle.approved"].new["evidence"]["verified"]["in_force"]
        for one in (ole, eva, max_):
            assert one.problems == []
            one.context.close()
    people.close()
