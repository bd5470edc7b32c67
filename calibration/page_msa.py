"""MSA: does the same part get the same answer? A study of parts that went past again and again."""

from typing import Any

from nicegui import ui

from appliance.codes import Word
from appliance.errors import ConfigError
from calibration import texts
from calibration.bounds import Share, percent
from calibration.desk import Desk
from calibration.frame import Visit, button, table, whole
from calibration.limits import GOOD
from calibration.people import Role
from calibration.quarantine import name_of, when
from calibration.repeatability import Agreement
from calibration.studies import MOST, Study, make_study
from calibration.study_log import Kept


async def build(desk: Desk, visit: Visit) -> None:
    """Make one, see the earlier ones."""
    may = visit.user().role >= Role.TECHNICIAN
    with ui.element("section").classes("panel wide"):
        ui.label(texts.MSA_TITLE).classes("title")
        for line in texts.MSA_HOW:
            ui.label(line).classes("note")
        if may:
            with ui.element("div").classes("bar"):
                first = ui.number(label=texts.FIRST_PART, min=1, step=1).props("dense outlined")
                last = ui.number(label=texts.LAST_PART, min=1, step=1).props("dense outlined")

                async def make() -> None:
                    user = visit.user()
                    ids = whole(first.value, texts.FIRST_PART), whole(last.value, texts.LAST_PART)
                    study = await desk.run(lambda: _made(desk, *ids, user.name))
                    await desk.run(lambda: desk.studies.add(*ids, study, user))
                    await show()

                button(texts.MAKE_STUDY, visit.tried(make), "is-main")
    body = ui.element("div")

    async def show() -> None:
        kept = await desk.run(desk.studies.studies)
        body.clear()
        with body:
            if not kept:
                ui.label(texts.NO_STUDIES).classes("note")
            for one in kept:
                _show(one)

    await show()


def check_range(first: int, last: int) -> None:
    """Raises ConfigError where these parts are none, or more than one study can be of."""
    if not 0 < first < last < 1 << 63 or last - first >= MOST:
        expected = f"a first and a last number, 2 to {MOST} parts"
        raise ConfigError("parts of the study", expected, f"{first} to {last}")


def _made(desk: Desk, first: int, last: int, by: str) -> Study:
    """In the thread. The truth is that of the list of challenge parts, else of people's labels."""
    check_range(first, last)
    truth: dict[str, bool] = {}
    labels = desk.opinions.labels(list(range(first, last + 1)))
    for part_id, label in labels.items():
        row = desk.store().part(part_id)
        name = name_of(row.verdict) if row else ""
        is_bad = label.kind != GOOD
        if truth.setdefault(name, is_bad) != is_bad:
            raise ConfigError(f"part {name}", "one verdict of people", "good and bad")
    for part in desk.challenges.parts():
        if part.expected in (Word.OK, Word.NG):
            truth[part.name] = part.expected is Word.NG
    return make_study(desk.config, first, last, truth, by, is_strict=False)


def _show(kept: Kept) -> None:
    told = kept.told
    with ui.element("section").classes("panel wide"):
        with ui.element("div").classes("bar"):
            ui.label(
                texts.STUDY_LINE.format(
                    first=kept.first, last=kept.last, by=kept.by, when=when(kept.utc_ns)
                )
            ).classes("title grow")
            ui.link(texts.PRINT, f"/msa/{kept.id}.html", new_tab=True).classes("do")
        if told["is_simulated"]:
            ui.label(texts.STUDY_SIMULATED).classes("note is-ng")
        band = told["limits"][1] - told["limits"][0]
        says = texts.WIDE_ENOUGH if told["is_wide_enough"] else texts.TOO_NARROW
        ui.label(
            texts.GUARD.format(
                sigma=told["sigma"], upper=told["sigma_upper"], guard=told["guard_band"],
                band=band, says=says,
            )
        ).classes("" if told["is_wide_enough"] else "note is-ng")  # fmt: skip
        ui.label(texts.FLIPPED.format(names=", ".join(told["flips"]) or texts.NONE))
        for note in told["notes"]:
            ui.label(note).classes("note is-warn")
        if told["agreement"]:
            rows = [_row(*one) for one in told["agreement"].items()]
            table(texts.AGREEMENT_COLUMNS, rows, "agreement")
            ui.label(texts.AGREEMENT_NOTE).classes("note")
        else:
            ui.label(texts.NO_TRUTH).classes("note")


def _row(name: str, kept: dict[str, Any]) -> tuple[str, ...]:
    one = Agreement(name, Share(**kept["decisions"]), Share(**kept["parts"]), kept["rating"])
    seen = one.decisions.estimate
    counted = texts.SHARE.format(cases=one.decisions.cases, total=one.decisions.total)
    return name, counted, "–" if seen is None else percent(seen), one.rating, one.proof
