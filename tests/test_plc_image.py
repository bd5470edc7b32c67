"""The words of the map in controllers that do not speak Modbus: S7 against snap7's own server."""

import asyncio
import contextlib
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from appliance.acceptance import Sent, Timing, slot_objections
from appliance.bus import View
from appliance.codes import Reason, SlotFlags, State, Status1, Status2, Word
from appliance.config import Config
from appliance.config_bus import S7, Bus, Logix
from appliance.config_camera import Camera
from appliance.errors import DeviceError
from appliance.messages import CommandResult, Verdict, Words
from appliance.plc_image import FIRST, WORDS, ImageWriter, as_bytes, as_signed
from appliance.registers import RING_SLOTS
from appliance.words import Bank
from tests.ports import free_port
from tests.waiting import until

MS = 1_000_000
EPOCH = 0x0102


def config(root: Path, **bus: Any) -> Config:
    return Config(
        root=str(root), deadline_ms=200, bus=Bus(**bus),
        camera=(Camera(name="top", kind="files", folder="x"),),
    )  # fmt: skip


async def nobody(name: str, argument: str, by: str) -> CommandResult:
    raise AssertionError("a controller that is only written to asks nothing")


def verdict(part_id: int, word: Word = Word.OK, epoch: int = EPOCH) -> Verdict:
    return Verdict(
        part_id=part_id, acq_id=part_id, epoch=epoch, word=word, reason=Reason.NONE,
        part_tag=part_id + 100, margin=0.5, t1=1.0, t2=2.0, latency_ns=20 * MS,
    )  # fmt: skip


def words(beat: int, verdicts: int = 0, epoch: int = EPOCH) -> Words:
    """As decide publishes them."""
    bank = Bank()
    bank.set("Epoch", epoch)
    bank.set("State", State.READY)
    bank.set("Status1", Status1.ONLINE | Status1.TRIGGER_READY)
    bank.set("Status1Copy", Status1.ONLINE | Status1.TRIGGER_READY)
    bank.set("VisionHeartbeat", beat)
    bank.set("VisionHeartbeatCopy", beat)
    bank.set("RingLast", 77)  # decide's own ring is another one
    return Words(registers=bank.snapshot(), ledger={"verdicts": verdicts})


def test_the_ring_of_the_view_is_accepted_by_the_rule_of_the_manual(tmp_path: Path) -> None:
    view = View(config(tmp_path))
    view.words(words(1), 0)
    view.verdict(verdict(5))
    slot = view.image.read_slot(0)
    sent = Sent(part_tag=105, epoch=EPOCH, acq_id=5, deadline_ms=200)
    timing = Timing(since_trigger_ms=30, since_heartbeat_ms=50)
    assert slot_objections(slot, EPOCH, sent, timing) == ()
    assert slot_objections(slot, EPOCH + 1, sent, timing) == ("Epoch changed",)
    assert view.image.number("RingLast") == 1
    view.words(words(2, 1), 0)
    assert view.image.number("RingLast") == 1, "the words of decide's ring stay outside"


def test_of_two_results_with_one_tag_the_newer_one_alone_is_known(tmp_path: Path) -> None:
    """A PLC that looks through all slots must not find the OK of the part before."""
    view = View(config(tmp_path))
    view.words(words(1), 0)
    for part_id, word in ((5, Word.OK), (6, Word.NG)):
        view.verdict(msgspec.structs.replace(verdict(part_id, word), part_tag=3))
    known = [view.image.read_slot(i).flags & SlotFlags.TAG_KNOWN for i in range(2)]
    assert known == [0, SlotFlags.TAG_KNOWN]


def test_another_life_of_decide_empties_the_ring(tmp_path: Path) -> None:
    view = View(config(tmp_path))
    view.words(words(1), 0)
    for part_id in range(1, 15):
        view.verdict(verdict(part_id))
    view.words(words(1, epoch=EPOCH + 1), 0)
    assert [view.image.read_slot(i).seq for i in range(RING_SLOTS)] == [0] * RING_SLOTS
    view.verdict(verdict(99, epoch=EPOCH + 1))
    assert view.image.read_slot(0).flags >> 8 == (EPOCH + 1) & 0xFF


def test_lost_verdicts_are_counted_and_silence_is_seen(tmp_path: Path) -> None:
    view = View(config(tmp_path))
    assert view.is_silent(0)
    view.words(words(1, verdicts=10), 1000 * MS)
    view.verdict(verdict(11))
    view.words(words(2, verdicts=14), 1100 * MS)
    assert (view.received, view.skipped) == (1, 3)
    assert not view.is_silent(1600 * MS)
    assert view.is_silent(1601 * MS)


class Memory:
    """A controller in memory, whose cable can be pulled."""

    def __init__(self) -> None:
        self.blocks: list[list[int]] = []
        self.is_open = self.is_cut = False
        self.written = asyncio.Event()

    def open(self) -> None:
        self.is_open = True

    def write(self, words: list[int]) -> None:
        if self.is_cut:
            raise DeviceError("cut")
        self.blocks.append(words)

    def close(self) -> None:
        self.is_open = False

    @property
    def image(self) -> Bank:
        bank = Bank()
        bank.write(FIRST, self.blocks[-1])
        return bank


def test_a_verdict_is_written_at_once_and_silence_too(tmp_path: Path) -> None:
    async def live() -> None:
        view, memory = View(config(tmp_path)), Memory()
        writer = ImageWriter("s7", memory, period_ms=10_000)
        serving = asyncio.create_task(writer.serve())

        async def after(count: int) -> Bank:
            for _ in range(500):
                if len(memory.blocks) >= count:
                    return memory.image
                await asyncio.sleep(0.01)
            raise AssertionError(f"no block number {count}")

        view.words(words(1), 0)
        writer.words(view.image, words(1))
        image = await after(1)
        assert image.number("VisionHeartbeat") == 1
        view.verdict(verdict(5, Word.NG))
        writer.verdict(verdict(5, Word.NG), view.image)
        image = await after(2)
        assert image.read_slot(0).verdict == Word.NG
        writer.silent()
        image = await after(3)
        assert image.number("Status1") == image.number("Status1Copy") == 0
        assert image.number("Status2") == Status2.SAFE_STATE
        for part_id in range(1, 15):
            view.verdict(verdict(part_id))
            writer.verdict(verdict(part_id), view.image)
        await after(4)
        assert writer.counters["overwritten"] == 14 - RING_SLOTS
        memory.is_cut = True
        writer.words(view.image, words(2))
        with pytest.raises(DeviceError, match="cut"):
            await serving
        assert not memory.is_open

    asyncio.run(live())


def test_words_keep_their_bits() -> None:
    assert as_signed([0xA5C3, 0x7FFF, 0xFFFF]) == [-23101, 32767, -1]
    assert as_bytes([0xA5C3, 1]) == b"\xa5\xc3\x00\x01"


class Plc:
    """snap7's server with one data block."""

    def __init__(self, db: int, size: int = 2 * WORDS) -> None:
        from snap7.server import Server
        from snap7.type import SrvArea

        self.port = free_port()
        self.block = bytearray(size)
        self._server = Server()
        self._server.register_area(SrvArea.DB, db, self.block)
        self._server.start(tcp_port=self.port)

    def image(self) -> Bank:
        bank = Bank()
        bank.write(FIRST, list(struct.unpack(f">{WORDS}H", bytes(self.block))))
        return bank

    def stop(self) -> None:
        self._server.stop()
        self._server.destroy()


@pytest.fixture
def plc() -> Iterator[Plc]:
    pytest.importorskip("snap7", reason="the extra `bus` is not installed")
    plc = Plc(db=100)
    yield plc
    plc.stop()


def test_a_data_block_holds_the_words_and_the_ring(plc: Plc, tmp_path: Path) -> None:
    from appliance.plc_s7 import S7Writer

    async def live() -> None:
        section = S7(host="127.0.0.1", port=plc.port, db=100)
        settings = config(tmp_path, s7=section)
        view = View(settings)
        writer = S7Writer(section, settings, nobody, structlog.get_logger())
        serving = asyncio.create_task(writer.serve())
        view.words(words(9), 0)
        for part_id in range(1, 20):
            view.verdict(verdict(part_id, Word.NG if part_id % 2 else Word.OK))
        writer.words(view.image, words(9))
        for _ in range(500):
            if plc.image().number("VisionHeartbeat") == 9:
                break
            await asyncio.sleep(0.01)
        image = plc.image()
        assert image.read(FIRST, WORDS) == view.image.read(FIRST, WORDS)
        assert sorted(image.read_slot(i).seq for i in range(RING_SLOTS)) == list(range(8, 20))
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(live())


def test_a_missing_controller_or_block_is_a_device_error(plc: Plc, tmp_path: Path) -> None:
    from appliance.plc_s7 import S7Writer

    async def live(section: S7) -> None:
        writer = S7Writer(section, config(tmp_path, s7=section), nobody, structlog.get_logger())
        writer.silent()
        await asyncio.wait_for(writer.serve(), 30)

    with pytest.raises(DeviceError, match=r"127\.0\.0\.1"):
        asyncio.run(live(S7(host="127.0.0.1", port=free_port())))
    with pytest.raises(DeviceError, match="DB7"):
        asyncio.run(live(S7(host="127.0.0.1", port=plc.port, db=7)))


@pytest.fixture
def logix() -> Iterator[str]:
    """cpppo's simulated controller. It is under the GPL and no dependency of ours."""
    program = shutil.which("enip_server")
    if program is None:
        pytest.skip("no enip_server (of the package cpppo) on this machine")
    port = free_port()
    command = [program, "-a", f"127.0.0.1:{port}", f"Inspectd=INT[{WORDS}]"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until("the controller", lambda: is_listening(port), 20)
    yield f"127.0.0.1:{port}"
    server.kill()
    server.wait()


def is_listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def driver_with_tag(path: str) -> Any:
    """A simulator has no list of tags: the definition that a controller would give is put there."""
    from pycomm3 import INT, LogixDriver

    driver = LogixDriver(path, init_tags=False, init_program_tags=False)
    driver.open()
    driver._tags = {
        "Inspectd": {
            "tag_name": "Inspectd",
            "dim": 1,
            "instance_id": 1,
            "symbol_address": 0,
            "symbol_object_address": 0,
            "software_control": 0,
            "dimensions": [WORDS, 0, 0],
            "external_access": "Read/Write",
            "tag_type": "atomic",
            "data_type_name": "INT",
            "data_type": "INT",
            "type_class": INT[WORDS],
            "alias": False,
        }
    }
    return driver


def test_a_logix_tag_holds_the_words_and_the_ring(logix: str, tmp_path: Path) -> None:
    from appliance.plc_logix import LogixWriter

    async def live() -> None:
        section = Logix(path=logix)
        settings = config(tmp_path, logix=section)
        view = View(settings)
        log = structlog.get_logger()
        writer = LogixWriter(section, settings, nobody, log, driver_with_tag)
        serving = asyncio.create_task(writer.serve())
        view.words(words(9), 0)
        view.verdict(verdict(5))
        writer.words(view.image, words(9))
        reader = await asyncio.to_thread(driver_with_tag, logix)
        wanted = as_signed(view.image.read(FIRST, WORDS))
        read: Any = None
        for _ in range(200):
            read = await asyncio.to_thread(reader.read, f"Inspectd{{{WORDS}}}")
            if read.value == wanted:
                break
            await asyncio.sleep(0.02)
        assert read.value == wanted
        reader.close()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(live())


def test_no_logix_controller_is_a_device_error_that_names_it(tmp_path: Path) -> None:
    pytest.importorskip("pycomm3", reason="the extra `bus` is not installed")
    from appliance.plc_logix import LogixWriter

    section = Logix(path=f"127.0.0.1:{free_port()}")
    settings = config(tmp_path, logix=section)
    writer = LogixWriter(section, settings, nobody, structlog.get_logger())
    with pytest.raises(DeviceError, match=section.path):
        asyncio.run(writer.serve())
