"""Every word of the operator's tool, for translation in one place.

The frame comes first, then control, then each page; an empty line is between two of them.
"""

from calibration.people import Role

TITLE = "inspectd tool"
ROLES = {
    Role.OPERATOR: "operator",
    Role.TECHNICIAN: "technician",
    Role.ENGINEER: "engineer",
    Role.ADMIN: "admin",
}

LIVE, PARTS, CALIBRATE, RECIPES, HEALTH, REPORT, API, USERS, AUDIT = (
    "Live", "Parts", "Calibrate", "Recipes", "Health", "Report", "API", "Users", "Audit",
)  # fmt: skip
CHALLENGE, MSA = "Challenge", "MSA"
LOG_IN, LOG_OUT, NAME, PASSWORD = "Log in", "Log out", "Name", "Password"
NO_USERS = "There is no user yet. On the box: inspectd users add NAME --role admin"
EXPIRED = "Your session has ended. Please log in again."
NOT_YOURS = "This page needs the role {role} or above."
THEME = "Light or dark"
NO_ARCHIVE = "No parts yet: the archive cannot be read ({error})"
NO_RECIPE = "No recipe in products.toml can be read."
SEVERAL_CAMERAS = (
    "This line has several cameras: the margin of a part is that of its worst view, and no "
    "evidence for one of them. Set the limits of each view with `inspectd calibrate` on its own "
    "pictures (docs/camera.md)."
)

DONE = "Done."

CONTROL = "Control"
TAKE_CONTROL, RELEASE_CONTROL = "Take control", "Give control back to the PLC"
CONTROL_REASON = "Reason for the change of control"
IN_CONTROL = "MAINTENANCE: {owner} has control. The line takes no part."
PLC_IN_CONTROL = "The PLC has control."
SESSION_ENDED = "the session of the one who had it ended"

SEARCH = "Part, tag, text, lot or recipe"
ALL = "All"
NEWER, OLDER = "Newest", "Older"
NO_PARTS = "No parts found."
YOUR_VERDICT = "Your verdict"
GOOD = "Good"
OTHER_DEFECT = "Name of another defect"
SAVE = "Save"
LABELLED = "{kind}, says {by}"
NOT_LABELLED = "Nobody has judged this part."
LABELS_NOTE = (
    "Half of all judged parts, chosen by their number alone, verify limits; the others set them."
)
CHOOSE_PART = "Choose a part on the left."
NO_PICTURE = "no picture kept"
WHEN = "Seen"
TAG, RECIPE, LATENCY = "Tag", "Recipe", "Latency"

LIMITS_IN_FORCE = "In force: {recipe}, OK below {t1:.3f}, NG from {t2:.3f}, set by {by}"
GOOD_PARTS, BAD_PARTS, PRODUCTION = "Good parts", "Bad parts", "Production, all"
TARGET = "What you need"
TARGET_NOTE = "Escapes: bad parts that get OK. Overkill: good parts that get NG."
MAX_ESCAPE, MAX_OVERKILL = "Escapes at most, %", "Overkill at most, %"
DEFECT_RATE = "Defect rate, %"
SUGGEST = "Find limits that prove this"
ESTIMATES = "Estimate from the calibrate parts – not a proof"
PROVED = "What the numbers of parts can prove"
NOT_PROVED = "T1 and T2 stay where they are: these parts prove only one of them, or none."
ON_AVERAGE = "On the average alone – nothing is proved of this limit"
ROW_ESCAPES, ROW_ALL, ROW_OVERKILL = "Escapes, {kind}", "Escapes, all types", "Overkill"
ROW_REVIEW, ROW_PPM = "To be looked at by a person", "Escapes per million delivered"
SHARE = "{cases} of {total}"
AT_MOST = "95 %: at most {bound}"
ROC = "Found defects against overkill, to 5 %"
COST = "Cost of 1000 parts, one limit for all (estimate)"
COST_TOLD = "T1 and T2: {two}. Cheapest single limit {limit:.3f}: {one}."
COSTS, COST_OF = ("an escape", "an overkill", "a look"), "Cost of {what}"
BY_REGION = "What each region says of the calibrate parts"
NO_REGION_VIEW = "No calibrate part has statistics of this bundle."
BACK_TO = "Before: {recipe}, OK below {t1:.3f}, NG from {t2:.3f}"
FLIPS = "Of the last {total} parts, {count} would have another verdict"
TO = "{old} → {new}"
REASON = "Reason (at least 8 letters)"
PROPOSE = "Propose these limits"
PROPOSED = "Proposed. Somebody else has to approve."
PROPOSALS = "Proposals"
NO_PROPOSALS = "None yet."
PROPOSAL = "Number {id}: OK below {t1:.3f}, NG from {t2:.3f}, by {by}: {reason}"
PROPOSAL_BUNDLE = "With the new bundle {folder}, decided by {decides}"
IN_FORCE_BESIDE = "The same parts by {recipe}:"
OPEN_VERIFY = "Open the verify parts"
VERIFY_NOTE = (
    "Once per proposal. Every further opening asks more of the same parts: this is number {look}, "
    "its bounds hold with {confidence:.2f} %."
)
VERIFY_COUNT = (
    "{bad} of them are bad: if the limits miss none, that proves at most {bound} escapes, all "
    "types together."
)
VERIFIED = "Verify parts, opening number {look}"
APPROVE, REJECT = "Approve", "Reject"
APPROVED = "{recipe} is written. The line: {answer}"
STATES = {"open": "open", "approved": "approved by {by}", "rejected": "rejected by {by}"}
NEEDS_VERIFY = "the verify parts opened first"
TAKEN, NOT_TAKEN = "has taken it, from the next part on.", "has not taken it: {detail}"
LINE, AT_NEXT_START = "The line", "No line runs: it is taken at the next start."

CHALLENGE_STATE = "State"
CHALLENGE_CALM = "Nothing is due, nothing is locked."
CHALLENGE_DUE = "DUE since {since}"
CHALLENGE_FAILED = "FAILED: the line is locked until a test is passed, or somebody unlocks it."
LAST_GOOD = "Last test that was passed: {said}"
NEVER_PASSED = "none ever"
PASSED_TEST = "number {id}, {kind}, {by}, {when}"
PASSED_PLC = "run by the PLC, {when}"
LOCK, UNLOCK_LINE, LOCK_REASON = "Lock the line", "Unlock", "Reason to lock or unlock"
CHALLENGE_TEST = "Test"
KIND_NAMES = {"consecutive": "Consecutive", "memory": "Memory", "fail-safe": "Fail-safe"}
KINDS = {
    "consecutive": "Consecutive: all parts of the list in a row, at the speed of the line.",
    "memory": "Memory: bad, good, bad. It does not reject everything, and takes out the right one.",
    "fail-safe": "Fail-safe: the gate made useless must stop the line.",
}
BEGIN = "Begin: {kind}"
RUNNING = "{kind}, begun by {by}, {when}. Every part is a challenge part now."
SHOWN_COLUMNS = ("Part", "Name", "Must be", "Was")
AS_IT_MUST, NOT_AS_IT_MUST = "✓", "✕"
CHECKS = {
    "confirm": "Sensor of the reject gate covered, a bad part sent",
    "bin": "Bin full, a bad part sent",
    "air": "Air shut off, a bad part sent",
}
STOPPED, WENT_ON = "The line stopped", "The line went on"
END_TEST, BREAK_OFF = "End and judge", "Break off"
TEST_SAID = "Test {id}: {state}."
CHALLENGE_PARTS = "Challenge parts"
NO_CHALLENGE_PARTS = "None yet. A name is what the PLC sends as PartText, or the PartTag."
PART_NAME, EXPECTED, NOTE, ADD_PART, REMOVE = "Name", "Must be", "Note", "Add", "Remove"
USE_BY, OUT_OF_DATE = "use by {when}", "OUT OF DATE since {when}"
CHALLENGE_HISTORY = "Tests"
NO_TESTS = "None yet."
QUARANTINE = "Since the last test that was passed"
QUARANTINE_COUNT = "Parts that were delivered as OK since then ({good}): {count}."
QUARANTINE_MORE = "The first {count} follow; the CSV of the page holds all of them."
PRINT, AS_CSV = "Print", "CSV"

MSA_TITLE = "Repeatability and attribute agreement"
MSA_HOW = (
    "Send every part past the camera ten times or more, some of them near the limits, each with "
    'its name (PartText or PartTag), and keep all pictures: [record] images = "all".',
    "What a part really is comes from the list of challenge parts, else from people's verdicts.",
)
FIRST_PART, LAST_PART, MAKE_STUDY = "First part", "Last part", "Make the study"
NO_STUDIES = "No study yet."
STUDY_LINE = "Parts {first} to {last}, {by}, {when}"
STUDY_SIMULATED = "SIMULATED PICTURES: this study proves nothing about a camera."
GUARD = (
    "σ {sigma:.4g} (at most {upper:.4g}), guard band 6 σ = {guard:.4g}, T2 − T1 {band:.4g}: {says}"
)
WIDE_ENOUGH, TOO_NARROW = "wide enough", "TOO NARROW"
FLIPPED = "Not always the same verdict: {names}"
NONE = "none"
NO_TRUTH = "No attribute agreement: nobody said of every part whether it is good or bad."
AGREEMENT_COLUMNS = (
    "", "Decisions", "Share seen", "AIAG says of this share", "What the parts prove, with 95 %",
)  # fmt: skip
AGREEMENT_NOTE = (
    'AIAG\'s limits judge the share of decisions that was seen: "acceptable" is no proof. What is '
    "proved counts parts, for ten decisions about one part are right or wrong together."
)

WHY = "Why"
IN_FORCE = "in force"
ROLL_BACK = "Use these limits again"
NOT_COMPARABLE = "Its limits do not fit {current}: they were set for {other}."
CHANGES = "Changes against version {version}"
NO_CHANGES = "The first version."
USE_ALL_AGAIN = "Use this whole version again"
USED_ALL_AGAIN = (
    "{recipe} is written: version {version} again, its bundle included. The line: {answer}"
)
ROLLED_BACK = "{recipe} is written with the limits of version {version}. The line: {answer}"

JOB_RUNS = "{stage}, {done:.0f} %"
JOB_WAITS = "Waits for its process."
JOB_LOST = "Nobody has taken the job: is inspectd-work.path active on this box?"
JOB_FAILED = "Not done: {error}"
JOB_STOPPED = "Stopped."
JOB_DONE = "Done."
STOP_JOB = "Stop"
FEW_FOR_FOREST = (
    "{good} good and {bad} bad parts with a picture calibrate: a forest needs {needed} of each; "
    "with fewer the map maximum decides."
)
WITHOUT_PICTURE = (
    'Of {count} labelled parts no picture is kept: [record] images = "all" keeps those of good '
    "parts, too."
)
FEW_TO_VERIFY = (
    "{bad} bad verify parts: {needed} could prove at most 5 % escapes at the first opening."
)
RARE_KINDS = "Fewer than {needed} parts of: {kinds}."
JOB_COUNTS = "Used: {counts}"
GATE_HELPS = "Regions help: the gate gives the forest a say. What decides: {decides}."
GATE_REFUSES = "The gate gives the forest no say. What decides, because it is better: {decides}."
GATE_LIMITS = (
    "OK below {t1:.3f}, NG from {t2:.3f}: an estimate from the calibrate parts, not a proof."
)
GATE_ROW = "{score}: AUROC {auroc:.3f} ({low:.3f} to {high:.3f})"
PROPOSE_BUNDLE = "Propose this bundle"
MADE_FOR = "Made from {made}, but {recipe} is in force now: ask for it again."
NEW_BUNDLE = "New bundle {bundle_dir}, asked for by {by}"

SEGMENTS = "Segments"
PAINT = {
    "brush": "Brush", "rectangle": "Rectangle", "polygon": "Polygon", "erase": "Erase",
    "close": "Close polygon", "undo": "Undo", "size": "Size", "opacity": "Opacity",
    "ignored": "ignored", "add": "Add region", "remove": "Remove", "name": "Name of the region",
    "regions": "Regions", "new": "region",
}  # fmt: skip
PAINT_NOTE = (
    "Erase brings back the map in force. A region that is removed joins its longest neighbour. "
    "What is ignored is seen by no statistic and by no maximum: a defect there gets OK."
)
IGNORED_NOW = "Ignored: {new:.1f} % of the picture ({old:.1f} % in force)"
SCORE_PARTS = "Score {count} parts"
PREVIEW = "What the regions see: q99.5 of the map on {count} parts"
NO_PREVIEW = "Not scored yet: press the button to see what each region says of recent parts."
PREVIEW_PART = "Part"
PREVIEW_APART = "Good from bad, AUROC"
PREVIEW_HIDDEN = "Parts whose highest place is where nothing looks any more, {count}: {parts}"
REFIT = "Fit the forest to this map"
NOTHING_PAINTED = "another map than the one in force"
FITTED_LAST = "nobody else to have fitted one since this page was loaded"
FITTED_MEANWHILE = (
    "one by {by}: load the page again to see it, or press once more to fit yours in its place"
)
NULL_BUNDLE = "The bundle of {recipe} has no network: there is nothing to paint over."

TEACH = "Teach"
TEACH_PARTS = "Parts of {recipe} that would teach"
TEACH_NOTE = (
    "Judged parts with a picture. Half of them verify: they have no say in it and compare the new "
    "bundle with the one in force when somebody opens them. Of the others two thirds of the good "
    "ones teach the network; the rest is for forest and limits."
)
TEACH_UNJUDGED = "Newest OK parts nobody has judged"
TEACH_COUNT = "Count"
TEACH_GOOD, TEACH_BAD = "Good parts, judged", "Bad parts, judged"
TEACH_VERIFY_GOOD, TEACH_VERIFY_BAD = "Good parts that verify", "Bad parts that verify"
TEACH_TAKEN = "OK parts that nobody has judged, for the network alone"
NOBODY_LOOKED = (
    "Nobody has looked at {count} of these parts: a defect among them teaches the network that "
    "it is good. Look through them below."
)
FEW_TO_TEACH = "A network needs {needed} good pictures or more."
LINE_IS_READY = (
    "The line is Ready and this box has {cores} cores: training would have to be forced."
)
TRAIN = "Train"
TRAIN_NOTE = (
    "In a process of its own that takes no core from the line, with half of the cores at most. The "
    "result is a bundle that nothing uses until it is proposed and approved."
)
EPOCHS = "Epochs (empty: as many as the plan has)"
FORCE = "Even while the line is Ready with fewer than {cores} cores"
NO_TORCH = "This box cannot train: install the extra `train`."

CAMERA = "Camera"
NO_DEVICE = "{name} shows a folder of pictures: it has no features."
RUNS = "The line runs and owns the camera: what it read when it opened it, read only."
LINE_STOPPED = "The line is stopped: features can be set, pictures taken."
NO_WORD = "The camera process has not opened its device since the box was started."
FIND = "Feature or category"
FEATURE, VALUE = "Feature", "Value"
LOOK, SET, SNAP = "Read the features", "Set", "Take a picture"
SET_NOTE = "Until it is opened again. What shall stay belongs into config.toml or the recipe."
SET_DONE = "{name} = {value}"
NEWEST_PART = "The newest part, {part}"
SETTINGS_OF = "Settings of {recipe}"
APPROVED_ONE, NOW = "approved", "now"
ALL_APPROVED = "The limits were approved for these settings."
NEVER_APPROVED = "The limits were never approved for a camera's settings."
OTHER_SETTINGS = "The limits were approved for other settings: the line is not Ready."
APPROVE_SETTINGS = "Approve the limits for these settings"

STAGES = "Latency of the last {count} parts, ms"
DEADLINE_SHARE = "p99.9 takes {share:.0f} % of the deadline"
STAGE, P50, P99, P999, MAX = "Stage", "p50", "p99", "p99.9", "max"
TOTAL = "trigger → verdict"
LEDGER, DROPS = "Ledger", "Counters"
DRIFT = "Drift of accepted parts"
DRIFT_FIRST = (
    "The newest {recent} against the first {baseline} of this bundle. Nobody approved a baseline: "
    "this is told here and ordered nowhere."
)
DRIFT_APPROVED = "Against {baseline} parts that {by} approved, {when}: {reason}"
LEVELS = {0: "CALM", 1: "WARN", 2: "CHALLENGE DUE", 3: "HOLD: the line waits for a challenge"}
APPROVE_BASELINE = "The newest {count} are right: baseline"
CALM_DOWN = "Looked into: calm"
BASELINE_REASON = "Reason for the baseline or the calm"
DRIFT_ANSWERED = "a challenge was passed"
DRIFT_CALM = "No finding."
NOT_COMPARED = "Nothing is compared, and no baseline can be approved: {error}"
DRIFT_FEW = "Too few parts yet: {count} of {needed} accepted ones."
FINDING = "{what}: {value:.3g}, limit {limit:.3g}"
SILENT = "The line says nothing."
NOTES = "What the line says of itself"
MACHINE = "Machine"
FREE = "{free:.1f} of {total:.0f} GB free"
DISK_LOW = "below {least:.1f} GB: pictures are not kept any more"
CELSIUS = "{value:.0f} °C"
NO_SENSORS = "The kernel names no temperature."
NOT_READABLE = "cannot be read"
PROCESSES = "Processes"
LOST = "Lost, dropped, failed"
NOTHING_LOST = "Nothing since the processes started."

EARLIER, LATER, SHOW, CSV = "Shift before", "Shift after", "Show", "CSV"
SHIFT_AT = "Date or time, 2026-11-27T06:00"
SHIFT = "{begin:%a %Y-%m-%d %H:%M} to {end:%a %Y-%m-%d %H:%M}"
COUNTS, LATENCIES = "Counts", "Trigger to verdict, ms"
REASONS, REGIONS = "Not OK, by reason", "NG and UNCERTAIN, by region"
NO_PARTS_THEN, NONE_THEN = "No parts in this shift.", "None."
MORE = "and {count} more"
NO_FIGURE = "–"
COUNT_NAMES = {
    "parts": "Parts", "good": "OK", "rejected": "NG", "uncertain": "UNCERTAIN", "error": "ERROR",
    "parts_per_hour": "Parts per hour", "quality": "Quality: OK of all inspected",
    "inspected": "Inspected of all parts",
}  # fmt: skip
SHARES = frozenset({"quality", "inspected"})
LATENCY_NAMES = {"deadline": "Deadline"}

TOKENS = "Your tokens"
TOKENS_OF_ALL = "Tokens of all users"
TOKENS_NOTE = (
    "A token lets a program do what you may: read parts, pictures, limits and reports, label "
    "parts, propose limits. Whoever has it acts in your name."
)
NO_TOKENS = "None yet."
TOKEN_NAME, DAYS, MAKE_TOKEN, REVOKE = "What it is for", "Days", "Make a token", "Revoke"
TOKEN_ONCE = "Shown this once. It is not kept here: copy it now."
TOKEN_LINE = "{name}, until {until}, {used}"
TOKEN_USED, TOKEN_UNUSED = "last used {when}", "never used"
TOKEN_REVOKED, TOKEN_OVER = "revoked by {by}", "past its date"
OPERATIONS = "Operations"
OPERATION_COLUMNS = ("Request", "Does")

ADD_USER, ROLE = "Add user", "Role"
DISABLE, ENABLE, UNLOCK, NEW_PASSWORD = "Disable", "Enable", "Unlock", "New password"
IS_DISABLED, IS_LOCKED = "disabled", "locked"
AUDIT_GOOD = "The chain is whole. Entries: {count}. Newest hash: {hash}"
FIND_ENTRY = "Who, what, subject or reason"
AUDIT_BAD = "ALTERED: {problem}"
ENTRY_COLUMNS = ("Number", "When", "Who", "What", "Subject", "Old", "New", "Reason")
