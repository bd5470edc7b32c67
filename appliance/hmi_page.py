"""The live page: one `Screen` laid out in NiceGUI elements, brought up to date when it is told.

All clients are shown the same `Screen`; an element is sent only where its text or tone changed, so
a slow client falls behind by itself. Everything that comes from a part, a recipe or a process goes
through text nodes and attributes, never through HTML. Read-only: nothing here commands the line.
"""

import time
from collections.abc import Callable
from pathlib import Path

from nicegui import Client, ui

from appliance import hmi_texts as texts
from appliance.hmi_elements import Block, Text, Viewer, number_tile
from appliance.hmi_screen import PartView, Screen
from appliance.hmi_view import STRIP

PINNED_S = 60.0
"""How long a touched reject stays on the screen before the live part returns."""

_HERE = Path(__file__).parent
_FAVICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" '
    'rx="6" fill="#1b242c"/><circle cx="16" cy="16" r="9" fill="none" stroke="#7ed6ea" '
    'stroke-width="3"/><circle cx="16" cy="16" r="3" fill="#7ed6ea"/></svg>'
)


def build(screen: Callable[[], Screen]) -> Callable[[Screen], None]:
    """Register the page at "/"; returns what shows another screen to all clients at once.

    screen: the one that a new client begins with.
    """
    ui.add_css(_HERE / "hmi.css", shared=True)
    script = (_HERE / "hmi_watch.js").read_text(encoding="utf-8")
    ui.add_head_html(f"<script>{script}</script>", shared=True)

    pages: dict[Client, LivePage] = {}

    @ui.page("/", title=texts.TITLE, favicon=_FAVICON)
    def live() -> None:  # pyright: ignore[reportUnusedFunction]
        client = ui.context.client
        page = pages[client] = LivePage()
        page.update(screen())
        client.on_delete(lambda: pages.pop(client, None))

    def show(screen: Screen) -> None:
        for client, page in tuple(pages.items()):
            if client.has_socket_connection:
                page.update(screen)

    return show


class LivePage:
    """The elements of one client."""

    def __init__(self) -> None:
        self._pinned: PartView | None = None
        self._pinned_at = 0.0
        self._beats = 0
        with Block("page") as self._page:
            self._header()
            with Block("simulated"):
                ui.label(texts.SIMULATED)
            with Block("line"):
                self._verdict()
                with Block("picture"):
                    self._pin = ui.element("button").classes("pin").on("click", self._unpin)
                    with self._pin:
                        self._pinned_title = Text("pin-title")
                        ui.label(texts.BACK_TO_LIVE).classes("pin-back")
                    self._tabs = Tabs()
                    self._viewer = Viewer()
                self._figures()
            self._strip()
            with Block("deaf"):
                ui.label(texts.DEAF).classes("deaf-title")
                ui.label(texts.DEAF_DETAIL)

    def _header(self) -> None:
        with Block("top"):
            ui.label(texts.TITLE).classes("brand")
            with Block("state") as self._state_block:
                Block("lamp")
                self._state = Text("state-name")
            self._notice = Text("notice")
            with Block("plc"):
                ui.label(texts.PLC).classes("caps")
                self._plc_words = Text("plc-words")
            self._recipe = Text("recipe")
            self._beat = Text("beat")
            with ui.element("button").classes("theme").props(f'aria-label="{texts.THEME}"'):
                ui.label("◐")
            # The browser alone changes its colours: no message, no other client.
            theme = list(ui.context.slot.children)[-1]
            theme.on("click", js_handler="() => window.inspectdTheme()")

    def _verdict(self) -> None:
        with Block("left"):
            with Block("verdict") as self._verdict_block:
                with Block("verdict-line"):
                    self._title = Text("part-title")
                    self._age = Text("part-age")
                with Block("word-line"):
                    self._sign = Text("sign")
                    self._word = Text("word")
                self._reason = Text("reason")
                self._tag = Text("tag")
            with Block("why"):
                self._why_part = Text("why-part")
                with Block("scale") as self._scale:
                    with Block("scale-head"):
                        ui.label(texts.MARGIN).classes("caps")
                        self._margin = Text("margin")
                    with Block("scale-bar"):
                        self._needle = ui.element("div").classes("needle")
                    with Block("scale-limits"):
                        self._t1 = Text("t1")
                        self._t2 = Text("t2")
                ui.label(texts.WHY).classes("caps why-title")
                with Block("reasons"):
                    self._detail = Text("detail")
                    self._reasons = [Text("reason-row") for _ in range(4)]
                with Block("facts"):
                    self._decides = Text("fact")
                    self._latency_part = Text("fact")

    def _figures(self) -> None:
        with Block("right"):
            with Block("ledger") as self._ledger_block:
                with Block("ledger-head"):
                    ui.label(texts.UNACCOUNTED).classes("caps")
                    self._unaccounted = Text("unaccounted")
                self._ledger = [Text("ledger-row") for _ in range(4)]
            with Block("panel"):
                ui.label(texts.TODAY).classes("caps")
                with Block("counters"):
                    self._counters = [number_tile() for _ in texts.COUNTERS]
            with Block("panel"):
                self._latency_title = Text("caps")
                with Block("latency"):
                    self._latency = [number_tile() for _ in range(3)]
            with Block("panel processes"):
                ui.label(texts.HEALTH).classes("caps")
                self._process_list = Block("process-list")
                self._processes: list[tuple[Block, Text, Text, Text]] = []

    def _strip(self) -> None:
        with Block("strip"):
            with Block("strip-head"):
                ui.label(texts.LAST_NG).classes("caps")
                self._no_ng = Text("no-ng")
            self._cards = [Card(self._show_pinned) for _ in range(STRIP)]

    def update(self, screen: Screen) -> None:
        """Bring every element up to date."""
        self._beats = (self._beats + 1) % 1000
        if self._beats % 2:
            self._beat.set(str(self._beats))
        if self._pinned is not None and time.monotonic() - self._pinned_at > PINNED_S:
            self._pinned = None
        self._page.set(
            "simulated" if screen.is_simulated else "",
            "silent" if screen.is_silent else "",
            "pinned" if self._pinned else "",
        )
        self._state_block.set(screen.state_tone or ("ready" if screen.is_ready else ""))
        self._state.set(screen.state)
        self._notice.set(screen.notice)
        self._show_verdict(screen)
        live = screen.part
        self._recipe.set(texts.RECIPE.format(recipe=live.recipe) if live and live.recipe else "")
        self._show_part(self._pinned or live)
        self._show_figures(screen)
        self._no_ng.set("" if screen.strip else texts.NO_NG)
        for index, card in enumerate(self._cards):
            card.set(screen.strip[index] if index < len(screen.strip) else None)

    def _show_verdict(self, screen: Screen) -> None:
        part = screen.part
        if screen.is_silent:
            self._verdict_block.set("silent")
            self._title.set("")
            self._age.set("")
            self._sign.set("!")
            self._word.set(texts.SILENT)
            self._reason.set(screen.silent_detail)
            self._tag.set(texts.SILENT_DETAIL)
        elif part is None:
            self._verdict_block.set("none")
            self._title.set("")
            self._age.set("")
            self._sign.set("")
            self._word.set(texts.NO_DATA)
            self._reason.set(texts.WAITING)
            self._tag.set("")
        else:
            self._verdict_block.set(part.tone, "aged" if screen.is_aged else "")
            self._title.set(part.title)
            self._age.set(screen.age)
            self._sign.set(part.sign)
            self._word.set(part.word)
            self._reason.set(part.reason)
            self._tag.set(" · ".join(filter(None, (part.tag, texts.CHALLENGE * part.is_challenge))))

    def _show_part(self, part: PartView | None) -> None:
        """Picture and explanation of the live part, or of the one that was touched; of several
        cameras, of the view that decided or of the one that was chosen. What is not of the live
        part says so itself: the word above it is the live one's."""
        pinned = ""
        if self._pinned is not None:
            pinned = texts.PINNED.format(part=self._pinned.title, word=self._pinned.word)
        self._why_part.set(pinned)
        self._pinned_title.set(texts.PINNED_TITLE.format(pinned=pinned) if pinned else "")
        part = self._tabs.set(part)
        self._viewer.show(part.image if part else None)
        at = part.place if part else None
        self._scale.set("bare" if at is None else "")
        style = f"left: {100 * at:.1f}%" if at is not None else ""
        if style != self._needle_style:
            self._needle.style(replace=style)
            self._needle_style = style
        self._margin.set(
            part.margin if part and at is not None else texts.NO_MARGIN if part else ""
        )
        self._t1.set(part.t1 if part else "")
        self._t2.set(part.t2 if part else "")
        self._detail.set(part.detail if part else "")
        reasons = part.reasons if part else ()
        for index, row in enumerate(self._reasons):
            row.set(reasons[index] if index < len(reasons) else "")
        if part and not part.detail and not reasons:
            self._detail.set(texts.NO_REASONS)
        decides = texts.DECIDED_BY.format(decides=part.decides) if part and part.decides else ""
        self._decides.set(decides)
        self._latency_part.set(part.latency if part else "")

    _needle_style = ""

    def _show_figures(self, screen: Screen) -> None:
        self._ledger_block.set(screen.unaccounted_tone)
        self._unaccounted.set(screen.unaccounted)
        lines = (*screen.ledger[: len(self._ledger) - 1], screen.skipped)
        for index, row in enumerate(self._ledger):
            row.set(lines[index] if index < len(lines) else "")
        for (block, label, value), tile in zip(self._counters, screen.counters, strict=True):
            block.set(tile.tone)
            label.set(tile.label)
            value.set(tile.value)
        self._plc_words.set(screen.plc_words)
        self._latency_title.set(screen.latency_title)
        for (block, label, value), tile in zip(self._latency, screen.latency, strict=True):
            block.set(tile.tone)
            label.set(tile.label)
            value.set(tile.value)
        while len(self._processes) < len(screen.processes):
            with self._process_list, Block("process") as row:
                Block("lamp")
                self._processes.append(
                    (row, Text("process-name"), Text("process-note"), Text("process-state"))
                )
        for (row, name, note, state), process in zip(
            self._processes, screen.processes, strict=True
        ):
            row.set(process.tone)
            name.set(process.name)
            note.set(process.note)
            state.set(process.state)

    def _show_pinned(self, part: PartView) -> None:
        self._pinned, self._pinned_at = part, time.monotonic()

    def _unpin(self) -> None:
        self._pinned = None


class Tabs:
    """One button for each view of a part, and one for whichever is the worst; none for one camera.

    What is chosen stays chosen for the parts that follow.
    """

    def __init__(self) -> None:
        self._camera = ""
        self._block = Block("tabs")
        self._tabs: list[tuple[Block, Text, Text]] = []
        self._cameras: tuple[str, ...] = ()

    def set(self, part: PartView | None) -> PartView | None:
        """Show these views; returns what the page is to show of the part."""
        views = (part, *part.views) if part is not None and part.views else ()
        while len(self._tabs) < len(views):
            self._add(len(self._tabs))
        self._cameras = ("", *(view.camera for view in views[1:]))
        shown = part
        for (block, name, word), view, camera in zip(
            self._tabs, views, self._cameras, strict=False
        ):
            is_chosen = camera == self._camera
            shown = view if is_chosen else shown
            block.set(view.tone, "chosen" if is_chosen else "")
            name.set(camera or texts.WORST_VIEW)
            word.set(f"{view.sign} {view.word}" if camera else view.camera)
        for block, _, _ in self._tabs[len(views) :]:
            block.set("gone")  # a part of a time when the line had fewer cameras
        return shown

    def _add(self, index: int) -> None:
        with self._block, Block("tab", "button") as block:
            self._tabs.append((block, Text("tab-name"), Text("tab-word")))
        block.element.on("click", lambda: self._choose(index))

    def _choose(self, index: int) -> None:
        self._camera = self._cameras[index]


class Card:
    """One reject of the strip."""

    def __init__(self, touched: Callable[[PartView], None]) -> None:
        self._part: PartView | None = None
        self._block = Block("card", "button")
        self._block.set("empty")
        self._block.element.on("click", lambda: touched(self._part) if self._part else None)
        with self._block, Block("thumb") as self._thumb, Block("thumb-frame") as frame:
            self._frame = frame.element
            self._base = ui.element("img").classes("base").props('alt=""')
            self._heat = ui.element("img").classes("heat").props('alt=""')
        with self._block:
            self._title = Text("card-title")
            self._reason = Text("card-reason")

    def set(self, part: PartView | None) -> None:
        """Another reject, or none."""
        if part == self._part:
            return
        self._part = part
        image = part.image if part else None
        self._block.set("" if part else "empty")
        self._thumb.set("" if image else "empty")
        self._title.set(part.title if part else "")
        self._reason.set((part.reasons[0] if part.reasons else part.reason) if part else "")
        if image is not None:
            width, height = image.width_px, image.height_px
            self._frame.style(
                replace=f"aspect-ratio: {width} / {height}; "
                f"width: min(100cqw, calc(100cqh * {width} / {height}))"
            )
            self._base.props["src"] = image.base
            left, top, width, height = image.roi
            self._heat.style(
                replace=f"left: {left}%; top: {top}%; width: {width}%; height: {height}%"
            )
            if image.heat:
                self._heat.props["src"] = image.heat
            else:
                self._heat.props.pop("src", None)
