"""Who makes a map, and how often that must be proved."""

from pathlib import Path

import msgspec
import pytest

from appliance import passport
from appliance.errors import ArtefactError
from appliance.passport import (
    DAY_NS,
    Passport,
    Proof,
    Record,
    golden_due,
    read_record,
    write_proof,
    write_record,
)

HERE = Passport(
    bundle="b", network="n", kind="tensorrt", runtime="tensorrt 10.3.0", precision="fp16",
    threads=1, device="a GPU, 8.7", driver="12.6",
)  # fmt: skip


def proof(**change: object) -> Proof:
    made = Proof(
        setup_hash="s", passport=HERE.id, boot=passport.boot_id(),
        at_s=passport.seconds_since_boot() - 60, checked_utc="", golden_frames=24,
        golden_deviation=0.0, tolerance=1e-3, warm_up_p99_ms=1.0, hang_limit_ms=500.0,
    )  # fmt: skip
    return msgspec.structs.replace(made, **change)


def test_every_field_is_part_of_the_identity() -> None:
    others = [
        msgspec.structs.replace(HERE, **{name: 7 if name == "threads" else "other"})
        for name in Passport.__struct_fields__
    ]
    assert len({made.id for made in (HERE, *others)}) == 1 + len(others)


def test_two_plans_of_one_network_have_two_ids_and_one_folder(tmp_path: Path) -> None:
    one, two = HERE.with_plan("1" * 64), HERE.with_plan("2" * 64)
    assert len({HERE.id, one.id, two.id}) == 3
    assert HERE.folder(tmp_path) == one.folder(tmp_path) == two.folder(tmp_path)
    assert one.with_plan("") == HERE
    assert HERE.id == "c6277c8b36a9c21f", "what boxes have built is found where it lies"


def test_a_passport_is_read_back(tmp_path: Path) -> None:
    write_record(tmp_path, Record(id=HERE.id, passport=HERE))
    assert read_record(tmp_path, HERE).passport == HERE


@pytest.mark.parametrize("field", ["runtime", "device", "driver", "network", "precision"])
def test_a_foreign_passport_is_refused_by_the_field(tmp_path: Path, field: str) -> None:
    foreign = msgspec.structs.replace(HERE, **{field: "other"})
    write_record(tmp_path, Record(id=foreign.id, passport=foreign))
    with pytest.raises(ArtefactError, match=rf"passport\.json: expected {field} .*, got other"):
        read_record(tmp_path, HERE)


def test_a_passport_whose_id_is_not_its_own_is_refused(tmp_path: Path) -> None:
    write_record(tmp_path, Record(id="0" * 16, passport=HERE))
    with pytest.raises(ArtefactError, match=f"expected the id {HERE.id}"):
        read_record(tmp_path, HERE)


@pytest.mark.parametrize("data", [None, b"", b"{}", b"no json", b'{"id": 1}'])
def test_no_passport_or_a_damaged_one_is_refused(tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "passport.json").write_bytes(data)
    with pytest.raises(ArtefactError, match=r"passport\.json: expected the passport"):
        read_record(tmp_path, HERE)


@pytest.mark.skipif(not passport.boot_id(), reason="this system has no boot id")
def test_after_a_crash_two_frames_and_all_in_every_other_case(tmp_path: Path) -> None:
    assert golden_due(tmp_path, "s", HERE.id) == "all"
    write_proof(tmp_path, proof())
    assert golden_due(tmp_path, "s", HERE.id) == "two"
    for change in (
        {"setup_hash": "other"},
        {"passport": HERE.with_plan("of a later build").id},
        {"boot": "another boot"},
        {"boot": ""},
        {"at_s": passport.seconds_since_boot() - DAY_NS / 1e9 - 1},
        {"at_s": passport.seconds_since_boot() + 60},
    ):
        write_proof(tmp_path, proof(**change))
        assert golden_due(tmp_path, "s", HERE.id) == "all", change
    (tmp_path / "proof.json").write_bytes(b"damaged")
    assert golden_due(tmp_path, "s", HERE.id) == "all"
