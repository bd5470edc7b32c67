"""What keeps the box from being Ready: every cause alone, and which of two is told."""

from dataclasses import replace

import pytest

from appliance.codes import FaultCode, OfflineReason, Status2
from appliance.messages import Refused
from appliance.readiness import Facts, bits_of, fault_of, offline_of

WELL = Facts(
    is_camera_ok=True,
    is_infer_ok=True,
    is_using=True,
    is_changing=False,
    is_ordered=False,
    recipe=OfflineReason.NONE,
    refusal=None,
    was_ready=True,
    is_starting=False,
    is_unaccounted=False,
    is_journal_bad=False,
    is_reject_missing=False,
    is_stalled=False,
    is_budget_spent=False,
    is_unkept=False,
    is_stopped=False,
    is_ended=False,
)
FOREIGN = Refused(
    process="infer",
    setup_hash="",
    offline=OfflineReason.PASSPORT,
    where="network.onnx",
    expected="the hash in the manifest",
    got="another",
)
FAULTS = [
    ({"is_unaccounted": True}, FaultCode.LEDGER),
    ({"is_journal_bad": True}, FaultCode.STORAGE),
    ({"is_reject_missing": True}, FaultCode.REJECT_NOT_CONFIRMED),
    ({"is_stalled": True}, FaultCode.DECISION_LATE),
    ({"is_budget_spent": True}, FaultCode.RESTART_BUDGET_SPENT),
    ({"is_camera_ok": False}, FaultCode.CAMERA_LOST),
    ({"is_infer_ok": False}, FaultCode.ENGINE_FAILED),
    ({"refusal": FOREIGN}, FaultCode.PASSPORT),
]
REASONS = [
    ({"is_ended": True}, OfflineReason.STOPPED_BY_PERSON),
    ({"is_changing": True}, OfflineReason.RECIPE_CHANGING),
    ({"is_ordered": True}, OfflineReason.RECIPE_CHANGING),
    ({"recipe": OfflineReason.NO_RECIPE}, OfflineReason.NO_RECIPE),
    ({"recipe": OfflineReason.PASSPORT}, OfflineReason.PASSPORT),
    ({"is_using": False, "is_starting": True}, OfflineReason.STARTING),
    ({"is_using": False, "is_camera_ok": False}, OfflineReason.CAMERA),
    ({"is_using": False, "is_infer_ok": False}, OfflineReason.ENGINE),
    ({"is_stopped": True}, OfflineReason.STOPPED_BY_PERSON),
    ({"is_journal_bad": True}, OfflineReason.STORAGE_POLICY),
    ({"is_unkept": True}, OfflineReason.STORAGE_POLICY),
]


@pytest.mark.parametrize(("changes", "fault"), FAULTS)
def test_each_cause_has_its_fault(changes: dict[str, object], fault: FaultCode) -> None:
    assert fault_of(replace(WELL, **changes)) == fault


@pytest.mark.parametrize("first", range(len(FAULTS)))
def test_of_several_causes_the_gravest_is_the_fault(first: int) -> None:
    changes = {name: value for causes, _ in FAULTS[first:] for name, value in causes.items()}
    assert fault_of(replace(WELL, **changes)) == FAULTS[first][1]


def test_nothing_wrong_is_no_fault_and_no_reason() -> None:
    assert fault_of(WELL) == FaultCode.NONE
    assert offline_of(WELL, is_locked=False, is_association_lost=False) == OfflineReason.NONE


def test_what_was_never_there_is_awaited_and_not_lost() -> None:
    absent = replace(WELL, is_camera_ok=False, is_infer_ok=False, is_using=False, was_ready=False)
    assert fault_of(absent) == FaultCode.NONE


def test_a_worker_that_changes_its_recipe_is_no_fault() -> None:
    assert fault_of(replace(WELL, is_infer_ok=False, is_changing=True)) == FaultCode.NONE


@pytest.mark.parametrize(("changes", "reason"), REASONS)
def test_each_cause_has_its_offline_reason(
    changes: dict[str, object], reason: OfflineReason
) -> None:
    assert offline_of(replace(WELL, **changes), False, False) == reason
    locked_as_well = offline_of(replace(WELL, **changes), True, True)
    asked_later = reason == OfflineReason.STORAGE_POLICY
    assert locked_as_well == (OfflineReason.CHALLENGE_LOCK if asked_later else reason)


def test_a_lock_comes_before_a_lost_association() -> None:
    assert offline_of(WELL, True, True) == OfflineReason.CHALLENGE_LOCK
    assert offline_of(WELL, False, True) == OfflineReason.ASSOCIATION_LOST


@pytest.mark.parametrize("missing", ["is_using", "is_changing", "is_ordered"])
def test_usable_is_everyone_with_the_recipe_and_no_change_of_it(missing: str) -> None:
    assert WELL.is_usable
    assert not replace(WELL, **{missing: not getattr(WELL, missing)}).is_usable


def test_bits_are_those_whose_flag_is_true() -> None:
    flags = {Status2.CAMERA_OK: True, Status2.MODEL_OK: 0, Status2.DRIFT_WARN: 2}
    assert bits_of(flags) == Status2.CAMERA_OK | Status2.DRIFT_WARN
