"""The state machine: every state with every event, against the words of docs/plc.md."""

import itertools

import pytest

from appliance.codes import State
from appliance.states import TRANSITIONS, Event, may_trigger, next_state

OPERATIONAL = (
    State.OPERATIONAL,
    State.INITIALIZED,
    State.READY,
    State.SINGLE_EXECUTION,
    State.CONTINUOUS_EXECUTION,
)
EXPECTED = {
    # from nothing to Ready
    (State.PREOPERATIONAL, Event.SELF_TEST_OK): State.INITIALIZED,
    (State.INITIALIZED, Event.RECIPE_PREPARED): State.READY,
    # one part
    (State.READY, Event.TRIGGERED): State.SINGLE_EXECUTION,
    (State.SINGLE_EXECUTION, Event.RESOURCES_FREE): State.READY,
    # free run
    (State.READY, Event.START_CONTINUOUS): State.CONTINUOUS_EXECUTION,
    (State.CONTINUOUS_EXECUTION, Event.STOP): State.READY,
    # recipe gone or changing
    (State.READY, Event.RECIPE_LOST): State.INITIALIZED,
    (State.SINGLE_EXECUTION, Event.RECIPE_LOST): State.INITIALIZED,
    (State.CONTINUOUS_EXECUTION, Event.RECIPE_LOST): State.INITIALIZED,
    # faults and halts
    (State.ERROR, Event.RESOLVED): State.INITIALIZED,
    (State.PREOPERATIONAL, Event.FAULT): State.ERROR,
    (State.HALTED, Event.RESET): State.PREOPERATIONAL,
    (State.ERROR, Event.HALT): State.HALTED,
    (State.PREOPERATIONAL, Event.HALT): State.HALTED,
    **{(state, Event.FAULT): State.ERROR for state in OPERATIONAL},
    **{(state, Event.HALT): State.HALTED for state in OPERATIONAL},
}


@pytest.mark.parametrize(("state", "event"), [*itertools.product(State, Event)])
def test_every_state_with_every_event(state: State, event: Event) -> None:
    assert next_state(state, event) == EXPECTED.get((state, event), state)


def test_the_table_holds_nothing_else() -> None:
    assert dict(TRANSITIONS) == EXPECTED


@pytest.mark.parametrize("state", [*State])
def test_only_ready_and_continuous_accept_parts(state: State) -> None:
    assert may_trigger(state) == (state in (State.READY, State.CONTINUOUS_EXECUTION))


@pytest.mark.parametrize("event", [*Event])
def test_no_event_leads_from_error_or_halted_straight_to_parts(event: Event) -> None:
    for state in (State.ERROR, State.HALTED, State.PREOPERATIONAL):
        assert not may_trigger(next_state(state, event))


def reached_from(start: State) -> set[State]:
    found, fresh = {start}, [start]
    while fresh:
        state = fresh.pop()
        further = {next_state(state, event) for event in Event} - found
        found |= further
        fresh += further
    return found


def test_every_state_is_reached_and_none_is_a_dead_end() -> None:
    named = {State.OPERATIONAL}  # the name that OPC 40100-1 gives to the four below it together
    assert reached_from(State.PREOPERATIONAL) == set(State) - named
    for state in State:
        assert State.READY in reached_from(state), f"{state.name} never becomes Ready again"


@pytest.mark.parametrize("event", [Event.FAULT, Event.HALT])
def test_faults_and_halts_win_in_every_state_that_accepts_parts(event: Event) -> None:
    for state in State:
        if may_trigger(state):
            assert next_state(state, event) in (State.ERROR, State.HALTED)
