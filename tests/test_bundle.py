import shutil
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.bundle import finish_bundle, golden_outputs, load_bundle
from appliance.errors import ArtefactError
from tests.networks import write_network_bundle


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_network_bundle(tmp_path_factory.mktemp("bundle") / "b")


@pytest.fixture
def bundle(whole, tmp_path):
    """A copy that a test may damage."""
    shutil.copytree(whole.folder, tmp_path / "b")
    return load_bundle(tmp_path / "b", whole.id)


def refused(folder: Path, identity: str | None = None) -> str:
    with pytest.raises(ArtefactError) as caught:
        load_bundle(folder, identity)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_bundle_is_known_by_its_manifest(whole, bundle):
    assert bundle.id == whole.id
    assert len(bundle.id) == 64
    assert "f" * 12 in refused(bundle.folder, "f" * 64)


FILES = ["network.onnx", "segments.png", "golden/0.png", "golden/1.npz"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "edited", "longer", "a folder"])
def test_a_damaged_file_is_named(bundle, name, damage):
    path = bundle.path(name)
    data = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "missing":
        middle = len(data) // 2
        path.write_bytes(
            {
                "empty": b"",
                "cut": data[:-1],
                "edited": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
                "longer": data + b"\0",
            }[damage]
        )
    assert refused(bundle.folder).startswith(f"{path}: expected SHA-256 ")


@given(st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_one_changed_byte_anywhere_is_found(bundle, data):
    names = ["manifest.json", *sorted(bundle.manifest.files)]
    path = bundle.path(data.draw(st.sampled_from(names)))
    before = path.read_bytes()
    place = data.draw(st.integers(0, len(before) - 1))
    bit = 1 << data.draw(st.integers(0, 7))
    changed = before[:place] + bytes([before[place] ^ bit]) + before[place + 1 :]
    path.write_bytes(changed)
    try:
        refused(bundle.folder, bundle.id)
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"\xff\xfe", "JSON"),
        (b'{"product": "\xff"}', "JSON"),
        (b"[]", "object"),
        (b"{}", "missing required field|the key"),
    ],
)
def test_a_manifest_that_is_none_is_refused(bundle, data, message):
    (bundle.folder / "manifest.json").write_bytes(data)
    with pytest.raises(ArtefactError, match=message):
        load_bundle(bundle.folder)


def test_a_missing_bundle_is_refused(tmp_path):
    assert refused(tmp_path / "none").endswith(
        "manifest.json: expected a bundle manifest, got No such file or directory"
    )


def edit(bundle, **change):
    """Rewrite the manifest, its hashes as they are: what a careless person does."""
    path = bundle.folder / "manifest.json"
    manifest = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode({**manifest, **change}))
    return bundle.folder


def test_unknown_keys_and_wrong_types_are_refused(bundle):
    assert "colour" in refused(edit(bundle, colour="red"))
    load = refused(edit(bundle, colour="red", product=3))
    assert "expected" in load


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "golden/../../secret", "..", "a\0b"])
def test_names_outside_the_bundle_are_refused(bundle, name):
    (bundle.folder.parent / "secret").write_text("x")
    files = {**bundle.manifest.files, name: "0" * 64}
    message = refused(edit(bundle, files=files))
    assert "expected file names inside the bundle" in message


@pytest.mark.parametrize("name", FILES)
def test_a_file_without_a_hash_is_refused(bundle, name):
    files = {key: value for key, value in bundle.manifest.files.items() if key != name}
    assert f"a hash for {name}, got none" in refused(edit(bundle, files=files))


def test_a_forest_without_a_hash_is_refused(bundle):
    assert "a hash for segad.ubj" in refused(edit(bundle, forest="segad.ubj"))


UNIT = {"middle": 0, "spread": 1}


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ({"segad": UNIT, "map_max": UNIT}, "got segad, map_max, no forest"),
        (
            {"segad": UNIT},
            "expected units of segad and map_max, and a forest, got segad, no forest",
        ),
        ({"map_max": UNIT, "segad": {"middle": 0, "spread": 0}}, "units"),
        ({"average": UNIT}, "units"),
    ],
)
def test_an_average_that_cannot_be_made_is_refused(bundle, units, message):
    assert message in refused(edit(bundle, units=units))


def with_segments(tmp_path, labels, suffix=".png"):
    """A whole bundle, all hashes right, whose segment map is `labels`."""
    source = write_network_bundle(tmp_path / "source")
    (source.folder / "manifest.json").unlink()
    data = cv2.imencode(suffix, labels)[1].tobytes()
    (source.folder / "segments.png").write_bytes(data)
    return source.folder, tmp_path / "target", source.manifest


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((16, 25), np.uint8), "expected 24x16 labels, got 25x16"),
        (np.zeros((24, 16), np.uint8), "expected 24x16 labels, got 16x24"),
        (np.full((16, 24), 2, np.uint8), "expected labels below 2 or 255, got label 2"),
        (np.full((16, 24), 254, np.uint8), "expected labels below 2 or 255, got label 254"),
        (np.zeros((16, 24, 3), np.uint8), "an 8-bit one-channel PNG"),
        (np.zeros((16, 24), np.uint16), "an 8-bit one-channel PNG"),
    ],
    ids=["wider", "turned", "one label more", "high label", "colour", "16 bits"],
)
def test_a_segment_map_that_does_not_fit_is_refused(tmp_path, labels, message):
    with pytest.raises(ArtefactError, match=message) as caught:
        finish_bundle(*with_segments(tmp_path, labels))
    assert "segments.png" in str(caught.value)


def test_a_segment_map_may_ignore_everything(tmp_path):
    labels = np.full((16, 24), 255, np.uint8)
    bundle = finish_bundle(*with_segments(tmp_path, labels))
    np.testing.assert_array_equal(bundle.segment_map(), labels)


def test_a_finished_bundle_is_never_overwritten(whole, bundle, tmp_path):
    before = sorted(path.name for path in whole.folder.iterdir())
    with pytest.raises(ArtefactError, match="not there yet"):
        finish_bundle(bundle.folder, whole.folder, bundle.manifest)
    assert sorted(path.name for path in whole.folder.iterdir()) == before
    load_bundle(whole.folder, whole.id)


@pytest.mark.parametrize("data", [b"", b"no archive", b"PK\x03\x04 cut"])
def test_golden_outputs_that_are_none_are_refused(tmp_path, data):
    (tmp_path / "0.npz").write_bytes(data)
    with pytest.raises(ArtefactError, match=r"0\.npz: expected arrays"):
        golden_outputs(tmp_path / "0.npz")


def test_golden_outputs_need_both_arrays_and_no_pickle(tmp_path):
    np.savez(tmp_path / "map.npz", map=np.zeros((1, 2, 2)))
    np.savez(tmp_path / "object.npz", map=np.array([{}], object), score=np.float32(0))
    for name in ("map.npz", "object.npz"):
        with pytest.raises(ArtefactError, match="expected arrays"):
            golden_outputs(tmp_path / name)
