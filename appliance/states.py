"""The state machine of OPC 40100-1 that every bus projects. Pure: a table, no input, no output.

A state that has no row for an event stays as it is: an event that means nothing here changes
nothing. Maintenance is not a state but a mode (a person owns control): it holds TriggerReady at 0
while the state stays INITIALIZED.
"""

from enum import Enum, auto
from types import MappingProxyType

from appliance.codes import State


class Event(Enum):
    """What can happen to the machine."""

    SELF_TEST_OK = auto()
    """Configuration read, sockets bound, journal open."""
    RECIPE_PREPARED = auto()
    """Camera and engine use the recipe in force."""
    RECIPE_LOST = auto()
    """No recipe, or a change of recipe has begun, or camera or engine started afresh."""
    TRIGGERED = auto()
    RESOURCES_FREE = auto()
    """The next part may be triggered; its predecessor's result may still be pending."""
    START_CONTINUOUS = auto()
    STOP = auto()
    FAULT = auto()
    """Camera lost, engine dead, decision stale, configuration bad."""
    RESOLVED = auto()
    HALT = auto()
    RESET = auto()


_OPERATIONAL = (
    State.OPERATIONAL,
    State.INITIALIZED,
    State.READY,
    State.SINGLE_EXECUTION,
    State.CONTINUOUS_EXECUTION,
)

TRANSITIONS = MappingProxyType(
    {
        (State.PREOPERATIONAL, Event.SELF_TEST_OK): State.INITIALIZED,
        (State.INITIALIZED, Event.RECIPE_PREPARED): State.READY,
        (State.READY, Event.TRIGGERED): State.SINGLE_EXECUTION,
        (State.SINGLE_EXECUTION, Event.RESOURCES_FREE): State.READY,
        (State.READY, Event.START_CONTINUOUS): State.CONTINUOUS_EXECUTION,
        (State.CONTINUOUS_EXECUTION, Event.STOP): State.READY,
        (State.READY, Event.RECIPE_LOST): State.INITIALIZED,
        (State.SINGLE_EXECUTION, Event.RECIPE_LOST): State.INITIALIZED,
        (State.CONTINUOUS_EXECUTION, Event.RECIPE_LOST): State.INITIALIZED,
        (State.ERROR, Event.RESOLVED): State.INITIALIZED,
        (State.ERROR, Event.HALT): State.HALTED,
        (State.PREOPERATIONAL, Event.FAULT): State.ERROR,
        (State.PREOPERATIONAL, Event.HALT): State.HALTED,
        (State.HALTED, Event.RESET): State.PREOPERATIONAL,
        **{(state, Event.FAULT): State.ERROR for state in _OPERATIONAL},
        **{(state, Event.HALT): State.HALTED for state in _OPERATIONAL},
    }
)


def next_state(state: State, event: Event) -> State:
    """The state after `event`."""
    return TRANSITIONS.get((state, event), state)


def may_trigger(state: State) -> bool:
    """Whether this state accepts parts at all; the handshake adds its own conditions."""
    return state in (State.READY, State.CONTINUOUS_EXECUTION)
