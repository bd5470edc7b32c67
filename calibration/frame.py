"""The frame of every page: who is there, where to go, what to say when something is refused."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request
from fastapi.responses import RedirectResponse
from nicegui import ui

from appliance.errors import ConfigError, DeviceError
from calibration import control, texts
from calibration.desk import Desk
from calibration.people import Role, User
from calibration.reason import MOST
from calibration.sessions import COOKIE

_LOOK_S = 10.0
"""How often a page looks whether its session has ended."""
READ_S = 4.0
"""To read what a page says before it shows the new state of things."""
PAGES: tuple[tuple[str, str, Role], ...] = (
    ("/parts", texts.PARTS, Role.OPERATOR),
    ("/calibrate", texts.CALIBRATE, Role.OPERATOR),
    ("/segments", texts.SEGMENTS, Role.ENGINEER),
    ("/teach", texts.TEACH, Role.ENGINEER),
    ("/challenge", texts.CHALLENGE, Role.OPERATOR),
    ("/msa", texts.MSA, Role.OPERATOR),
    ("/recipes", texts.RECIPES, Role.OPERATOR),
    ("/camera", texts.CAMERA, Role.TECHNICIAN),
    ("/health", texts.HEALTH, Role.OPERATOR),
    ("/report", texts.REPORT, Role.OPERATOR),
    ("/tokens", texts.API, Role.OPERATOR),
    ("/users", texts.USERS, Role.ADMIN),
    ("/audit", texts.AUDIT, Role.ENGINEER),
)
"""Address, name, least role."""

Build = Callable[[Desk, "Visit"], Awaitable[None]]


class Gone(Exception):
    """The session of this page has ended."""


class Visit:
    """One browser on one page. address: of that page; it comes back to it after the log-in."""

    def __init__(self, desk: Desk, token: str, address: str = "") -> None:
        self._desk, self._token, self._address = desk, token, address

    def user(self) -> User:
        """Who acts, now. Raises Gone."""
        user = self._desk.sessions.user(self._token)
        if user is None:
            raise Gone
        return user

    def engineer(self) -> User:
        """Who acts, if they may change what decides. Raises Gone, ConfigError."""
        user = self.user()
        if user.role < Role.ENGINEER:
            raise ConfigError("role", "engineer or above", texts.ROLES[user.role])
        return user

    def tried(self, call: Callable[[], Any]) -> Callable[[], Awaitable[None]]:
        """An event handler whose refusal is a message and whose end of session is the log-in."""

        async def run() -> None:
            await self._try(call)

        return run

    def glanced(
        self, call: Callable[[], Any], leaves: bool = True
    ) -> Callable[[], Awaitable[None]]:
        """The same for what a page does by itself: no action of the person, whose session ends. A
        refusal that comes again at the next time is said once. leaves: False = without a session
        nothing is done, and something else leads to the log-in."""
        said = ""

        async def run() -> None:
            nonlocal said
            said = await self._try(call, is_action=False, leaves=leaves, said=said)

        return run

    def tried_with(self, call: Callable[[Any], Any]) -> Callable[[Any], Awaitable[None]]:
        """The same for a handler that takes the event."""

        async def run(event: Any) -> None:
            await self._try(lambda: call(event))

        return run

    async def _try(
        self,
        call: Callable[[], Any],
        is_action: bool = True,
        leaves: bool = True,
        said: str = "",
    ) -> str:
        """What was refused, "" = nothing. said: not said again."""
        sessions = self._desk.sessions
        try:
            if is_action:  # at once: what a person does keeps its order
                user = sessions.user(self._token)
            else:
                user = await asyncio.to_thread(sessions.user, self._token, is_action=False)
            if user is None:
                raise Gone
            result = call()
            if inspect.isawaitable(result):
                await result
        except Gone:
            if leaves:
                ui.navigate.to(f"/login?again=1&next={self._address}")
        except (ConfigError, DeviceError, OSError) as err:
            if str(err) != said:
                refused(err)
            return str(err)
        return ""


def refused(err: Exception) -> None:
    """Say it on the page that acted; before anything there that acted is made anew."""
    ui.notify(str(err), type="negative", multi_line=True, close_button=True, timeout=0)


def register(desk: Desk, address: str, build: Build) -> None:
    """A page behind the log-in."""
    name, least = next((name, least) for path, name, least in PAGES if path == address)

    @ui.page(address, title=f"{name} · {texts.TITLE}", response_timeout=30)
    async def show(request: Request) -> RedirectResponse | None:
        token = request.cookies.get(COOKIE, "")
        user = await asyncio.to_thread(desk.sessions.user, token)
        if user is None:
            return RedirectResponse(f"/login?next={address}", status_code=303)
        visit = Visit(desk, token, address)
        with ui.element("div").classes("desk"):
            ask = _top(desk, address, user)
            bar = ControlBar(desk, visit, user)
            if ask is not None:
                ask.on("click", bar.ask)
            with ui.element("main").classes("desk-body"):
                if user.role < least:
                    ui.label(texts.NOT_YOURS.format(role=texts.ROLES[least])).classes("note")
                else:
                    try:
                        await build(desk, visit)
                    except (ConfigError, DeviceError) as err:
                        ui.label(texts.NO_ARCHIVE.format(error=err)).classes("note")
        ui.timer(_LOOK_S, visit.glanced(lambda: None))
        return None


def _top(desk: Desk, here: str, user: User) -> ui.element | None:
    """Where to go, and who is there; the button that asks for control, for those who may."""
    ask = None
    with ui.element("header").classes("top"):
        ui.label(texts.TITLE).classes("brand")
        with ui.element("nav").classes("nav"):
            for address, name, least in PAGES:
                if user.role >= least:
                    link = ui.link(name, address).classes("nav-link")
                    if address == here:
                        link.classes("is-here").props('aria-current="page"')
            if desk.config.hmi.is_enabled:
                live = ui.link(texts.LIVE, "#").classes("nav-link")
                port = desk.config.hmi.port
                live.on(
                    "click",
                    js_handler="(e) => { e.preventDefault(); "
                    f"location.href = `${{location.protocol}}//${{location.hostname}}:{port}/`; }}",
                )
        if user.role >= Role.TECHNICIAN:
            with ui.element("button").classes("plain").props('type="button"') as ask:
                ui.label(texts.CONTROL)
        ui.label(f"{user.name} · {texts.ROLES[user.role]}").classes("who")
        with ui.element("form").props('method="post" action="/logout"').classes("out"):
            with ui.element("button").props('type="submit"').classes("plain"):
                ui.label(texts.LOG_OUT)
        with ui.element("button").classes("theme").props(f'aria-label="{texts.THEME}"') as theme:
            ui.label("◐")
        theme.on("click", js_handler="() => window.inspectdTheme()")
    return ask


class ControlBar:
    """Who has control, on every page; and for those who may, the way to change it."""

    def __init__(self, desk: Desk, visit: Visit, user: User) -> None:
        self._desk, self._visit = desk, visit
        self._may = user.role >= Role.TECHNICIAN
        self._is_asked = False
        self._bar = ui.element("div").classes("control").props('role="status"')
        with self._bar:
            self._says = ui.label("").classes("control-says")
            with ui.element("div").classes("control-form") as self._form:
                self._reason = field(texts.CONTROL_REASON)
                self._take = button(texts.TAKE_CONTROL, visit.tried(self._taken), "is-main")
                self._release = button(
                    texts.RELEASE_CONTROL, visit.tried(self._released), "is-main"
                )
        self.update()
        ui.timer(control.LOOK_S, visit.glanced(self.update, leaves=False))

    def ask(self) -> None:
        """Show the form, or put it away."""
        self._is_asked = not self._is_asked
        self.update()

    def update(self) -> None:
        """As the line says."""
        words = self._desk.words
        owner = words.owner if words else ""
        says = texts.IN_CONTROL.format(owner=owner) if owner else texts.PLC_IN_CONTROL
        if not self._desk.is_heard:
            says = texts.SILENT
        if says != self._says.text:
            self._says.text = says
        self._show(self._bar, bool(owner) or self._is_asked or not self._desk.is_heard)
        self._show(self._form, self._may and (bool(owner) or self._is_asked))
        self._show(self._take, not owner)
        self._show(self._release, bool(owner))
        self._bar.classes(**{"add" if owner else "remove": "is-held"})

    async def _taken(self) -> None:
        await self._ordered(control.take)

    async def _released(self) -> None:
        await self._ordered(control.give_back)

    async def _ordered(self, hand_over: Callable[[Desk, User, str], Awaitable[None]]) -> None:
        await hand_over(self._desk, self._visit.user(), self._reason.value or "")
        self._reason.value, self._is_asked = "", False
        ui.notify(texts.DONE, type="positive")

    @staticmethod
    def _show(element: ui.element, is_shown: bool) -> None:
        if element.visible != is_shown:
            element.set_visibility(is_shown)


def button(text: str, call: Callable[[], Any], tone: str = "") -> ui.element:
    """A touchable button with a text node."""
    with ui.element("button").classes(f"do {tone}".strip()).props('type="button"') as element:
        ui.label(text)
    element.on("click", call)
    return element


def field(name: str, value: str = "") -> ui.input:
    """One line of text that takes the room there is."""
    made = ui.input(placeholder=name, value=value)
    made.props(f'dense outlined maxlength={MOST} aria-label="{name}"').classes("grow")
    return made.style(f"min-width: max(160px, {6.5 * len(name) + 26:.0f}px)")  # all of it is read


def whole(value: float | None, name: str) -> int:
    """What a field of whole numbers holds. Raises ConfigError: 0.5 cut to 0 is another order."""
    if value is None or not float(value).is_integer():
        raise ConfigError(name, "a whole number", "nothing" if value is None else f"{value}")
    return int(value)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]], classes: str = "") -> None:
    """Plain rows of text."""
    with ui.element("table").classes(f"rows {classes}".strip()):
        with ui.element("thead"), ui.element("tr"):
            for name in head:
                with ui.element("th"):
                    ui.label(name)
        with ui.element("tbody"):
            for row in rows:
                with ui.element("tr"):
                    for cell in row:
                        with ui.element("td"):
                            ui.label(cell)
