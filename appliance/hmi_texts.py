"""Every text that a page shows, in one table: a translation is another file like this one."""

from appliance.codes import FaultCode, OfflineReason, Reason, State, Status1, Word

TITLE = "inspectd"
NO_DATA = "–"

WORDS = {
    Word.NONE: "NO PART",
    Word.OK: "OK",
    Word.NG: "NG",
    Word.UNCERTAIN: "UNCERTAIN",
    Word.ERROR: "ERROR",
}
SIGNS = {Word.NONE: "·", Word.OK: "✓", Word.NG: "✕", Word.UNCERTAIN: "?", Word.ERROR: "!"}
"""Beside each colour: nobody should need to tell red from green."""

REASONS = {
    Reason.NONE: "Below the lower limit",
    Reason.ANOMALY_SCORE: "Anomaly above the limit",
    Reason.SEGAD: "Region statistics above the limit",
    Reason.BOTH: "Anomaly and region statistics together above the limit",
    Reason.LATE: "Not judged before the deadline",
    Reason.NO_IMAGE: "No picture came",
    Reason.INCOMPLETE_IMAGE: "The picture is incomplete",
    Reason.IMAGE_HEALTH: "The picture is too dark, too bright, blurred or frozen",
    Reason.INFERENCE_ERROR: "The model failed",
    Reason.INVALID_NUMBER: "The model gave an invalid number",
    Reason.QUEUE_FULL: "Too many parts at once",
    Reason.WRONG_RECIPE: "Picture of another recipe",
    Reason.INTERNAL: "Internal error",
    Reason.ASSOCIATION_LOST: "It is not certain which part the picture shows",
    Reason.RESTART: "Open while the decision process restarted",
    Reason.FIXTURE: "The part is not in its place",
    Reason.VIEW_MISSING: "A view is late or missing",
    Reason.FRAME_OVERWRITTEN: "The picture was overwritten before it was judged",
    Reason.UNCERTAIN_BAND: "Between the two limits",
}

STATES = {
    State.PREOPERATIONAL: "Starting",
    State.HALTED: "Halted",
    State.ERROR: "Fault",
    State.OPERATIONAL: "Operational",
    State.INITIALIZED: "No recipe in force",
    State.READY: "Ready",
    State.SINGLE_EXECUTION: "Inspecting",
    State.CONTINUOUS_EXECUTION: "Running",
}

OFFLINE = {
    OfflineReason.NONE: "",
    OfflineReason.STARTING: "starting",
    OfflineReason.NO_RECIPE: "no recipe loaded",
    OfflineReason.RECIPE_CHANGING: "the recipe is changing",
    OfflineReason.MAINTENANCE: "maintenance",
    OfflineReason.CHALLENGE_LOCK: "locked: a challenge failed or is overdue, or parts drift",
    OfflineReason.CAMERA: "the camera is not available",
    OfflineReason.ENGINE: "the model is not available",
    OfflineReason.PLC_COMMUNICATION: "the PLC is silent",
    OfflineReason.PASSPORT: "the engine's passport does not fit",
    OfflineReason.ASSOCIATION_LOST: "parts and pictures got out of step",
    OfflineReason.STOPPED_BY_PERSON: "stopped by a person",
    OfflineReason.STORAGE_POLICY: "storage",
}

FAULTS = {
    FaultCode.NONE: "",
    FaultCode.CAMERA_LOST: "camera lost",
    FaultCode.ENGINE_FAILED: "engine failed",
    FaultCode.PASSPORT: "passport",
    FaultCode.DECISION_LATE: "decision late",
    FaultCode.REJECT_NOT_CONFIRMED: "reject not confirmed",
    FaultCode.RESTART_BUDGET_SPENT: "a process crashes again and again",
    FaultCode.STORAGE: "storage",
    FaultCode.CONFIGURATION: "configuration",
    FaultCode.LEDGER: "ledger",
}

DECIDES = {
    "segad": "region forest",
    "average": "hottest place and region forest",
    "map_max": "hottest place",
    "classification": "whole picture",
}

PROCESSES = {
    "camera": "Camera",
    "infer": "Model",
    "decide": "Decision",
    "record": "Records",
    "hmi": "Page",
    "bus": "Fieldbus",
}

COUNTERS = (
    ("triggers", "Triggers", ""),
    ("ok", "OK", "ok"),
    ("ng", "NG", "ng"),
    ("uncertain", "Uncertain", "uncertain"),
    ("error_reject", "Error", "error"),
    ("late", "Late", "warn"),
    ("missed_triggers", "Missed", "warn"),
)
"""Key in `Words.counters`, name, tone of the number where it is not 0."""

READY = "Ready for parts"
NOT_READY = "Not ready"
FAULT = "Fault"
IN_CONTROL = "{owner} has control"
SIMULATED = "SIMULATED – pictures or model are not real. No part may be released."
SILENT = "DECISION SILENT"
SILENT_DETAIL = "No verdict counts until it answers again. The PLC rejects every part."
NEVER_HEARD = "The decision process has not been heard yet."
SILENT_FOR = "Nothing heard for {seconds:.1f} s."
DEAF = "PAGE CUT OFF"
DEAF_DETAIL = "This screen no longer hears the box. What it shows is old."
WAITING = "Waiting for the first part"
PART = "Part {number}"
PART_OF_CAMERA = "Part {number} · {camera}"
TAG = "Tag {tag}"
NOW = "now"
AGO = "{age} ago"
CHALLENGE = "Challenge part"
LATENCY = "{ms:.0f} of {deadline_ms:.0f} ms"
MARGIN = "Margin"
LIMIT_OK = "T1 {limit}"
LIMIT_NG = "T2 {limit}"
NO_MARGIN = "No score for this part"
WHY = "What decided"
NO_REASONS = "No region stands out."
DECIDED_BY = "Decided by: {decides}"
RECIPE = "Recipe {recipe}"

HEAT = "Heat map"
REGIONS = "Regions"
FRAME_BOX = "Worst place"
WORST_VIEW = "Worst view"
NO_PICTURE = "No picture"
BACK_TO_LIVE = "Back to live"
PINNED = "Looking back: {part}, {word}"
PINNED_TITLE = "{pinned} – the line goes on"

LAST_NG = "Last rejects"
NO_NG = "None yet"

LEDGER = "Ledger"
UNACCOUNTED = "Unaccounted"
BALANCE = "{accepted} accepted = {verdicts} verdicts + {pending} open"
ROWS_PENDING = "Rows on their way to the archive: {rows}"
ROWS_STORED = "Every row is stored"
BROKEN_LAWS = {
    "duplicates": "answered twice",
    "foreign": "answers without a part",
    "overdue": "parts past their deadline",
    "unanswered": "questions without an answer",
    "rows_dropped": "rows given up",
    "rows_missing": "rows missing",
    "rows_doubled": "rows twice",
}

PLC = "PLC"
LAMPS = ("\N{WHITE CIRCLE}", "\N{BLACK CIRCLE}")
STATUS_WORDS = (
    (Status1.TRIGGER_READY, "TriggerReady"),
    (Status1.TRIGGER_ACK, "TriggerAck"),
    (Status1.BUSY, "Busy"),
    (Status1.RESULT_VALID, "ResultValid"),
    (Status1.PASS, "Pass"),
    (Status1.FAIL, "Fail"),
    (Status1.WARNING, "Warning"),
    (Status1.FAULT, "Fault"),
)
"""Bits of HR 100 as docs/plc-registers.md names them, two rows of four."""

TODAY = "Since reset"
LATENCY_TITLE = "Latency in ms, last {count} parts"
P50 = "median"
P99 = "99 %"
DEADLINE = "deadline"
HEALTH = "Processes"
NEVER = "never heard"
SILENT_PROCESS = "silent for {age}"
SERVING = "well"
NOT_SERVING = "not usable"
THEME = "Light / dark"
SKIPPED = "This page skipped {count} verdicts"
