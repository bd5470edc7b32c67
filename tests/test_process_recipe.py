"""A change of recipe from the PLC, with the real processes: two products, echo of the loaded."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from appliance.atomic import write_atomically
from appliance.audit import AuditJournal
from appliance.codes import CommandCode, CommandError, Word
from appliance.recipe import load_recipe
from appliance.wire import Wiring
from calibration.publish import order, publish, use
from tests.rig import Rig
from tests.waiting import until
from tools.plc_program import PlcOptions
from tools.plc_sim import command, run_plc


def ask(rig: Rig, number: int) -> CommandError:
    """LoadRecipe as the desk PLC does it."""
    options = PlcOptions(port=rig.port, accept_simulated=True, timeout_ms=2000)
    return asyncio.run(command(options, CommandCode.LOAD_RECIPE, number))


def words(rig: Rig, parts: int) -> list[int]:
    """The words of so many parts."""
    seen: list[int] = []
    options = PlcOptions(
        port=rig.port, parts=parts, accept_simulated=True, deadline_ms=2000, timeout_ms=2000
    )
    asyncio.run(run_plc(options, lambda part: seen.append(part.word), asyncio.Event()))
    return seen


@pytest.fixture()
def rig() -> Any:
    """Product 1 lets everything pass; product 2 is made strict by its limits alone."""
    with Rig({"deadline_ms": 1000}) as rig:
        strict = rig.config.recipes_dir / "other" / "1.toml"
        text = strict.read_text().replace("1000000.0", "-2.0").replace("2000000.0", "-1.0")
        write_atomically(strict, text.encode())
        yield rig


def test_the_loaded_recipe_is_shown_and_decides(rig: Rig) -> None:
    """Unknown product: refused, the old one stays. Known: its hash is shown, its limits decide."""
    rig.start()
    with rig.ear() as ear:
        until("Ready", lambda: ear.is_ready, 30)
        first, second = (load_recipe(rig.config, f"{name}/1") for name in ("cell", "other"))
        assert words(rig, 3) == [Word.OK] * 3

        assert ask(rig, 77) == CommandError.UNKNOWN_PRODUCT
        until("old recipe", lambda: shown(ear) == (1, first.hash32))
        assert words(rig, 2) == [Word.OK] * 2

        assert ask(rig, 2) == CommandError.DONE
        until("new recipe", lambda: shown(ear) == (2, second.hash32))
        assert words(rig, 3) == [Word.NG] * 3
        # What the page hears is up to 100 ms old, so the rows themselves are awaited.
        until("rows", lambda: len(rig.rows()) == 8)
        recipes = [row.verdict.recipe for row in rig.rows()]
        assert recipes == ["other/1"] * 3 + ["cell/1"] * 5
        assert ear.unaccounted == 0

    # The box comes back with the recipe that was in force.
    rig.stop()
    rig.start()
    with rig.ear() as ear:
        until("Ready", lambda: ear.is_ready, 30)
        assert shown(ear) == (2, second.hash32)


def test_a_damaged_recipe_is_refused_and_the_old_one_stays(rig: Rig) -> None:
    """CmdFailed with a code, a note that names file, expected and got, and parts go on."""
    path: Path = rig.config.recipes_dir / "other" / "1.toml"
    path.write_text(path.read_text().replace('bundle = "', 'bundle = "0'))
    rig.start()
    with rig.ear() as ear:
        until("Ready", lambda: ear.is_ready, 30)
        assert ask(rig, 2) == CommandError.REFUSED_ARTEFACT
        until("a note", lambda: any("manifest.json" in n for n in notes(ear)))
        until("Ready", lambda: ear.is_ready)
        assert words(rig, 2) == [Word.OK] * 2


def test_published_limits_decide_from_the_next_part_on(rig: Rig) -> None:
    """A new version of the recipe in force, taken while the line runs; Ready never drops."""
    rig.start()
    with rig.ear() as ear:
        until("Ready", lambda: ear.is_ready, 30)
        assert words(rig, 3) == [Word.OK] * 3
        base = load_recipe(rig.config, "cell/1")
        journal = AuditJournal(rig.config)
        new = publish(
            rig.config, journal, base.recipe, (-2.0, -1.0), who="eva", reason="strict on purpose"
        )
        assert ordered(rig) == CommandError.DONE, "nothing new in products.toml is no error"
        assert words(rig, 1) == [Word.OK], "a version that nothing points to decides nothing"
        assert use(rig.config, "cell/1", "cell/2") == 1
        assert ordered(rig) == CommandError.DONE
        until("new recipe", lambda: shown(ear) == (1, new.hash32))
        assert words(rig, 2) == [Word.NG] * 2
        until("rows", lambda: len(rig.rows()) == 6)
        assert [r.verdict.recipe for r in rig.rows()] == ["cell/2"] * 2 + ["cell/1"] * 4

        (rig.root / "products.toml").write_text("spoilt")
        assert ordered(rig) == CommandError.REFUSED_ARTEFACT
        assert words(rig, 1) == [Word.NG], "the old table stays"
        assert ear.unaccounted == 0


def ordered(rig: Rig) -> CommandError:
    """The order of the operator's tool to decide."""

    async def ask_decide() -> CommandError:
        with Wiring(rig.config.runtime_dir) as wiring:
            answer = await order(wiring.async_sender("command"), "reload_products", "eva")
            return answer.code

    return asyncio.run(ask_decide())


def shown(ear: Any) -> tuple[int, int]:
    """RecipeId and RecipeHash32 as on the bus."""
    registers = ear.listen().words.registers
    return (
        registers[107] << 16 | registers[108],
        registers[109] << 16 | registers[110],
    )


def notes(ear: Any) -> tuple[str, ...]:
    """What decide tells people."""
    return ear.listen().words.notes
