"""Whether the disk takes what the recording policy wants."""

import socket
from pathlib import Path

import pytest

from appliance.bundle import load_bundle
from appliance.disk import BLOCK_BYTES, wanted_bytes_per_s, written_bytes_per_s
from appliance.doctor import installation
from appliance.recipe import View, load_recipe, write_recipe
from appliance.wire import Wiring
from tests.ports import free_port
from tests.recorded_world import Recorded
from tests.rig_camera import short_root

FRAME, MAP = 64 * 96, 4 * 16 * 24


def world(root: Path, camera: dict[str, object], **settings: object) -> Recorded:
    return Recorded(
        root,
        camera=[{"name": "top", "kind": "files", "folder": "x", **camera}],
        hmi={"is_enabled": False},
        plc={"port": free_port()},
        record={"min_free_gb": 0.0, **settings},
    )


@pytest.mark.parametrize(
    ("policy", "settings", "expected"),
    [
        ("all", {}, 20 * (FRAME + MAP)),
        ("ng", {}, 20 * (FRAME + MAP)),
        ("ring", {"maps": False}, 20 * FRAME),
        ("sampled", {}, 2 * (FRAME + MAP)),
        ("none", {}, 0),
    ],
)
def test_what_a_policy_writes(
    tmp_path: Path, policy: str, settings: dict[str, object], expected: float
) -> None:
    here = world(tmp_path, {"rate_hz": 20.0, "record": policy}, **settings)
    recipe = load_recipe(here.config, "net/1").recipe
    bundle = load_bundle(here.config.bundles_dir / "net")
    assert wanted_bytes_per_s(here.config, [(recipe, bundle)]) == expected
    assert wanted_bytes_per_s(here.config, []) == 0


def test_ten_bits_take_two_bytes(tmp_path: Path) -> None:
    here = world(tmp_path, {"rate_hz": 1.0, "record": "all"})
    recipe = load_recipe(here.config, "net/1").recipe
    deep = type(recipe)(
        id="deep", version=1, bundle=recipe.bundle, bundle_dir="net", decides="map_max",
        limits=recipe.limits, camera={"top": View(pixel_format="Mono10")},
    )  # fmt: skip
    write_recipe(here.config, deep)
    bundle = load_bundle(here.config.bundles_dir / "net")
    products = [(recipe, bundle), (load_recipe(here.config, "deep/1").recipe, bundle)]
    assert wanted_bytes_per_s(here.config, products) == 2 * FRAME + MAP


def test_the_disk_is_measured_and_left_as_it_was(tmp_path: Path) -> None:
    assert written_bytes_per_s(tmp_path / "recordings", BLOCK_BYTES) > 0
    assert list((tmp_path / "recordings").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        written_bytes_per_s(tmp_path / "file", BLOCK_BYTES)


@pytest.mark.parametrize(
    ("camera", "grade"),
    [
        ({"rate_hz": 1.0}, "good"),
        ({"rate_hz": 1e5, "width_px": 8000, "height_px": 8000}, "broken"),
    ],
)
def test_the_doctor_says_whether_the_policy_fits(
    tmp_path: Path, camera: dict[str, object], grade: str
) -> None:
    here = world(tmp_path, {"record": "all", **camera})
    products = here.config.root_dir / "products.toml"
    products.write_text('[[product]]\nnumber = 1\nrecipe = "net/1"\n')
    found = {finding.what: finding for finding in installation(here.config_path)}
    assert found["recording"].grade == grade, found
    assert "the policy wants" in found["recording"].detail


def test_beside_a_running_line_its_ports_are_its_own_and_its_disk_is_left_alone() -> None:
    with short_root() as root:
        here = world(root, {"record": "all"})
        products = here.config.root_dir / "products.toml"
        products.write_text('[[product]]\nnumber = 1\nrecipe = "net/1"\n')
        with socket.create_server((here.config.plc.host, here.config.plc.port)):
            apart = {finding.what: finding for finding in installation(here.config_path)}
            with Wiring(here.config.runtime_dir) as wiring:
                wiring.receiver("command")
                beside = {finding.what: finding for finding in installation(here.config_path)}
    assert apart["addresses"].grade == "broken", "somebody else's"
    assert beside["addresses"].grade == "good"
    assert beside["recording"].detail.startswith("not measured")
