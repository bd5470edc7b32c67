"""One part on its way, and each camera's view of it: what is known so far.

A `Sight` learns of its frame from the camera and of its score from infer, in whichever order the
two arrive, and ends by its score or by a named failure. Data alone: parts.py makes it move.
"""

from dataclasses import dataclass, field

from appliance.codes import Reason, Word
from appliance.messages import FrameReady, Scored, Verdict
from appliance.recipe import LoadedRecipe


@dataclass(frozen=True, slots=True)
class Judgement:
    """What features and forest made of one score."""

    margin: float
    map_max: float
    features: tuple[float, ...] = ()
    reasons: tuple[str, ...] = ()
    region_px: tuple[int, int, int, int] | None = None
    defects: int = 0
    stages_ns: dict[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True)
class Ending:
    """How a view ends: the word, why, and what infer measured until then."""

    word: Word
    reason: Reason
    detail: str = ""
    gates: dict[str, float] = field(default_factory=dict[str, float])
    stages_ns: dict[str, int] = field(default_factory=dict[str, int])


@dataclass(slots=True)
class Part:
    """One part on its way."""

    part_id: int
    acq_id: int
    zero_ns: int
    """Receipt of the Trigger write, or the end of exposure."""
    deadline_ns: int
    recipe: LoadedRecipe
    part_tag: int = 0
    part_text: str = ""
    lot: str = ""
    is_challenge: bool = False
    expected: Word = Word.NONE
    is_kept: bool = False
    """Its picture is kept whatever the policy says."""
    opened_utc_ns: int = 0
    is_paired: bool = True
    """False with a hardware trigger until its step of TriggerCount and a frame of every camera are
    there: before that it can end by its deadline or a lost association alone, for it is not known
    whose tag and whose pictures these are."""
    is_tag_known: bool = False
    """Hardware trigger: the step of TriggerCount that the tag came with is this part's."""
    sights: "dict[str, Sight]" = field(default_factory=dict[str, "Sight"])
    """By camera, in the order of config.toml."""
    verdict: Verdict | None = None

    @property
    def only(self) -> "Sight":
        """Its one view, on a line with one camera."""
        (sight,) = self.sights.values()
        return sight

    @property
    def is_exposed(self) -> bool:
        """Every camera's picture is there."""
        return all(sight.frame is not None for sight in self.sights.values())


@dataclass(slots=True)
class Sight:
    """One camera's view of one part."""

    part: Part
    camera: str
    is_camera_done: bool = False
    """The camera gave its one answer: a frame or none."""
    is_infer_done: bool = False
    """infer gave its one answer: a score or none."""
    frame: FrameReady | None = None
    frame_at_ns: int = 0
    scored: Scored | None = None
    scored_at_ns: int = 0
    judgement: Judgement | None = None
    held: Judgement | None = None
    """Of a part that is not paired yet."""
    ending: Ending | None = None
    """The first one counts: no score undoes a failure."""
    late_word: Word = Word.NONE
    """What it would have been, had it been judged before the part was closed."""
