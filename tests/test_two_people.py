"""Two people at the same thing: the later one is told, and nobody's work goes without a word."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from playwright.sync_api import Browser, expect

from appliance.errors import ConfigError
from appliance.jobs import Job, Jobs, State, new_id
from appliance.recipe import load_recipe
from appliance.wire import Wiring
from calibration.desk import Desk
from calibration.publish import newest, versions
from calibration.region_map import coloured
from tests.guest import Enter, Guest, needs_chromium
from tests.lesson_world import School
from tests.ports import free_port
from tests.processes import has_tool
from tests.tool_world import Shop
from tests.waiting import until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    with Shop(parts=80) as shop:
        shop.judge(1, 20)
        shop.start()
        yield shop


@pytest.fixture
def quiet() -> Iterator[Shop]:
    """No tool and a line that answers nothing."""
    with Shop(parts=1) as shop:
        shop.holds.set()
        yield shop


def at_a_desk(shop: Shop, do: Callable[[Desk], Awaitable[None]]) -> None:
    with Wiring(shop.config.runtime_dir) as wiring:

        async def run() -> None:
            desk = Desk(shop.config, shop.root / "config.toml", wiring.async_sender("command"))
            try:
                await asyncio.wait_for(do(desk), 60)
            finally:
                desk.close()

        asyncio.run(run())


def test_what_was_approved_is_not_rejected_while_the_line_takes_its_time(quiet: Shop) -> None:
    eva, max_ = quiet.user("eva"), quiet.user("max")
    base = load_recipe(quiet.config, "plate/1")
    limits = msgspec.structs.replace(base.recipe.limits, t2=2.0)
    wanted = msgspec.structs.replace(base.recipe, limits=limits)
    why = "agreed in the meeting"

    async def decide(desk: Desk) -> None:
        opinions = desk.opinions
        asked = opinions.propose("plate", 1, (-1.0, 2.0), "fewer to look at", {}, eva)
        approving = asyncio.create_task(
            desk.put_in_force(
                base, wanted, max_, why, "limits.approved", {},
                check=lambda: opinions.check_decision(asked.id, why, max_),
                close=lambda: opinions.decide(asked.id, "approved", why, max_),
            )
        )  # fmt: skip
        while not quiet.orders:
            await asyncio.sleep(0.01)
        assert not approving.done()
        with pytest.raises(ConfigError, match="one that is open, got one that was approved"):
            await desk.run(lambda: opinions.decide(asked.id, "rejected", "too narrow", max_))
        quiet.holds.clear()
        new, _ = await approving
        assert new.name == "plate/2" and opinions.proposal(asked.id).state == "approved"

    at_a_desk(quiet, decide)


def test_what_was_rejected_meanwhile_is_not_written(quiet: Shop) -> None:
    eva, max_ = quiet.user("eva"), quiet.user("max")
    base = load_recipe(quiet.config, "plate/1")

    async def decide(desk: Desk) -> None:
        opinions = desk.opinions
        asked = opinions.propose("plate", 1, (-1.0, 2.0), "fewer to look at", {}, eva)
        opinions.decide(asked.id, "rejected", "too narrow", max_)
        with pytest.raises(ConfigError, match="one that is open, got one that was rejected"):
            await desk.put_in_force(
                base, base.recipe, max_, "agreed in the meeting", "limits.approved", {},
                check=lambda: opinions.check_decision(asked.id, "agreed in the meeting", max_),
            )  # fmt: skip

    at_a_desk(quiet, decide)
    assert versions(quiet.config, "plate") == (1,) and quiet.orders == []


@needs_chromium
@pytest.mark.browser
def test_a_proposal_that_somebody_decided_meanwhile_is_not_decided_again(
    shop: Shop, guest: Enter
) -> None:
    current = newest(shop.config, "plate")
    assert current is not None
    asked = shop.opinions.propose(
        "plate", current.recipe.version, (-1.0, 2.0), "fewer to look at", {}, shop.user("eva")
    )
    max_, ada = guest("max"), guest("ada")
    pages = [one.go("calibrate") for one in (max_, ada)]
    for page in pages:
        page.locator(".proposal").get_by_label("Reason").first.fill("agreed in the meeting")
    max_.press("Reject")
    expect(pages[0].get_by_text("rejected by max")).to_be_visible()
    ada.press("Open the verify parts")
    ada.told("expected one that is open, got one that was rejected")
    ada.press("Reject")
    ada.told("expected one that is open, got one that was rejected")
    assert shop.opinions.proposal(asked.id).decided_by == "max"
    assert max_.problems == [] and ada.problems == []


@needs_chromium
@pytest.mark.browser
def test_limits_are_not_proposed_for_a_version_that_is_no_longer_in_force(
    shop: Shop, guest: Enter
) -> None:
    eva = guest("eva")
    page = eva.go("calibrate")
    seen = newest(shop.config, "plate")
    assert seen is not None
    expect(page.get_by_text(f"In force: {seen.name}")).to_be_visible()
    shop.publishes(1.7)
    before = len(shop.opinions.proposals())
    reason = page.locator(".calibrate-right .panel:nth-child(2)").get_by_label("Reason")
    reason.fill("fewer parts to look at")
    eva.press("Propose these limits")
    eva.told(f"expected {seen.name} still in force, got another version: look again")
    assert len(shop.opinions.proposals()) == before and eva.problems == []


@needs_chromium
@pytest.mark.browser
def test_who_judges_a_part_that_somebody_judged_meanwhile_is_told(shop: Shop, guest: Enter) -> None:
    shop.produce(4)
    fourth, third, second, first = range(shop.newest - 3, shop.newest + 1)
    ole = guest("ole")
    page = ole.page
    page.locator(".part-row").first.click()
    expect(page.locator(".part-title")).to_have_text(str(first))
    shop.opinions.label(first, "scratch", shop.user("eva"))
    ole.press("Good")
    ole.told(
        f"part {first}: expected no other verdict meanwhile, got scratch, says eva: look again"
    )
    expect(page.locator(".said")).to_have_text("scratch, says eva")
    assert shop.opinions.labels([first])[first].by == "eva"
    ole.press("Good")  # knowing it
    expect(page.locator(".part-title")).to_have_text(str(second))
    assert shop.opinions.labels([first])[first][:3] == (first, "good", "ole")
    # Two people who judge beside each other do not do the same work twice.
    shop.opinions.label(third, "good", shop.user("eva"))
    ole.press("Good")
    expect(page.locator(".part-title")).to_have_text(str(fourth))
    assert ole.problems == []


@pytest.fixture
def school(tmp_path: Path) -> Iterator[tuple[School, str]]:
    port = free_port()
    settings = f"[hmi]\nis_enabled = false\ntool_port = {port}\n"
    school = School(tmp_path, ("good", "spot") * 8, settings)
    command = [sys.executable, "-m", "appliance", "process", "tool", "--config"]
    tool = subprocess.Popen([*command, str(tmp_path / "config.toml")])
    url = f"http://127.0.0.1:{port}"
    try:
        until("the tool", lambda: has_tool(url))
        yield school, url
    finally:
        tool.terminate()
        tool.wait(60)
        school.people.close()


@needs_chromium
@pytest.mark.browser
def test_a_map_that_somebody_fitted_meanwhile_is_not_covered_unseen(
    school: tuple[School, str], browser: Browser
) -> None:
    box, url = school
    eva = Guest(browser, url).log_in("eva")
    page = eva.go("segments")
    expect(page.locator(".region-name")).to_have_count(2)
    page.locator(".region-pick").last.click()
    canvas = page.locator(".painter-canvas").bounding_box()
    assert canvas is not None
    page.mouse.click(canvas["x"] + 40, canvas["y"] + 40)
    expect(page.get_by_text("(0.0 % in force)")).not_to_contain_text("Ignored: 0.0 %")

    jobs = Jobs(box.config)
    job = Job(
        id=new_id("regions", 1_790_000_000_000_000_000), kind="regions", recipe="cell/1",
        bundle=box.bundle.id, by="max", parts=(),
    )  # fmt: skip
    old = coloured(box.bundle.segment_map(), box.bundle.manifest.segments)
    jobs.ask(job, old.files())
    folder = jobs.take()
    assert folder is not None
    folder.say(State(state="stopped"))

    eva.press("Fit the forest to this map")
    eva.told("nobody else to have fitted one since this page was loaded, got one by max")
    assert [one.job.by for one in jobs.all()] == ["max"]
    eva.press("Fit the forest to this map")  # knowing it
    until("her job", lambda: [one.job.by for one in jobs.all()] == ["eva", "max"])
    assert eva.problems == []
    eva.context.close()
