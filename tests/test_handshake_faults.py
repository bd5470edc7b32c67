"""Faults, conditions and TriggerReady on virtual time: what holds the line, and what ends that."""

import itertools

import pytest

from appliance.codes import (
    Control,
    FaultCode,
    OfflineReason,
    State,
    Status1,
)
from appliance.words import decode_input
from tests import handshake_desk
from tests.handshake_desk import Desk

ENABLE, TRIGGER = Control.ENABLE, Control.TRIGGER
CLEAR = Control.CLEAR_ERROR


desk, ring = handshake_desk.desk, handshake_desk.ring


@pytest.mark.parametrize("fault", [f for f in FaultCode if f in (5, 7, 8, 9)])
def test_latching_faults_hold_ready_until_clear_error(desk: Desk, fault: FaultCode) -> None:
    desk.ready()
    desk.conditions.fault = fault
    desk.wait(1)
    desk.conditions.fault = FaultCode.NONE
    desk.wait_beating(3000)
    assert desk.has(Status1.FAULT)
    assert not desk.has(Status1.TRIGGER_READY)
    assert desk.bank.number("FaultCode") == fault
    desk.beat(ENABLE | CLEAR)
    assert not desk.has(Status1.FAULT)
    assert desk.has(Status1.TRIGGER_READY)
    assert desk.bank.number("FaultCode") == 0


@pytest.mark.parametrize("fault", [f for f in FaultCode if f in (1, 2, 3, 4, 6)])
def test_other_faults_end_by_themselves_but_their_code_stays(desk: Desk, fault: FaultCode) -> None:
    desk.ready()
    desk.conditions.fault = fault
    desk.wait(1)
    assert desk.has(Status1.FAULT)
    desk.conditions.fault = FaultCode.NONE
    desk.wait(1)
    assert not desk.has(Status1.FAULT)
    assert desk.has(Status1.TRIGGER_READY)
    assert desk.bank.number("FaultCode") == fault
    desk.beat(ENABLE | CLEAR)
    assert desk.bank.number("FaultCode") == 0


def test_a_latched_fault_that_goes_on_cannot_be_cleared(desk: Desk) -> None:
    desk.ready()
    desk.conditions.fault = FaultCode.STORAGE
    desk.wait(1)
    desk.beat(ENABLE)
    desk.beat(ENABLE | CLEAR)
    assert desk.has(Status1.FAULT)
    assert not desk.has(Status1.TRIGGER_READY)
    assert desk.bank.number("FaultCode") == FaultCode.STORAGE


@pytest.mark.parametrize("is_held", [True, False])
def test_clear_error_acknowledges_no_fault_that_no_answer_could_show(
    desk: Desk, is_held: bool
) -> None:
    """It was on its way, or held, for something else when the fault came."""
    desk.ready()
    if is_held:
        desk.beat(ENABLE | CLEAR)
    desk.conditions.fault = FaultCode.LEDGER
    desk.wait(1)
    desk.conditions.fault = FaultCode.NONE
    desk.beat(ENABLE | CLEAR)
    assert desk.cleared == [FaultCode.NONE]
    for _ in range(10):
        desk.wait(100)
        desk.beat(ENABLE | CLEAR)
    assert desk.bank.number("FaultCode") == FaultCode.LEDGER
    assert not desk.has(Status1.TRIGGER_READY)
    desk.beat(ENABLE)
    desk.beat(ENABLE | CLEAR)
    assert desk.cleared == [FaultCode.NONE, FaultCode.LEDGER]
    assert desk.has(Status1.TRIGGER_READY)


def test_a_plc_that_reads_and_writes_apart_clears_what_it_has_read(desk: Desk) -> None:
    desk.ready()
    desk.conditions.fault = FaultCode.LEDGER
    desk.handshake.refresh(desk.now)

    def wrote(control: Control) -> None:
        desk.bank.set("Control", control)
        desk.handshake.on_write(decode_input(desk.bank), desk.now)

    wrote(ENABLE)  # its answer shows no register
    wrote(ENABLE | Control.CLEAR_ERROR)
    assert desk.handshake.fault == FaultCode.LEDGER
    wrote(ENABLE)
    desk.handshake.shown()
    wrote(ENABLE | Control.CLEAR_ERROR)
    assert desk.cleared == [FaultCode.NONE, FaultCode.LEDGER]


def test_a_person_clears_what_holds_now(desk: Desk) -> None:
    desk.ready()
    desk.conditions.fault = FaultCode.LEDGER
    desk.wait(1)
    desk.conditions.fault = FaultCode.NONE
    desk.handshake.clear_error(desk.now)
    assert desk.cleared == [FaultCode.LEDGER]
    assert not desk.has(Status1.FAULT)


def test_the_first_cause_is_shown_while_it_is_latched(desk: Desk) -> None:
    desk.ready()
    desk.conditions.fault = FaultCode.LEDGER
    desk.wait(1)
    desk.conditions.fault = FaultCode.CAMERA_LOST
    desk.wait(1)
    desk.beat(ENABLE)
    assert desk.bank.number("FaultCode") == FaultCode.LEDGER
    desk.beat(ENABLE | CLEAR)
    assert desk.bank.number("FaultCode") == FaultCode.CAMERA_LOST


def test_the_next_fault_replaces_the_code_of_one_that_ended(desk: Desk) -> None:
    desk.ready()
    for fault in (FaultCode.CAMERA_LOST, FaultCode.NONE, FaultCode.ENGINE_FAILED):
        desk.conditions.fault = fault
        desk.wait(1)
    assert desk.bank.number("FaultCode") == FaultCode.ENGINE_FAILED


def test_warning_follows_the_conditions(desk: Desk) -> None:
    desk.ready()
    desk.conditions.is_warning = True
    desk.wait(1)
    assert desk.has(Status1.WARNING)
    assert desk.has(Status1.TRIGGER_READY)


def shown(
    state: State,
    offline: OfflineReason = OfflineReason.NONE,
    fault: FaultCode = FaultCode.NONE,
    *,
    is_enabled: bool = True,
    is_alive: bool = True,
    is_maintenance: bool = False,
    is_ordered: bool = False,
    has_room: bool = True,
) -> Desk:
    """A box in this condition, after its PLC has spoken, and asked for a part while it could."""
    desk = Desk()
    control = ENABLE if is_enabled else Control(0)
    desk.beat(control)
    desk.beat()
    conditions = desk.conditions
    conditions.state, conditions.offline, conditions.fault = state, offline, fault
    conditions.is_maintenance, conditions.recipe_orders = is_maintenance, int(is_ordered)
    conditions.open_parts = 0 if has_room else 1
    desk.wait(1 if is_alive else 600)
    desk.write(control | TRIGGER)
    return desk


def takes_a_part(desk: Desk) -> bool:
    """And all the bits say the same of it."""
    is_taken = len(desk.accepted) == 1
    assert desk.has(Status1.TRIGGER_ACK) == is_taken
    assert desk.has(Status1.ACQ_ERROR) == (not is_taken)
    assert desk.counted == ([] if is_taken else ["missed_triggers"])
    return is_taken


def test_every_state_with_every_offline_reason_and_fault() -> None:
    for state, offline, fault in itertools.product(State, OfflineReason, FaultCode):
        expected = (
            state in (State.READY, State.CONTINUOUS_EXECUTION)
            and offline == OfflineReason.NONE
            and fault not in (5, 7, 8, 9)
        )
        assert takes_a_part(shown(state, offline, fault)) == expected, (state, offline, fault)


def test_every_state_with_every_other_condition() -> None:
    for state in State:
        for bits in itertools.product((False, True), repeat=5):
            is_enabled, is_alive, is_maintenance, is_ordered, has_room = bits
            desk = shown(
                state,
                is_enabled=is_enabled,
                is_alive=is_alive,
                is_maintenance=is_maintenance,
                is_ordered=is_ordered,
                has_room=has_room,
            )
            expected = (
                state in (State.READY, State.CONTINUOUS_EXECUTION)
                and is_enabled
                and is_alive
                and not is_maintenance
                and not is_ordered
                and has_room
            )
            assert takes_a_part(desk) == expected, (state, bits)
