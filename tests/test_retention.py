"""What goes when the disk fills or things grow old, and what never does."""

import os
from pathlib import Path

import pytest

from appliance import retention as retention_module
from appliance.archive import Archive
from appliance.codes import Word
from appliance.config_record import Record
from appliance.frames import RingReader
from appliance.retention import STEP, Retention

NOW_S = 1_790_000_000.0
DAY_S = 86_400
MB = 1_000_000


class Disk:
    """A data directory on a disk of a given size, and the clock of its recorder."""

    def __init__(self, folder: Path, room: int, **policy: float) -> None:
        self.folder, self.room = folder, room
        self.now_ns = 10**12
        self.wall_s = NOW_S
        self.is_synced = True
        self.words: dict[int, Word] = {}
        self.policy = Record(**{"min_free_gb": 0.01, **policy})  # pyright: ignore[reportArgumentType]

    def image(self, part_id: int, word: Word, days: float = 0.0) -> Path:
        self.words[part_id] = word
        return self._file(f"images/2026-09-21/{part_id}.png", days)

    def segment(self, name: str, days: float = 0.0) -> Path:
        return self._file(f"recordings/r/{name}.mcap", days)

    def _file(self, name: str, days: float) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(MB))
        made_s = NOW_S - days * DAY_S
        os.utime(path, (made_s, made_s))
        return path

    def free(self, _: Path) -> int:
        used = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
        return self.room - used

    def open(self) -> tuple[Archive, Retention]:
        rings = RingReader(self.folder)
        archive = Archive(self.folder, self.policy, rings, lambda: self.now_ns, self.free)
        archive.check_disk()
        known = lambda ids: {n: self.words[n] for n in ids if n in self.words}  # noqa: E731
        retention = Retention(
            self.folder, self.policy, archive, known, lambda: self.now_ns, lambda: self.wall_s,
            lambda: self.is_synced,
        )  # fmt: skip
        return archive, retention

    def left(self) -> set[str]:
        return {path.name for path in self.folder.rglob("*") if path.is_file()}


def test_ok_goes_before_uncertain_before_error_before_ng_and_old_before_new(
    tmp_path: Path,
) -> None:
    disk = Disk(tmp_path, room=0)
    order = [
        disk.image(4, Word.OK, 3),
        disk.segment("000002.ok", 2),
        disk.image(1, Word.OK, 1),
        disk.image(3, Word.UNCERTAIN, 9),
        disk.segment("000001.error", 8),
        disk.segment("000003.ng", 7),
        disk.image(2, Word.NG, 6),
    ]
    for gone in range(1, len(order) + 1):
        # Deleting begins at 15 MB free and 10 MB are the limit: room for all but `gone` files.
        disk.room = 15 * MB + MB * (len(order) - gone)
        disk.now_ns += 11 * 10**9
        archive, retention = disk.open()
        assert retention.step() == 1
        assert disk.left() == {path.name for path in order[gone:]}
        assert retention.step() == 0
        archive.close()


def test_what_is_protected_stays_whatever_happens(tmp_path: Path) -> None:
    disk = Disk(tmp_path, room=MB)
    kept = disk.image(1, Word.OK)
    kept.with_name("1.png.keep").touch()
    disk.image(2, Word.OK)
    disk.segment("000001.ok")
    (tmp_path / "recordings" / "r" / "keep").touch()
    archive, retention = disk.open()
    assert retention.step() == 1
    assert disk.left() == {"1.png", "1.png.keep", "000001.ok.mcap", "keep"}
    archive.close()


def test_age_alone_takes_what_is_older_and_tells_the_rows(tmp_path: Path) -> None:
    disk = Disk(tmp_path, room=10**12, max_age_days=30)
    disk.image(1, Word.NG, 31)
    disk.image(2, Word.OK, 29)
    disk.segment("000001.ng", 40)
    archive, retention = disk.open()
    assert retention.step() == 2
    assert disk.left() == {"2.png"}
    assert archive.collect()[1] == ""
    archive.close()


def test_each_goes_on_its_own_day_and_none_before(tmp_path: Path) -> None:
    disk = Disk(tmp_path, room=10**12, max_age_days=30)
    for part, days in ((1, 29.5), (2, 28.5), (3, 20)):
        disk.image(part, Word.NG if part == 2 else Word.OK, days)
    archive, retention = disk.open()
    assert retention.step() == 0
    for left in ({"2.png", "3.png"}, {"3.png"}, {"3.png"}):
        later(disk, DAY_S)
        retention.step()
        assert disk.left() == left
    archive.close()


def aged(tmp_path: Path) -> Disk:
    """A picture a day for 40 days, of which 30 are kept, and nobody keeps the clock."""
    disk = Disk(tmp_path, room=10**12, max_age_days=30)
    for day in range(1, 41):
        disk.image(41 - day, Word.NG, day)
    disk.is_synced = False
    return disk


def later(disk: Disk, seconds: float, wall_s: float | None = None) -> None:
    """wall_s: by how much the wall clock moved meanwhile, where not by the same."""
    disk.now_ns += int(seconds * 1e9)
    disk.wall_s += seconds if wall_s is None else wall_s


def test_without_a_synchronised_clock_age_goes_on_while_the_clock_does(tmp_path: Path) -> None:
    disk = aged(tmp_path)
    archive, retention = disk.open()
    assert retention.step() == 10
    for _ in range(3):
        later(disk, DAY_S)
        assert retention.step() == 0, "the list of yesterday proves nothing: it is made anew"
        assert retention.step() == 1
    assert retention.note == ""
    archive.close()


@pytest.mark.parametrize("look", [7, 500])
def test_a_clock_that_leaps_ahead_removes_nothing_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: int
) -> None:
    monkeypatch.setattr(retention_module, "LOOK", look)
    disk = aged(tmp_path)
    archive, retention = disk.open()
    assert sum(retention.step() for _ in range(10)) == 10
    later(disk, 60, 3650 * DAY_S)
    for _ in range(10):
        assert retention.step() == 0
    assert retention.waiting == 30 and "30 files" in retention.note
    later(disk, 60, -3650 * DAY_S)
    assert retention.step() == 0 and retention.note == "", "somebody set it right again"
    archive.close()


def test_a_clock_that_leapt_while_the_box_was_off_removes_nothing_for_a_week(
    tmp_path: Path,
) -> None:
    disk = aged(tmp_path)
    disk.wall_s += 3650 * DAY_S
    for day in range(7):  # each a new start, with a picture that is made under the new clock
        disk.image(100 + day, Word.NG, -3650 - day)
        archive, retention = disk.open()
        assert retention.step() == 0 and retention.waiting == 40
        archive.close()
        later(disk, DAY_S)
    disk.image(200, Word.NG, -3657)
    archive, retention = disk.open()
    assert retention.step() == STEP and retention.note == ""
    archive.close()


def test_a_clock_that_is_kept_is_believed_and_a_full_disk_asks_no_clock(tmp_path: Path) -> None:
    disk = aged(tmp_path)
    disk.wall_s += 3650 * DAY_S
    archive, retention = disk.open()
    assert retention.step() == 0
    disk.room = 0
    archive.check_disk(is_now=True)
    assert retention.step() == STEP
    disk.room, disk.is_synced = 10**12, True
    archive.check_disk(is_now=True)
    assert retention.step() == STEP
    assert disk.left() == set()
    archive.close()


@pytest.mark.parametrize("is_synced", [True, False])
def test_a_clock_that_was_behind_makes_nothing_old_that_is_new(
    tmp_path: Path, is_synced: bool
) -> None:
    """A box without a battery begins in 1970; minutes later its clock is set right."""
    disk = aged(tmp_path)
    disk.is_synced = is_synced
    later(disk, 0, -NOW_S)
    archive, retention = disk.open()
    assert retention.step() == 0
    later(disk, 60)
    new = disk.segment("000001.ng", (NOW_S - 60) / DAY_S)
    later(disk, 60, NOW_S - 60)
    assert sum(retention.step() for _ in range(10)) == 10
    assert new.stat().st_mtime == pytest.approx(NOW_S - 60, abs=1)
    disk.is_synced = True
    later(disk, 31 * DAY_S)
    assert sum(retention.step() for _ in range(10)) == 31, "it grows old as all others do"
    assert not new.exists()
    archive.close()


def test_a_clock_that_was_set_ahead_and_back_moves_no_date(tmp_path: Path) -> None:
    disk = Disk(tmp_path, room=10**12, max_age_days=30)
    disk.is_synced = False
    archive, retention = disk.open()
    later(disk, 60)
    disk.segment("000001.ng", -60 / DAY_S)
    for leap in (3650, -3650):
        later(disk, 60, leap * DAY_S + 60)
        for _ in range(4):
            assert retention.step() == 0
    disk.is_synced = True
    later(disk, 31 * DAY_S)
    assert sum(retention.step() for _ in range(4)) == 1
    archive.close()


def test_a_disk_with_room_is_left_alone(tmp_path: Path) -> None:
    disk = Disk(tmp_path, room=10**12)
    disk.image(1, Word.OK, 1000)
    archive, retention = disk.open()
    assert retention.step() == 0
    archive.close()


def test_good_parts_that_came_since_go_before_what_was_rejected(tmp_path: Path) -> None:
    disk = Disk(tmp_path, room=17 * MB)  # deleting begins at 15 MB free
    disk.segment("000001.ok", 3)
    rejected = {disk.segment("000002.ng", 2).name, disk.segment("000003.ng", 1).name}
    archive, retention = disk.open()
    assert retention.step() == 1
    assert disk.left() == rejected
    for number in range(4, 8):
        disk.segment(f"{number:06d}.ok")
    disk.now_ns += 11 * 10**9
    archive.check_disk(is_now=True)
    assert retention.step() == 4
    assert disk.left() == rejected
    disk.segment("000008.ng")
    archive.check_disk(is_now=True)
    assert retention.step() == 1, "what the last look found goes without waiting for another"
    assert disk.left() == {"000003.ng.mcap", "000008.ng.mcap"}
    archive.close()


def test_many_files_are_looked_at_in_small_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention_module, "LOOK", 4)
    disk = Disk(tmp_path, room=0)
    for part_id in range(1, 10):
        disk.image(part_id, Word.NG if part_id < 9 else Word.OK, 20 - part_id)
    archive, retention = disk.open()
    disk.room = 15 * MB + 8 * MB
    archive.check_disk(is_now=True)
    assert [retention.step() for _ in range(4)] == [0, 0, 1, 0]
    assert "9.png" not in disk.left(), "nothing goes before all was looked at: the OK one is last"
    archive.close()


def test_a_step_is_small(tmp_path: Path) -> None:
    disk = Disk(tmp_path, room=0)
    for part_id in range(1, 2 * STEP):
        disk.image(part_id, Word.OK)
    archive, retention = disk.open()
    assert retention.step() == STEP
    assert retention.step() == STEP - 1
    archive.close()


@pytest.mark.parametrize("protected", [0, 2])
def test_the_most_images_leave_out_the_protected(tmp_path: Path, protected: int) -> None:
    disk = Disk(tmp_path, room=10**12, max_images=3)
    for part_id in range(1, 7):
        path = disk.image(part_id, Word.OK, 10 - part_id)
        if part_id <= protected:
            path.with_name(f"{path.name}.keep").touch()
    archive, _ = disk.open()
    for _ in range(3):
        archive.collect()
    left = {name for name in disk.left() if name.endswith(".png")}
    expected = {"4.png", "5.png", "6.png"} if not protected else {"1.png", "2.png", "6.png"}
    assert left == expected
    archive.close()
