"""Which recipe is in force: read beside the loop, put in force by the line, kept over a restart.

A recipe's files are read and checked in a thread, hash by hash; meanwhile the table of products, or
the product itself, may change: what was read last and fits the table is what comes into force.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.atomic import write_atomically
from appliance.bundle import load_bundle
from appliance.codes import CommandError
from appliance.config import Config
from appliance.errors import ArtefactError, ConfigError
from appliance.line import Line
from appliance.messages import Prepared, Refused
from appliance.product_table import load_products
from appliance.recipe import LoadedRecipe, RecipeError, load_recipe
from appliance.service import Service
from appliance.setups import GUARD_NS, Answer

if TYPE_CHECKING:
    from appliance.scoring import Scorer

_READ_AGAIN_S = 3.0


def product_at_start(
    where: Path, text: str | None, products: Mapping[int, str], journalled: int = 0
) -> int:
    """The product that was in force. journalled: its number by the journal, which a full disk does
    not stop; 0 = it does not say. text: of `last_recipe`, "ID/VERSION", and its number in a second
    line (older files have none); None = there is no such file. The first product where both say
    nothing.

    A recipe that nobody knows any more is no reason to judge parts by another product's: raises
    RecipeError.
    """
    if text is None and not journalled:
        return min(products, default=0)
    name, _, rest = (text or "").partition("\n")
    written = int(rest) if rest.strip().isdecimal() else 0
    number = journalled or written
    if number in products:
        return number
    for known, recipe in products.items():
        # What was written before the journal knew of another product is not about that one.
        if recipe == name.strip() and written == number:
            return known
    expected = ", ".join(f"{known} {recipe}" for known, recipe in sorted(products.items()))
    got = f"product {journalled}, " * bool(journalled) + repr((text or "").strip())
    raise RecipeError(where, f"a product to go on with ({expected})", got)


def said(config: Config, label: str, sentence: str) -> str:
    """With the name of the process that said it, where several cameras may say the same."""
    return f"{label}: {sentence}" if len(config.camera) > 1 else sentence


class RecipeInForce:
    """The products of `products.toml`, and the scorers of the one in force."""

    def __init__(self, service: Service, config: Config) -> None:
        """Raises ConfigError: `products.toml`."""
        self._service, self._config, self._log = service, config, service.log
        self.products = load_products(config)
        """Number → "ID/VERSION"."""
        self.scorers: dict[str, Scorer] = {}
        """By the id of their bundle."""
        self.notes: tuple[str, ...] = ()
        """What keeps a recipe out of force, in words."""
        self._last_recipe = config.state_dir / "last_recipe"

    def serve(self, line: Line) -> None:
        """For this line, from now on: its outlets may call."""
        self._line = line

    def answered(self, message: Prepared | Refused) -> None:
        """A camera or infer takes the set-up of a recipe, or says why not."""
        if isinstance(message, Refused):
            refusal = said(self._config, message.process, message.why)
            self._kept_out("refused", refusal, process=message.process)
            self._line.setups.refused(message)
        else:
            self._line.setups.prepared(message)
            self.notes = ()
        self._line.tick(self._service.clock())

    def _kept_out(self, event: str, why: str, **more: str) -> None:
        """For people until it ends, and in the log once."""
        if why not in self.notes:
            self._log.error(event, why=why, **more)
        self.notes = (why,)

    def load_last(self) -> None:
        """Put the product in force that was in force before the last stop."""
        try:
            text = self._last_recipe.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            text = None
        except OSError as error:
            self._loaded_at_start(CommandError.REFUSED_ARTEFACT, str(error))
            return
        try:
            last = self._line.product.last
            number = product_at_start(self._last_recipe, text, self.products, last)
        except RecipeError as error:
            self._loaded_at_start(CommandError.UNKNOWN_PRODUCT, str(error))
        else:
            self.load_by_number(number, self._loaded_at_start)

    def _loaded_at_start(self, code: CommandError, detail: str) -> None:
        if code != CommandError.DONE:
            self._kept_out("no recipe", detail)
            # A person may have mended the recipe, its bundle, or products.toml.
            asyncio.get_running_loop().call_later(_READ_AGAIN_S, self._load_again)

    def _load_again(self) -> None:
        task = asyncio.get_running_loop().run_in_executor(None, load_products, self._config)

        def read(products: "asyncio.Future[dict[int, str]]") -> None:
            error = products.exception()
            if error is None:
                self.products = products.result()
            elif not isinstance(error, ConfigError):
                raise error
            if self._line.setups.current is None:
                self.load_last()

        task.add_done_callback(read)

    def load_by_number(
        self, number: int, done: Answer, *, is_reload: bool = False, asked_ns: int = 0
    ) -> None:
        """The recipe that the table names for this product; `done` is called once. asked_ns: when
        it was ordered; 0 = now."""
        asked_ns = asked_ns or self._service.clock()
        name = self.products.get(number)
        if name is None:
            known = ", ".join(str(n) for n in sorted(self.products))
            detail = f"product: expected one of {known}, got {number}"
            done(CommandError.UNKNOWN_PRODUCT, detail)
            return
        task = asyncio.get_running_loop().run_in_executor(None, self._read_recipe, name)
        task.add_done_callback(
            lambda read: self._recipe_read(number, read, done, is_reload, asked_ns)
        )

    def load_by_hash(self, wanted: int, done: Answer) -> None:
        """The recipe whose hash begins with these 32 bits, if a product of the table has it."""
        asked_ns = self._service.clock()
        task = asyncio.get_running_loop().run_in_executor(None, self._number_of_hash, wanted)

        def found(read: "asyncio.Future[int]") -> None:
            if read.result():
                self.load_by_number(read.result(), done, asked_ns=asked_ns)
            else:
                detail = f"no product's recipe has a hash that begins with {wanted:08x}"
                done(CommandError.UNKNOWN_PRODUCT, detail)

        task.add_done_callback(found)

    def _number_of_hash(self, wanted: int) -> int:
        """The product whose recipe has this hash; 0 where none has."""
        for number, name in self.products.items():
            with suppress(ArtefactError):
                if load_recipe(self._config, name).hash32 == wanted:
                    return number
        return 0

    def _read_recipe(self, name: str) -> "tuple[LoadedRecipe, dict[str, Scorer]]":
        """In a thread: every hash of its bundles is checked, which takes a while."""
        # XGBoost alone takes a second to import: after a crash the PLC's port comes first.
        from appliance.scoring import Scorer

        loaded = load_recipe(self._config, name)
        scorers: dict[str, Scorer] = {}
        for camera in self._config.cameras:
            bundle, bundle_dir, _, _ = loaded.recipe.terms(camera)
            scorer = scorers.get(bundle) or self.scorers.get(bundle)
            if scorer is None:
                folder = self._config.bundles_dir / bundle_dir
                if folder.parent != self._config.bundles_dir:
                    raise RecipeError(f"{loaded.path}: bundle_dir", "a name", repr(bundle_dir))
                scorer = Scorer(load_bundle(folder, bundle))
            scorer.check(loaded, camera)
            scorers[bundle] = scorer
        return loaded, scorers

    def _recipe_read(
        self,
        number: int,
        read: "asyncio.Future[tuple[LoadedRecipe, dict[str, Scorer]]]",
        done: Answer,
        is_reload: bool,
        asked_ns: int,
    ) -> None:
        error = read.exception()
        if is_reload and number != self._line.product.number:
            # A product that was put in force meanwhile stays, and follows the new table itself.
            self._reload_in_force(done)
            return
        if error is not None:
            if not isinstance(error, ArtefactError):
                self._log.error("bug while a recipe was read", exc_info=error)
            self._kept_out("recipe refused", str(error))
            done(CommandError.REFUSED_ARTEFACT, str(error))
            return
        loaded, scorers = read.result()
        if done == self._loaded_at_start and self._line.setups.current is not None:
            return  # the PLC asked for another one meanwhile, and it is in force
        if loaded.name != self.products.get(number):
            # The table was read anew meanwhile, and names another version.
            self.load_by_number(number, done, is_reload=is_reload, asked_ns=asked_ns)
            return

        def finished(code: CommandError, detail: str) -> None:
            if code == CommandError.DONE:
                if not self.scorers:  # the first one, and no part before it: all is loaded now
                    self._service.settle()
                self.scorers = scorers
                self._log.info("recipe in force", recipe=loaded.name, hash=loaded.hash[:12])
                data = f"{loaded.name}\n{number}\n".encode()
                task = asyncio.get_running_loop().run_in_executor(None, self._remember, data)
                task.add_done_callback(self._remembered)
            else:
                self.notes = (detail,)
                self._log.error("recipe not changed", recipe=loaded.name, why=detail)
            done(code, detail)

        now_ns = self._service.clock()
        if now_ns - asked_ns > GUARD_NS and done != self._loaded_at_start:
            # The PLC was told that the old one stays, and goes on with its parts.
            seconds = GUARD_NS // 1_000_000_000
            sentence = f"reading its files took longer than {seconds} s: order again, the second "
            sentence += "time they lie in memory"
            finished(CommandError.TIMED_OUT, sentence)
        elif self._line.setups.current is None:
            # At start there is nothing to go back to: what refuses is asked again by itself.
            self._line.product.adopt(loaded, number)
            finished(CommandError.DONE, "")
        else:
            self._line.product.change(loaded, number, asked_ns, now_ns, finished)

    def _remember(self, data: bytes) -> None:
        """In a thread. The journal, which is asked first, must never be the older one."""
        self._line.sync()
        write_atomically(self._last_recipe, data)

    def _remembered(self, written: "asyncio.Future[None]") -> None:
        error = written.exception()
        if error is not None:
            self._log.error("last_recipe cannot be written", why=str(error))

    def reload_products(self, done: Answer) -> None:
        """What products.toml says now; the product in force follows from the next part on."""
        task = asyncio.get_running_loop().run_in_executor(None, load_products, self._config)

        def read(products: "asyncio.Future[dict[int, str]]") -> None:
            error = products.exception()
            if error is None:
                self.products = products.result()
                self._reload_in_force(done)
            elif isinstance(error, ConfigError):
                done(CommandError.REFUSED_ARTEFACT, str(error))
            else:
                raise error

        task.add_done_callback(read)

    def _reload_in_force(self, done: Answer) -> None:
        """Limits alone change between two parts; for anything else TriggerReady falls first."""
        number, current = self._line.product.number, self._line.setups.current
        name, setup_hash = self.products.get(number, ""), current.setup_hash if current else ""
        task = asyncio.get_running_loop().run_in_executor(None, self._is_of, name, setup_hash)

        def compared(task: "asyncio.Future[bool]") -> None:
            answer = done
            if not task.result():
                answer = self._line.product.ordered(done)
                self._line.tick(self._service.clock())
            self.load_by_number(number, answer, is_reload=True)

        task.add_done_callback(compared)

    def _is_of(self, name: str, setup_hash: str) -> bool:
        """In a thread: this recipe has this set-up; one that will be refused changes nothing."""
        try:
            return load_recipe(self._config, name).setup_hash == setup_hash
        except ArtefactError:
            return True
