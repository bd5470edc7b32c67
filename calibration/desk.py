"""What every page of the tool shares: the box's files, its people, the line's last words."""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from appliance.audit import AuditJournal
from appliance.bundle import load_bundle
from appliance.codes import CommandError
from appliance.config import Config
from appliance.database import where
from appliance.errors import ConfigError, DeviceError
from appliance.hmi_pictures import Images, Pictures
from appliance.messages import Health, Verdict, Words
from appliance.product_table import load_products
from appliance.recipe import LoadedRecipe, Recipe, load_recipe
from appliance.store import Store
from appliance.wire import AsyncReceiver
from calibration import texts
from calibration.baselines import Baselines
from calibration.camera_changes import CameraChanges
from calibration.challenges import Challenges
from calibration.opinions import Opinions
from calibration.people import People, User
from calibration.publish import order, publish, use
from calibration.recorded import recorded_map
from calibration.sessions import Sessions
from calibration.study_log import StudyLog
from calibration.tokens import Tokens
from calibration.workers import Workers

T = TypeVar("T")
_RECENT = 100
"""Verdicts whose pixels may still lie in the rings."""
_SILENT_S = 2.0
MOST_WAITING = 8
"""Calls of programs, the one that is done now included."""


class BusyError(Exception):
    """Not now: too many programs wait already."""


class Desk:
    """Opened once by the process. Everything slow runs in its one thread, never on the loop."""

    def __init__(self, config: Config, config_path: Path, commands: AsyncReceiver) -> None:
        self.config, self._commands = config, commands
        self.journal = AuditJournal(config)
        self.people = People(config, self.journal)
        self.opinions = Opinions(self.people)
        self.sessions = Sessions(self.people)
        self.tokens = Tokens(self.people)
        self.workers = Workers(config, config_path)
        self.challenges = Challenges(self.people)
        self.studies = StudyLog(self.people)
        self.baselines = Baselines(self.people)
        self.camera_changes = CameraChanges()
        self.columns: dict[str, tuple[str, ...]] = {}
        """Bundle → names of its features, as they were read once."""
        self.health: dict[str, Health] = {}
        self.words: Words | None = None
        self._heard_s = -math.inf
        self._recent: OrderedDict[int, Verdict] = OrderedDict()
        self._pictures = Pictures(config, partial(recorded_map, config.recordings_dir))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tool")
        self._ordering = asyncio.Lock()
        self._programs, self._program = 0, asyncio.Lock()
        self._store: Store | None = None

    async def run(self, call: Callable[[], T]) -> T:
        """In the thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def run_for_program(self, call: Callable[[], T]) -> T:
        """In the thread, one call of all programs at a time: a log-in, or taking control back,
        waits for one of them at most. Raises BusyError where eight are there already."""
        if self._programs >= MOST_WAITING:
            raise BusyError(f"requests: expected fewer than {MOST_WAITING} at once, got one more")
        self._programs += 1
        try:
            async with self._program:
                return await self.run(call)
        finally:
            self._programs -= 1

    def store(self) -> Store:
        """The archive, read only. Raises DeviceError or ArtefactError while there is none."""
        if self._store is None:
            self._store = Store(where(self.config), is_reader=True)
        return self._store

    def heard(self, message: object) -> None:
        """What decide says to everybody."""
        if isinstance(message, Words):
            self.words, self._heard_s = message, time.monotonic()
        elif isinstance(message, Health):
            self.health[message.process] = message
        elif isinstance(message, Verdict):
            self._recent[message.part_id] = message
            if len(self._recent) > _RECENT:
                self._recent.popitem(last=False)

    @property
    def is_heard(self) -> bool:
        """The line spoke within the last seconds: what it said last is how it is."""
        return time.monotonic() - self._heard_s < _SILENT_S

    async def order(self, name: str, by: str, argument: str = "") -> tuple[CommandError, str]:
        """Tell the line something; its answer and one sentence. One order at a time."""
        async with self._ordering:
            answer = await order(self._commands, name, by, argument)
        return CommandError(answer.code), answer.detail

    async def ordered(
        self,
        name: str,
        what: str,
        by: User,
        reason: str,
        *,
        argument: str | None = None,
        old: object = None,
    ) -> None:
        """An order of a person: in the journal first, then to the line; a refusal is journalled,
        too, and raises ConfigError. argument: the reason, where nothing else is said."""

        def note(what: str, reason: str) -> None:
            self.journal.append(
                by.name, what, subject="line", old=old, reason=reason,
                role=by.role.name, source="page",
            )  # fmt: skip

        await self.run(lambda: note(what, reason.strip()))
        code, detail = await self.order(
            name, by.name, reason.strip() if argument is None else argument
        )
        if code != CommandError.DONE:
            said = f"{code.name.lower().replace('_', ' ')}: {detail}"
            await self.run(lambda: note(f"{what}.refused", said))
            raise ConfigError(name, "the line to obey", said)

    async def images(
        self, part_id: int, camera: str = "", is_program: bool = False
    ) -> Images | None:
        """Of any part whose picture is kept. camera: of several; "" = whose view decided.
        is_program: waits and may be refused as `run_for_program` says."""
        run = self.run_for_program if is_program else self.run
        known = self._pictures.get(part_id, camera)
        return known or await run(lambda: self._make(part_id, camera))

    def map_of(self, part_id: int, camera: str = "") -> npt.NDArray[np.float32] | None:
        """(h, w) raw logits of the first detector, where ring or recordings still hold them; in the
        thread. camera: as for `images`."""
        verdict = self._verdict(part_id)
        views = {view.camera: view for view in verdict.by_view()} if verdict else {}
        seen = views.get(camera, verdict)
        found = self._pictures.map(seen) if seen else None
        return None if found is None else found[0]

    def _make(self, part_id: int, camera: str) -> Images | None:
        verdict = self._verdict(part_id)
        return self._pictures.make(verdict, camera) if verdict else None

    def _verdict(self, part_id: int) -> Verdict | None:
        """With its places in the rings while they may be good for something."""
        if part_id in self._recent:
            return self._recent[part_id]
        try:
            row = self.store().part(part_id)
        except (DeviceError, ConfigError):
            return None
        return row.verdict if row else None

    def outline(self, name: str) -> bytes | None:
        """Regions of a bundle, as a picture names them."""
        return self._pictures.outline(name)

    def in_force(self) -> dict[str, LoadedRecipe]:
        """Recipe id → the version that products.toml names (the newest of several), readable ones
        only: what is damaged is the line's business to report."""
        found: dict[str, LoadedRecipe] = {}
        for name in sorted(set(load_products(self.config).values())):
            try:
                loaded = load_recipe(self.config, name)
            except ConfigError:
                continue
            known = found.get(loaded.recipe.id)
            if known is None or known.recipe.version < loaded.recipe.version:
                found[loaded.recipe.id] = loaded
        return found

    def check_in_force(self, base: LoadedRecipe) -> None:
        """Raises ConfigError where somebody published another version since a page was made."""
        current = self.in_force().get(base.recipe.id)
        if current is None or current.name != base.name:
            expected = f"{base.name} still in force"
            raise ConfigError(base.recipe.id, expected, "another version: look again")

    async def put_in_force(
        self,
        base: LoadedRecipe,
        recipe: Recipe,
        by: User,
        reason: str,
        what: str,
        evidence: dict[str, object],
        *,
        check: Callable[[], object] = lambda: None,
        close: Callable[[], object] = lambda: None,
    ) -> tuple[LoadedRecipe, str]:
        """Write the next version, point products.toml to it, tell the line; and what it answered.

        base: the version in force that is replaced; recipe: what the new one says, its limits
        included. check, close: of the proposal that asked for it, before and after; nobody decides
        otherwise in between. Raises ConfigError where somebody published another version meanwhile.
        """

        def written() -> LoadedRecipe:
            self.check_in_force(base)
            check()
            if recipe.bundle != base.recipe.bundle:
                # A version whose bundle the line refuses would stop it.
                load_bundle(self.config.bundles_dir / recipe.bundle_dir, recipe.bundle)
            limits = recipe.limits.t1, recipe.limits.t2
            new = publish(
                self.config, self.journal, recipe, limits, who=by.name, reason=reason,
                what=what, evidence=evidence, role=by.role.name, source="page",
            )  # fmt: skip
            use(self.config, base.name, new.name)
            close()
            return new

        async with self._ordering:
            new = await self.run(written)
            answer = await order(self._commands, "reload_products", by.name)
        if answer.code == CommandError.DONE:
            return new, texts.TAKEN
        return new, texts.NOT_TAKEN.format(detail=answer.detail)

    def close(self) -> None:
        """At the end of the process."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self.workers.close()
        if self._store is not None:
            self._store.close()
        self.people.close()
