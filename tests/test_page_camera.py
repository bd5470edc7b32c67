"""The camera page of the tool: the real process, a real GenTL producer, a real browser."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from appliance.audit import AuditJournal
from appliance.camera_settings import Feature, Found, write_features, write_found
from appliance.product_table import load_products
from appliance.recipe import load_recipe
from appliance.wire import Wiring
from tests.guest import Enter, needs_chromium
from tests.tool_world import Shop

pytest.importorskip("harvesters")
pytestmark = [pytest.mark.timeout(300), pytest.mark.browser, needs_chromium]
FOUND = {"Device": "Machine Vision Games Ltd. Viky 2", "Height": "400", "Width": "400"}


@pytest.fixture
def shop() -> Iterator[Shop]:
    with Shop(parts=4, pictures=2) as shop:
        path = shop.root / "config.toml"
        device = 'kind = "genicam"\nproducer = "viky"\ndevice = { serial_number = "2" }\n'
        path.write_text(path.read_text().replace('kind = "files"\nfolder = "x"\n', device))
        shop.start()
        yield shop


def test_a_stopped_camera_is_looked_at_set_and_approved(shop: Shop, guest: Enter) -> None:
    write_found(shop.config, "top", Found(recipe="plate/1", settings=FOUND))
    eva = guest("eva")
    page = eva.go("camera")
    expect(page.get_by_text("The line is stopped")).to_be_visible()
    expect(page.get_by_text("was never", exact=False)).to_have_count(0)
    expect(page.get_by_text("never approved for a camera's settings")).to_be_visible()
    eva.press("Read the features")
    group = page.locator(".feature-group", has_text="AcquisitionControl").first
    expect(group).to_be_visible()
    page.get_by_label("Feature or category").fill("FrameRate")
    row = page.locator(".feature", has_text="AcquisitionFrameRate").first
    expect(row).to_contain_text("RW")
    expect(row).to_contain_text("1 … 200")
    row.click()
    expect(page.get_by_label("Feature", exact=True)).to_have_value("AcquisitionFrameRate")
    page.get_by_label("Value").fill("50")
    eva.press("Set")
    eva.told("AcquisitionFrameRate = 50")
    page.get_by_label("Value").fill("5000")
    eva.press("Set")
    eva.told("AcquisitionFrameRate: expected 5000")
    eva.press("Take a picture")
    expect(page.locator(".camera-right img")).to_be_visible()
    expect(page.locator(".camera-right .numbers")).to_contain_text("noise")
    page.locator(".camera-right").get_by_label("Reason").fill("the first lamp, 40 parts seen")
    eva.press("Approve the limits for these settings")
    eva.told("plate/2 is written")
    assert load_recipe(shop.config, "plate/2").recipe.limits.settings == {"top": FOUND}
    assert load_products(shop.config) == {1: "plate/2"}
    said = [(entry.who, entry.what) for entry in AuditJournal(shop.config).entries()]
    assert ("eva", "camera.set") in said and ("eva", "limits.approved_for_camera") in said
    assert eva.problems == []


def test_two_engineers_at_one_feature(shop: Shop, guest: Enter) -> None:
    """The later one is told what the other set, sees what is there now, and may go on."""
    eva, max_ = guest("eva"), guest("max")
    for one in (eva, max_):
        one.go("camera")
    for one, rate in ((eva, "50"), (max_, "60")):
        one.page.get_by_label("Feature", exact=True).fill("AcquisitionFrameRate")
        one.page.get_by_label("Value").fill(rate)
        one.press("Set")
        if one is eva:
            one.told("AcquisitionFrameRate = 50")
    max_.told("got 50, set by eva meanwhile")
    max_.press("Set")
    max_.told("AcquisitionFrameRate = 60")
    assert eva.problems == max_.problems == []


def test_a_running_line_is_looked_at_alone(shop: Shop, guest: Enter) -> None:
    feature = Feature(
        category="Root/Analog", name="Gain", kind="float", access="RW", value=3.0, least=0.0,
        most=24.0, unit="dB",
    )  # fmt: skip
    with Wiring(shop.config.runtime_dir) as wiring:
        wiring.receiver("trigger", "top")
        write_features(shop.config, "top", [feature])
        eva = guest("eva")
        page = eva.go("camera")
        expect(page.get_by_text("The line runs and owns the camera")).to_be_visible()
        page.get_by_label("Feature or category").fill("gain")
        expect(page.locator(".feature")).to_contain_text("3 dB")
        expect(page.locator("button.feature")).to_have_count(0)
        expect(page.get_by_role("button", name="Set", exact=True)).to_have_count(0)
        expect(page.get_by_role("button", name="Take a picture")).to_have_count(0)
        expect(page.locator(".camera-right img")).to_have_attribute("src", "/part/4.jpg")
    assert eva.problems == []
