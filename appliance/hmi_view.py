"""What the live page shows, decided without a page: messages in, one `Screen` of words out.

No NiceGUI, no socket, no clock of its own. Silence is never shown as good: a decision process
that was not heard for 500 ms takes the verdict off the screen.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence

import msgspec

from appliance import hmi_texts as texts
from appliance.codes import FaultCode, OfflineReason, State, Status1, Status2, Word
from appliance.hmi_screen import Box, ImageView, PartView, Picture, ProcessView, Screen, Tile
from appliance.images import place
from appliance.messages import Health, Verdict, Words

SILENT_NS = 500_000_000
"""Decide publishes every 100 ms."""
PROCESS_SILENT_NS = 1_000_000_000
"""Infer reports between inferences only."""
PATIENCE_NS = 250_000_000
"""How long a verdict waits for its picture, so that both appear together."""
AGED_NS = 10_000_000_000
"""A verdict older than this is shown as history: the line stands still."""
STRIP = 8
_RECENT = 256
_LATENCIES = 1000

_TONES = {Word.OK: "ok", Word.NG: "ng", Word.UNCERTAIN: "uncertain", Word.ERROR: "error"}


class LiveView:
    """Collects what comes and says what is to be seen.

    processes: whose health is expected, as in `Health.process`, in the order of the page.
    """

    def __init__(self, processes: Sequence[str]) -> None:
        self._health: dict[str, tuple[int, Health] | None] = dict.fromkeys(processes)
        self._words: Words | None = None
        self._decide_ns: int | None = None
        self._recent: deque[tuple[int, Verdict]] = deque(maxlen=_RECENT)
        self._rejects: deque[Verdict] = deque(maxlen=STRIP)
        self._latencies_ns: deque[int] = deque(maxlen=_LATENCIES)
        self._pictures: dict[int, dict[str, Picture]] = {}
        """Part → camera → picture; "" = the camera whose view decided, or the only one."""
        self.received = 0
        self.skipped = 0
        """Verdicts that decide gave and this process never got: `live` may lose messages."""
        self._base: int | None = None

    def verdict(self, verdict: Verdict, now_ns: int) -> None:
        """A part was closed."""
        self._decide_ns = now_ns
        self.received += 1
        self._recent.append((now_ns, verdict))
        if verdict.latency_ns > 0:
            self._latencies_ns.append(verdict.latency_ns)
        if verdict.word is Word.NG:
            self._rejects.appendleft(verdict)

    def words(self, words: Words, now_ns: int) -> None:
        """The box's own view of itself."""
        self._decide_ns = now_ns
        given = words.ledger.get("verdicts", 0)
        restarted = self._words is not None and (
            given < self._words.ledger.get("verdicts", 0)
            or words.registers.get(146) != self._words.registers.get(146)
        )
        if self._base is None or restarted:
            self._base = given - self.skipped - self.received
        self.skipped = max(self.skipped, given - self._base - self.received)
        self._words = words

    def health(self, health: Health, now_ns: int) -> None:
        """A process is alive."""
        self._health[health.process] = (now_ns, health)

    def history(self, rejects: Sequence[Verdict]) -> None:
        """Rejects from the database, newest first, for a strip that survives a restart."""
        known = {verdict.part_id for verdict in self._rejects}
        for verdict in rejects:
            if verdict.part_id not in known and len(self._rejects) < STRIP:
                self._rejects.append(verdict)

    def pictured(self, part_id: int, picture: Picture, camera: str = "") -> None:
        """The images of this part, or of another camera's view of it, can be fetched now."""
        self._pictures.setdefault(part_id, {})[camera] = picture
        in_strip = {verdict.part_id for verdict in self._rejects}
        for old in [old for old in self._pictures if old not in in_strip][:-_RECENT]:
            del self._pictures[old]

    def wanted(self) -> tuple[Sequence[Verdict], Sequence[Verdict]]:
        """Parts whose pictures the page lacks: the newest one, and those of the strip."""
        newest = [verdict for _, verdict in list(self._recent)[-1:] if verdict.pixels]
        return (
            [verdict for verdict in newest if not self._has_picture(verdict)],
            [verdict for verdict in self._rejects if not self._has_picture(verdict)],
        )

    def wanted_views(self) -> list[tuple[Verdict, str]]:
        """Of the same parts: the cameras beside the one that decided whose pictures are lacking."""
        shown = [verdict for _, verdict in list(self._recent)[-1:]] + list(self._rejects)
        return [
            (verdict, view.camera)
            for verdict in shown
            for view in verdict.views
            if view.frame_id
            and view.camera != verdict.camera
            and view.camera not in self._pictures.get(verdict.part_id, {})
        ]

    def _has_picture(self, verdict: Verdict) -> bool:
        return "" in self._pictures.get(verdict.part_id, {})

    def find(self, part_id: int) -> Verdict | None:
        """A part that this process still remembers."""
        for _, verdict in reversed(self._recent):
            if verdict.part_id == part_id:
                return verdict
        return next((v for v in self._rejects if v.part_id == part_id), None)

    def screen(self, now_ns: int) -> Screen:
        """The page as of now."""
        silent_ns = None if self._decide_ns is None else now_ns - self._decide_ns
        is_silent = silent_ns is None or silent_ns > SILENT_NS
        shown = self._shown(now_ns)
        state, state_tone = self._state(is_silent)
        unaccounted, tone, ledger = self._ledger()
        return Screen(
            is_silent=is_silent,
            silent_detail=texts.NEVER_HEARD
            if silent_ns is None
            else texts.SILENT_FOR.format(seconds=silent_ns / 1e9),
            state=state,
            state_tone=state_tone,
            is_ready=not is_silent and bool(self._register(100) & Status1.TRIGGER_READY),
            notice=self._notice(),
            is_simulated=bool(self._register(101) & Status2.SIMULATED)
            or (shown is not None and shown[1].is_simulated),
            part=None if shown is None else self.part(shown[1]),
            is_aged=shown is not None and now_ns - shown[0] > AGED_NS,
            age="" if shown is None else _ago(now_ns - shown[0]),
            strip=tuple(self.part(verdict) for verdict in self._rejects),
            unaccounted=unaccounted,
            unaccounted_tone="" if is_silent and tone == "ok" else tone,
            ledger=ledger,
            counters=self._counters(),
            latency_title=texts.LATENCY_TITLE.format(count=len(self._latencies_ns)),
            latency=self._latency(),
            processes=tuple(self._process(name, now_ns) for name in self._health),
            plc_words=texts.NO_DATA if is_silent else self._plc_words(),
            skipped=texts.SKIPPED.format(count=self.skipped) if self.skipped else "",
        )

    def part(self, verdict: Verdict) -> PartView:
        """One part in words, with its images if they were made."""
        return part_view(verdict, self._pictures.get(verdict.part_id, {}))

    def _shown(self, now_ns: int) -> tuple[int, Verdict] | None:
        """The newest part whose picture is there, or that has none, or waited long enough."""
        for at_ns, verdict in reversed(self._recent):
            has_come = verdict.pixels is None or self._has_picture(verdict)
            if has_come or now_ns - at_ns > PATIENCE_NS:
                return at_ns, verdict
        return None

    def _plc_words(self) -> str:
        status = self._register(100)
        lamps = [
            f"{texts.LAMPS[bool(status & bit)]}\N{NO-BREAK SPACE}{name}"
            for bit, name in texts.STATUS_WORDS
        ]
        return "\n".join("  ".join(lamps[at : at + 4]) for at in range(0, len(lamps), 4))

    def _register(self, address: int) -> int:
        return 0 if self._words is None else self._words.registers.get(address, 0)

    def _state(self, is_silent: bool) -> tuple[str, str]:
        words = self._words
        if is_silent or words is None:
            return texts.SILENT, "error"
        if self._register(100) & Status1.FAULT:
            return f"{texts.FAULT}: {_meaning(texts.FAULTS, FaultCode, self._register(106))}", "ng"
        if words.offline is not OfflineReason.NONE:
            return f"{texts.NOT_READY}: {texts.OFFLINE[words.offline]}", "warn"
        return _meaning(texts.STATES, State, self._register(104)), ""

    def _notice(self) -> str:
        if self._words is None:
            return ""
        owner = texts.IN_CONTROL.format(owner=self._words.owner) if self._words.owner else ""
        return " · ".join(filter(None, (owner, *self._words.notes)))

    def _ledger(self) -> tuple[str, str, tuple[str, ...]]:
        figures = self._words.ledger if self._words else {}
        if "unaccounted" not in figures:
            return texts.NO_DATA, "", ()
        count = figures["unaccounted"]
        lines = [
            texts.BALANCE.format(
                **{key: figures.get(key, 0) for key in ("accepted", "verdicts", "pending")}
            )
        ]
        rows = figures.get("rows_pending", 0)
        lines.append(texts.ROWS_PENDING.format(rows=rows) if rows else texts.ROWS_STORED)
        lines += [
            f"{figures[key]} {name}" for key, name in texts.BROKEN_LAWS.items() if figures.get(key)
        ]
        return str(count), "ng" if count else "ok", tuple(lines)

    def _counters(self) -> tuple[Tile, ...]:
        counters = self._words.counters if self._words else {}
        return tuple(
            Tile(
                label=name,
                value=f"{counters[key]:,}".replace(",", "\N{NO-BREAK SPACE}")
                if key in counters
                else texts.NO_DATA,
                tone=tone if counters.get(key) else "",
            )
            for key, name, tone in texts.COUNTERS
        )

    def _latency(self) -> tuple[Tile, ...]:
        ordered = sorted(self._latencies_ns)
        deadline_ns = self._recent[-1][1].deadline_ns if self._recent else 0
        tiles: list[Tile] = []
        for share, name in ((0.5, texts.P50), (0.99, texts.P99)):
            if not ordered:
                tiles.append(Tile(label=name, value=texts.NO_DATA))
                continue
            nanoseconds = ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]
            is_close = 0 < 0.8 * deadline_ns < nanoseconds
            value, tone = f"{nanoseconds / 1e6:.1f}", "warn" if is_close else ""
            tiles.append(Tile(label=name, value=value, tone=tone))
        value = f"{deadline_ns / 1e6:.0f}" if deadline_ns else texts.NO_DATA
        return (*tiles, Tile(label=texts.DEADLINE, value=value))

    def _process(self, process: str, now_ns: int) -> ProcessView:
        kind, _, name = process.partition(":")
        title = texts.PROCESSES.get(kind, kind)
        if name and (kind != "infer" or name != "0"):
            title = f"{title} {name}"
        heard = self._health[process]
        if heard is None:
            return ProcessView(name=title, tone="error", state=texts.NEVER, note="")
        at_ns, health = heard
        if now_ns - at_ns > PROCESS_SILENT_NS:
            state = texts.SILENT_PROCESS.format(age=age(now_ns - at_ns))
            return ProcessView(name=title, tone="error", state=state, note="")
        if not health.is_serving:
            return ProcessView(name=title, tone="warn", state=texts.NOT_SERVING, note=health.note)
        return ProcessView(name=title, tone="ok", state=texts.SERVING, note=health.note)


def part_view(verdict: Verdict, pictures: Mapping[str, Picture]) -> PartView:
    """A part in words, and each view of it where it has several.

    pictures: that can be fetched, by camera; "" = of the one that decided.
    """
    has_views = bool(verdict.views)
    whole = _view_of(verdict, pictures.get(""), "", has_views)
    views = [
        _view_of(view, pictures.get(camera), camera, has_views)
        for view in (verdict.by_view() if has_views else ())
        for camera in ("" if view.camera == verdict.camera else view.camera,)
    ]
    return msgspec.structs.replace(whole, views=tuple(views))


def _view_of(
    verdict: Verdict, picture: Picture | None, camera: str, is_one_of_several: bool
) -> PartView:
    """camera: whose images these are, where it is not the one that decided."""
    margin, t1, t2 = verdict.margin, verdict.t1, verdict.t2
    at = None
    if margin is not None and t1 is not None and t2 is not None and math.isfinite(margin):
        at = place(margin, t1, t2)
    return PartView(
        part_id=verdict.part_id,
        word=texts.WORDS[verdict.word],
        sign=texts.SIGNS[verdict.word],
        tone=_TONES.get(verdict.word, ""),
        title=texts.PART.format(number=verdict.acq_id),
        tag=_tag(verdict),
        reason=texts.REASONS[verdict.reason],
        detail=verdict.detail,
        reasons=verdict.reasons,
        decides=texts.DECIDES.get(verdict.decides, verdict.decides),
        margin=texts.NO_DATA if margin is None else _signed(margin),
        place=at,
        t1="" if t1 is None else texts.LIMIT_OK.format(limit=_signed(t1)),
        t2="" if t2 is None else texts.LIMIT_NG.format(limit=_signed(t2)),
        latency=texts.LATENCY.format(
            ms=verdict.latency_ns / 1e6, deadline_ms=verdict.deadline_ns / 1e6
        ),
        recipe=verdict.recipe,
        is_challenge=verdict.is_challenge,
        image=_image(verdict, picture, camera, is_one_of_several),
        camera=verdict.camera,
    )


def _image(
    verdict: Verdict, picture: Picture | None, camera: str, is_one_of_several: bool
) -> ImageView | None:
    if picture is None:
        return None
    address = f"/part/{verdict.part_id}/{camera}".rstrip("/")
    caption = texts.PART_OF_CAMERA if is_one_of_several else texts.PART
    return ImageView(
        part_id=verdict.part_id,
        caption=caption.format(number=verdict.acq_id, camera=verdict.camera),
        width_px=picture.size_px[0],
        height_px=picture.size_px[1],
        base=f"{address}.jpg?e={verdict.epoch}",
        heat=f"{address}/heat.png?e={verdict.epoch}" if picture.has_heat else "",
        regions=f"/regions/{picture.regions}.png" if picture.regions else "",
        roi=_box(picture.roi_px, picture.size_px),
        worst=_box(verdict.region_px, picture.size_px) if verdict.region_px else None,
    )


def age(nanoseconds: int) -> str:
    """A duration as people say it."""
    seconds = nanoseconds / 1e9
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"


def _ago(nanoseconds: int) -> str:
    return texts.NOW if nanoseconds < 1e9 else texts.AGO.format(age=age(nanoseconds))


def _signed(margin: float) -> str:
    """With a sign that is as wide as a digit."""
    return f"{margin:+.2f}".replace("-", "−")


def _tag(verdict: Verdict) -> str:
    """The PLC's text for the part, else its number; "" where it gave neither."""
    if verdict.part_text:
        return verdict.part_text
    return texts.TAG.format(tag=verdict.part_tag) if verdict.part_tag else ""


def _box(area_px: tuple[int, int, int, int], size_px: tuple[int, int]) -> Box:
    x, y, width, height = area_px
    across, down = 100 / size_px[0], 100 / size_px[1]
    return (
        round(x * across, 3),
        round(y * down, 3),
        round(width * across, 3),
        round(height * down, 3),
    )


def _meaning(table: dict[State, str] | dict[FaultCode, str], kind: type, code: int) -> str:
    """The text of a register's code; the number itself where it means nothing."""
    try:
        return table[kind(code)]
    except (KeyError, ValueError):
        return str(code)
