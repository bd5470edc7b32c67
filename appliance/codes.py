"""Every number that a PLC, a row or a page can show: one enum each, with its meaning.

docs/plc-registers.md is generated from these and from the strings below the fields, so that
document and code cannot drift apart.
"""

from enum import IntEnum, IntFlag


class State(IntEnum):
    """States of OPC 40100-1; the same numbers on every bus."""

    PREOPERATIONAL = 1
    """starting"""
    HALTED = 2
    """by Halt of OPC UA, until Reset"""
    ERROR = 3
    """a fault holds: FaultCode"""
    OPERATIONAL = 4
    """never shown: the states from 5 on are its parts"""
    INITIALIZED = 5
    """no recipe that camera and network have confirmed, or Maintenance"""
    READY = 6
    """the next part may come"""
    SINGLE_EXECUTION = 7
    """a part is under way"""
    CONTINUOUS_EXECUTION = 8
    """hardware trigger and free run: parts come by themselves"""


class Word(IntEnum):
    """Coded verdict: 8 ones and 8 zeros, so neither cleared memory nor a stuck bus is a word."""

    NONE = 0x0000
    """no result yet"""
    OK = 0xA5C3
    """the only one that the acceptance rule may let pass"""
    NG = 0x5A3C
    """not good: reject"""
    UNCERTAIN = 0x6996
    """between the limits: reject, or hold it for a person"""
    ERROR = 0x9669
    """could not be judged: reject"""


class Reason(IntEnum):
    """Why a part got its verdict (HR 117)."""

    NONE = 0
    """of the verdict OK"""
    ANOMALY_SCORE = 1
    """map maximum or classification score from T2 up"""
    SEGAD = 2
    """margin of the forest from T2 up"""
    BOTH = 3
    """average of map maximum and forest from T2 up"""
    LATE = 10
    """no score before the deadline"""
    NO_IMAGE = 11
    """no picture came"""
    INCOMPLETE_IMAGE = 12
    """lines of the picture are missing"""
    IMAGE_HEALTH = 13
    """picture too dark, too bright, blurred or frozen"""
    INFERENCE_ERROR = 14
    """the network failed"""
    INVALID_NUMBER = 15
    """a number was not finite"""
    QUEUE_FULL = 16
    """more pictures than the network can take"""
    WRONG_RECIPE = 17
    """picture or score of another recipe"""
    INTERNAL = 18
    """a fault of inspectd itself; the log says which"""
    ASSOCIATION_LOST = 19
    """not certain which part the picture shows"""
    RESTART = 20
    """open while the decision process was restarted"""
    FIXTURE = 21
    """the part is not in its place, or its fixture was not found"""
    VIEW_MISSING = 22
    """of several cameras: a view is late or missing"""
    FRAME_OVERWRITTEN = 23
    """the picture was overwritten before it was judged"""
    UNCERTAIN_BAND = 24
    """between T1 and T2: UNCERTAIN"""


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
    """the command was carried out"""
    UNKNOWN_COMMAND = 1
    """no such command, or an argument that it cannot have"""
    UNKNOWN_PRODUCT = 2
    """products.toml has no such number or hash"""
    REFUSED_ARTEFACT = 3
    """recipe, bundle or engine was refused: page and log name the file"""
    TIMED_OUT = 4
    """no answer in 60 s"""
    BUSY = 5
    """another command is under way"""
    WRONG_STATE = 6
    """not with this trigger, or not now"""
    NOT_IN_CONTROL = 7
    """a person has control"""
    NOT_SUPPORTED = 8
    """OPC UA alone"""


class Control(IntFlag):
    """HR 0, written by the PLC; bits 8 to 15 must be 0."""

    ENABLE = 1 << 0
    """the PLC wants parts; TriggerReady needs it"""
    TRIGGER = 1 << 1
    """edge: a part is at the camera"""
    RESULT_ACK = 1 << 2
    """edge: the result was taken (level mode)"""
    EXECUTE = 1 << 3
    """edge: do Command"""
    CLEAR_ERROR = 1 << 4
    """edge: ends AcqError, and a latching fault that was shown"""
    SET_OFFLINE = 1 << 5
    """1: no part (OfflineReason 11)"""
    BUFFER_RESULTS = 1 << 6
    """level mode: up to 8 parts open or unread"""
    CHALLENGE_MODE = 1 << 7
    """the part that is triggered with it is a challenge part"""


class Status1(IntFlag):
    """HR 100."""

    ONLINE = 1 << 0
    """OfflineReason is 0 and camera and network use the recipe in force"""
    TRIGGER_READY = 1 << 1
    """a Trigger is accepted now"""
    TRIGGER_ACK = 1 << 2
    """the Trigger was accepted and AcqID is its id; falls with Trigger"""
    ACQUIRING = 1 << 3
    """a part was accepted and its picture is not taken yet"""
    EXPOSURE_COMPLETE = 1 << 4
    """every picture of the newest part is taken: it may move"""
    BUSY = 1 << 5
    """parts are without a verdict"""
    INSPECTION_TOGGLE = 1 << 6
    """level mode: flips with each result"""
    RESULT_VALID = 1 << 7
    """level mode: HR 115–152 hold a result that was not acknowledged"""
    PASS = 1 << 8
    """with ResultValid: the verdict is OK"""
    FAIL = 1 << 9
    """with ResultValid: NG, UNCERTAIN or ERROR"""
    FAULT = 1 << 10
    """a fault holds: FaultCode"""
    WARNING = 1 << 11
    """parts are judged, and a person should look: the page says why"""
    OVERRUN = 1 << 12
    """ring mode: a slot was overwritten before AckSeq passed it; until command 11"""
    ACQ_ERROR = 1 << 13
    """a Trigger was refused; until ClearError"""
    CMD_EXECUTING = 1 << 14
    """a command is under way"""
    CMD_DONE = 1 << 15
    """the command was answered: CmdResult; falls with Execute"""


class Status2(IntFlag):
    """HR 101."""

    CMD_FAILED = 1 << 0
    """with CmdDone: CmdResult is not 0"""
    SAFE_STATE = 1 << 1
    """no part is taken: not Online, or the PLC is silent"""
    MAINTENANCE = 1 << 2
    """a person has control"""
    CHALLENGE_DUE = 1 << 3
    """challenge parts are due"""
    CHALLENGE_FAILED = 1 << 4
    """a challenge part had another verdict than it must have"""
    SIMULATED = 1 << 5
    """pictures or network are not real: accept nothing"""
    DISK_LOW = 1 << 6
    """the disk is nearly full: no new pictures are kept"""
    ARCHIVE_LOSSY = 1 << 7
    """rows, pictures or the journal cannot be kept"""
    DRIFT_WARN = 1 << 8
    """accepted parts drift from the baseline"""
    REJECT_RATE_ALARM = 1 << 9
    """more of the last 1000 parts were not OK than [alarms] rejects allows"""
    CAMERA_OK = 1 << 10
    """every camera serves and gives pictures"""
    MODEL_OK = 1 << 11
    """every network process serves and refuses no file"""
    DECISION_OK = 1 << 12
    """1 as long as the decision process lives; VisionHeartbeat is the proof"""
    PLC_COMM_OK = 1 << 13
    """PlcHeartbeat changed within heartbeat_timeout_ms"""
    CLOCK_SYNCED = 1 << 14
    """the kernel says that the wall clock is synchronised"""
    THROTTLED = 1 << 15
    """a clock is lowered because of heat"""


class GateStatus(IntFlag):
    """HR 14, written by the PLC: what the reject gate reports."""

    REJECT_CONFIRMED = 1 << 0
    """toggles with each reject that is confirmed: ConfirmedTag"""
    BLOCKED = 1 << 1
    """parts are stuck at the gate"""
    BIN_FULL = 1 << 2
    """no room for another reject"""
    AIR_OK = 1 << 3
    """the gate has air; 0 with ConfirmFitted is a Warning"""
    CONFIRM_FITTED = 1 << 4
    """rejects are confirmed: each one must be"""


class ExpectedVerdict(IntEnum):
    """HR 8, challenge only: what the PLC says that the part is."""

    NONE = 0
    """not said: the part is compared with nothing"""
    OK = 1
    NG = 2
    UNCERTAIN = 3


class SlotFlags(IntFlag):
    """Low byte of the flags of a ring slot; the high byte is the low byte of Epoch."""

    CHALLENGE = 1 << 0
    """a challenge part"""
    SIMULATED = 1 << 1
    """picture or network is not real: accept nothing"""
    TAG_KNOWN = 1 << 2
    """the tag says whose result it is; 0: accept nothing"""
