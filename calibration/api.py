"""The REST API: what the pages do, for programs, below `/api/v1`. Described by its `openapi.json`.

Enters: requests with a token (`Authorization: Bearer insp_…`). Leaves: JSON and pictures. Every
answer from 400 up is `{"error": "where: expected …, got …"}`. A program may read, label parts and
propose limits, with the role of its user; approving is left to people and their pages.
"""

import importlib.metadata
import io
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from appliance.archive import view_path
from appliance.codes import Word
from appliance.errors import ConfigError, DeviceError
from appliance.recipe import LoadedRecipe, load_recipe
from appliance.report import shift_report
from appliance.rows import PartRow
from calibration import api_models as models
from calibration.bounds import CONFIDENCE
from calibration.desk import BusyError, Desk
from calibration.limits import outcome, summary
from calibration.material import gather
from calibration.people import LOCK_S, Role, User
from calibration.publish import versions
from calibration.tokens import Token, TokenError, TooManyTries

WHERE = "/api/v1"
PER_S, BURST = 50.0, 100.0
"""Requests of one token."""
_SHIFT, _LONGEST_REPORT = timedelta(hours=8), timedelta(days=366)
_YEARS = 1971, 2199
"""Nanoseconds of these years fit into the 64 bits of a row, in every zone."""
_REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"model": models.Refusal, "description": text}
    for code, text in (
        (401, "no token, or one that has ended"),
        (403, "the role of its user does not suffice"),
        (404, "there is none"),
        (409, "somebody else was quicker"),
        (422, "the request says what it must not"),
        (429, "too many requests at once or in a second, or wrong tokens"),
        (503, "the archive cannot be read now"),
    )
}
_PNG, _JPEG, _NPY = "image/png", "image/jpeg", "application/octet-stream"
Seen = Annotated[str, Query(max_length=128, description='Of several: whose view; "" = it decided')]


class Pace:
    """At most so many requests a second of one token, and a few more at once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def takes(self, identity: str) -> bool:
        """One more request; False = not now."""
        now_s = self._clock()
        left, at_s = self._left.get(identity, (BURST, now_s))
        left = min(BURST, left + (now_s - at_s) * PER_S)
        self._left[identity] = (max(left - 1, left if left < 1 else 0), now_s)
        self._left.move_to_end(identity)
        while len(self._left) > 1000:
            self._left.popitem(last=False)
        return left >= 1


def make_api(desk: Desk) -> FastAPI:
    """The application that is mounted at `WHERE`."""
    api = FastAPI(
        title="inspectd",
        version=importlib.metadata.version("inspectd"),
        description="Parts, limits, reports and labels of one box. Ids are of this box alone.",
        docs_url=None, redoc_url=None, responses=_REFUSALS, servers=[{"url": WHERE}],
        root_path_in_servers=False,
    )  # fmt: skip
    _add_refusals(api)
    _Routes(api, desk)
    return api


def _add_refusals(api: FastAPI) -> None:
    """Every refusal in the house's words."""

    def refuse(status: int, text: str, **headers: str) -> JSONResponse:
        return JSONResponse({"error": text}, status, headers)

    @api.exception_handler(RequestValidationError)
    async def not_valid(request: Request, err: RequestValidationError) -> Response:
        said: list[str] = []
        for one in err.errors():
            place = ".".join(str(step) for step in one["loc"])
            got = repr(one.get("input"))[:80]
            said.append(f"{place}: expected {_expected(one['msg'])}, got {got}")
        return refuse(422, "; ".join(said))

    @api.exception_handler(ConfigError)
    async def not_possible(request: Request, err: ConfigError) -> Response:
        return refuse(403 if err.where == "role" else 422, str(err))

    @api.exception_handler(OSError)
    @api.exception_handler(DeviceError)
    async def not_now(request: Request, err: DeviceError | OSError) -> Response:
        return refuse(503, str(err))

    @api.exception_handler(BusyError)
    async def not_yet(request: Request, err: BusyError) -> Response:
        return refuse(429, str(err), **{"Retry-After": "1"})

    @api.exception_handler(HTTPException)
    async def plain(request: Request, err: HTTPException) -> Response:
        return refuse(err.status_code, str(err.detail), **(err.headers or {}))


def _expected(message: str) -> str:
    """What pydantic says it wanted, without its own "should be"."""
    if message == "Extra inputs are not permitted":
        return "a known name"
    text = message[:1].lower() + message[1:]
    for prefix in ("input should be ", "string should have ", "value error, "):
        text = text.removeprefix(prefix)
    return text


class _Routes:
    """All operations."""

    def __init__(self, api: FastAPI, desk: Desk) -> None:
        self._desk, self._pace = desk, Pace()
        bearer = HTTPBearer(auto_error=False, description="A token of the page “API”.")

        async def entered(
            request: Request,
            shown: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
        ) -> tuple[User, Token]:
            source = request.client.host if request.client else ""
            if shown is None:
                raise HTTPException(
                    401, "Authorization: expected Bearer and a token, got neither",
                    {"WWW-Authenticate": "Bearer"},
                )  # fmt: skip
            try:
                user, token = await desk.run_for_program(
                    partial(desk.tokens.open, shown.credentials, source)
                )
            except TooManyTries as err:
                raise HTTPException(429, str(err), {"Retry-After": str(LOCK_S)}) from err
            except TokenError as err:
                raise HTTPException(401, str(err), {"WWW-Authenticate": "Bearer"}) from err
            if not self._pace.takes(token.id):
                expected = f"at most {PER_S:.0f} requests a second of one token"
                raise HTTPException(429, f"requests: expected {expected}", {"Retry-After": "1"})
            return user, token

        def user_of(who: Annotated[tuple[User, Token], Depends(entered)]) -> User:
            return who[0]

        def engineer(user: Annotated[User, Depends(user_of)]) -> User:
            if user.role < Role.ENGINEER:
                raise HTTPException(
                    403, f"role: expected engineer or above, got {user.role.name.lower()}"
                )
            return user

        anybody = [Depends(user_of)]
        pictures = {404: {"model": models.Refusal, "description": "none is kept"}}

        @api.get("/me")
        async def me(who: Annotated[tuple[User, Token], Depends(entered)]) -> models.Me:
            """Whose token this is, and until when it opens."""
            user, token = who
            return models.Me(
                user=user.name, role=user.role.name.lower(), token=token.name,
                expires=models.iso(token.expires_utc_ns),
            )  # fmt: skip

        @api.get("/parts", dependencies=anybody)
        async def parts(asked: Annotated[models.PartsAsked, Query()]) -> models.PartsGot:
            """Parts, newest first, a page at a time."""
            return await desk.run_for_program(lambda: self._parts(asked))

        @api.get("/parts/{part_id}", dependencies=anybody)
        async def part(part_id: Annotated[models.PartId, Path()]) -> models.PartWhole:
            """One part with all that explains its verdict."""
            row = await self._row(part_id)
            labels = await desk.run_for_program(lambda: desk.opinions.labels([part_id]))
            return models.whole_part(row, labels.get(part_id))

        @api.get(
            "/parts/{part_id}/image.jpg", dependencies=anybody, responses=pictures | _is(_JPEG)
        )
        async def image(part_id: Annotated[models.PartId, Path()], camera: Seen = "") -> Response:
            """The picture as the pages show it, reduced."""
            camera = _other(await self._row(part_id), camera)
            images = await desk.images(part_id, camera, is_program=True)
            return _bytes(images.jpeg if images else b"", _JPEG, f"picture of part {part_id}")

        @api.get("/parts/{part_id}/image.png", dependencies=anybody, responses=pictures | _is(_PNG))
        async def original(
            part_id: Annotated[models.PartId, Path()], camera: Seen = ""
        ) -> Response:
            """The picture as it was archived, every pixel."""
            row = await self._row(part_id)
            other = _other(row, camera)
            path = desk.config.data_dir / (view_path(row.image, other) if other else row.image)
            if not row.image or not await desk.run_for_program(path.is_file):
                raise HTTPException(404, f"picture of part {part_id}: expected one kept, got none")
            return FileResponse(path, media_type=_PNG)

        @api.get("/parts/{part_id}/heat.png", dependencies=anybody, responses=pictures | _is(_PNG))
        async def heat(part_id: Annotated[models.PartId, Path()], camera: Seen = "") -> Response:
            """The anomaly map in the colours of the pages, transparent where nothing is."""
            camera = _other(await self._row(part_id), camera)
            images = await desk.images(part_id, camera, is_program=True)
            return _bytes(images.heat if images else b"", _PNG, f"map of part {part_id}")

        @api.get("/parts/{part_id}/map.npy", dependencies=anybody, responses=pictures | _is(_NPY))
        async def raw_map(part_id: Annotated[models.PartId, Path()], camera: Seen = "") -> Response:
            """The anomaly map itself: NumPy file, (h, w) float32 raw logits."""
            camera = _other(await self._row(part_id), camera)
            found = await desk.run_for_program(lambda: desk.map_of(part_id, camera))
            data = io.BytesIO()
            if found is not None:
                np.save(data, found.astype(np.float32), allow_pickle=False)
            return _bytes(data.getvalue(), _NPY, f"map of part {part_id}")

        @api.post("/parts/{part_id}/label")
        async def label(
            part_id: Annotated[models.PartId, Path()],
            sent: models.LabelSent,
            user: Annotated[User, Depends(user_of)],
        ) -> models.LabelGot:
            """Say what a part really is: "good", or the type of its defect."""
            await self._row(part_id)
            opinions = desk.opinions
            said = await desk.run_for_program(
                lambda: opinions.label(part_id, sent.kind, user, "api")
            )
            return models.label_got(said)

        @api.get("/limits", dependencies=anybody)
        async def limits() -> list[models.LimitsGot]:
            """The recipes in force and their limits."""
            found = await desk.run_for_program(desk.in_force)
            return [models.limits_got(recipe, True) for recipe in found.values()]

        @api.get("/limits/{recipe}", dependencies=anybody)
        async def history(recipe: Annotated[models.RecipeId, Path()]) -> list[models.LimitsGot]:
            """Every readable version of one recipe, newest first."""
            found = await desk.run_for_program(lambda: self._versions(recipe))
            if not found:
                raise HTTPException(404, f"recipe: expected a known one, got {recipe[:80]!r}")
            return found

        @api.get("/proposals", dependencies=anybody)
        async def proposals(
            recipe: Annotated[models.RecipeId, Query()] = "",
        ) -> list[models.ProposalGot]:
            """Limits that somebody asked for, newest first."""
            found = await desk.run_for_program(lambda: desk.opinions.proposals(recipe))
            return [models.proposal_got(one) for one in found]

        @api.post("/proposals", status_code=201)
        async def propose(
            sent: models.ProposalSent, user: Annotated[User, Depends(engineer)]
        ) -> models.ProposalGot:
            """Ask for two limits; somebody else has to approve them on the page."""
            return await desk.run_for_program(lambda: self._propose(sent, user))

        @api.get("/reports/shift", dependencies=anybody)
        async def shift(asked: Annotated[models.ShiftAsked, Query()]) -> dict[str, object]:
            """What `inspectd report --json` says: counts, reasons, regions, latencies."""
            until = _zoned(asked.until, "until") or datetime.now().astimezone()
            since = _zoned(asked.since, "since") or until - _SHIFT
            if since >= until:
                raise ConfigError("since", f"a time before {until.isoformat()}", since.isoformat())
            if until - since > _LONGEST_REPORT:
                expected = f"at most {_LONGEST_REPORT.days} days until {until.isoformat()}"
                raise ConfigError("since", expected, since.isoformat())
            deadline_ms = desk.config.deadline_ms
            return await desk.run_for_program(
                lambda: shift_report(desk.store(), since, until, deadline_ms)
            )

        @api.get("/line", dependencies=anybody)
        async def line() -> models.LineGot:
            """Counters, ledger and state as the line told them last."""
            words = desk.words
            return models.LineGot(
                is_heard=words is not None,
                owner=words.owner if words else "",
                offline=words.offline.name if words else "",
                counters=words.counters if words else {},
                ledger=words.ledger if words else {},
                notes=list(words.notes) if words else [],
            )

    async def _row(self, part_id: int) -> PartRow:
        row = await self._desk.run_for_program(lambda: self._desk.store().part(part_id))
        if row is None:
            raise HTTPException(404, f"part: expected a known id, got {part_id}")
        return row

    def _parts(self, asked: models.PartsAsked) -> models.PartsGot:
        span = (
            _utc_ns(_zoned(asked.since, "since")), _utc_ns(_zoned(asked.until, "until")),
        )  # fmt: skip
        words = [Word[name] for name in asked.word]
        # One more than asked for says whether there is a next page.
        rows = self._desk.store().find(
            asked.text.strip(), words, asked.before, asked.limit + 1, span, asked.challenge
        )
        shown = rows[: asked.limit]
        labels = self._desk.opinions.labels([row.verdict.part_id for row in shown])
        return models.PartsGot(
            parts=[models.part(row, labels.get(row.verdict.part_id)) for row in shown],
            next=shown[-1].verdict.part_id if len(rows) > len(shown) else None,
        )

    def _versions(self, identity: str) -> list[models.LimitsGot]:
        current = self._desk.in_force().get(identity)
        found: list[LoadedRecipe] = []
        for number in versions(self._desk.config, identity)[::-1]:
            try:
                found.append(load_recipe(self._desk.config, f"{identity}/{number}"))
            except ConfigError:
                continue  # damaged: the line's business to report
        name = current.name if current else ""
        return [models.limits_got(recipe, recipe.name == name) for recipe in found]

    def _propose(self, sent: models.ProposalSent, user: User) -> models.ProposalGot:
        desk, recipe = self._desk, self._desk.in_force().get(sent.recipe)
        if recipe is None:
            raise HTTPException(404, f"recipe: expected one in force, got {sent.recipe[:80]!r}")
        if recipe.recipe.version != sent.base_version:
            text = f"base_version: expected {recipe.recipe.version}, got {sent.base_version}"
            raise HTTPException(409, text)
        limits = float(np.float32(sent.t1)), float(np.float32(sent.t2))
        if limits[0] > limits[1] or not np.isfinite(limits).all():
            raise ConfigError("limits", "finite T1 <= T2", f"{sent.t1}, {sent.t2}")
        if len(desk.config.camera) > 1:
            got = f"{len(desk.config.camera)} cameras"
            raise ConfigError("limits", "a line with one camera (docs/camera.md)", got)
        seen = outcome(gather(desk.store(), desk.opinions, recipe).calibrate, *limits, CONFIDENCE)
        evidence = summary(seen, sent.defect_rate)
        if any(one.state == "open" for one in desk.opinions.proposals(sent.recipe)):
            raise HTTPException(409, f"proposal: expected none open for {sent.recipe}, got one")
        asked = desk.opinions.propose(
            sent.recipe, sent.base_version, limits, sent.reason, evidence, user, "api"
        )
        return models.proposal_got(asked)


def _is(kind: str) -> dict[int | str, dict[str, object]]:
    return {200: {"content": {kind: {}}, "description": "the file"}}


def _other(row: PartRow, camera: str) -> str:
    """A camera as its pictures are kept: "" where its view decided. Raises HTTPException 404."""
    known = [view.camera for view in row.verdict.by_view()]
    if camera and camera not in known:
        raise HTTPException(404, f"camera: expected {' or '.join(known)}, got {camera!r}")
    return "" if camera == row.verdict.camera else camera


def _bytes(data: bytes, kind: str, what: str) -> Response:
    if not data:
        raise HTTPException(404, f"{what}: expected one kept, got none")
    return Response(data, media_type=kind)


def _zoned(when: datetime | None, name: str) -> datetime | None:
    if when is not None and when.tzinfo is None:
        raise ConfigError(name, "a time with a zone, like 2026-11-27T06:00Z", when.isoformat())
    if when is not None and not _YEARS[0] <= when.year <= _YEARS[1]:
        raise ConfigError(name, f"a year of {_YEARS[0]} to {_YEARS[1]}", when.isoformat())
    return when


def _utc_ns(when: datetime | None) -> int | None:
    return None if when is None else int(when.timestamp() * 1e6) * 1000
