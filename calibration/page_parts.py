"""Parts: find one, see why, say what it really is."""

import time
from functools import partial

from nicegui import ui

from appliance.codes import Word
from appliance.errors import ConfigError
from appliance.hmi_elements import Viewer
from appliance.hmi_screen import PartView, Picture
from appliance.hmi_view import part_view
from appliance.rows import PartRow
from calibration import texts
from calibration.desk import Desk
from calibration.frame import Visit, button, field, refused
from calibration.limits import GOOD
from calibration.opinions import Label

_ROWS = 50
_IN_SIGHT = "document.querySelector('.part-row.is-here')?.scrollIntoView({block: 'nearest'})"
_WORDS = (Word.NG, Word.UNCERTAIN, Word.OK, Word.ERROR)


async def build(desk: Desk, visit: Visit) -> None:
    """List on the left, part on the right."""
    page = _Parts(desk, visit)
    await page.load()


class _Parts:
    def __init__(self, desk: Desk, visit: Visit) -> None:
        self._desk, self._visit = desk, visit
        self._word: Word | None = None
        self._rows: tuple[PartRow, ...] = ()
        self._labels: dict[int, Label] = {}
        self._chosen: PartRow | None = None
        with ui.element("div").classes("parts"):
            with ui.element("section").classes("panel parts-left"):
                with ui.element("div").classes("bar"):
                    self._search = field(texts.SEARCH).props("clearable debounce=300")
                    self._search.on_value_change(visit.tried(self.load))
                with ui.element("div").classes("bar"):
                    self._tabs = {
                        word: button(
                            word.name if word else texts.ALL, visit.tried(partial(self._pick, word))
                        )
                        for word in (None, *_WORDS)
                    }
                self._list = ui.element("div").classes("list")
                with ui.element("div").classes("bar"):
                    button(texts.NEWER, visit.tried(self.load))
                    button(texts.OLDER, visit.tried(self._older))
            self._detail = ui.element("section").classes("panel parts-right")
        with self._detail:
            ui.label(texts.CHOOSE_PART).classes("note")

    async def load(self) -> None:
        """The newest parts."""
        await self._turn(await self._find())

    async def _find(self, before: int | None = None) -> tuple[PartRow, ...]:
        text, words = (self._search.value or "").strip(), [self._word] if self._word else []
        return await self._desk.run(lambda: self._desk.store().find(text, words, before, _ROWS))

    async def _turn(self, rows: tuple[PartRow, ...]) -> None:
        """To this page of the list."""
        ids = [row.verdict.part_id for row in rows]
        self._labels = await self._desk.run(lambda: self._desk.opinions.labels(ids))
        self._rows = rows
        for word, tab in self._tabs.items():
            tab.classes(**{"add" if word is self._word else "remove": "is-on"})
        self._show_list()

    def _show_list(self) -> None:
        self._list.clear()
        with self._list:
            if not self._rows:
                ui.label(texts.NO_PARTS).classes("note")
            for row in self._rows:
                self._show_row(row)
        ui.run_javascript(_IN_SIGHT)

    def _show_row(self, row: PartRow) -> None:
        verdict = row.verdict
        label = self._labels.get(verdict.part_id)
        chosen = self._chosen is not None and self._chosen.verdict.part_id == verdict.part_id
        classes = f"part-row is-{verdict.word.name.lower()}{' is-here' if chosen else ''}"
        with ui.element("button").classes(classes) as line:
            ui.label(verdict.word.name).classes("row-word")
            ui.label(str(verdict.part_id)).classes("row-id")
            ui.label(_when(verdict.opened_utc_ns)).classes("row-when")
            ui.label("" if verdict.margin is None else f"{verdict.margin:.3f}").classes(
                "row-margin"
            )
            ui.label(label.kind if label else "").classes("row-label")
        line.on("click", self._visit.tried(partial(self._open, row)))

    async def _pick(self, word: Word | None) -> None:
        self._word = word
        await self.load()

    async def _older(self) -> None:
        """Where there is nothing older the list stays as it is."""
        if self._rows and (rows := await self._find(self._rows[-1].verdict.part_id)):
            await self._turn(rows)

    async def _open(self, row: PartRow) -> None:
        self._chosen = row
        verdict = row.verdict
        pictures: dict[str, Picture] = {}
        for camera in ("", *(one.camera for one in verdict.views if one.camera != verdict.camera)):
            if images := await self._desk.images(verdict.part_id, camera):
                pictures[camera] = images.picture
        view = part_view(verdict, pictures)
        self._labels |= await self._desk.run(lambda: self._desk.opinions.labels([verdict.part_id]))
        label = self._labels.get(verdict.part_id)
        kinds = await self._desk.run(self._desk.opinions.kinds)
        self._show_list()
        self._detail.clear()
        with self._detail:
            with ui.element("div").classes("part-head"):
                ui.label(view.word).classes(f"part-word is-{view.tone}")
                with ui.element("div"):
                    ui.label(f"{verdict.part_id}").classes("part-title")
                    ui.label(view.reason).classes("note")
                with ui.element("div").classes("facts-grid"):
                    for name, value in (
                        (texts.WHEN, _when(verdict.opened_utc_ns)),
                        (texts.TAG, verdict.part_text or str(verdict.part_tag or texts.NO_FIGURE)),
                        (texts.RECIPE, verdict.recipe),
                        (texts.LATENCY, f"{verdict.latency_ns / 1e6:.1f} ms"),
                    ):
                        ui.label(name).classes("caps")
                        ui.label(value)
            _Views(view)
            self._ask(row, label, kinds)

    def _ask(self, row: PartRow, label: Label | None, kinds: tuple[str, ...]) -> None:
        said = texts.LABELLED.format(kind=label.kind, by=label.by) if label else texts.NOT_LABELLED
        with ui.element("div").classes("ask"):
            ui.label(texts.YOUR_VERDICT).classes("caps")
            ui.label(said).classes("said")
            with ui.element("div").classes("bar"):
                for kind in (GOOD, *kinds):
                    name = texts.GOOD if kind == GOOD else kind
                    tone = "is-good" if kind == GOOD else "is-bad"
                    button(name, self._visit.tried(partial(self._say, row, kind)), tone)
                other = field(texts.OTHER_DEFECT)
                button(texts.SAVE, self._visit.tried(lambda: self._say(row, other.value or "")))
            ui.label(texts.LABELS_NOTE).classes("note")

    async def _say(self, row: PartRow, kind: str) -> None:
        """Keep the verdict and go on to the next part that nobody has judged; where somebody else
        judged it otherwise since it was opened, that is read first."""
        user, part_id = self._visit.user(), row.verdict.part_id
        opinions, seen = self._desk.opinions, self._labels.get(part_id)
        ids = [part_id, *(one.verdict.part_id for one in self._rows)]

        def keep() -> dict[int, Label]:
            known = opinions.labels(ids)
            if known.get(part_id) == seen:
                known[part_id] = opinions.label(part_id, kind, user)
            return known

        self._labels |= await self._desk.run(keep)
        said = self._labels[part_id]
        if said.kind != kind.strip().lower():
            got = f"{texts.LABELLED.format(kind=said.kind, by=said.by)}: look again"
            refused(ConfigError(f"part {part_id}", "no other verdict meanwhile", got))
            await self._open(row)
            return
        following = self._unjudged(part_id)
        if not following and len(self._rows) == _ROWS:
            await self._older()
            following = self._unjudged(part_id)
        await self._open(following[0] if following else row)

    def _unjudged(self, part_id: int) -> list[PartRow]:
        """Of the rows after this part; of all where it is not among them."""
        ids = [row.verdict.part_id for row in self._rows]
        after = ids.index(part_id) + 1 if part_id in ids else 0
        return [row for row in self._rows[after:] if row.verdict.part_id not in self._labels]


class _Views:
    """Picture, margin and reasons: of the whole part, or of one of its cameras at a touch."""

    def __init__(self, part: PartView) -> None:
        with ui.element("div").classes("part-picture"):
            self._viewer = Viewer()
        with ui.element("div").classes("bar"):
            self._tabs = {
                one.camera: button(f"{one.camera} {one.sign} {one.word}", partial(self._show, one))
                for one in part.views
            }
        self._why = ui.element("div").classes("part-why")
        self._show(part)

    def _show(self, view: PartView) -> None:
        self._viewer.show(view.image)
        for camera, tab in self._tabs.items():
            tab.classes(**{"add" if camera == view.camera else "remove": "is-on"})
        self._why.clear()
        with self._why:
            if view.place is not None:
                ui.label(f"{view.margin}   ({view.t1}, {view.t2})").classes("margin-line")
            for reason in filter(None, (view.detail, *view.reasons[:3])):
                ui.label(reason).classes("reason-row")


def _when(utc_ns: int) -> str:
    return time.strftime("%d %b %H:%M:%S", time.localtime(utc_ns / 1e9)) if utc_ns else ""
