"""Which recipe decide puts in force: after a restart, and when products.toml is read anew."""

import asyncio
import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.codes import CommandError, OfflineReason
from appliance.engine_null import write_null_bundle
from appliance.journal import Journal
from appliance.recipe import Limits, LoadedRecipe, Recipe, RecipeError, View, write_recipe
from appliance.recipe_in_force import RecipeInForce, product_at_start
from appliance.scoring import Scorer
from appliance.service import Service
from tests.line_world import World

PRODUCTS = {1: "a/7", 2: "b/2"}
FILE = Path("state/last_recipe")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (None, 1),  # the first start ever
        ("b/2\n2\n", 2),
        ("b/3\n2\n", 2),  # a version that products.toml no longer has, or has not yet
        ("b/2\n5\n", 2),  # the product got another number
        ("b/2\n", 2),  # as written by older software
    ],
)
def test_a_restart_goes_on_with_the_product_that_was_in_force(
    text: str | None, number: int
) -> None:
    assert product_at_start(FILE, text, PRODUCTS) == number


@pytest.mark.parametrize(
    ("journalled", "text", "number"),
    [
        (2, "a/7\n1\n", 2),  # the file could not be written any more
        (2, None, 2),
        (5, "b/2\n5\n", 2),  # the product got another number
        (0, "b/2\n2\n", 2),  # a journal of older software, or a new one
    ],
)
def test_the_journal_knows_the_product_better_than_the_file(
    journalled: int, text: str | None, number: int
) -> None:
    assert product_at_start(FILE, text, PRODUCTS, journalled) == number


@pytest.mark.parametrize("text", ["a/7\n1\n", "b/2\n", None])
def test_a_file_that_is_older_than_the_journal_names_no_product(text: str | None) -> None:
    with pytest.raises(RecipeError, match="got product 5, "):
        product_at_start(FILE, text, PRODUCTS, 5)


@pytest.mark.parametrize("text", ["b/3\n", "b/3\n5\n", "", "\n", "b/3\ntwo\n"])
def test_what_nobody_knows_is_no_reason_for_the_first_product(text: str) -> None:
    with pytest.raises(RecipeError, match=r"last_recipe: expected .*1 a/7, 2 b/2.*, got '"):
        product_at_start(FILE, text, PRODUCTS)


class Desk(RecipeInForce):
    """decide's recipes with a line on virtual time; reading a recipe waits until it may go on."""

    def __init__(self, world: World) -> None:
        config = world.config
        self.bundle = write_null_bundle(config.bundles_dir / "null", "null", 64, 64).id
        self._table = config.root_dir / "products.toml"
        self.may_read = threading.Event()
        self.reads = threading.Event()
        self.use("cell/1", "other/1")
        super().__init__(Service("decide", lambda: world.now), config)
        self.serve(world.line)

    def use(self, *names: str) -> None:
        rows = [
            f'[[product]]\nnumber = {number}\nrecipe = "{name}"\n'
            for number, name in enumerate(names, 1)
        ]
        self._table.write_text("".join(rows))

    def write(self, name: str, t2: float = 2.0, exposure_us: float | None = None) -> LoadedRecipe:
        identity, _, version = name.partition("/")
        recipe = Recipe(
            id=identity,
            version=int(version),
            bundle=self.bundle,
            bundle_dir="null",
            decides="map_max",
            limits=Limits(t1=1.0, t2=t2),
            camera={"top": View(exposure_us=exposure_us)},
        )
        write_recipe(self._config, recipe)
        return super()._read_recipe(name)[0]

    def _read_recipe(self, name: str) -> tuple[LoadedRecipe, dict[str, Scorer]]:
        self.reads.set()
        assert self.may_read.wait(20)
        return super()._read_recipe(name)

    async def reload(self, meanwhile: Callable[[], None]) -> CommandError:
        answer: asyncio.Future[CommandError] = asyncio.get_running_loop().create_future()
        self.reload_products(lambda code, detail: answer.set_result(code))
        await asyncio.to_thread(self.reads.wait, 20)
        meanwhile()
        self.may_read.set()
        while not answer.done():
            await asyncio.sleep(0.005)
            self.world_turn()
        return answer.result()

    async def load(self, number: int) -> CommandError:
        self.may_read.set()
        answer: asyncio.Future[CommandError] = asyncio.get_running_loop().create_future()
        self.load_by_number(number, lambda code, detail: answer.set_result(code))
        while not answer.done():
            await asyncio.sleep(0.005)
            self.world_turn()
        return answer.result()

    async def look_again(self, is_done: Callable[[], bool]) -> None:
        """What it does every few seconds while no recipe is in force."""
        self._load_again()
        while not is_done():
            await asyncio.sleep(0.005)

    def world_turn(self) -> None:
        """Camera and infer answer."""


@pytest.fixture
def world() -> Iterator[World]:
    with World() as made:
        yield made


def desk_of(world: World) -> Desk:
    """Product 1 in force, ready; the next versions are written."""
    desk = Desk(world)

    def turn() -> None:
        world.run(100)
        world.beat()

    desk.world_turn = turn
    world.line.product.adopt(desk.write("cell/1"), 1)
    desk.write("other/1")
    world.until_ready()
    return desk


def in_force(world: World) -> tuple[int, str]:
    current = world.line.setups.current
    assert current is not None
    return world.line.product.number, current.name


def test_a_product_that_the_plc_loads_while_products_are_read_stays(world: World) -> None:
    desk = desk_of(world)
    desk.write("cell/2", t2=3.0)
    other = desk.write("other/2", t2=3.0)
    desk.use("cell/2", "other/2")
    old = desk.write("other/3", t2=9.0)

    def loaded_by_plc() -> None:
        assert old.setup_hash == other.setup_hash
        world.line.product.adopt(old, 2)

    assert asyncio.run(desk.reload(loaded_by_plc)) == CommandError.DONE
    assert in_force(world) == (2, "other/2"), "product 2 as the new table has it"
    assert desk._last_recipe.read_text() == "other/2\n2\n"


def test_a_load_under_way_while_products_change_follows_the_new_table(world: World) -> None:
    desk = desk_of(world)
    desk.write("other/2", t2=3.0)

    async def load() -> CommandError:
        answer: asyncio.Future[CommandError] = asyncio.get_running_loop().create_future()
        desk.load_by_number(2, lambda code, detail: answer.set_result(code))
        await asyncio.to_thread(desk.reads.wait, 20)
        desk.products = {1: "cell/1", 2: "other/2"}
        desk.may_read.set()
        while not answer.done():
            await asyncio.sleep(0.005)
            desk.world_turn()
        return answer.result()

    assert asyncio.run(load()) == CommandError.DONE
    assert in_force(world) == (2, "other/2")


@pytest.mark.parametrize("is_first", [False, True])
def test_files_that_are_read_for_more_than_a_minute_come_too_late(
    world: World, is_first: bool
) -> None:
    """The PLC was told that the command failed, and sends the parts of the product before."""
    desk = desk_of(world)
    if is_first:
        world.line.setups.current = None

    async def load() -> CommandError:
        answer: asyncio.Future[CommandError] = asyncio.get_running_loop().create_future()
        desk.load_by_number(2, lambda code, detail: answer.set_result(code))
        await asyncio.to_thread(desk.reads.wait, 20)
        world.run(61_000)
        desk.may_read.set()
        return await answer

    assert asyncio.run(load()) == CommandError.TIMED_OUT
    if is_first:
        assert world.line.setups.current is None
    else:
        assert in_force(world) == (1, "cell/1")
    assert any("reading its files took longer than 60 s: order again" in n for n in desk.notes)


def test_limits_alone_leave_ready_as_it_is(world: World) -> None:
    desk = desk_of(world)
    desk.write("cell/2", t2=3.0)
    desk.use("cell/2", "other/1")

    def look() -> None:
        world.beat()
        assert world.is_ready

    assert asyncio.run(desk.reload(look)) == CommandError.DONE
    assert in_force(world) == (1, "cell/2")


def test_another_set_up_in_products_ends_ready_before_its_bundle_is_read(world: World) -> None:
    desk = desk_of(world)
    desk.write("cell/2", exposure_us=500.0)
    desk.use("cell/2", "other/1")

    def look() -> None:
        assert not world.is_ready
        assert world.bank.number("OfflineReason") == OfflineReason.RECIPE_CHANGING

    assert asyncio.run(desk.reload(look)) == CommandError.DONE
    assert in_force(world) == (1, "cell/2")
    world.until_ready()


def test_a_product_that_is_put_back_into_products_is_in_force_without_a_restart(
    world: World,
) -> None:
    desk = Desk(world)
    desk.may_read.set()
    desk.write("other/2")
    world.line.setups.current, world.line.product.last = None, 2  # a start after product 2
    desk.use("cell/1")
    asyncio.run(desk.look_again(lambda: bool(desk.notes)))
    assert world.line.setups.current is None
    assert "expected a product to go on with (1 cell/1), got product 2" in desk.notes[0]
    desk.use("cell/1", "other/2")
    asyncio.run(desk.look_again(lambda: world.line.setups.current is not None))
    assert in_force(world) == (2, "other/2")


def test_a_full_disk_does_not_bring_the_product_before_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`last_recipe` cannot be written, decide dies; the next one goes on with what was loaded."""
    desk = desk_of(world)
    monkeypatch.setattr("appliance.recipe_in_force.write_atomically", full)
    assert asyncio.run(desk.load(2)) == CommandError.DONE
    world.kill_decide(adopts=False)
    desk.serve(world.line)
    assert not desk._last_recipe.exists()

    async def start() -> None:
        desk.load_last()
        while world.line.setups.current is None:
            await asyncio.sleep(0.005)

    asyncio.run(start())
    assert in_force(world) == (2, "other/1")


def test_power_that_fails_between_journal_and_file_does_not_bring_the_product_before_back(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal is asked first, so it has the product on the disk when the file has it."""
    desk, journal = desk_of(world), world.journal
    journal._stopping.set()  # its own thread may be half a second late
    journal._dirty.set()
    journal._hurry.set()
    journal._thread.join()
    sync, after_cut = os.fdatasync, tmp_path / "state"
    known: list[int] = []

    def keep(handle: int) -> None:
        sync(handle)
        shutil.copytree(world.root / "state", after_cut, dirs_exist_ok=True)

    def write(path: Path, data: bytes, mode: int = 0o644) -> None:
        monkeypatch.setattr(os, "fdatasync", sync)
        again = Journal(after_cut)
        again.close()
        known.append(again.counters.get("recipe.product", 0))

    monkeypatch.setattr(os, "fdatasync", keep)
    monkeypatch.setattr("appliance.recipe_in_force.write_atomically", write)
    journal.sync()
    assert asyncio.run(desk.load(2)) == CommandError.DONE
    assert known == [2]


def full(path: Path, data: bytes, mode: int = 0o644) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_start_with_an_unknown_recipe_waits_for_the_plc(world: World) -> None:
    desk = Desk(world)
    desk._last_recipe.parent.mkdir(exist_ok=True)
    desk._last_recipe.write_text("gone/4\n9\n")
    world.line.setups.current, world.line.product.last = None, 0

    async def start() -> None:
        desk.load_last()

    asyncio.run(start())
    assert world.line.setups.current is None
    assert "gone/4" in desk.notes[0]
    world.run(100)
    world.beat()
    assert world.bank.number("OfflineReason") == OfflineReason.NO_RECIPE
