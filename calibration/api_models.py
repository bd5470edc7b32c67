"""What programs send and get: the shapes of the REST API, from which OpenAPI describes itself.

Enters: rows, labels, recipes, proposals. Leaves: plain JSON. A number that is not finite becomes
null, for JSON has none.
"""

import math
from datetime import datetime, timezone
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from appliance.messages import ViewResult
from appliance.recipe import LoadedRecipe
from appliance.rows import PartRow
from calibration.opinions import Asked, Label
from calibration.reason import LEAST, MOST

WordName = Literal["OK", "NG", "UNCERTAIN", "ERROR"]
LARGEST_ID = (1 << 63) - 1
PartId = Annotated[int, Field(ge=1, le=LARGEST_ID)]
RecipeId = Annotated[str, Field(max_length=128)]


class Asking(BaseModel):
    """What comes in: nothing more than is known, and of the right type."""

    model_config = ConfigDict(extra="forbid")


class Sent(Asking):
    """A JSON body: "1" is no number there."""

    model_config = ConfigDict(extra="forbid", strict=True)


class PartsAsked(Asking):
    """Which parts."""

    text: Annotated[str, Field(max_length=200)] = ""
    """Part, tag, text, lot or recipe: equal, or its beginning."""
    word: Annotated[list[WordName], Field(max_length=4)] = []
    """One or several; none = all."""
    since: datetime | None = None
    """ISO 8601 with a zone: opened at this time or later."""
    until: datetime | None = None
    """Opened before this time."""
    challenge: bool | None = None
    """Challenge parts alone, or none of them."""
    before: PartId | None = None
    """For the next page: `next` of the answer."""
    limit: Annotated[int, Field(ge=1, le=500)] = 50


class ShiftAsked(Asking):
    """Which time; default: the last eight hours."""

    since: datetime | None = None
    until: datetime | None = None


class LabelSent(Sent):
    """What a part really is."""

    kind: Annotated[str, Field(min_length=1, max_length=64, examples=["good", "scratch"])]


class ProposalSent(Sent):
    """Two limits and why."""

    recipe: Annotated[str, Field(min_length=1, max_length=128, examples=["plate"])]
    base_version: Annotated[int, Field(ge=1)]
    """The version in force that was looked at: another one meanwhile is a refusal (409)."""
    t1: Annotated[float, Field(allow_inf_nan=False)]
    t2: Annotated[float, Field(allow_inf_nan=False)]
    reason: Annotated[str, Field(min_length=LEAST, max_length=MOST)]
    defect_rate: Annotated[float, Field(gt=0, lt=1)] = 0.005
    """Share of bad parts before inspection, for escapes per million."""


class Refusal(BaseModel):
    """Every answer from 400 up."""

    error: str


class Me(BaseModel):
    """Whose token this is."""

    user: str
    role: str
    token: str
    expires: str


class LabelGot(BaseModel):
    """A human verdict."""

    kind: str
    by: str
    at: str


class PartGot(BaseModel):
    """One part."""

    part_id: int
    word: str
    reason: str
    detail: str
    reasons: list[str]
    opened: str
    tag: int
    text: str
    lot: str
    camera: str
    recipe: str
    recipe_hash: str
    bundle: str
    decides: str
    margin: float | None
    t1: float | None
    t2: float | None
    latency_ms: float
    deadline_ms: float
    is_simulated: bool
    is_challenge: bool
    expected_word: str
    late_word: str
    has_image: bool
    label: LabelGot | None


class ExplainedGot(BaseModel):
    """What the score of one picture was made of."""

    map_max: float | None
    classification: float | None
    features: list[float | None]
    gates: dict[str, float | None]
    stages_ms: dict[str, float]
    region_px: list[int] | None
    defects: int
    passport: str


class ViewGot(ExplainedGot):
    """What one of several cameras saw."""

    camera: str
    word: str
    reason: str
    detail: str
    reasons: list[str]
    bundle: str
    decides: str
    margin: float | None
    t1: float | None
    t2: float | None


class PartWhole(PartGot, ExplainedGot):
    """One part with all that explains it."""

    software: str
    views: list[ViewGot]
    """In the order of config.toml; none on a line with one camera."""


class PartsGot(BaseModel):
    """One page of a list, newest first."""

    parts: list[PartGot]
    next: int | None
    """`before` of the next page; null = there is none."""


class LimitsGot(BaseModel):
    """A version of a recipe and its limits."""

    recipe: str
    version: int
    is_in_force: bool
    hash: str
    bundle: str
    decides: str
    t1: float
    t2: float
    set_by: str
    reason: str


class ProposalGot(BaseModel):
    """Limits that somebody asks for."""

    id: int
    recipe: str
    base_version: int
    t1: float
    t2: float
    by: str
    reason: str
    at: str
    evidence: dict[str, Any]
    """Of the calibrate parts: an estimate, no proof."""
    verified: dict[str, Any] | None
    state: str
    decided_by: str
    decided_reason: str


class LineGot(BaseModel):
    """What the line said last."""

    is_heard: bool
    """False: nothing since this process started; the other fields are empty then."""
    owner: str
    offline: str
    counters: dict[str, int]
    ledger: dict[str, int]
    notes: list[str]


def part(row: PartRow, label: Label | None) -> PartGot:
    """For a list."""
    return PartGot(**_part(row, label))


def whole_part(row: PartRow, label: Label | None) -> PartWhole:
    """With features, gates and stages."""
    verdict = row.verdict
    return PartWhole(
        **_part(row, label),
        **_explained(verdict),
        software=verdict.software,
        views=[ViewGot(**_judged(view), **_explained(view)) for view in verdict.views],
    )


def _explained(view: ViewResult) -> dict[str, Any]:
    return {
        "map_max": finite(view.map_max),
        "classification": finite(view.classification),
        "features": [finite(value) for value in view.features],
        "gates": {name: finite(value) for name, value in view.gates.items()},
        "stages_ms": {name: value / 1e6 for name, value in view.stages_ns.items()},
        "region_px": list(view.region_px) if view.region_px else None,
        "defects": view.defects,
        "passport": view.passport,
    }


def _judged(view: ViewResult) -> dict[str, Any]:
    return {
        "camera": view.camera,
        "word": view.word.name,
        "reason": view.reason.name,
        "detail": view.detail,
        "reasons": list(view.reasons),
        "bundle": view.bundle,
        "decides": view.decides,
        "margin": finite(view.margin),
        "t1": finite(view.t1),
        "t2": finite(view.t2),
    }


def _part(row: PartRow, label: Label | None) -> dict[str, Any]:
    verdict = row.verdict
    return _judged(verdict) | {
        "part_id": verdict.part_id,
        "opened": iso(verdict.opened_utc_ns),
        "tag": verdict.part_tag,
        "text": verdict.part_text,
        "lot": verdict.lot,
        "recipe": verdict.recipe,
        "recipe_hash": verdict.recipe_hash,
        "latency_ms": verdict.latency_ns / 1e6,
        "deadline_ms": verdict.deadline_ns / 1e6,
        "is_simulated": verdict.is_simulated,
        "is_challenge": verdict.is_challenge,
        "expected_word": verdict.expected_word.name,
        "late_word": row.late_word.name,
        "has_image": bool(row.image),
        "label": label_got(label) if label else None,
    }


def label_got(label: Label) -> LabelGot:
    """The newest verdict of a person."""
    return LabelGot(kind=label.kind, by=label.by, at=iso(label.utc_ns))


def limits_got(recipe: LoadedRecipe, is_in_force: bool) -> LimitsGot:
    """One version."""
    limits = recipe.recipe.limits
    return LimitsGot(
        recipe=recipe.recipe.id, version=recipe.recipe.version, is_in_force=is_in_force,
        hash=recipe.hash, bundle=recipe.recipe.bundle, decides=recipe.recipe.decides,
        t1=limits.t1, t2=limits.t2, set_by=limits.set_by, reason=limits.reason,
    )  # fmt: skip


def proposal_got(asked: Asked) -> ProposalGot:
    """One of them."""
    fields = asked._asdict()
    known = {name: fields[name] for name in ProposalGot.model_fields if name in fields}
    return ProposalGot(**known, at=iso(asked.utc_ns))


def finite(value: float | None) -> float | None:
    """The number, or None where JSON could not say it."""
    return value if value is not None and math.isfinite(value) else None


def iso(utc_ns: int) -> str:
    """UTC to the millisecond."""
    when = datetime.fromtimestamp(utc_ns / 1e9, timezone.utc)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
