"""Users: for admins. A password is set, never shown."""

from functools import partial
from typing import Any

from nicegui import ui

from appliance.errors import ConfigError
from calibration import texts
from calibration.desk import Desk
from calibration.frame import Visit, button
from calibration.people import Role, User


async def build(desk: Desk, visit: Visit) -> None:
    """Everybody, and a form for somebody new."""
    with ui.element("section").classes("panel wide"):
        ui.label(texts.USERS).classes("title")
        for user in await desk.run(desk.people.users):
            _show(desk, visit, user)
    with ui.element("section").classes("panel wide"):
        ui.label(texts.ADD_USER).classes("title")
        with ui.element("div").classes("bar"):
            name = _field(texts.NAME)
            password = _field(texts.PASSWORD, is_secret=True)
            role = _roles(Role.OPERATOR)
            button(
                texts.ADD_USER,
                visit.tried(
                    lambda: _add(desk, visit, name.value or "", role.value, password.value)
                ),
                "is-main",
            )


def _show(desk: Desk, visit: Visit, user: User) -> None:
    notes = [texts.IS_DISABLED] * (not user.is_enabled) + [texts.IS_LOCKED] * user.is_locked
    with ui.element("div").classes("bar person"):
        ui.label(user.name).classes("person-name")
        role = _roles(user.role)
        role.on_value_change(
            visit.tried_with(
                lambda event: _change(desk, visit, user.name, {"role": Role(event.value)})
            )
        )
        password = _field(texts.NEW_PASSWORD, is_secret=True)
        button(
            texts.SAVE,
            visit.tried(lambda: _change(desk, visit, user.name, {"password": password.value})),
        )
        enable = {"is_enabled": not user.is_enabled}
        text = texts.DISABLE if user.is_enabled else texts.ENABLE
        button(text, visit.tried(partial(_change, desk, visit, user.name, enable)))
        if user.is_locked:
            unlock = {"unlock": True}
            button(texts.UNLOCK, visit.tried(partial(_change, desk, visit, user.name, unlock)))
        ui.label(", ".join(notes)).classes("note")


def _field(name: str, is_secret: bool = False) -> ui.input:
    field = ui.input(placeholder=name, password=is_secret)
    return field.props(f'dense outlined autocomplete="new-password" aria-label="{name}"')


def _roles(chosen: Role) -> ui.select:
    options = {int(role): texts.ROLES[role] for role in Role}
    field = ui.select(options, value=int(chosen)).classes("role")
    return field.props(f'dense outlined aria-label="{texts.ROLE}"')


def _admin(visit: Visit) -> User:
    user = visit.user()
    if user.role < Role.ADMIN:
        raise ConfigError("role", texts.ROLES[Role.ADMIN], texts.ROLES[user.role])
    return user


async def _add(desk: Desk, visit: Visit, name: str, role: int | None, password: str | None) -> None:
    by = _admin(visit)
    await desk.run(lambda: desk.people.add(name, Role(role or 1), password or "", by.name))
    ui.navigate.reload()


async def _change(desk: Desk, visit: Visit, name: str, what: dict[str, Any]) -> None:
    by = _admin(visit)
    await desk.run(lambda: desk.people.change(name, by.name, **what))
    ui.navigate.reload()
