"""Limits hold for the camera settings that they were approved for, and a person approves others."""

from pathlib import Path

import msgspec
import pytest

from appliance.audit import AuditJournal
from appliance.camera_settings import Found, check_approved, hash_of, write_found
from appliance.codes import OfflineReason
from appliance.config import Config
from appliance.config_camera import Camera
from appliance.errors import ArtefactError, ConfigError
from appliance.product_table import load_products
from appliance.recipe import Limits, Recipe, load_recipe, setup_hash, write_recipe
from calibration.approve import WHAT, check_shown, differences, main, to_approve

NOW = {"Device": "a camera", "ExposureTime": "800", "Gain": "0", "Width": "64"}
RECIPE = Recipe(
    id="cell", version=1, bundle="ab" * 32, bundle_dir="cell-1", decides="map_max",
    limits=Limits(t1=1.0, t2=2.0),
)  # fmt: skip


@pytest.mark.parametrize(
    ("approved", "found"), [(NOW, NOW), ({}, NOW), (NOW, {}), (NOW, dict(reversed(NOW.items())))]
)
def test_the_same_settings_none_approved_and_no_device_pass(
    approved: dict[str, str], found: dict[str, str]
) -> None:
    check_approved("recipe cell/1", "top", approved, found)


@pytest.mark.parametrize(
    ("change", "expected", "got"),
    [
        ({"ExposureTime": "801"}, "(ExposureTime 800)", "ExposureTime 801"),
        ({"Device": "another"}, "(Device a camera)", "Device another"),
        ({"Gamma": "1"}, "(Gamma not there)", "Gamma 1"),
        (
            {"Device": "b", "ExposureTime": "1", "Gain": "1", "Width": "1"},
            "(Device a camera, ExposureTime 800, Gain 0 and 1 more)",
            "Device b, ExposureTime 1, Gain 1 and 1 more",
        ),
    ],
)
def test_another_setting_is_named_with_both_values(
    change: dict[str, str], expected: str, got: str
) -> None:
    with pytest.raises(ArtefactError) as refused:
        check_approved("recipe cell/1", "top", NOW, NOW | change)
    assert expected in refused.value.expected and refused.value.got.startswith(got)
    assert refused.value.offline is OfflineReason.PASSPORT


def test_the_hash_is_of_the_values_and_not_of_their_order() -> None:
    assert hash_of(NOW) == hash_of(dict(reversed(NOW.items()))) != hash_of(NOW | {"Gain": "1"})
    assert hash_of({}) == ""


def test_approved_settings_are_part_of_the_set_up_and_limits_alone_are_not() -> None:
    def with_limits(**limits: object) -> str:
        return setup_hash(
            msgspec.structs.replace(RECIPE, limits=msgspec.structs.replace(RECIPE.limits, **limits))
        )

    assert with_limits(t1=0.5) == setup_hash(RECIPE)
    first, second = with_limits(settings={"top": NOW}), with_limits(settings={"top": {"a": "b"}})
    assert len({first, second, setup_hash(RECIPE)}) == 3


@pytest.fixture
def box(tmp_path: Path) -> Config:
    (tmp_path / "config.toml").write_text(
        'root = "."\ndeadline_ms = 200\n'
        '[[camera]]\nname = "top"\nkind = "genicam"\nproducer = "viky"\n'
    )
    (tmp_path / "products.toml").write_text('[[product]]\nnumber = 1\nrecipe = "cell/1"\n')
    config = Config(
        root=str(tmp_path),
        deadline_ms=200,
        camera=(Camera(name="top", kind="genicam", producer="viky"),),
    )
    write_recipe(config, RECIPE)
    return config


def test_a_person_approves_what_the_camera_has(
    box: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ArtefactError, match="expected the word of a camera process"):
        to_approve(box)
    write_found(box, "top", Found(recipe="cell/1", settings=NOW))
    main("eva", "new lamp, 50 parts seen", box.root_dir / "config.toml")
    said = capsys.readouterr()
    assert said.out == "cell/2\n" and "next start" in said.err
    new = load_recipe(box, "cell/2").recipe
    assert new.limits.settings == {"top": NOW} and (new.limits.t1, new.limits.t2) == (1.0, 2.0)
    assert load_products(box) == {1: "cell/2"}
    *_, entry = AuditJournal(box).entries()
    assert (entry.who, entry.what, entry.subject) == ("eva", WHAT, "cell/2")
    assert str(hash_of(NOW)) in str(entry.new)
    # The version that the cameras tried on is an old one now.
    with pytest.raises(ConfigError, match="newest version, cell/2"):
        to_approve(box)
    write_found(box, "top", Found(recipe="cell/2", settings=NOW))
    with pytest.raises(ConfigError, match="not approved yet, got the approved ones"):
        to_approve(box)


def test_only_what_was_looked_at_is_approved(box: Config) -> None:
    write_found(box, "top", Found(recipe="cell/1", settings=NOW))
    _, shown = to_approve(box)
    check_shown(shown, to_approve(box)[1])
    write_found(box, "top", Found(recipe="cell/1", settings=NOW | {"Gain": "24"}))
    for other in (to_approve(box)[1], shown | {"side": shown["top"]}, {}):
        with pytest.raises(ConfigError, match="expected those that the page showed, got others of"):
            check_shown(shown, other)
    assert differences({"A": "1", "B": "2"}, {"B": "3", "C": "4"}) == [
        ("A", "1", "–"), ("B", "2", "3"), ("C", "–", "4"),
    ]  # fmt: skip
