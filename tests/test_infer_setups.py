"""What infer has in force, prepares beside it, and refuses."""

import shutil
import signal
from typing import Any

import msgspec
import numpy as np
import pytest

from appliance.bundle import finish_bundle
from appliance.codes import OfflineReason, Reason
from appliance.engine_null import write_null_bundle
from appliance.messages import (
    FrameReady,
    Prepare,
    Prepared,
    Refused,
    Scored,
    Swap,
)
from appliance.passport import Proof, Record
from tests import rig_infer
from tests.networks import picture, write_network_bundle
from tests.rig_infer import Rig, expect_failure

line, rig = rig_infer.line, rig_infer.rig


def test_nothing_is_scored_before_a_set_up_is_in_force(rig):
    bundle = write_network_bundle(rig.config.bundles_dir / "b")
    recipe = rig.recipe(bundle)
    rig.start()
    assert not rig.health.is_serving
    assert rig.health.setup_hash == ""
    part = rig.show(picture(1), recipe[1])
    expect_failure(rig.answer(), part, Reason.WRONG_RECIPE, "none")
    assert isinstance(rig.prepare(recipe), Prepared)
    part = rig.show(picture(1), recipe[1])
    expect_failure(rig.answer(), part, Reason.WRONG_RECIPE, "none")
    rig.order(Swap(setup_hash=recipe[1]))
    rig.until("swap", lambda: rig.health.is_serving)
    rig.show(picture(1), recipe[1])
    assert isinstance(rig.answer(), Scored)


def test_passport_and_proof_lie_beside_the_engine(line):
    (path,) = line.config.engines_dir.rglob("passport.json")
    record = msgspec.json.decode(path.read_bytes(), type=Record)
    assert record.id == record.passport.id == line.prepared.passport
    assert path.parent.name == record.id
    proof = msgspec.json.decode((path.parent / "proof.json").read_bytes(), type=Proof)
    assert proof.golden_frames == 2
    assert proof.golden_deviation <= proof.tolerance == 1e-3
    assert proof.hang_limit_ms >= 500


def test_prepared_twice_is_loaded_once(line):
    order = Prepare(recipe="cell/1", setup_hash=line.setup_hash)
    line.order(order)
    assert line.answer() == line.prepared
    assert line.health.setup_hash == line.setup_hash


def test_a_swap_back_drops_what_was_prepared(rig):
    one = rig.recipe(write_network_bundle(rig.config.bundles_dir / "b"), "one")
    two = rig.recipe(write_network_bundle(rig.config.bundles_dir / "c", bias=1.0), "two")
    rig.start()
    rig.use(one)
    first = rig.prepare(two)
    assert isinstance(first, Prepared)
    rig.order(Swap(setup_hash=one[1]))
    rig.show(picture(1), one[1])
    before = rig.answer().classification
    rig.order(Swap(setup_hash=two[1]))  # no longer there
    rig.until("count", lambda: rig.health.counters.get("unknown_swaps"))
    assert rig.health.setup_hash == one[1]
    assert rig.use(two) == first
    rig.show(picture(1), two[1])
    assert rig.answer().classification == pytest.approx(before + 1, rel=1e-5)
    part = rig.show(picture(1), one[1])
    expect_failure(rig.answer(), part, Reason.WRONG_RECIPE, two[1][:12])


@pytest.mark.parametrize("is_back", [False, True], ids=["the old one", "the prepared one"])
@pytest.mark.parametrize(
    "rig", [{"kind": "null", "faults": {"is_stuck_at_end": True}}], indirect=True
)
def test_an_engine_that_cannot_be_closed_ends_the_process_and_is_named(rig, is_back):
    one = rig.recipe(write_null_bundle(rig.config.bundles_dir / "b", "b", 64, 96), "one")
    two = rig.recipe(write_null_bundle(rig.config.bundles_dir / "c", "c", 64, 96), "two")
    rig.start()
    rig.use(one)
    assert isinstance(rig.prepare(two), Prepared)
    rig.order(Swap(setup_hash=(one if is_back else two)[1]))
    assert rig.exit_code() == 1
    assert "the engine hangs" in rig.said()
    assert "engine_null.py" in rig.said()


def test_larger_maps_get_a_larger_ring_and_smaller_ones_do_not(rig):
    small = write_network_bundle(rig.config.bundles_dir / "b")
    large = write_network_bundle(rig.config.bundles_dir / "c", net=(48, 64))
    recipes = rig.recipe(small, "small"), rig.recipe(large, "large")
    rig.start()
    maps = []
    for recipe in (*recipes, *recipes):
        rig.use(recipe)
        rig.show(picture(1), recipe[1])
        maps.append(rig.answer().map)
    first, *others = [ref.ring for ref in maps]
    assert first not in others
    assert len(set(others)) == 1
    assert [path.name for path in rig.config.rings_dir.glob("map-0.*")] == others[:1]
    assert rig.reader.copy(maps[-1]).shape == (1, 48, 64)
    assert rig.reader.copy(maps[-2]).shape == (1, 16, 24)


def damaged(rig: Rig, damage: str) -> tuple[str, str]:
    """A recipe with something wrong behind it."""
    folder = rig.config.bundles_dir / "bad"
    change: dict[str, Any] = {}
    if damage == "no tolerance":
        change["tolerances"] = {"int8": 1.0}
    if damage == "null bundle":
        bundle = write_null_bundle(folder)
    else:
        bundle = write_network_bundle(folder, golden=damage != "no golden", change=change)
    if damage in ("golden", "golden shape"):
        # A bundle that is whole, but does not fit its own golden frames.
        shape = (1, 16, 24) if damage == "golden" else (1, 8, 8)
        np.savez(folder / "golden/0.npz", map=np.full(shape, 3.0), score=np.float32(3))
        (folder / "manifest.json").unlink()
        folder.rename(folder.with_name("draft"))
        bundle = finish_bundle(folder.with_name("draft"), folder, bundle.manifest)
    name, setup_hash = rig.recipe(bundle, "bad")
    recipe = rig.config.recipes_dir / "bad/1.toml"
    if damage == "no recipe":
        recipe.unlink()
    elif damage == "other recipe":
        setup_hash = "0" * 64
    elif damage == "no manifest":
        (folder / "manifest.json").unlink()
    elif damage == "edited manifest":
        path = folder / "manifest.json"
        path.write_bytes(path.read_bytes().replace(b'"p"', b'"q"'))
    elif damage == "cut network":
        path = folder / "network.onnx"
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "no segments":
        (folder / "segments.png").unlink()
    return name, setup_hash


@pytest.fixture(scope="module")
def refusing():
    """One infer that is asked for one impossible thing after the other, and goes on."""
    made = Rig()
    recipe = made.recipe(write_network_bundle(made.config.bundles_dir / "b"))
    made.start()
    made.use(recipe)
    made.setup_hash = recipe[1]
    yield made
    made.close()


@pytest.mark.parametrize(
    ("damage", "where", "offline"),
    [
        ("no recipe", "bad/1.toml", OfflineReason.NO_RECIPE),
        ("other recipe", "bad/1.toml", OfflineReason.NO_RECIPE),
        ("no manifest", "bad/manifest.json", OfflineReason.ENGINE),
        ("edited manifest", "bad/manifest.json", OfflineReason.ENGINE),
        ("cut network", "bad/network.onnx", OfflineReason.ENGINE),
        ("no segments", "bad/segments.png", OfflineReason.ENGINE),
        ("null bundle", "bad/manifest.json", OfflineReason.ENGINE),
        ("no golden", "bad/manifest.json: golden", OfflineReason.PASSPORT),
        ("no tolerance", "bad/manifest.json: tolerances", OfflineReason.PASSPORT),
        ("golden", "bad/golden/0.png", OfflineReason.PASSPORT),
        ("golden shape", "bad/golden/0.npz", OfflineReason.PASSPORT),
    ],
)
def test_what_cannot_be_proved_is_refused_and_the_old_goes_on(refusing, damage, where, offline):
    recipe = damaged(refusing, damage)
    try:
        refused = refusing.prepare(recipe)
    finally:
        shutil.rmtree(refusing.config.bundles_dir / "bad")
        shutil.rmtree(refusing.config.recipes_dir / "bad", ignore_errors=True)
    assert isinstance(refused, Refused)
    assert refused.process == "infer:0"
    assert refused.setup_hash == recipe[1]
    assert refused.where.endswith(where)
    assert refused.offline is offline
    assert refused.expected
    assert refused.got
    refusing.show(picture(1), refusing.setup_hash)
    assert isinstance(refusing.answer(), Scored)


def test_a_network_that_gives_no_numbers_is_refused(rig):
    bundle = write_network_bundle(rig.config.bundles_dir / "b", bias=float("nan"))
    refused = rig.start().prepare(rig.recipe(bundle))
    assert isinstance(refused, Refused)
    assert refused.where.endswith("b/network.onnx")
    assert "not finite" in refused.got
    rig.until("note", lambda: "not finite" in rig.health.note)


@pytest.mark.parametrize("rig", [{"kind": "null", "null_delay_ms": 30}], indirect=True)
def test_orders_and_signals_get_a_turn_among_frames_without_end(rig):
    recipe = rig.recipe(write_null_bundle(rig.config.bundles_dir / "n", "n", 64, 96))
    rig.start()
    rig.use(recipe)

    def keep_showing() -> int:
        """Fills the queue to the brim; how many answers have come."""
        while True:
            rig.sent += 1
            ready = FrameReady(
                camera="top",
                part_id=rig.sent,
                frame_id=rig.sent,
                setup_hash=recipe[1],
                age_ns=0,
                is_simulated=True,
                pixels=rig.rings["top"].put(np.zeros((64, 96), np.uint8)),
            )
            if not rig.frames["top"].send(ready):
                return len(rig.came)

    rig.until("frames on their way", lambda: keep_showing() > 5)
    rig.order(Prepare(recipe="none/1", setup_hash="0" * 64))
    rig.until("refusal", lambda: keep_showing() and any(isinstance(a, Refused) for a in rig.came))
    rig.process.send_signal(signal.SIGTERM)
    rig.until("end", lambda: keep_showing() and rig.process.poll() is not None)
    assert rig.process.returncode == 0
