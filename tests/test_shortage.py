"""Memory and open files: what a process says of itself, and when a person is warned."""

import subprocess
import sys
from pathlib import Path

import pytest

from appliance.companions import Companions
from appliance.messages import Health
from appliance.shortage import Shortage

_S = 1_000_000_000


def health(process: str, memory_mb: float = 50.0, files: float = 20.0) -> Health:
    gauges = {"memory_mb": memory_mb, "open_files": files, "open_files_limit": 1000.0}
    return Health(process=process, pid=1, is_serving=True, gauges=gauges)


def left(folder: Path, percent: float) -> None:
    text = f"MemTotal:        4000000 kB\nMemFree: 1 kB\nMemAvailable: {int(percent * 40_000)} kB\n"
    (folder / "meminfo").write_text(text)


def alone(code: str) -> None:
    """In a process of its own: nothing else opens files or frees memory meanwhile."""
    imports = "import os, resource\nfrom appliance.shortage import give_back, own_use\n"
    subprocess.run([sys.executable, "-c", imports + code], check=True)


def test_a_process_says_what_it_uses() -> None:
    alone(
        "before = own_use()\n"
        "assert 5 < before['memory_mb'] < 100_000, before\n"
        "assert 3 <= before['open_files'] <= before['open_files_limit'], before\n"
        "held = os.pipe()\n"
        "assert own_use()['open_files'] == before['open_files'] + 2\n"
    )


def test_memory_that_is_free_between_pieces_in_use_goes_back() -> None:
    alone(
        "held = [b'x' * (20_000 + n % 2) for n in range(5_000)]  # 100 MB of the heap\n"
        "del held[::2]\n"
        "scattered = own_use()['memory_mb']\n"
        "give_back()\n"
        "assert own_use()['memory_mb'] < scattered - 30\n"
        "assert len(held) == 2_500\n"
    )


def test_every_process_gives_back_now_and_then_whatever_it_has_to_do() -> None:
    alone(
        "from appliance.service import Service\n"
        "now_ns = 0\n"
        "service = Service('decide', lambda: now_ns)\n"
        "held = [b'x' * (20_000 + n % 2) for n in range(5_000)]\n"
        "del held[::2]\n"
        "scattered = own_use()['memory_mb']\n"
        "for now_ns in range(0, 60_000_000_000, 100_000_000):\n"
        "    service.turn()\n"
        "assert own_use()['memory_mb'] < scattered - 30\n"
    )


def test_a_warning_begins_below_5_percent_and_ends_above_7(tmp_path: Path) -> None:
    shortage = Shortage(tmp_path)
    for percent, is_short in ((50, False), (5.1, False), (4.9, True), (6.9, True), (7.1, False)):
        left(tmp_path, percent)
        shortage.look(0)
        assert bool(shortage.notes) == is_short, percent


def test_the_note_names_who_uses_most(tmp_path: Path) -> None:
    shortage = Shortage(tmp_path)
    left(tmp_path, 2)
    shortage.look(0)
    assert shortage.notes == ("memory runs short: less than 5% of 4000 MB are left",)
    for process, memory_mb in (("decide", 90.0), ("infer:0", 3000.0), ("record", 80.0)):
        shortage.heard(health(process, memory_mb), 0)
    shortage.heard(Health(process="hmi", pid=1, is_serving=True), 0)  # an older one says nothing
    assert shortage.notes == (
        "memory runs short: less than 5% of 4000 MB are left; of the line infer:0 uses most",
    )


def test_a_process_with_too_many_open_files_is_named(tmp_path: Path) -> None:
    shortage = Shortage(tmp_path)
    shortage.heard(health("record", files=801), 0)
    shortage.heard(health("decide", files=799), 0)
    assert shortage.notes == ("record: more than 80% of the files that it may open are open",)
    shortage.heard(health("record"), 0)
    assert shortage.notes == ()


@pytest.mark.parametrize("text", ["", "MemTotal: kB\n", "MemTotal: x kB\n", "MemTotal: 5 kB\n"])
def test_a_kernel_that_does_not_say_warns_of_nothing_and_is_named(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "meminfo").write_text(text)
    shortage = Shortage(tmp_path)
    shortage.look(0)
    assert shortage.notes == ()
    assert shortage.unknown == f"{tmp_path}/meminfo does not say how much memory is left"
    left(tmp_path, 50)
    shortage.look(0)
    assert shortage.unknown == ""


def test_what_a_process_said_before_it_ended_holds_no_more(tmp_path: Path) -> None:
    shortage = Shortage(tmp_path)
    shortage.heard(health("record", files=900), 100 * _S)
    shortage.look(102 * _S)
    assert shortage.notes != ()
    shortage.look(104 * _S)
    assert shortage.notes == ()


def test_a_shortage_that_cannot_be_read_any_more_is_over(tmp_path: Path) -> None:
    shortage = Shortage(tmp_path)
    left(tmp_path, 2)
    shortage.look(0)
    assert shortage.notes != ()
    (tmp_path / "meminfo").unlink()
    shortage.look(0)
    assert shortage.notes == ()
    assert shortage.unknown != ""


def test_a_process_that_may_open_no_more_files_still_says_so() -> None:
    alone(
        "resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))\n"
        "try:\n"
        "    while True: os.dup(0)\n"
        "except OSError:\n"
        "    use = own_use()\n"
        "assert use['open_files'] == use['open_files_limit'] == 20, use\n"
        "assert 5 < use['memory_mb'] < 100_000, use\n"
    )


def test_a_companion_is_missed_when_it_is_silent_or_never_comes_up() -> None:
    companions = Companions(("hmi", "bus"), 0)
    assert not companions.heard(health("record"), 0)
    assert companions.notes(29 * _S) == ()
    assert companions.heard(health("hmi"), 29 * _S)
    assert companions.notes(31 * _S) == ("bus: no sign of life",)
    companions.heard(health("bus"), 32 * _S)
    assert companions.notes(33 * _S) == ("hmi: no sign of life",)
    companions.heard(health("hmi"), 34 * _S)
    assert companions.notes(35 * _S) == ()
