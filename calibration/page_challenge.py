"""Challenge: is one due, run one, lock and unlock the line, know what nobody can vouch for."""

import asyncio
import time
from functools import partial

from nicegui import ui

from appliance.codes import Status2, Word
from appliance.errors import ConfigError
from appliance.store import Store
from calibration import control, texts
from calibration.challenge_rules import CHECKS, KINDS, Shown, check_count, judge
from calibration.challenges import Known, Trial
from calibration.desk import Desk
from calibration.frame import Visit, button, field, table, whole
from calibration.people import Role
from calibration.quarantine import LastGood, find_last_good, shown_of, when

_ROWS = 500
_LOOK_S = 1.0
_STORED_S = 5.0
"""For the last rows to reach the archive before a test is judged."""
_STATUS2 = 101
_EXPECTED = (Word.OK, Word.NG, Word.UNCERTAIN)


async def build(desk: Desk, visit: Visit) -> None:
    """The state and the test on the left, parts and history on the right."""
    page = _Page(desk, visit)
    await page.show()
    ui.timer(_LOOK_S, visit.glanced(page.follow))


class _Page:
    def __init__(self, desk: Desk, visit: Visit) -> None:
        self._desk, self._visit = desk, visit
        self._checks: dict[str, bool] = {}
        self._shown: list[Shown] = []
        self._running = 0
        """Number of the test under way; 0 = none."""
        self._showing = asyncio.Lock()
        self._state: tuple[object, ...] = ()
        may = visit.user().role >= Role.TECHNICIAN
        with ui.element("div").classes("challenge"):
            with ui.element("div").classes("stack"):
                with ui.element("section").classes("panel"):
                    ui.label(texts.CHALLENGE_STATE).classes("title")
                    self._says = ui.element("div")
                    if may:
                        self._lock_form()
                with ui.element("section").classes("panel"):
                    ui.label(texts.CHALLENGE_TEST).classes("title")
                    self._test = ui.element("div")
                with ui.element("section").classes("panel"):
                    ui.label(texts.QUARANTINE).classes("title")
                    self._quarantine = ui.element("div")
            with ui.element("div").classes("stack"):
                with ui.element("section").classes("panel"):
                    ui.label(texts.CHALLENGE_PARTS).classes("title")
                    self._parts = ui.element("div")
                    if may:
                        self._part_form()
                with ui.element("section").classes("panel"):
                    ui.label(texts.CHALLENGE_HISTORY).classes("title")
                    self._history = ui.element("div")
        self._may = may

    async def show(self) -> None:
        """Everything, as it is now: read at once, and never by two at a time, so that what was read
        earlier is never shown later."""
        async with self._showing:
            await self._show()

    async def _show(self) -> None:
        desk = self._desk
        known, running, trials, good, delivered = await desk.run(self._read)
        self._running = running.id if running else 0
        self._shown = await self._rows(running) if running else []
        self._state = self._line()
        self._show_state(good)
        self._show_test(running)
        self._show_quarantine(good, delivered)
        self._show_parts(known)
        self._show_history(trials)

    def _read(self) -> tuple[tuple[Known, ...], Trial | None, tuple[Trial, ...], LastGood, int]:
        """In the thread."""
        challenges, store = self._desk.challenges, self._desk.store()
        good = find_last_good(store, challenges)
        delivered = store.delivered_count(good.after_part_id)
        return challenges.parts(), challenges.running(), challenges.tests(), good, delivered

    async def follow(self) -> None:
        """While a test runs its parts appear by themselves, and a test that somebody else begins or
        ends, too."""
        async with self._showing:
            running = await self._desk.run(self._desk.challenges.running)
            if (running.id if running else 0) != self._running or self._line() != self._state:
                await self._show()
                return
            shown = await self._rows(running) if running else []
            if shown != self._shown:
                self._shown = shown
                self._show_test(running)

    def _line(self) -> tuple[object, ...]:
        words = self._desk.words
        bits = Status2(words.registers.get(_STATUS2, 0)) if words else Status2(0)
        failed = Status2.CHALLENGE_FAILED in bits
        return self._desk.is_heard, failed, words.challenge_due_utc_s if words else 0

    def _show_state(self, good: LastGood) -> None:
        is_heard, is_failed, due_utc_s = self._state
        self._says.clear()
        with self._says:
            if not is_heard:
                ui.label(texts.SILENT).classes("note is-ng")
            if is_failed:
                ui.label(texts.CHALLENGE_FAILED).classes("note is-ng")
            if due_utc_s:
                since = time.strftime("%Y-%m-%d %H:%M", time.localtime(int(str(due_utc_s))))
                ui.label(texts.CHALLENGE_DUE.format(since=since)).classes("note is-warn")
            if is_heard and not is_failed and not due_utc_s:
                ui.label(texts.CHALLENGE_CALM).classes("note")
            ui.label(texts.LAST_GOOD.format(said=good.said)).classes("note")

    def _lock_form(self) -> None:
        with ui.element("div").classes("bar"):
            why = field(texts.LOCK_REASON)

            async def ordered(name: str, what: str) -> None:
                user, reason = self._visit.user(), why.value or ""
                control.check(user, reason)
                await self._desk.ordered(name, what, user, reason)
                why.value = ""
                ui.notify(texts.DONE, type="positive")

            lock = partial(ordered, "fail_challenge", "challenge.locked")
            unlock = partial(ordered, "unlock_challenge", "challenge.unlocked")
            button(texts.LOCK, self._visit.tried(lock), "is-bad")
            button(texts.UNLOCK_LINE, self._visit.tried(unlock))

    def _show_test(self, running: Trial | None) -> None:
        self._test.clear()
        with self._test:
            if running is None:
                for kind in KINDS:
                    ui.label(texts.KINDS[kind]).classes("note")
                if self._may:
                    with ui.element("div").classes("bar"):
                        for kind in KINDS:
                            text = texts.BEGIN.format(kind=texts.KIND_NAMES[kind])
                            button(text, self._visit.tried(partial(self._begin, kind)))
                return
            said = texts.RUNNING.format(
                kind=texts.KIND_NAMES[running.kind], by=running.begun_by,
                when=when(running.begun_utc_ns),
            )  # fmt: skip
            ui.label(said)
            table(texts.SHOWN_COLUMNS, [_row(one) for one in self._shown])
            if running.kind == "fail-safe":
                self._show_checks()
            if self._may:
                with ui.element("div").classes("bar"):
                    button(texts.END_TEST, self._visit.tried(self._end), "is-main")
                    button(texts.BREAK_OFF, self._visit.tried(self._break_off))

    def _show_checks(self) -> None:
        for check in CHECKS:
            with ui.element("div").classes("bar check"):
                ui.label(texts.CHECKS[check]).classes("grow")
                for is_stopped, text in ((True, texts.STOPPED), (False, texts.WENT_ON)):
                    tone = "is-on" if self._checks.get(check) is is_stopped else ""
                    answer = partial(self._checked, check, is_stopped)
                    button(text, self._visit.tried(answer), tone)

    async def _checked(self, check: str, is_stopped: bool) -> None:
        self._checks[check] = is_stopped
        self._show_test(await self._desk.run(self._desk.challenges.running))

    def _show_quarantine(self, good: LastGood, delivered: int) -> None:
        self._quarantine.clear()
        with self._quarantine:
            ui.label(texts.QUARANTINE_COUNT.format(count=delivered, good=good.said))
            with ui.element("div").classes("bar"):
                for kind, text in (("html", texts.PRINT), ("csv", texts.AS_CSV)):
                    ui.link(text, f"/challenge/quarantine.{kind}", new_tab=kind == "html").classes(
                        "do"
                    )

    def _show_parts(self, known: tuple[Known, ...]) -> None:
        self._parts.clear()
        now_ns = time.time_ns()
        with self._parts:
            if not known:
                ui.label(texts.NO_CHALLENGE_PARTS).classes("note")
            for part in known:
                with ui.element("div").classes("bar person"):
                    ui.label(part.name).classes("person-name")
                    ui.label(part.expected.name).classes(
                        f"expected is-{part.expected.name.lower()}"
                    )
                    if part.use_by_utc_ns:
                        is_over = part.use_by_utc_ns <= now_ns
                        text = texts.OUT_OF_DATE if is_over else texts.USE_BY
                        ui.label(text.format(when=when(part.use_by_utc_ns)[:10])).classes(
                            "note is-warn" if is_over else "note"
                        )
                    ui.label(part.note).classes("note grow")
                    if self._may:
                        remove = partial(self._remove, part.id)
                        button(texts.REMOVE, self._visit.tried(remove))

    def _part_form(self) -> None:
        with ui.element("div").classes("bar"):
            name = field(texts.PART_NAME)
            options = {word.name: word.name for word in _EXPECTED}
            expected = ui.select(options, value=Word.NG.name).props(
                f'dense outlined aria-label="{texts.EXPECTED}"'
            )
            days = ui.number(label=texts.DAYS, value=365, step=1).props("dense outlined")
            note = field(texts.NOTE)

            async def add() -> None:
                user, word = self._visit.user(), Word[str(expected.value)]
                until = whole(days.value, texts.DAYS)
                args = name.value or "", word, until, note.value or ""
                await self._desk.run(lambda: self._desk.challenges.add(*args, user))
                name.value = note.value = ""
                await self.show()

            button(texts.ADD_PART, self._visit.tried(add), "is-main")

    def _show_history(self, trials: tuple[Trial, ...]) -> None:
        self._history.clear()
        with self._history:
            if not trials:
                ui.label(texts.NO_TESTS).classes("note")
            for trial in trials:
                with ui.element("details").classes("version"), ui.element("summary"):
                    ui.label(str(trial.id)).classes("version-name")
                    ui.label(f"{texts.KIND_NAMES[trial.kind]} · {when(trial.begun_utc_ns)}")
                    ui.label(trial.ended_by or trial.begun_by)
                    ui.label(trial.state).classes(f"is-{trial.state.replace(' ', '-')}")
                with list(self._history)[-1]:
                    for problem in trial.problems:
                        ui.label(problem).classes("note is-ng")
                    table(texts.SHOWN_COLUMNS, [
                        (str(one["part_id"]), one["name"], one["expected"], one["word"])
                        for one in trial.shown
                    ])  # fmt: skip

    async def _rows(self, running: Trial) -> list[Shown]:
        """Challenge parts of this test, oldest first."""

        def read(store: Store, known: tuple[Known, ...]) -> list[Shown]:
            rows = store.find(count=_ROWS, is_challenge=True, after=running.after_part_id)
            return shown_of(rows, known)[::-1]

        challenges = self._desk.challenges
        return await self._desk.run(lambda: read(self._desk.store(), challenges.parts()))

    async def _begin(self, kind: str) -> None:
        desk, user = self._desk, self._visit.user()
        await desk.run(lambda: desk.challenges.check_begin(kind, user))
        newest = await desk.run(lambda: desk.store().last(1))
        after = newest[0].verdict.part_id if newest else 0
        await desk.ordered("start_challenge", "challenge.begun", user, kind, argument="")
        await desk.run(lambda: desk.challenges.begin(kind, after, user))
        self._checks = {}
        await self.show()

    async def _end(self) -> None:
        desk, user = self._desk, self._visit.user()
        running = await desk.run(desk.challenges.running)
        if running is None:
            raise ConfigError("test", "one under way", "none: look again")
        control.check_role(user)
        await desk.ordered("end_challenge", "challenge.ended", user, running.kind, argument="")
        await self._until_stored()
        shown = await self._rows(running)
        check_count(shown, _ROWS)
        needed = [part.name for part in await desk.run(desk.challenges.in_date)]
        problems = judge(running.kind, shown, needed, self._checks)
        newest = await desk.run(lambda: desk.store().last(1))
        last = newest[0].verdict.part_id if newest else 0
        trial = await desk.run(
            lambda: desk.challenges.end(
                running, "failed" if problems else "passed", problems, shown, last, user
            )
        )
        said = texts.TEST_SAID.format(id=trial.id, state=trial.state)
        if problems:
            reason = f"{said} {problems[0]}"
            await desk.ordered("fail_challenge", "challenge.locked", user, reason)
        elif running.kind != "fail-safe":  # that one proves the gate, not the verdicts
            await desk.ordered("pass_challenge", "challenge.answered", user, said)
        ui.notify(said, type="negative" if problems else "positive")
        await self.show()

    async def _break_off(self) -> None:
        desk, user = self._desk, self._visit.user()
        running = await desk.run(desk.challenges.running)
        if running is None:
            raise ConfigError("test", "one under way", "none: look again")
        shown = await self._rows(running)
        await desk.run(lambda: desk.challenges.end(running, "broken off", (), shown, 0, user))
        await self.show()
        await desk.ordered("end_challenge", "challenge.ended", user, running.kind, argument="")

    async def _remove(self, identity: int) -> None:
        user = self._visit.user()
        await self._desk.run(lambda: self._desk.challenges.remove(identity, user))
        await self.show()

    async def _until_stored(self) -> None:
        end = time.monotonic() + _STORED_S
        while time.monotonic() < end:
            await asyncio.sleep(0.2)
            words = self._desk.words
            if words is None or not words.ledger.get("rows_pending"):
                return
        raise ConfigError("archive", "the rows of the test stored", "some still on their way")


def _row(one: Shown) -> tuple[str, ...]:
    sign = texts.AS_IT_MUST if one.is_right else texts.NOT_AS_IT_MUST
    return str(one.part_id), one.name, one.expected.name, f"{one.word.name} {sign}"
