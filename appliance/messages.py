"""Every struct that crosses a process border. Frozen, tagged, keyword-only; encoded as MessagePack.

One file: what a process can be told is read in one place, and so is whether a change keeps old
recordings readable. In the order of the line: what decide asks, what camera and infer answer, what
decide tells everybody, its tape for the recorder, what people ask, health.

New fields have defaults and types never change. Times are monotonic nanoseconds of the sender's box
where a name says `_at_ns`; what may cross boxes is a duration (`_ns`, `age_ns`) or a wall-clock
label (`_utc_ns`), never compared with a deadline.
"""

from typing import TypeAlias

import msgspec

from appliance.codes import CommandError, OfflineReason, Reason, Word
from appliance.errors import ArtefactError, ConfigError

INFER = "infer"
"""Whoever owes a score: one of the infer processes, which all serve every camera."""


def camera_label(name: str) -> str:
    """`Health.process` of one camera."""
    return f"camera:{name}"


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """What every message shares: its class name is its tag on the wire.

    Frozen, it holds nothing that could hold it, so the garbage collector need not look at it:
    decide keeps some for every part of the last half minute.
    """


class PixelRef(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where pixels lie: a slot of a ring, or the frame of bytes that travels behind the message."""

    ring: str
    """File name of the ring inside the ring directory; "" means that the bytes are sent inline."""
    epoch: int
    slot: int
    sequence: int
    """Counts the writer's frames from 1; a slot that holds another number was overwritten."""
    shape: tuple[int, ...]
    dtype: str
    """NumPy name: "uint8", "uint16" or "float32"."""


class Trigger(Message, frozen=True, kw_only=True):
    """Take the picture of this part now (trigger mode `plc`)."""

    part_id: int
    part_tag: int = 0
    """The PLC's tag; a folder camera with `order = "tag"` shows the picture of that part."""
    asked_ns: int = 0
    """When the PLC asked, on the monotonic clock of this machine; 0 = the camera is elsewhere."""


class Prepare(Message, frozen=True, kw_only=True):
    """Load this recipe beside the one in force and answer Prepared or Refused."""

    recipe: str
    """"ID/VERSION"."""
    setup_hash: str


class Swap(Message, frozen=True, kw_only=True):
    """Use this set-up from the next frame on."""

    setup_hash: str


class FrameReady(Message, frozen=True, kw_only=True):
    """One picture is in the ring."""

    camera: str
    part_id: int
    """0 where the camera cannot know it (hardware and free trigger)."""
    frame_id: int
    setup_hash: str
    pixels: PixelRef
    bits: int = 8
    """Significant bits per channel: 8, 10 or 12."""
    age_ns: int
    """From the end of exposure, as well as the camera knows it, to the sending of this message."""
    trigger_to_frame_ns: int = 0
    copy_ns: int = 0
    copied_at_ns: int = 0
    """When `age_ns` was taken, on the camera's box: for a reader of its ring; 0 = not told."""
    device_timestamp_ns: int | None = None
    source: str = ""
    """File that a folder camera showed; "" for a device."""
    is_simulated: bool = False
    is_repeat: bool = False
    """Equal to this camera's last picture on a grid; asked only where several infer processes share
    the pictures."""
    lost_before: int = 0
    """Frames that the device counted and nobody received, between this one and the last."""

    @property
    def copied_here_ns(self) -> int:
        """`copied_at_ns` by our own clock: pixels in a ring lie on this box. 0 = another box's, or
        not told."""
        return self.copied_at_ns if self.pixels.ring else 0


class NoFrame(Message, frozen=True, kw_only=True):
    """A part (or, with part_id 0, the acquisition) has no usable picture, and this is why."""

    camera: str
    part_id: int
    reason: Reason
    detail: str
    frame_id: int = 0


class Scored(Message, frozen=True, kw_only=True):
    """The network's answer for one picture: raw logits, nothing thresholded."""

    camera: str
    part_id: int
    frame_id: int
    setup_hash: str
    map: PixelRef
    """(K, H, W) float32 raw blurred logits, pixels of the network input; K detectors."""
    classification: float
    """Raw logit of the classification head."""
    gates: dict[str, float] = {}
    """Image-health figures as measured: mean, saturated, focus, noise, shift_px …"""
    stages_ns: dict[str, int] = {}
    worker: str = ""
    """Which infer process looked: its gates know the frame that it saw last."""
    passport: str = ""
    """Id of the engine passport that produced this map."""
    is_simulated: bool = False


class InferFailed(Message, frozen=True, kw_only=True):
    """No score for this picture, and why."""

    camera: str
    part_id: int
    frame_id: int
    setup_hash: str
    reason: Reason
    detail: str
    gates: dict[str, float] = {}
    stages_ns: dict[str, int] = {}
    worker: str = ""
    """Which infer process looked: its gates know the frame that it saw last."""


class Prepared(Message, frozen=True, kw_only=True):
    """The set-up is loaded, warm and checked; a Swap makes it the one in force."""

    process: str
    """"camera:NAME" or "infer:NAME"."""
    setup_hash: str
    passport: str = ""


class Refused(Message, frozen=True, kw_only=True):
    """The set-up cannot be used; the old one stays."""

    process: str
    setup_hash: str
    where: str
    expected: str
    got: str
    offline: OfflineReason = OfflineReason.ENGINE

    @property
    def why(self) -> str:
        """In one sentence, as errors say it."""
        return f"{self.where}: expected {self.expected}, got {self.got}"


def refusal(process: str, setup_hash: str, err: ConfigError) -> Refused:
    """The answer to a Prepare that cannot be."""
    is_artefact = isinstance(err, ArtefactError)
    return Refused(
        process=process,
        setup_hash=setup_hash,
        where=err.where,
        expected=err.expected,
        got=err.got,
        offline=err.offline if is_artefact else OfflineReason.ENGINE,
    )


class ViewResult(Message, frozen=True, kw_only=True):
    """How one camera's view of a part ended, with everything that explains it."""

    camera: str = ""
    word: Word
    reason: Reason
    detail: str = ""
    reasons: tuple[str, ...] = ()
    """Regions and statistics that pushed the margin, in words, strongest first."""
    region_px: tuple[int, int, int, int] | None = None
    """Worst region of an NG or UNCERTAIN part: x, y, width, height in pixels of the frame."""
    defects: int = 0
    """Regions that stand out of the map of such a part."""
    decides: str = ""
    """Which score decided, as in the recipe."""
    margin: float | None = None
    t1: float | None = None
    t2: float | None = None
    map_max: float | None = None
    classification: float | None = None
    features: tuple[float, ...] = ()
    gates: dict[str, float] = {}
    stages_ns: dict[str, int] = {}
    frame_id: int = 0
    pixels: PixelRef | None = None
    map: PixelRef | None = None
    source: str = ""
    bundle: str = ""
    passport: str = ""


class Verdict(ViewResult, frozen=True, kw_only=True):
    """The one verdict of one part, with everything that a row needs to explain it.

    Of several views the worst one decides: what is said of a view is said of that one here, with
    word, reason and detail of the whole part.
    """

    part_id: int
    acq_id: int
    epoch: int
    """Of the decision process that closed the part."""
    part_tag: int = 0
    part_text: str = ""
    lot: str = ""
    opened_utc_ns: int = 0
    latency_ns: int = 0
    deadline_ns: int = 0
    recipe: str = ""
    recipe_hash: str = ""
    setup_hash: str = ""
    software: str = ""
    is_simulated: bool = False
    is_challenge: bool = False
    expected_word: Word = Word.NONE
    is_tag_known: bool = False
    """Hardware trigger: the tag came with the step of TriggerCount that belongs to this part."""
    is_kept: bool = False
    """SaveNextN: the picture is kept whatever the policy says."""
    is_rebuilt: bool = False
    """Sent again from the journal after a crash: the details are lost, the verdict is not."""
    views: tuple[ViewResult, ...] = ()
    """On a line with several cameras: every view, in the order of config.toml."""

    @property
    def is_late(self) -> bool:
        """It waited for a score until its deadline."""
        return Reason.LATE in {self.reason, *(view.reason for view in self.views)}

    def by_view(self) -> "tuple[Verdict, ...]":
        """The part as each of its cameras saw it; itself where there is one camera."""
        as_seen = (
            msgspec.structs.replace(self, **msgspec.structs.asdict(view), views=())
            for view in self.views
        )
        return tuple(as_seen) or (self,)


class LateResult(Message, frozen=True, kw_only=True):
    """What a part that was closed as late would have been: for the archive, never for the PLC."""

    part_id: int
    word: Word
    margin: float


class Words(Message, frozen=True, kw_only=True):
    """The PLC's view of the box: the register image as plain numbers."""

    registers: dict[int, int]
    """Zero-based holding register → 16-bit value, complete for 100–152, 160–185 and 200–209."""
    counters: dict[str, int] = {}
    ledger: dict[str, int] = {}
    offline: OfflineReason = OfflineReason.NONE
    owner: str = ""
    """The person who has control (Maintenance); "" = the PLC has it."""
    notes: tuple[str, ...] = ()
    """Sentences for people: what is wrong just now, what was expected and what came."""
    challenge_due_utc_s: int = 0
    """Since when challenge parts are due; 0 = they are not."""
    drift: int = 0
    """0 calm, 1 warn, 2 a challenge is due, 3 hold: what the tool found in accepted parts."""


class Stored(Message, frozen=True, kw_only=True):
    """Rows that are committed, and how the archive feels."""

    part_ids: tuple[int, ...]
    life: int = 0
    """Which life of the recorder counts: its pid; 0 = it does not."""
    rows: int = 0
    """Rows that the database has counted in this life, written now or found to be there."""
    is_disk_low: bool = False
    is_lossy: bool = False
    is_writable: bool = True
    is_slow: bool = False
    """Rows wait for the disk; nothing is lost yet."""


class Taped(Message, frozen=True, kw_only=True):
    """One thing that the parts of decide were told, with when: enough to tell them again."""

    sequence: int
    """Counts all that decide heard, taken or not by the recorder: a gap is a loss."""
    at_ns: int
    """Decide's monotonic clock."""
    topic: str
    """How it was told: a topic of recording.py without its prefix."""
    data: bytes
    """The message as it was sent."""


class PartOpened(Message, frozen=True, kw_only=True):
    """A part was accepted."""

    part_id: int
    epoch: int
    zero_ns: int
    deadline_ns: int
    recipe: str
    recipe_hash: str
    setup_hash: str
    bundle: str
    part_tag: int = 0
    part_text: str = ""
    lot: str = ""
    is_challenge: bool = False
    expected_word: Word = Word.NONE
    opened_utc_ns: int = 0
    is_paired: bool = True


class PartShown(Message, frozen=True, kw_only=True):
    """The frame that is told next is of this part; the camera could not know."""

    part_id: int


class PartPaired(Message, frozen=True, kw_only=True):
    """Hardware trigger: a frame or the step came to a part that waited; what the part then was."""

    part_id: int
    zero_ns: int
    deadline_ns: int
    part_tag: int
    is_tag_known: bool
    part_text: str
    lot: str
    is_whole: bool = True
    """Step and all frames are there; in older recordings nothing else was told."""


class UnpairedEnded(Message, frozen=True, kw_only=True):
    """Hardware trigger: the association was lost."""

    doubtful: tuple[int, ...]
    detail: str


class PartJudged(Message, frozen=True, kw_only=True):
    """Features and forest were done with this part, or with one camera's view of it."""

    part_id: int
    camera: str = ""
    """"" in recordings from before a line could have several."""


class PartEnded(Message, frozen=True, kw_only=True):
    """Something outside frame and score ended this part, or one camera's view of it."""

    part_id: int
    word: Word
    reason: Reason
    detail: str
    camera: str = ""
    """"" in recordings from before a line could have several."""


class AllEnded(Message, frozen=True, kw_only=True):
    """Every open part was ended."""

    reason: Reason
    detail: str


class Expired(Message, frozen=True, kw_only=True):
    """Deadlines were looked at."""

    guard_ns: int


class CameraRestarted(Message, frozen=True, kw_only=True):
    """A new life of the camera: it may number its frames anew."""

    camera: str = ""
    """"" in recordings from before a line could have several."""


class PlcWrote(Message, frozen=True, kw_only=True):
    """What the PLC wants, where more than its heartbeat changed."""

    control: int
    ack_seq: int
    command: int
    argument: int
    part_tag: int
    deadline_ms: int
    trigger_count: int
    epoch_echo: int
    part_text: str
    lot: str


class PlcTold(Message, frozen=True, kw_only=True):
    """The result words of one part, as they lay in the register map when the PLC could read them.

    The level words, or the slot of the ring, whichever the PLC fetches.
    """

    part_id: int
    address: int
    """Zero-based holding register of the first word."""
    words: tuple[int, ...]


class Command(Message, frozen=True, kw_only=True):
    """Something a person or a slow bus asks of the decision process."""

    id: str
    name: str
    argument: str = ""
    by: str = ""


class CommandResult(Message, frozen=True, kw_only=True):
    """The answer to a Command."""

    id: str
    code: CommandError
    detail: str = ""


class Health(Message, frozen=True, kw_only=True):
    """Alive, and these are my figures; every 100 ms."""

    process: str
    """"camera:NAME", "infer:NAME", "decide", "record", "hmi", "bus"."""
    pid: int
    life: int = 0
    """Drawn at random at its start: after a reboot another box may give the same pid again. 0 = the
    pid says it."""
    is_serving: bool
    """False while the device or engine is not usable; the process itself is well."""
    setup_hash: str = ""
    is_simulated: bool = False
    """Its pictures, or its network by this set-up, are not real."""
    counters: dict[str, int] = {}
    gauges: dict[str, float] = {}
    note: str = ""

    @property
    def start(self) -> int:
        """Which start of the process speaks."""
        return self.life or self.pid


AnyMessage: TypeAlias = (
    Trigger
    | Prepare
    | Swap
    | FrameReady
    | NoFrame
    | Scored
    | InferFailed
    | Prepared
    | Refused
    | Verdict
    | LateResult
    | Words
    | Stored
    | Taped
    | PartOpened
    | PartShown
    | PartPaired
    | UnpairedEnded
    | PartJudged
    | PartEnded
    | AllEnded
    | Expired
    | CameraRestarted
    | PlcWrote
    | PlcTold
    | Command
    | CommandResult
    | Health
)
