"""The line on virtual time: a random PLC, camera and infer, random deaths, random bugs."""

import os
import random
from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.codes import (
    Control,
    Reason,
    Status1,
    Word,
)
from appliance.journal import acq_id
from appliance.wire import encode
from tests.line_plans import MS, Plan
from tests.line_world import World

ENABLE, TRIGGER, BUFFER = Control.ENABLE, Control.TRIGGER, Control.BUFFER_RESULTS
CLEAR, EXECUTE = Control.CLEAR_ERROR, Control.EXECUTE
EXAMPLES = int(os.environ.get("INSPECTD_EXAMPLES", "8"))
CYCLES = int(os.environ.get("INSPECTD_CYCLES", "200"))
"""Of each random line; nightly runs ask for many more."""


def lawful(chance: random.Random) -> Plan:
    """Whatever a camera or an engine may do without breaking a law."""
    return Plan(
        camera=chance.choices(["good", "none", "incomplete", "queue_full"], [20, 1, 1, 1])[0],
        infer=chance.choices(
            ["good", "failed", "nan", "other_setup", "map_lost"], [20, 1, 1, 1, 1]
        )[0],
        camera_ms=chance.choice([1, 10, 30, 100, 180]),
        infer_ms=chance.choice([0, 1, 10, 50, 150, 250]),
        is_infer_first=chance.random() < 0.3,
        is_bad=chance.random() < 0.3,
    )


def lawless(chance: random.Random) -> Plan:
    """And whatever a bug or a lost message may do."""
    plan = lawful(chance)
    if chance.random() < 0.3:
        plan.camera = chance.choice(
            ["silent", "double", "then_none", "after_none", "foreign", "good"]
        )
        plan.infer = chance.choice(["silent", "double", "other_frame", "good"])
    return plan


class RandomPlc:
    """Follows the handshake most of the time, and does anything at all for the rest of it."""

    def __init__(self, world: World, chance: random.Random, mode: Control) -> None:
        self.world, self.chance, self.mode = world, chance, mode
        self.control = ENABLE | mode
        self.silent_until = 0

    def scan(self) -> None:
        world, chance = self.world, self.chance
        world.at(chance.choice([5, 10, 20, 40]), self.scan)
        if world.now < self.silent_until:
            return
        if chance.random() < 0.002:
            self.silent_until = world.now + 800 * MS
            return
        bits = Status1(world.bank.number("Status1"))
        control = self.control & ~(CLEAR | EXECUTE)
        if Status1.TRIGGER_ACK in bits:
            control &= ~TRIGGER
        elif Status1.TRIGGER_READY in bits and chance.random() < 0.7:
            control |= TRIGGER
        elif chance.random() < 0.02:
            control ^= TRIGGER  # too early, or never acknowledged
        if Status1.RESULT_VALID in bits and chance.random() < 0.8:
            control |= Control.RESULT_ACK
        elif chance.random() < 0.9:
            control &= ~Control.RESULT_ACK
        if CLEAR not in self.control and bits & (Status1.FAULT | Status1.ACQ_ERROR):
            control |= CLEAR
        words: dict[str, int] = {
            "PartTag": chance.choice([0, 1, 0xFFFF_FFFF, chance.getrandbits(32)]),
            "DeadlineMs": chance.choice([0, 0, 0, 5, 80, 10_000]),
            "AckSeq": world.bank.number("RingLast"),
            "EpochEcho": world.bank.number("Epoch"),
        }
        if chance.random() < 0.01:
            control |= EXECUTE
            words |= {
                "Command": chance.choice([1, 10, 11, 12, 77]),
                "CmdArg": chance.choice([1, 2, 9]),
            }
        self.control = control
        self.look(bits)
        if chance.random() < 0.05:
            world.write(control)  # one register alone, and no heartbeat
        else:
            world.beat(control, **words)

    def look(self, bits: Status1) -> None:
        """What the PLC could accept is what was decided."""
        bank = self.world.bank
        if Status1.RESULT_VALID in bits and Status1.PASS in bits:
            assert Status1.FAIL not in bits
            assert bank.number("Verdict") == Word.OK
            assert bank.number("InspectionID") == bank.number("ResultTear")
            assert self.world.newest[bank.number("InspectionID")].word == Word.OK


def drive(
    seed: int, plan: Callable[[random.Random], Plan], mode: Control, cycles: int, deaths: bool
) -> World:
    """A line of random parts until so many were accepted and all is quiet again."""
    chance = random.Random(seed)
    world = World(seed=seed, first_id=65_535 * 3 - cycles // 2)
    world.plan = lambda part_id: plan(chance)
    plc = RandomPlc(world, chance, mode)
    world.at(1, plc.scan)
    for _ in range(cycles * 40):
        world.run(100)
        if deaths and chance.random() < 0.01:
            world.kill(chance.choice([world.camera, world.infer, world.record]))
        if deaths and chance.random() < 0.005:
            world.kill_decide()
        if len(world.opened) >= cycles:
            break
    plc.silent_until = world.now + 10**15
    for _ in range(150):
        world.run(100)
    return world


def settled(world: World, cycles: int) -> None:
    """Every part has one verdict and one row, and the books close."""
    assert len(world.opened) >= cycles
    assert len(world.line.book) == 0
    assert set(world.rows) == set(world.opened)
    for part_id, row in world.rows.items():
        shown = world.verdicts.get(part_id)
        if shown is None:
            assert (row.word, row.reason) == (Word.ERROR, Reason.RESTART)
        else:
            assert encode(row) == encode(shown.verdict)  # a margin that is NaN is not itself
    words = [shown.verdict.word for shown in world.verdicts.values()]
    assert words.count(Word.OK) > 0
    assert words.count(Word.ERROR) > 0


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32), st.sampled_from([Control(0), BUFFER]))
def test_random_plc_camera_and_infer(seed: int, mode: Control) -> None:
    """Exactly one verdict per part, in time, and the ledger closes; ids go on over the wrap."""
    cycles = CYCLES
    with drive(seed, lawful, mode, cycles, deaths=False) as world:
        settled(world, cycles)
        ids = sorted(world.opened)
        assert ids == list(range(ids[0], ids[0] + len(ids)))
        shown = [acq_id(part_id) for part_id in ids]
        assert 65_535 in shown
        assert 1 in shown
        assert 0 not in shown
        figures = world.line.ledger.figures()
        assert figures["unaccounted"] == 0, figures
        assert figures["accepted"] == figures["verdicts"] == len(ids)
        assert world.line.tally.persistent["triggers"] == len(ids)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32), st.sampled_from([Control(0), BUFFER]))
def test_random_deaths_of_every_process(seed: int, mode: Control) -> None:
    cycles = CYCLES
    with drive(seed, lawful, mode, cycles, deaths=True) as world:
        settled(world, cycles)
        assert world.line.ledger.unaccounted == 0, world.line.ledger.figures()
        persistent = world.line.tally.persistent
        assert persistent["triggers"] == len(world.opened)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32), st.sampled_from([Control(0), BUFFER]))
def test_random_bugs_never_make_a_part_ok(seed: int, mode: Control) -> None:
    """Lost, doubled and foreign messages: shown in the ledger, and never an OK (World checks)."""
    cycles = CYCLES
    with drive(seed, lawless, mode, cycles, deaths=False) as world:
        settled(world, cycles)
        assert world.line.ledger.unaccounted > 0
