"""One change of limits, from the page to the next verdict of a running line."""

import pytest
from playwright.sync_api import Browser

from appliance.audit import AuditJournal
from appliance.codes import Word
from calibration.people import People, Role
from tests.guest import Guest, driven, needs_chromium
from tests.ports import free_port
from tests.processes import has_tool
from tests.rig import Rig
from tests.tool_world import SECRET
from tests.waiting import until

pytestmark = pytest.mark.timeout(300)


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
            max_.approves("calibrate", "cell/2")
            second = driven(rig, 3)
            assert {part.word for part in second} == {Word.NG}
            until("rows", lambda: ear.has_rows(9), 30)
            assert [row.verdict.recipe for row in rig.rows()] == ["cell/2"] * 3 + ["cell/1"] * 6
            assert ear.unaccounted == 0
            assert eva.problems == [] and max_.problems == []
            eva.context.close()
            max_.context.close()
