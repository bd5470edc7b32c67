"""Drift: an approved baseline, windows that alarm, and what the line is told. And the machine."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from appliance.audit import AuditJournal
from appliance.recipe import load_recipe
from appliance.store import Store
from appliance.wire import Wiring
from calibration.baselines import WINDOW, Baseline, Baselines, figures_of, rates_of
from calibration.desk import Desk
from calibration.drift import Level
from calibration.drift_watch import LOOK_S, Watch, compare
from calibration.machine import disk, temperatures
from tests.guest import Guest, chromium, needs_chromium
from tests.tool_world import Shop
from tests.waiting import until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def shop() -> Iterator[Shop]:
    with Shop(parts=WINDOW) as shop:
        yield shop


def test_a_window_like_the_baseline_is_calm_and_a_shifted_one_is_not(shop: Shop) -> None:
    shop.produce(WINDOW)
    shop.produce(WINDOW, shift=0.8)
    store = Store(shop.config.data_dir / "parts.db", is_reader=True)
    rows = store.last(3 * WINDOW)
    store.close()
    first, same, shifted = rows[2 * WINDOW :], rows[WINDOW : 2 * WINDOW], rows[:WINDOW]
    figures, rates = figures_of(first, ()), rates_of(first)
    assert set(figures) == {"margin", "latency_ms"} and 0 < rates.reject < 0.3
    assert [one for one in compare(figures, rates, same, ()) if "margin" in one.what] == []
    found = {one.what for one in compare(figures, rates, shifted, ())}
    assert {"PSI of margin", "KS distance of margin", "CUSUM of accepted margins"} <= found


@needs_chromium
@pytest.mark.browser
def test_drift_climbs_a_step_a_window_and_a_passed_challenge_ends_it(shop: Shop) -> None:
    shop.start()
    baselines = Baselines(shop.people)
    recipe = load_recipe(shop.config, "plate/1")
    with chromium() as browser:
        eva = Guest(browser, shop.url).log_in("eva")
        manifest = shop.config.bundles_dir / "plate-1" / "manifest.json"
        away = manifest.rename(manifest.with_suffix(".away"))
        page = eva.go("health")
        expect(page.get_by_text("Nothing is compared, and no baseline")).to_be_visible()
        page.get_by_label("Reason for the baseline").fill("validated in week 12")
        eva.press(f"The newest {WINDOW} are right: baseline")
        eva.told("expected a bundle manifest, got No such file")
        assert baselines.of(recipe) is None
        away.rename(manifest)
        page = eva.go("health")
        expect(page.get_by_text("Nobody approved a baseline")).to_be_visible()
        eva.press(f"The newest {WINDOW} are right: baseline")
        eva.told("reason: expected at least 8 letters")
        page.get_by_label("Reason for the baseline").fill("validated in week 12")
        eva.press(f"The newest {WINDOW} are right: baseline")
        expect(page.get_by_text("parts that eva approved")).to_be_visible()
        for level in (1, 2, 3):
            shop.produce(WINDOW, shift=0.8)
            until(f"level {level}", lambda level=level: shop.said.get("drift") == level)
        baseline = baselines.of(recipe)
        assert baseline is not None and baseline.level is Level.HOLD
        assert any("margin" in finding for finding in baseline.findings)
        page = eva.go("health")
        expect(page.get_by_text("HOLD: the line waits for a challenge")).to_be_visible()
        orders = [order for order in shop.orders if order.name == "drift"]
        assert {order.by for order in orders} == {"tool:drift"}

        def is_calm() -> bool:
            # The tool has to have seen that the line holds, or it asks for the hold once more.
            time.sleep(2 * LOOK_S)
            shop.said["drift"] = 0  # a challenge was passed
            time.sleep(2 * LOOK_S)
            return (baselines.of(recipe) or baseline).level is Level.CALM

        until("calm", is_calm, 90)
        assert (shop.limits(1).t1, shop.limits(1).t2) == (-1.0, 1.5)
        assert not (shop.config.recipes_dir / "plate" / "2.toml").exists()
        entries = [e for e in AuditJournal(shop.config).entries() if e.what == "drift.level"]
        assert [(e.old, e.new) for e in entries] == [
            ("CALM", "WARN"), ("WARN", "CHALLENGE"), ("CHALLENGE", "HOLD"), ("HOLD", "CALM"),
        ]  # fmt: skip
        assert entries[-1].reason == "a challenge was passed"
        assert eva.problems == []


def test_no_window_is_compared_while_the_regions_are_not_known(shop: Shop) -> None:
    recipe = load_recipe(shop.config, "plate/1")
    manifest = shop.config.bundles_dir / "plate-1" / "manifest.json"
    with Wiring(shop.config.runtime_dir) as wiring:

        async def looked() -> tuple[Baseline | None, Baseline | None]:
            desk = Desk(shop.config, shop.root / "config.toml", wiring.async_sender("command"))
            try:
                rows = desk.store().last(WINDOW)
                desk.baselines.approve(recipe, rows, (), "validated in week 12", shop.user("eva"))
                shop.produce(WINDOW, shift=0.8)
                watch = Watch(desk)
                away = manifest.rename(manifest.with_suffix(".away"))
                blind = watch.look()
                away.rename(manifest)
                return blind, watch.look()
            finally:
                desk.close()

        blind, seeing = asyncio.run(looked())
    assert blind is not None and (blind.level, blind.looked_part_id) == (Level.CALM, WINDOW)
    assert seeing is not None and (seeing.level, seeing.looked_part_id) == (Level.WARN, 2 * WINDOW)


def test_a_level_is_ended_by_a_person_with_a_name(shop: Shop) -> None:
    baselines, recipe = Baselines(shop.people), load_recipe(shop.config, "plate/1")
    store = Store(shop.config.data_dir / "parts.db", is_reader=True)
    rows = store.last(WINDOW)
    store.close()
    baselines.approve(recipe, rows, (), "validated in week 12", shop.user("eva"))
    baseline = baselines.of(recipe)
    assert baseline is not None and baseline.rates == rates_of(rows)
    baselines.looked(baseline, Level.WARN, 600, ["PSI of margin: 0.5, limit 0.1"])
    warned = baselines.of(recipe)
    assert warned is not None and warned.level is Level.WARN and warned.looked_part_id == 600
    baselines.calm(warned, "eva", "the lamp was new", "ENGINEER")
    last = list(AuditJournal(shop.config).entries())[-1]
    assert (last.who, last.old, last.new, last.reason) == (
        "eva", "WARN", "CALM", "the lamp was new",
    )  # fmt: skip


def test_sensors_are_read_and_broken_ones_named(tmp_path: Path) -> None:
    for name, kind, value in (("0", "cpu", "41500"), ("1", "gpu", "no number"), ("2", "", "")):
        zone = tmp_path / "thermal" / f"thermal_zone{name}"
        zone.mkdir(parents=True)
        (zone / "type").write_text(f"{kind}\n")
        (zone / "temp").write_text(f"{value}\n")
    chip = tmp_path / "hwmon" / "hwmon3"
    chip.mkdir(parents=True)
    (chip / "name").write_text("nvme\n")
    (chip / "temp1_input").write_text("38000\n")
    assert temperatures(tmp_path) == [
        ("cpu thermal_zone0", 41.5), ("gpu thermal_zone1", None), ("nvme hwmon3", 38.0),
        ("thermal_zone2", None),
    ]  # fmt: skip
    room = disk(tmp_path / "not" / "there")
    assert 0 <= room.free_gb <= room.total_gb
