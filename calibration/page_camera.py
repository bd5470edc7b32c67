"""Camera: its features as a tree, a picture, and whether limits were approved for its settings.

Read only while the line runs, which owns the device.
"""

import base64
import contextlib
from functools import partial
from itertools import groupby

import cv2
import msgspec
import numpy as np
from nicegui import ui

from appliance.camera_settings import Feature, Found, read_features, read_found
from appliance.config_camera import Camera
from appliance.errors import ArtefactError, ConfigError, DeviceError
from appliance.recipe import load_recipe
from calibration import camera_device, texts
from calibration.approve import (
    WHAT,
    approved,
    check_shown,
    differences,
    found_settings,
    to_approve,
)
from calibration.desk import Desk
from calibration.frame import READ_S, Visit, button, field, table
from calibration.people import Role, User

_PREVIEW_PX = 960


async def build(desk: Desk, visit: Visit) -> None:
    """One block per camera."""
    for camera in desk.config.camera:
        if camera.kind == "files":
            ui.label(texts.NO_DEVICE.format(name=camera.name)).classes("note")
            continue
        await _Device(desk, visit, camera).build()


class _Device:
    """One camera in one browser."""

    def __init__(self, desk: Desk, visit: Visit, camera: Camera) -> None:
        self._desk, self._visit, self._camera = desk, visit, camera
        self._features: list[Feature] = []
        self._is_open = False
        self._page = desk.camera_changes.new_page()
        self._changes_seen = desk.camera_changes.count
        """Changes of features, whoever made them, that this page shows beside its own."""
        self._seen: dict[str, Found] = {}
        """What the cameras had when the page was made: nothing else is approved."""

    async def build(self) -> None:
        config, name = self._desk.config, self._camera.name
        is_running = await self._desk.run(lambda: camera_device.has_line(config, name))
        self._is_open = not is_running
        with ui.element("div").classes("camera"):
            with ui.element("section").classes("panel"):
                ui.label(f"{texts.CAMERA} {name}").classes("title")
                ui.label(texts.RUNS if is_running else texts.LINE_STOPPED).classes("note")
                with ui.element("div").classes("bar"):
                    self._find = field(texts.FIND)
                    self._find.on_value_change(self._visit.tried(self._show))
                    if self._is_open:
                        button(texts.LOOK, self._visit.tried(self._look))
                if self._is_open and self._visit.user().role >= Role.ENGINEER:
                    self._setting()
                self._tree = ui.element("div")
                try:
                    self._features = await self._desk.run(lambda: read_features(config, name))
                except ArtefactError:
                    with self._tree:
                        ui.label(texts.NO_WORD).classes("note")
                else:
                    self._show()
            with ui.element("div").classes("camera-right"):
                with ui.element("section").classes("panel"):
                    await self._picture(is_running)
                with ui.element("section").classes("panel"):
                    await self._settings()

    def _setting(self) -> None:
        with ui.element("div").classes("bar"):
            self._name, self._value = field(texts.FEATURE), field(texts.VALUE)
            button(texts.SET, self._visit.tried(self._set), "is-main")
        ui.label(texts.SET_NOTE).classes("note")

    def _show(self) -> None:
        wanted = (self._find.value or "").lower()
        shown = [f for f in self._features if wanted in f"{f.category}/{f.name}".lower()]
        can_set = self._is_open and self._visit.user().role >= Role.ENGINEER
        self._tree.clear()
        with self._tree:
            for category, members in groupby(shown, key=lambda feature: feature.category):
                with ui.element("details").classes("feature-group").props("open" * bool(wanted)):
                    with ui.element("summary"):
                        ui.label(category.replace("/", " / "))
                    for feature in members:
                        is_open = can_set and feature.access in ("RW", "WO")
                        row = ui.element("button" if is_open else "div").classes("feature")
                        if is_open:
                            row.props('type="button"')
                            row.on("click", self._visit.tried(partial(self._choose, feature)))
                        with row:
                            ui.label(feature.name)
                            ui.label(_value(feature))
                            ui.label(feature.access).classes("is-dim")
                            ui.label(feature.allowed()).classes("is-dim")

    def _choose(self, feature: Feature) -> None:
        self._name.value = feature.name
        self._value.value = "" if feature.value is None else f"{feature.value}"

    async def _look(self) -> None:
        seen = self._desk.camera_changes.count
        call = partial(camera_device.features, self._desk.config, self._camera)
        self._features = await self._desk.run(call)
        self._changes_seen = seen
        self._show()

    async def _set(self) -> None:
        user = _engineer(self._visit)
        name, value = (self._name.value or "").strip(), (self._value.value or "").strip()
        if not name:
            raise ConfigError(texts.FEATURE, "a name", "nothing")
        before = next((f.value for f in self._features if f.name == name), None)
        changes, camera = self._desk.camera_changes, self._camera.name
        try:
            replaced = changes.begin(
                camera, name, value, user.name, page=self._page, seen=self._changes_seen
            )
        except ConfigError:
            await self._look()  # what is there now, and may be changed knowingly
            raise

        def note(what: str, reason: str = "") -> None:
            self._desk.journal.append(
                user.name, what, subject=f"{camera}: {name}", old=before, new=value,
                reason=reason, role=user.role.name, source="page",
            )  # fmt: skip

        try:
            await self._desk.run(lambda: note("camera.set"))
            feature = await self._desk.run(
                partial(camera_device.change, self._desk.config, self._camera, name, value)
            )
        except (DeviceError, OSError) as err:
            said = str(err)
            changes.undo(camera, name, replaced)
            await self._desk.run(lambda: note("camera.set.refused", said))
            raise
        self._features = [
            msgspec.structs.replace(feature, category=old.category) if old.name == name else old
            for old in self._features
        ]
        self._show()
        ui.notify(texts.SET_DONE.format(name=name, value=feature.value), type="positive")

    async def _picture(self, is_running: bool) -> None:
        if not is_running:
            button(texts.SNAP, self._visit.tried(self._snap), "is-main")
            self._shown = ui.element("div")
            return
        rows = await self._desk.run(lambda: self._desk.store().last(1))
        for row in rows:
            part = row.verdict.part_id
            ui.label(texts.NEWEST_PART.format(part=part)).classes("title")
            ui.element("img").props(f'src="/part/{part}.jpg" alt="{part}"')

    async def _snap(self) -> None:
        data, figures = await self._desk.run(
            partial(camera_device.snap, self._desk.config, self._camera)
        )
        self._shown.clear()
        with self._shown:
            ui.element("img").props(f'src="{preview(data)}" alt="{self._camera.name}"')
            table((), [(key, _figure(value)) for key, value in figures.items()], "numbers")

    async def _settings(self) -> None:
        config, name = self._desk.config, self._camera.name
        try:
            found = await self._desk.run(lambda: read_found(config, name))
            with contextlib.suppress(ArtefactError):  # another camera has left no word
                self._seen = await self._desk.run(lambda: found_settings(config))
                found = self._seen[name]
            recipe = await self._desk.run(lambda: load_recipe(config, found.recipe))
        except ConfigError:
            ui.label(texts.NO_WORD).classes("note")
            return
        known = recipe.recipe.limits.settings.get(name, {})
        ui.label(texts.SETTINGS_OF.format(recipe=recipe.name)).classes("title")
        state = texts.OTHER_SETTINGS if known else texts.NEVER_APPROVED
        is_same = known == found.settings
        ui.label(texts.ALL_APPROVED if is_same else state).classes(
            "note" if is_same else "note is-warn"
        )
        others = [  # approved along with these
            (f"{other}: {key}", old, new)
            for other, one in self._seen.items()
            for key, old, new in differences(
                recipe.recipe.limits.settings.get(other, {}), one.settings
            )
            if other != name
        ]
        same = [(key, old, old) for key, old in sorted(known.items())]
        rows = [
            *differences(known, found.settings),
            *others,
            *(row for row in same if found.settings.get(row[0]) == row[1]),
        ]
        with ui.element("div").classes("scroll"):
            table((texts.FEATURE, texts.APPROVED_ONE, texts.NOW), rows)
        if is_same or self._visit.user().role < Role.ENGINEER:
            return
        with ui.element("div").classes("bar"):
            why = field(texts.REASON)
            button(
                texts.APPROVE_SETTINGS, self._visit.tried(lambda: self._approve(why.value or ""))
            )

    async def _approve(self, reason: str) -> None:
        user = _engineer(self._visit)
        base, found = await self._desk.run(lambda: to_approve(self._desk.config))
        check_shown(self._seen, found)
        new, answer = await self._desk.put_in_force(
            base, approved(base, found), user, reason, WHAT, {}
        )
        text = texts.APPROVED.format(recipe=new.name, answer=answer)
        ui.notify(text, type="positive", multi_line=True)
        ui.timer(READ_S, ui.navigate.reload, once=True)


def preview(png: bytes) -> str:
    """A picture of any depth as a small JPEG in a data URL."""
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ConfigError("picture", "a PNG", f"{len(png)} bytes that are none")
    if image.dtype != np.uint8:
        image = cv2.convertScaleAbs(image, alpha=255 / max(1, int(image.max())))
    scale = min(1.0, _PREVIEW_PX / max(image.shape[:2]))
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    data = cv2.imencode(".jpg", small)[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def _value(feature: Feature) -> str:
    if feature.value is None:
        return ""
    shown = f"{feature.value:g}" if isinstance(feature.value, float) else f"{feature.value}"
    return f"{shown} {feature.unit}".rstrip()


def _figure(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"


def _engineer(visit: Visit) -> User:
    user = visit.user()
    if user.role < Role.ENGINEER:
        raise ConfigError("role", texts.ROLES[Role.ENGINEER], texts.ROLES[user.role])
    return user
