"""The log-in: a plain form that needs no script, a cookie that no script can read.

What is posted is never longer than a form: the tool takes no uploads.
"""

from collections.abc import Awaitable, Callable
from html import escape
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from appliance.errors import ConfigError, DeviceError
from calibration import texts
from calibration.api import WHERE, make_api
from calibration.desk import Desk
from calibration.frame import PAGES
from calibration.people import LogInError
from calibration.quarantine import as_csv, as_page, find_last_good
from calibration.sessions import COOKIE

_LONGEST_FORM = 4096
_CLOSED = ("/part/", "/regions/", "/challenge/", "/msa/")
_HERE = Path(__file__).parent


def add_door(app: FastAPI, desk: Desk) -> None:
    """Log-in, log-out, and images for those alone who are logged in."""
    style = (_HERE.parent / "appliance" / "hmi.css").read_text(encoding="utf-8")
    style += (_HERE / "tool.css").read_text(encoding="utf-8")
    script = (_HERE.parent / "appliance" / "hmi_watch.js").read_text(encoding="utf-8")

    def form(error: str, follow: str, status: int = 200) -> HTMLResponse:
        if not desk.people.users():
            error = texts.NO_USERS
        page = _FORM.format(
            style=style, script=script, title=escape(texts.TITLE), error=escape(error),
            name=escape(texts.NAME), password=escape(texts.PASSWORD), log_in=escape(texts.LOG_IN),
            follow=escape(follow),
        )  # fmt: skip
        return HTMLResponse(page, status, {"Cache-Control": "no-store"})

    @app.middleware("http")
    async def guard(request: Request, follow: Callable[[Request], Awaitable[Response]]) -> Response:
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > _LONGEST_FORM * 16:
            return Response("too large", 413)
        if "transfer-encoding" in request.headers:
            return Response("a content-length was expected", 411)
        if request.url.path.startswith(_CLOSED):
            token = request.cookies.get(COOKIE, "")
            if await desk.run(lambda: desk.sessions.user(token, is_action=False)) is None:
                return Response("log in first", 401)
        return await follow(request)

    app.mount(WHERE, make_api(desk))

    @app.get("/challenge/quarantine.{kind}")
    async def quarantine(kind: Literal["csv", "html"]) -> Response:
        def made() -> str:
            good = find_last_good(desk.store(), desk.challenges)
            parts = desk.store().delivered(good.after_part_id)
            return as_csv(parts) if kind == "csv" else as_page(parts, good)

        media = {"csv": "text/csv; charset=utf-8", "html": "text/html"}[kind]
        try:
            return Response(await desk.run(made), media_type=media)
        except (ConfigError, DeviceError) as err:
            return Response(str(err), 503, media_type="text/plain")

    @app.get("/msa/{identity}.html")
    async def study(identity: int) -> Response:
        page = await desk.run(lambda: desk.studies.page(identity)) if identity < 1 << 31 else None
        return HTMLResponse(page) if page else Response("no such study", 404)

    @app.get("/")
    async def home() -> Response:
        return RedirectResponse(PAGES[0][0], 303)

    @app.get("/login")
    async def ask(request: Request) -> Response:
        error = texts.EXPIRED if "again" in request.query_params else ""
        follow = request.query_params.get("next", "")
        return await desk.run(lambda: form(error, follow))

    @app.post("/login")
    async def enter(request: Request) -> Response:
        fields = await _fields(request)
        if fields is None or not _is_own(request):
            return Response("a log-in form of this page was expected", 400)
        source = request.client.host if request.client else ""
        name, password = fields.get("name", ""), fields.get("password", "")
        follow = fields.get("next", "")
        try:
            user = await desk.run(lambda: desk.people.log_in(name, password, source))
        except LogInError as err:
            text = str(err)
            return await desk.run(lambda: form(text, follow, 401))
        known = {address for address, _, _ in PAGES}
        answer = RedirectResponse(follow if follow in known else PAGES[0][0], 303)
        answer.set_cookie(
            COOKIE,
            desk.sessions.open(user),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    @app.post("/logout")
    async def leave(request: Request) -> Response:
        desk.sessions.close(request.cookies.get(COOKIE, ""))
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE)
        return answer


async def _fields(request: Request) -> dict[str, str] | None:
    """What was posted; None where it is longer than a form can be, or no form."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _LONGEST_FORM:
            return None
    try:
        return {name: values[0] for name, values in parse_qs(body.decode("utf-8")).items()}
    except (UnicodeDecodeError, ValueError):
        return None


def _is_own(request: Request) -> bool:
    """Not posted by a page of somebody else."""
    origin = request.headers.get("origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("host", "")


_FORM = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{style}</style><script>{script}</script></head><body>
<main class="door"><form method="post" action="/login">
<h1 class="brand">{title}</h1><p class="door-error" role="alert">{error}</p>
<label>{name}<input name="name" autocomplete="username" required autofocus maxlength="64"></label>
<label>{password}<input name="password" type="password" autocomplete="current-password" required
 maxlength="200"></label>
<input type="hidden" name="next" value="{follow}">
<button class="do is-main" type="submit">{log_in}</button>
</form></main></body></html>
"""
