"""One suite for every GPIO chip: the virtual one, and the kernel's gpio-sim where it is there."""

import asyncio
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import AddressInUse, ChipAway, ConfigError
from appliance.plc_io import Lines
from appliance.plc_io_virtual import VirtualLines
from appliance.service import EXIT_CONFIG, EXIT_NO, exit_of

OK, NG, TRIGGER = 0, 1, 4
SIM = Path("/sys/kernel/config/gpio-sim")


class Virtual:
    """The shipped chip; the other side is a second mapping of the same file."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "gpio"
        self.open()

    def open(self) -> Lines:
        self.lines: Lines = VirtualLines(self._file, {OK: False, NG: True}, (TRIGGER,))
        return self.lines

    def seen(self, offset: int) -> bool:
        return bool(self._file.read_bytes()[offset])

    def pull(self, offset: int, level: bool) -> None:
        with self._file.open("r+b") as file:
            file.seek(offset)
            file.write(bytes([level]))

    def end(self) -> None:
        pass


class GpioSim:
    """A chip of the kernel's simulator; the other side is its sysfs files."""

    def __init__(self) -> None:
        self._folder = SIM / f"inspectd{os.getpid()}"
        bank = self._folder / "bank0"
        bank.mkdir(parents=True)
        (bank / "num_lines").write_text("8")
        (self._folder / "live").write_text("1")
        device = (self._folder / "dev_name").read_text().strip()
        chip = (bank / "chip_name").read_text().strip()
        self._sysfs = Path(f"/sys/devices/platform/{device}/{chip}")
        self._chip = f"/dev/{chip}"
        self.open()

    def open(self) -> Lines:
        from appliance.plc_io_gpiod import GpiodLines

        self.lines: Lines = GpiodLines(self._chip, {OK: False, NG: True}, (TRIGGER,), 0)
        return self.lines

    def seen(self, offset: int) -> bool:
        return (self._sysfs / f"sim_gpio{offset}" / "value").read_text().strip() == "1"

    def pull(self, offset: int, level: bool) -> None:
        text = "pull-up" if level else "pull-down"
        (self._sysfs / f"sim_gpio{offset}" / "pull").write_text(text)

    def end(self) -> None:
        (self._folder / "live").write_text("0")
        (self._folder / "bank0").rmdir()
        self._folder.rmdir()


@pytest.fixture(params=["virtual", "gpio-sim"])
def chip(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "gpio-sim" and not (SIM.is_dir() and os.access(SIM, os.W_OK)):
        pytest.skip("no gpio-sim in this kernel, or no right to use it")
    chip = Virtual(tmp_path) if request.param == "virtual" else GpioSim()
    yield chip
    chip.end()


def test_outputs_begin_safe_and_follow(chip: Any) -> None:
    assert (chip.seen(OK), chip.seen(NG)) == (False, True)
    chip.lines.write(OK, True)
    chip.lines.write(NG, False)
    assert (chip.seen(OK), chip.seen(NG)) == (True, False)
    assert chip.lines.read(OK)
    chip.lines.close()


def test_a_new_life_begins_safe_whatever_the_old_one_left(chip: Any) -> None:
    chip.lines.write(OK, True)
    chip.lines.close()
    again = chip.open()
    assert (chip.seen(OK), chip.seen(NG)) == (False, True)
    again.close()


def test_every_edge_of_an_input_is_told_with_its_time(chip: Any) -> None:
    async def listen() -> None:
        edges: list[tuple[int, bool, int]] = []
        come = asyncio.Event()

        def edge(offset: int, level: bool, at_ns: int) -> None:
            edges.append((offset, level, at_ns))
            come.set()

        chip.lines.listen(edge)
        await asyncio.sleep(0.02)
        begun = time.monotonic_ns()
        for level in (True, False, True):
            chip.pull(TRIGGER, level)
            await asyncio.wait_for(come.wait(), 5)
            come.clear()
        assert [(offset, level) for offset, level, _ in edges] == [
            (TRIGGER, True), (TRIGGER, False), (TRIGGER, True),
        ]  # fmt: skip
        assert all(begun <= at_ns <= time.monotonic_ns() for *_, at_ns in edges)
        assert chip.lines.read(TRIGGER)
        chip.lines.close()

    asyncio.run(listen())


def test_the_virtual_chip_holds_its_last_level_when_it_is_closed(tmp_path: Path) -> None:
    chip = Virtual(tmp_path)
    chip.lines.write(OK, True)
    chip.lines.close()
    assert chip.seen(OK)


def test_a_chip_that_is_not_there_is_named() -> None:
    pytest.importorskip("gpiod", reason="the extra `io` is not installed")
    from appliance.plc_io_gpiod import GpiodLines

    with pytest.raises(ConfigError, match="/dev/gpiochip99"):
        GpiodLines("/dev/gpiochip99", {0: False}, (), 0)


@pytest.mark.parametrize(
    ("number", "kind", "supervised_exit"),
    [
        (errno.ENOENT, ChipAway, EXIT_NO),
        (errno.ENODEV, ChipAway, EXIT_NO),
        (errno.ENXIO, ChipAway, EXIT_NO),
        (errno.EIO, ChipAway, EXIT_NO),
        (errno.EBUSY, AddressInUse, EXIT_NO),
        (errno.EACCES, ConfigError, EXIT_CONFIG),
        (errno.EINVAL, ConfigError, EXIT_CONFIG),
    ],
)
def test_a_chip_that_may_come_back_is_tried_again_under_supervision(
    monkeypatch: pytest.MonkeyPatch, number: int, kind: type[ConfigError], supervised_exit: int
) -> None:
    gpiod = pytest.importorskip("gpiod", reason="the extra `io` is not installed")
    from appliance.plc_io_gpiod import GpiodLines

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(gpiod, "request_lines", fail)
    with pytest.raises(ConfigError, match="/dev/gpiochip7") as caught:
        GpiodLines("/dev/gpiochip7", {0: False}, (), 0)
    assert type(caught.value) is kind
    assert exit_of(caught.value, is_supervised=True) == supervised_exit
    assert exit_of(caught.value, is_supervised=False) == EXIT_CONFIG
