"""API: tokens for programs, each shown once, and what they can ask for."""

import time
from functools import lru_cache, partial

from nicegui import ui

from calibration import texts
from calibration.api import WHERE, make_api
from calibration.desk import Desk
from calibration.frame import Visit, button, field, table, whole
from calibration.people import Role
from calibration.tokens import Token

_DAYS = 90


async def build(desk: Desk, visit: Visit) -> None:
    """Own tokens, those of all for an admin, and the list of operations."""
    user = visit.user()
    with ui.element("section").classes("panel wide"):
        ui.label(texts.TOKENS).classes("title")
        ui.label(texts.TOKENS_NOTE).classes("note")
        with ui.element("div").classes("bar"):
            name = field(texts.TOKEN_NAME)
            days = ui.number(label=texts.DAYS, value=_DAYS, step=1).props("dense outlined")
            new = ui.element("div").classes("token-new")

            async def make() -> None:
                wanted = whole(days.value, texts.DAYS)
                text, _ = await desk.run(
                    lambda: desk.tokens.make(name.value or "", wanted, visit.user())
                )
                new.clear()
                with new:
                    ui.label(texts.TOKEN_ONCE).classes("note is-warn")
                    ui.label(text).classes("token")
                await show()

            button(texts.MAKE_TOKEN, visit.tried(make), "is-main")
        own = ui.element("div")
    others = None
    if user.role >= Role.ADMIN:
        with ui.element("section").classes("panel wide"):
            ui.label(texts.TOKENS_OF_ALL).classes("title")
            others = ui.element("div")

    async def show() -> None:
        found = await desk.run(desk.tokens.tokens)
        _list(own, [one for one in found if one.user == user.name], with_user=False)
        if others is not None:
            _list(others, [one for one in found if one.user != user.name], with_user=True)

    def _list(place: ui.element, tokens: list[Token], with_user: bool) -> None:
        place.clear()
        with place:
            if not tokens:
                ui.label(texts.NO_TOKENS).classes("note")
            for token in tokens:
                with ui.element("div").classes("bar person"):
                    if with_user:
                        ui.label(token.user).classes("person-name")
                    ui.label(_said(token))
                    if desk.tokens.is_good(token):
                        button(texts.REVOKE, visit.tried(partial(revoke, token)))
                    else:
                        ended = texts.TOKEN_REVOKED.format(by=token.revoked_by)
                        ui.label(ended if token.revoked_by else texts.TOKEN_OVER).classes("note")

    async def revoke(token: Token) -> None:
        await desk.run(lambda: desk.tokens.revoke(token.id, visit.user()))
        await show()

    await show()
    with ui.element("section").classes("panel wide"):
        ui.label(texts.OPERATIONS).classes("title")
        ui.link("openapi.json", f"{WHERE}/openapi.json", new_tab=True).classes("nav-link")
        table(texts.OPERATION_COLUMNS, operations(desk))


@lru_cache(maxsize=1)
def operations(desk: Desk) -> list[tuple[str, ...]]:
    """Request and first sentence of every operation, as OpenAPI describes them."""
    described = make_api(desk).openapi()
    return [
        (f"{method.upper()} {WHERE}{path}", str(operation.get("description", "")))
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    ]


def _said(token: Token) -> str:
    used = (
        texts.TOKEN_USED.format(when=_day(token.used_utc_ns))
        if token.used_utc_ns
        else texts.TOKEN_UNUSED
    )
    return texts.TOKEN_LINE.format(name=token.name, until=_day(token.expires_utc_ns), used=used)


def _day(utc_ns: int) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(utc_ns / 1e9))
