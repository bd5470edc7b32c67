"""How a job is getting on, what came of it, and the step from a bundle to a proposal."""

import time
from collections.abc import Callable
from typing import Any, get_args

from nicegui import ui

from appliance.errors import ConfigError
from appliance.hmi_texts import DECIDES
from appliance.jobs import JobFolder, Kind, Result, State
from appliance.recipe import LoadedRecipe
from appliance.scores import Decides
from calibration import texts
from calibration.desk import Desk
from calibration.frame import Visit, button, field
from calibration.opinions import NewBundle

_LOOK_S = 0.5
_LOST_NS = 15_000_000_000
"""Nobody has taken a request for so long: nobody will."""


class JobPanel:
    """The newest job of one kind for one recipe. over: called when it has ended, with how."""

    def __init__(
        self,
        desk: Desk,
        visit: Visit,
        recipe: LoadedRecipe,
        kind: Kind,
        over: Callable[[State], Any],
        proposed: Callable[[], Any] = lambda: None,
    ) -> None:
        self._desk, self._visit, self._recipe = desk, visit, recipe
        self._kind: Kind = kind
        self._over, self._proposed = over, proposed
        self._body = ui.element("div").classes("job")
        self._shown: State | None = None
        self._is_lost = False
        ui.timer(_LOOK_S, visit.glanced(self.look), immediate=False)

    async def look(self) -> None:
        """Show it where anything has changed."""
        folder, state = await self._desk.run(self._newest)
        if folder is None or state is None:
            return
        waited_ns = time.time_ns() - state.at_utc_ns
        is_lost = state.state == "waiting" and waited_ns > _LOST_NS
        if (state, is_lost) == (self._shown, self._is_lost):
            return
        ended = self._shown is not None and not self._shown.is_over and state.is_over
        self._shown, self._is_lost = state, is_lost
        self._show(folder, state)
        if ended:
            await self._over(state)

    def _newest(self) -> tuple[JobFolder | None, State | None]:
        jobs = self._desk.workers.jobs
        is_busy = jobs.is_busy  # asked first: a job that ends meanwhile has written how
        folder = jobs.newest(self._kind, self._recipe.recipe.id)
        return folder, folder.state(is_busy) if folder else None

    def _show(self, folder: JobFolder, state: State) -> None:
        self._body.clear()
        with self._body:
            if not state.is_over:
                text = texts.JOB_RUNS.format(stage=state.stage, done=100 * state.done)
                if state.state == "waiting":
                    text = texts.JOB_LOST if self._is_lost else texts.JOB_WAITS
                ui.label(text).classes("note is-warn" if self._is_lost else "caps")
                with ui.element("div").classes("job-bar"):
                    ui.element("div").style(f"width: {state.done:.1%}")
                button(texts.STOP_JOB, self._visit.tried(self._stop))
            elif state.state == "failed":
                ui.label(texts.JOB_FAILED.format(error=state.error)).classes("note is-ng")
            elif state.state == "stopped":
                ui.label(texts.JOB_STOPPED).classes("note")
            elif self._kind == "look":
                ui.label(texts.JOB_DONE).classes("note")
            else:
                self._show_result(folder)

    async def _stop(self) -> None:
        user = self._visit.engineer()
        await self._desk.run(
            lambda: self._desk.journal.append(
                user.name, "job.stopped", subject=self._recipe.name, new=self._kind,
                role=user.role.name, source="page",
            )
        )  # fmt: skip
        await self._desk.run(self._desk.workers.jobs.stop)

    def _show_result(self, folder: JobFolder) -> None:
        result, job = folder.result(), folder.job
        ui.label(texts.NEW_BUNDLE.format(bundle_dir=result.bundle_dir, by=job.by)).classes("title")
        told = texts.GATE_HELPS if result.helps else texts.GATE_REFUSES
        ui.label(told.format(decides=DECIDES[result.decides])).classes(
            "said" if result.helps else "note is-warn"
        )
        row = texts.GATE_ROW
        for score in get_args(Decides):
            if (auroc := result.evidence.get(f"{score}_auroc")) is not None:
                low, high = (result.evidence[f"{score}_auroc_{end}"] for end in ("low", "high"))
                ui.label(row.format(score=DECIDES[score], auroc=auroc, low=low, high=high))
        ui.label(texts.GATE_LIMITS.format(t1=result.t1, t2=result.t2)).classes("note")
        counts = ", ".join(f"{name} {count}" for name, count in result.counts.items())
        ui.label(texts.JOB_COUNTS.format(counts=counts)).classes("note")
        if job.recipe != self._recipe.name:
            made_for = texts.MADE_FOR.format(made=job.recipe, recipe=self._recipe.name)
            ui.label(made_for).classes("note is-warn")
            return
        if any(one.bundle and one.bundle.job == job.id for one in self._known()):
            return
        with ui.element("div").classes("bar"):
            why = field(texts.REASON)
            propose = self._visit.tried(lambda: self._propose(folder, result, why.value or ""))
            button(texts.PROPOSE_BUNDLE, propose, "is-main")

    def _known(self) -> tuple[Any, ...]:
        return self._desk.opinions.proposals(self._recipe.recipe.id)

    async def _propose(self, folder: JobFolder, result: Result, reason: str) -> None:
        user, recipe = self._visit.user(), self._recipe.recipe
        job = folder.job
        if job.recipe != self._recipe.name:
            raise ConfigError("bundle", f"one made from {self._recipe.name}", job.recipe)
        bundle = NewBundle(result.bundle, result.bundle_dir, result.decides, job.id)
        evidence = {
            "kind": job.kind, "made_by": job.by, "gate": result.why, "helps": result.helps,
            "figures": result.evidence, "counts": result.counts, "regions": list(job.segments),
            "ignored": job.ignored,
        }  # fmt: skip

        def ask() -> None:
            self._desk.check_in_force(self._recipe)
            self._desk.opinions.propose(
                recipe.id, recipe.version, (result.t1, result.t2), reason, evidence, user,
                bundle=bundle,
            )  # fmt: skip
            folder.mark_proposed()

        await self._desk.run(ask)
        ui.notify(texts.PROPOSED, type="positive")
        self._show(folder, State(state="done"))
        self._proposed()
