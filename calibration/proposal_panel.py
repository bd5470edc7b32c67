"""Proposals of one recipe on any page: opened for the verify parts once, decided by somebody else.

A proposal asks for limits, or for another bundle with its limits; both go the same way.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from nicegui import ui

from appliance.errors import ConfigError
from appliance.recipe import LoadedRecipe
from calibration import texts
from calibration.bounds import confidence_of, figure, percent, upper_bound
from calibration.desk import Desk
from calibration.frame import READ_S, Visit, button, field
from calibration.limits import Outcome, outcome, parts_of, summary
from calibration.material import gather
from calibration.opinions import Asked

_SHOWN = 5
DEFECT_RATE = 0.005
"""For what is said of parts per million where a page does not ask for it."""


class Proposals:
    """The panel. rate: the defect rate that the person at the page has in mind, 0 to 1; bad: how
    many verify parts are bad, where the page knows it. To count them opens nothing."""

    def __init__(
        self,
        desk: Desk,
        visit: Visit,
        recipe: LoadedRecipe,
        rate: Callable[[], float],
        bad: int | None = None,
    ) -> None:
        self._desk, self._visit, self._recipe, self._rate = desk, visit, recipe, rate
        self._bad = bad
        with ui.element("section").classes("panel"):
            ui.label(texts.PROPOSALS).classes("title")
            self._body = ui.element("div")
        self.show()

    def show(self) -> None:
        """As they are now."""
        asked = self._desk.opinions.proposals(self._recipe.recipe.id)
        self._body.clear()
        with self._body:
            if not asked:
                ui.label(texts.NO_PROPOSALS).classes("note")
            for one in asked[:_SHOWN]:
                self._show(one)

    def _show(self, one: Asked) -> None:
        with ui.element("div").classes(f"proposal is-{one.state}"):
            ui.label(texts.PROPOSAL.format(**one._asdict()))
            if one.bundle is not None:
                ui.label(texts.PROPOSAL_BUNDLE.format(**one.bundle._asdict())).classes("note")
            ui.label(texts.STATES[one.state].format(by=one.decided_by)).classes("caps")
            if one.verified is not None:
                ui.label(texts.VERIFIED.format(look=one.verified["look"])).classes("caps")
                for line in one.verified["lines"]:
                    ui.label(line)
            if one.state != "open":
                return
            if one.verified is None:
                look = self._desk.opinions.looks(self._recipe.recipe.id) + 1
                holds = confidence_of(look)
                note = texts.VERIFY_NOTE.format(look=look, confidence=100 * holds)
                ui.label(note).classes("note")
                if self._bad is not None and one.bundle is None:
                    bound = percent(upper_bound(0, self._bad, holds))
                    count = texts.VERIFY_COUNT.format(bad=self._bad, bound=bound)
                    ui.label(count).classes("note")
                button(texts.OPEN_VERIFY, self._visit.tried(partial(self._verify, one)))
            why = field(texts.REASON)
            with ui.element("div").classes("bar"):
                button(
                    texts.APPROVE, self._visit.tried(partial(self._approve, one, why)), "is-good"
                )
                button(texts.REJECT, self._visit.tried(partial(self._reject, one, why)), "is-bad")

    async def _verify(self, one: Asked) -> None:
        user, opinions = self._visit.user(), self._desk.opinions
        look = opinions.looks(one.recipe) + 1
        told = await self._desk.run(partial(self._judged, one, confidence_of(look)))
        await self._desk.run(lambda: opinions.verify(one.id, told | {"look": look}, user))
        self.show()

    def _judged(self, one: Asked, confidence: float) -> dict[str, Any]:
        """What the verify parts say; in the thread."""
        rate = self._rate()
        if one.bundle is None:
            # Labels that were given since this page was opened count, too.
            material = gather(self._desk.store(), self._desk.opinions, self._recipe)
            seen = outcome(material.fresh, one.t1, one.t2, confidence)
            return summary(seen, rate) | {"lines": said(seen, rate)}
        sealed = self._desk.workers.jobs.folder(one.bundle.job).sealed()
        names, kinds = [part.name for part in sealed], [part.kind for part in sealed]
        new = outcome(
            parts_of(names, kinds, [part.margin for part in sealed]), one.t1, one.t2, confidence
        )
        limits = self._recipe.recipe.limits
        old = outcome(
            parts_of(names, kinds, [part.current for part in sealed]), limits.t1, limits.t2,
            confidence,
        )  # fmt: skip
        beside = texts.IN_FORCE_BESIDE.format(recipe=self._recipe.name)
        return summary(new, rate) | {
            "in_force": summary(old, rate),
            "lines": [*said(new, rate), beside, *said(old, rate)],
        }

    async def _approve(self, one: Asked, why: ui.input) -> None:
        user, reason, opinions = self._visit.user(), why.value or "", self._desk.opinions
        asked = opinions.check_decision(one.id, reason, user)
        if asked.verified is None:
            raise ConfigError("approval", texts.NEEDS_VERIFY, "none")
        recipe, what = self._recipe.recipe, "limits.approved"
        if asked.base_version != recipe.version:
            expected = f"a proposal for {self._recipe.name}"
            raise ConfigError("approval", expected, f"one for version {asked.base_version}")
        limits = msgspec.structs.replace(recipe.limits, t1=asked.t1, t2=asked.t2)
        wanted = msgspec.structs.replace(recipe, limits=limits)
        if asked.bundle is not None:
            what = "bundle.approved"
            wanted = msgspec.structs.replace(
                wanted, bundle=asked.bundle.id, bundle_dir=asked.bundle.folder,
                decides=asked.bundle.decides,
            )  # fmt: skip
        new, answer = await self._desk.put_in_force(
            self._recipe, wanted, user, reason, what,
            {"proposed_by": asked.by, "why": asked.reason, "estimate": asked.evidence,
             "verified": asked.verified},
            check=partial(opinions.check_decision, one.id, reason, user),
            close=partial(opinions.decide, one.id, "approved", reason, user),
        )  # fmt: skip
        text = texts.APPROVED.format(recipe=new.name, answer=answer)
        ui.notify(text, type="positive", multi_line=True, timeout=8000)
        ui.timer(READ_S, ui.navigate.reload, once=True)

    async def _reject(self, one: Asked, why: ui.input) -> None:
        user = self._visit.user()
        await self._desk.run(
            lambda: self._desk.opinions.decide(one.id, "rejected", why.value or "", user)
        )
        self.show()


def lines(seen: Outcome, defect_rate: float) -> list[tuple[str, str, str]]:
    """Name, what was seen, and its bound."""
    named = [(texts.ROW_ESCAPES.format(kind=kind), one) for kind, one in seen.escapes.items()]
    named += [(texts.ROW_ALL, seen.escapes_all), (texts.ROW_OVERKILL, seen.overkill)]
    rows = [
        (
            name,
            texts.SHARE.format(cases=one.cases, total=one.total),
            texts.AT_MOST.format(bound=percent(one.upper)),
        )
        for name, one in named
    ]
    load, load_bound = seen.review_load(defect_rate)
    ppm, ppm_bound = seen.escape_ppm(defect_rate)
    rows.append((texts.ROW_REVIEW, percent(load), texts.AT_MOST.format(bound=percent(load_bound))))
    said = "–" if ppm is None else figure(ppm)
    rows.append((texts.ROW_PPM, said, texts.AT_MOST.format(bound=figure(ppm_bound))))
    return rows


def said(seen: Outcome, defect_rate: float) -> list[str]:
    """The same as sentences."""
    return [f"{name}: {what}, {bound}" for name, what, bound in lines(seen, defect_rate)]
