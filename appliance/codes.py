"""Every number that a PLC, a row or a page can show: one enum each, with its meaning.

docs/plc-registers.md is generated from these, so that document and code cannot drift apart.
"""

from enum import IntEnum, IntFlag


class State(IntEnum):
    """States of OPC 40100-1; the same numbers on every bus."""

    PREOPERATIONAL = 1
    HALTED = 2
    ERROR = 3
    OPERATIONAL = 4
    INITIALIZED = 5
    READY = 6
    SINGLE_EXECUTION = 7
    CONTINUOUS_EXECUTION = 8


class Word(IntEnum):
    """Coded verdict: 8 ones and 8 zeros, so neither cleared memory nor a stuck bus is a word."""

    NONE = 0x0000
    OK = 0xA5C3
    NG = 0x5A3C
    UNCERTAIN = 0x6996
    ERROR = 0x9669


class Reason(IntEnum):
    """Why a part got its verdict (HR 117)."""

    NONE = 0
    ANOMALY_SCORE = 1
    SEGAD = 2
    BOTH = 3
    LATE = 10
    NO_IMAGE = 11
    INCOMPLETE_IMAGE = 12
    IMAGE_HEALTH = 13
    INFERENCE_ERROR = 14
    INVALID_NUMBER = 15
    QUEUE_FULL = 16
    WRONG_RECIPE = 17
    INTERNAL = 18
    ASSOCIATION_LOST = 19
    RESTART = 20
    FIXTURE = 21
    VIEW_MISSING = 22
    FRAME_OVERWRITTEN = 23
    UNCERTAIN_BAND = 24


class OfflineReason(IntEnum):
    """Why TriggerReady is 0 for longer than one part (HR 105)."""

    NONE = 0
    STARTING = 1
    NO_RECIPE = 2
    RECIPE_CHANGING = 3
    MAINTENANCE = 4
    CHALLENGE_LOCK = 5
    CAMERA = 6
    ENGINE = 7
    PLC_COMMUNICATION = 8
    PASSPORT = 9
    ASSOCIATION_LOST = 10
    STOPPED_BY_PERSON = 11
    STORAGE_POLICY = 12


class FaultCode(IntEnum):
    """First cause of a fault (HR 106)."""

    NONE = 0
    CAMERA_LOST = 1
    ENGINE_FAILED = 2
    PASSPORT = 3
    DECISION_LATE = 4
    REJECT_NOT_CONFIRMED = 5
    RESTART_BUDGET_SPENT = 6
    STORAGE = 7
    CONFIGURATION = 8
    LEDGER = 9


LATCHING_FAULTS = frozenset(
    {
        FaultCode.REJECT_NOT_CONFIRMED,
        FaultCode.STORAGE,
        FaultCode.CONFIGURATION,
        FaultCode.LEDGER,
    }
)
"""These hold TriggerReady at 0 until ClearError; the others end by themselves."""


class CommandCode(IntEnum):
    """What a PLC may ask for (HR 3)."""

    LOAD_RECIPE = 1
    LOAD_RECIPE_BY_HASH = 2
    RESET_COUNTERS = 10
    CLEAR_OVERRUN = 11
    RESYNC = 12
    START_CONTINUOUS = 20
    STOP = 21
    START_CHALLENGE = 30
    END_CHALLENGE = 31
    SAVE_NEXT_N = 40


class CommandError(IntEnum):
    """Result of a command (HR 113); 0 is done."""

    DONE = 0
    UNKNOWN_COMMAND = 1
    UNKNOWN_PRODUCT = 2
    REFUSED_ARTEFACT = 3
    TIMED_OUT = 4
    BUSY = 5
    WRONG_STATE = 6
    NOT_IN_CONTROL = 7
    NOT_SUPPORTED = 8


class Control(IntFlag):
    """HR 0, written by the PLC; bits 8 to 15 must be 0."""

    ENABLE = 1 << 0
    TRIGGER = 1 << 1
    RESULT_ACK = 1 << 2
    EXECUTE = 1 << 3
    CLEAR_ERROR = 1 << 4
    SET_OFFLINE = 1 << 5
    BUFFER_RESULTS = 1 << 6
    CHALLENGE_MODE = 1 << 7


class Status1(IntFlag):
    """HR 100."""

    ONLINE = 1 << 0
    TRIGGER_READY = 1 << 1
    TRIGGER_ACK = 1 << 2
    ACQUIRING = 1 << 3
    EXPOSURE_COMPLETE = 1 << 4
    BUSY = 1 << 5
    INSPECTION_TOGGLE = 1 << 6
    RESULT_VALID = 1 << 7
    PASS = 1 << 8
    FAIL = 1 << 9
    FAULT = 1 << 10
    WARNING = 1 << 11
    OVERRUN = 1 << 12
    ACQ_ERROR = 1 << 13
    CMD_EXECUTING = 1 << 14
    CMD_DONE = 1 << 15


class Status2(IntFlag):
    """HR 101."""

    CMD_FAILED = 1 << 0
    SAFE_STATE = 1 << 1
    MAINTENANCE = 1 << 2
    CHALLENGE_DUE = 1 << 3
    CHALLENGE_FAILED = 1 << 4
    SIMULATED = 1 << 5
    DISK_LOW = 1 << 6
    ARCHIVE_LOSSY = 1 << 7
    DRIFT_WARN = 1 << 8
    REJECT_RATE_ALARM = 1 << 9
    CAMERA_OK = 1 << 10
    MODEL_OK = 1 << 11
    DECISION_OK = 1 << 12
    PLC_COMM_OK = 1 << 13
    CLOCK_SYNCED = 1 << 14
    THROTTLED = 1 << 15


class GateStatus(IntFlag):
    """HR 14, written by the PLC: what the reject gate reports."""

    REJECT_CONFIRMED = 1 << 0
    """Toggles at every confirmed reject."""
    BLOCKED = 1 << 1
    BIN_FULL = 1 << 2
    AIR_OK = 1 << 3
    CONFIRM_FITTED = 1 << 4


class ExpectedVerdict(IntEnum):
    """HR 8, challenge only: what the PLC says that the part is."""

    NONE = 0
    OK = 1
    NG = 2
    UNCERTAIN = 3


class SlotFlags(IntFlag):
    """Low byte of the flags of a ring slot; the high byte is the low byte of Epoch."""

    CHALLENGE = 1 << 0
    SIMULATED = 1 << 1
    TAG_KNOWN = 1 << 2
