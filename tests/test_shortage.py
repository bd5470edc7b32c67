"""Memory and open files: what a process says of itself, and when a person is warned."""

from pathlib import Path

import pytest

from appliance.companions import Companions
from appliance.messages import Health
from appliance.shortage import Shortage, give_back, own_use

_S = 1_000_000_000


def health(process: str, memory_mb: float = 50.0, files: float = 20.0) -> Health:
    gauges = {"memory_mb": memory_mb, "open_files": files, "open_files_limit": 1000.0}
    return Health(process=process, pid=1, is_serving=True, gauges=gauges)


def left(folder: Path, percent: float) -> None:
    text = f"MemTotal:        4000000 kB\nMemFree: 1 kB\nMemAvailable: {int(percent * 40_000)} kB\n"
    (folder / "meminfo").write_text(text)


def test_a_process_says_what_it_uses(tmp_path: Path) -> None:
    before = own_use()
    assert 5 < before["memory_mb"] < 100_000
    assert 3 <= before["open_files"] <= before["open_files_limit"]
    with (tmp_path / "a").open("w"), (tmp_path / "b").open("w"):
        assert own_use()["open_files"] == before["open_files"] + 2


def test_memory_that_is_free_between_pieces_in_use_goes_back() -> None:
    held = [b"x" * (20_000 + n % 2) for n in range(5_000)]  # 100 MB of the heap
    full = own_use()["memory_mb"]
    del held[::2]
    scattered = own_use()["memory_mb"]
    give_back()
    assert own_use()["memory_mb"] < full - 30
    assert own_use()["memory_mb"] < scattered - 30
    assert len(held) == 2_500


def test_a_warning_begins_below_5_percent_and_ends_above_7(tmp_path: Path) -> None:
    shortage = Shortage(tmp_path)
    for percent, is_short in ((50, False), (5.1, False), (4.9, True), (6.9, True), (7.1, False)):
        left(tmp_path, percent)
        shortage.look()
        assert bool(shortage.notes) == is_short, percent


def test_the_note_names_who_uses_most(tmp_path: Path) -> None:
    shortage = Shortage(tmp_path)
    left(tmp_path, 2)
    shortage.look()
    assert shortage.notes == ("memory runs short: less than 5% of 4000 MB are left",)
    for process, memory_mb in (("decide", 90.0), ("infer:0", 3000.0), ("record", 80.0)):
        shortage.heard(health(process, memory_mb))
    shortage.heard(Health(process="hmi", pid=1, is_serving=True))  # an older one says nothing
    assert shortage.notes == (
        "memory runs short: less than 5% of 4000 MB are left; of the line infer:0 uses most",
    )


def test_a_process_with_too_many_open_files_is_named(tmp_path: Path) -> None:
    shortage = Shortage(tmp_path)
    shortage.heard(health("record", files=801))
    shortage.heard(health("decide", files=799))
    assert shortage.notes == ("record: more than 80% of the files that it may open are open",)
    shortage.heard(health("record"))
    assert shortage.notes == ()


@pytest.mark.parametrize("text", ["", "MemTotal: kB\n", "MemTotal: x kB\n", "MemTotal: 5 kB\n"])
def test_a_kernel_that_does_not_say_warns_of_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "meminfo").write_text(text)
    shortage = Shortage(tmp_path)
    shortage.look()
    assert shortage.notes == ()


def test_a_companion_is_missed_once_it_was_heard() -> None:
    companions = Companions(("hmi", "bus"))
    assert not companions.heard(health("record"), 0)
    assert companions.notes(100 * _S) == ()
    assert companions.heard(health("hmi"), 100 * _S)
    assert companions.notes(103 * _S) == ()
    assert companions.notes(104 * _S) == ("hmi: no sign of life for more than 3 s",)
    companions.heard(health("hmi"), 105 * _S)
    assert companions.notes(106 * _S) == ()
