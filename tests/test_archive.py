"""Archive images: lossless, whole or not there, bounded, and every loss counted by its cause."""

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from appliance import archive as archive_module
from appliance.archive import Archive, image_path, read_image, view_path
from appliance.codes import Reason, Word
from appliance.config_record import Record
from appliance.frames import RingReader, RingWriter
from appliance.messages import PixelRef, Verdict, ViewResult
from tests.waiting import until

UTC_NS = 1_790_000_000_000_000_000  # 2026-09-21


@pytest.fixture
def rings() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="insp", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def ring(rings: Path) -> Iterator[RingWriter]:
    writer = RingWriter(rings, "frame-top", slots=8, slot_bytes=1 << 20)
    yield writer
    writer.close()


@pytest.fixture
def make(tmp_path: Path, rings: Path) -> Iterator[Callable[..., Archive]]:
    made: list[Archive] = []

    def build(
        free_gb: list[float] | None = None,
        cameras: Sequence[str] = (),
        patience_s: float | None = None,
        **policy: object,
    ) -> Archive:
        settings = {"min_free_gb": 0.0, **policy}
        archive = Archive(
            tmp_path,
            Record(**settings),  # pyright: ignore[reportArgumentType]
            RingReader(rings),
            time.monotonic_ns,
            **({} if free_gb is None else {"free_bytes": lambda _: int(free_gb[0] * 1e9)}),
            cameras=cameras,
            patience_s=patience_s,
        )
        made.append(archive)
        return archive

    yield build
    for archive in made:
        archive.close()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """No picture is written until it is set."""
    gate = threading.Event()
    write = archive_module._write

    def slow(path: Path, pixels: np.ndarray) -> None:
        assert gate.wait(10)
        write(path, pixels)

    monkeypatch.setattr(archive_module, "_write", slow)
    return gate


def part(part_id: int, word: Word = Word.NG, pixels: PixelRef | None = None) -> Verdict:
    return Verdict(
        part_id=part_id,
        acq_id=part_id,
        epoch=1,
        word=word,
        reason=Reason.SEGAD,
        opened_utc_ns=UTC_NS,
        pixels=pixels,
    )


def finish(archive: Archive) -> dict[int, str]:
    """Everything that the archive has to tell, once its queue is empty."""
    news: dict[int, str] = {}

    def is_done() -> bool:
        news.update(archive.collect())
        return not archive.queued

    until("empty queue", is_done)
    return news


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    rng = np.random.default_rng(sum(shape))
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


@pytest.mark.parametrize(
    "frame",
    [
        noise(40, 60),
        noise(40, 60, 3),
        noise(40, 60, dtype=np.uint16),
        noise(40, 60, 3, dtype=np.uint16),
    ],
    ids=["mono8", "rgb8", "mono16", "rgb16"],
)
def test_what_comes_back_is_what_the_camera_gave(
    make: Callable[..., Archive], ring: RingWriter, tmp_path: Path, frame: np.ndarray
) -> None:
    archive = make()
    archive.offer(part(5, pixels=ring.put(frame)))
    assert finish(archive) == {5: "images/2026-09-21/5.png"}
    back = read_image(tmp_path / image_path(5, UTC_NS))
    assert back.dtype == frame.dtype
    np.testing.assert_array_equal(back, frame)


def test_the_file_is_an_ordinary_png(
    make: Callable[..., Archive], ring: RingWriter, tmp_path: Path
) -> None:
    """Red is red for any other program."""
    red = np.zeros((4, 4, 3), np.uint8)
    red[:, :, 0] = 255
    archive = make()
    archive.offer(part(1, pixels=ring.put(red)))
    finish(archive)
    opened = cv2.imread(str(tmp_path / image_path(1, UTC_NS)))
    assert opened is not None
    assert opened[0, 0].tolist() == [0, 0, 255]  # OpenCV reads blue first


@pytest.mark.parametrize(
    ("images", "kept"),
    [
        ("none", set()),
        ("ng", {Word.NG, Word.UNCERTAIN, Word.ERROR}),
        ("all", {Word.OK, Word.NG, Word.UNCERTAIN, Word.ERROR}),
    ],
)
def test_the_policy_says_which_parts(
    make: Callable[..., Archive], ring: RingWriter, images: str, kept: set[Word]
) -> None:
    archive = make(images=images)
    words = dict(enumerate((Word.OK, Word.NG, Word.UNCERTAIN, Word.ERROR), start=1))
    for part_id, word in words.items():
        archive.offer(part(part_id, word, ring.put(noise(8, 8))))
    archive.offer(part(9, Word.ERROR, None))  # no image: nothing was asked for
    assert {words[part_id] for part_id in finish(archive)} == kept
    assert archive.counters["archive_requested"] == archive.counters["archived"] == len(kept)
    assert archive.counters["archive_dropped"] == 0


@pytest.mark.parametrize("images", ["none", "ng"])
def test_an_order_keeps_a_picture_that_the_policy_does_not(
    make: Callable[..., Archive], ring: RingWriter, images: str
) -> None:
    archive = make(images=images)
    archive.offer(part(1, Word.OK, ring.put(noise(8, 8))))
    wanted = part(2, Word.OK, ring.put(noise(8, 8)))
    archive.offer(msgspec.structs.replace(wanted, is_kept=True))
    archive.offer(msgspec.structs.replace(part(3, Word.ERROR, None), is_kept=True))
    assert set(finish(archive)) == {2}
    assert archive.counters["archive_requested"] == 1


def test_an_overwritten_frame_is_a_counted_loss(
    make: Callable[..., Archive], ring: RingWriter, tmp_path: Path
) -> None:
    archive = make()
    old = ring.put(noise(8, 8))
    for _ in range(8):
        ring.put(noise(8, 8))
    archive.offer(part(1, pixels=old))
    assert finish(archive) == {}
    assert archive.counters["archive_dropped"] == archive.counters["dropped_overwritten"] == 1
    assert archive.dropped_at_ns is not None
    assert "overwritten" in archive.note
    assert not (tmp_path / "images").exists()


def test_a_ring_that_is_gone_is_a_counted_loss(
    make: Callable[..., Archive], ring: RingWriter
) -> None:
    archive = make()
    ref = ring.put(noise(8, 8))
    ring.path.unlink()
    archive.offer(part(1, pixels=ref))
    assert archive.counters["dropped_overwritten"] == 1


def test_the_frame_is_copied_before_its_slot_is_given_away(
    make: Callable[..., Archive], ring: RingWriter, tmp_path: Path, gate: threading.Event
) -> None:
    archive = make()
    frame = noise(16, 16)
    archive.offer(part(1, pixels=ring.put(frame)))
    for _ in range(10):
        ring.put(np.zeros((16, 16), np.uint8))
    gate.set()
    finish(archive)
    np.testing.assert_array_equal(read_image(tmp_path / image_path(1, UTC_NS)), frame)


def test_a_full_queue_drops_good_parts_first_and_counts(
    make: Callable[..., Archive],
    ring: RingWriter,
    gate: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(archive_module, "QUEUE_IMAGES", 4)
    archive = make(images="all")
    for part_id in (1, 2, 3):
        archive.offer(part(part_id, Word.OK, ring.put(noise(8, 8))))
    for part_id in (4, 5, 6):
        archive.offer(part(part_id, Word.NG, ring.put(noise(8, 8))))
    assert archive.queued == 4
    gate.set()
    assert set(finish(archive)) == {1, 2, 4, 5}
    assert archive.counters["dropped_queue_full"] == 2
    assert archive.counters["archive_requested"] == 6


def test_the_same_verdict_again_is_one_image(
    make: Callable[..., Archive], ring: RingWriter
) -> None:
    archive = make()
    verdict = part(1, pixels=ring.put(noise(8, 8)))
    archive.offer(verdict)
    archive.offer(verdict)
    assert finish(archive) == {1: image_path(1, UTC_NS)}
    archive.offer(verdict)
    assert finish(archive) == {}
    assert archive.counters["archive_requested"] == archive.counters["archived"] == 1


def test_beyond_the_number_the_oldest_go_and_their_rows_are_told(
    make: Callable[..., Archive], ring: RingWriter, tmp_path: Path
) -> None:
    archive = make(max_images=3)
    news: dict[int, str] = {}
    for part_id in range(1, 6):
        archive.offer(part(part_id, pixels=ring.put(noise(8, 8))))
        news |= finish(archive)
    assert news[1] == news[2] == ""
    assert {path.stem for path in tmp_path.rglob("*.png")} == {"3", "4", "5"}
    assert archive.counters["images_removed"] == 2


def test_a_low_disk_stops_the_archive_and_it_goes_on_by_itself(
    make: Callable[..., Archive], ring: RingWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_module, "_DISK_CHECK_NS", 0)
    free_gb = [1.9]
    archive = make(free_gb, min_free_gb=2.0)
    archive.offer(part(1, pixels=ring.put(noise(8, 8))))
    assert archive.is_disk_low
    assert archive.counters["dropped_disk_low"] == archive.counters["archive_dropped"] == 1
    assert "2 GB" in archive.note
    free_gb[0] = 2.1
    archive.offer(part(2, pixels=ring.put(noise(8, 8))))
    assert set(finish(archive)) == {2}
    assert not archive.is_disk_low
    assert archive.note == ""


def test_a_failed_write_is_counted_and_leaves_nothing(
    make: Callable[..., Archive], ring: RingWriter, tmp_path: Path
) -> None:
    archive = make()
    (tmp_path / "images").write_text("a file where the directory should be")
    archive.offer(part(1, pixels=ring.put(noise(8, 8))))
    assert finish(archive) == {}
    assert archive.counters["dropped_write_failed"] == 1
    assert "images" in archive.note
    (tmp_path / "images").unlink()
    archive.offer(part(2, pixels=ring.put(noise(8, 8))))
    assert set(finish(archive)) == {2}


def test_a_bug_in_the_writing_thread_is_not_swallowed(
    make: Callable[..., Archive], ring: RingWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path, pixels: np.ndarray) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(archive_module, "_write", broken)
    archive = make()
    archive.offer(part(1, pixels=ring.put(noise(8, 8))))
    with pytest.raises(ZeroDivisionError):
        finish(archive)


def test_a_start_removes_leftovers_and_knows_the_old_images(
    make: Callable[..., Archive], ring: RingWriter, tmp_path: Path
) -> None:
    day = tmp_path / "images" / "2026-09-21"
    day.mkdir(parents=True)
    (day / ".7.png.k3j4h5").write_bytes(b"half of a p")
    first = make(max_images=2)
    first.offer(part(1, pixels=ring.put(noise(8, 8))))
    finish(first)
    assert not list(day.glob(".*"))
    again = make(max_images=2)
    assert finish(again) == {1: image_path(1, UTC_NS)}  # its row may have missed the path
    for part_id in (2, 3):
        again.offer(part(part_id, pixels=ring.put(noise(8, 8))))
        finish(again)
    assert {path.stem for path in day.iterdir()} == {"2", "3"}


def test_stopping_finishes_the_queue(
    make: Callable[..., Archive], ring: RingWriter, tmp_path: Path
) -> None:
    archive = make()
    for part_id in range(1, 7):
        archive.offer(part(part_id, pixels=ring.put(noise(400, 400))))
    archive.close()
    assert set(archive.collect()) == set(range(1, 7))


def test_what_cannot_be_finished_in_time_is_counted(
    make: Callable[..., Archive], ring: RingWriter, gate: threading.Event
) -> None:
    archive = make()
    for part_id in (1, 2, 3):
        archive.offer(part(part_id, pixels=ring.put(noise(8, 8))))
    archive.close(timeout_s=0.05)
    gate.set()
    assert archive.counters["archive_dropped"] == 2  # the third is in the hands of the disk
    finish(archive)


def test_a_file_that_is_no_picture_is_named(tmp_path: Path) -> None:
    path = tmp_path / "1.png"
    for content in (b"", b"not a picture"):
        path.write_bytes(content)
        with pytest.raises(OSError, match=r"1\.png.*PNG"):
            read_image(path)


def test_the_pictures_of_several_cameras_come_and_go_together(
    make: Callable[..., Archive], ring: RingWriter, tmp_path: Path
) -> None:
    """The part's own picture is that of the view that decided; the others lie beside it."""
    shown = {camera: noise(8, 8 + index) for index, camera in enumerate(("left", "right", "top"))}
    views = tuple(
        ViewResult(camera=camera, word=Word.NG, reason=Reason.SEGAD, pixels=ring.put(shown[camera]))
        for camera in shown
    )
    verdict = part(1, pixels=views[1].pixels)
    verdict = msgspec.structs.replace(verdict, camera="right", views=views)
    archive = make(cameras=tuple(shown))
    archive.offer(verdict)
    archive.close()
    path = image_path(1, UTC_NS)
    assert archive.collect() == {1: path}
    others = {camera: tmp_path / view_path(path, camera) for camera in ("left", "top")}
    assert np.array_equal(read_image(tmp_path / path), shown["right"])
    for camera, file in others.items():
        assert np.array_equal(read_image(file), shown[camera])
    assert make(cameras=tuple(shown)).kept() == {path: 1}, "a part counts once"
    assert all(file.exists() for file in others.values())
    assert archive.remove(path)
    assert not any(file.exists() for file in (tmp_path / path, *others.values()))


def test_a_view_whose_part_was_not_written_any_more_goes_at_the_next_start(
    make: Callable[..., Archive], tmp_path: Path
) -> None:
    lonely = tmp_path / view_path(image_path(5, UTC_NS), "left")
    lonely.parent.mkdir(parents=True)
    lonely.write_bytes(b"")
    make(cameras=("left", "right"))
    assert not lonely.exists()


def slow_look(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The look at what earlier runs left waits for this event."""
    may_look, glob = threading.Event(), Path.glob

    def slow(path: Path, pattern: str) -> Iterator[Path]:
        assert may_look.wait(10)
        return glob(path, pattern)

    monkeypatch.setattr(Path, "glob", slow)
    return may_look


def test_while_stock_is_taken_pictures_go_on_and_none_of_them_is_a_leftover(
    make: Callable[..., Archive], ring: RingWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million pictures on a slow disk: minutes. Files that are half written then are ours."""
    day = (tmp_path / image_path(1, UTC_NS)).parent
    first = make()
    first.offer(part(1, pixels=ring.put(noise(8, 8))))
    finish(first)
    (day / ".7.png.k3j4h5").write_bytes(b"half of a p")
    may_look = slow_look(monkeypatch)
    archive = make(max_images=2, patience_s=0.01)
    assert not archive.is_stocked
    old = part(1, pixels=ring.put(noise(8, 8)))
    archive.offer(old)  # sent again by decide: its picture is there
    assert archive.queued == 0
    for part_id in (2, 3):
        archive.offer(part(part_id, pixels=ring.put(noise(8, 8))))
    assert set(finish(archive)) == {2, 3}
    half = day / ".3.left.png.aaaaaa"
    half.write_bytes(b"")
    may_look.set()
    news: dict[int, str] = {}

    def is_stocked() -> bool:
        news.update(archive.collect())
        return archive.is_stocked

    until("the stock", is_stocked)
    assert half.exists() and not (day / ".7.png.k3j4h5").exists()
    assert list(archive.kept().values()) == [2, 3], "the oldest one went: two are the most"
    assert news[1] == ""


def test_before_the_stock_is_taken_nothing_of_today_goes_as_the_oldest(
    make: Callable[..., Archive], ring: RingWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make()
    for part_id in (1, 2):
        first.offer(part(part_id, pixels=ring.put(noise(8, 8))))
    finish(first)
    may_look = slow_look(monkeypatch)
    archive = make(max_images=2, patience_s=0.01)
    for part_id in (3, 4, 5):
        archive.offer(part(part_id, pixels=ring.put(noise(8, 8))))
    finish(archive)
    assert list(archive.kept().values()) == [3, 4, 5]
    may_look.set()
    until("the stock", lambda: archive.collect() is not None and archive.is_stocked)
    assert list(archive.kept().values()) == [4, 5]
    assert {path.stem for path in tmp_path.rglob("*.png")} == {"4", "5"}


def test_what_is_too_much_goes_a_few_at_a_time(
    make: Callable[..., Archive], ring: RingWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`max_images` was lowered: a million removals in one turn would be a recorder that hangs."""
    monkeypatch.setattr(archive_module, "_REMOVE", 2)
    first = make()
    for part_id in range(1, 8):
        first.offer(part(part_id, pixels=ring.put(noise(8, 8))))
        finish(first)
    archive = make(max_images=2)
    left: list[int] = []
    for _ in range(4):
        archive.collect()
        left.append(len(list(tmp_path.rglob("*.png"))))
    assert left == [5, 3, 2, 2]


def test_a_folder_that_cannot_be_read_hides_no_other(
    make: Callable[..., Archive], ring: RingWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make()
    first.offer(part(1, pixels=ring.put(noise(8, 8))))
    finish(first)
    images, iterdir = tmp_path / "images", Path.iterdir
    for day in ("2026-09-19", "2026-09-20", "2026-09-22"):
        (images / day).mkdir()

    def look(path: Path) -> Iterator[Path]:
        if path.name == "2026-09-20":
            raise FileNotFoundError(path)  # a person took it meanwhile
        if path.name == "2026-09-22":
            raise OSError(5, "Input/output error")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", look)
    (images / "notes.txt").touch()
    archive = make()
    assert list(archive.kept().values()) == [1]
    assert "Input/output error" in archive.note
