"""What the page says, without a browser."""

import math
from typing import Any

import numpy as np
import pytest
from nicegui import Client, ui
from nicegui.page import page

from appliance import hmi_texts as texts
from appliance.codes import FaultCode, OfflineReason, Reason, State, Status1, Status2, Word
from appliance.hmi_page import LivePage
from appliance.hmi_screen import Picture
from appliance.hmi_view import AGED_NS, PATIENCE_NS, SILENT_NS, STRIP, LiveView
from appliance.messages import Health, PixelRef, Verdict, ViewResult, Words

S = 1_000_000_000
NOW = 1000 * S
PROCESSES = ("camera:top", "infer:0", "decide", "record")
REF = PixelRef(ring="frame-top.1.ring", epoch=1, slot=0, sequence=1, shape=(80, 100), dtype="uint8")
PICTURE = Picture(size_px=(100, 80), roi_px=(10, 8, 50, 40), has_heat=True, regions="abcd")


def verdict(part_id: int, word: Word = Word.OK, **changes: Any) -> Verdict:
    fields: dict[str, Any] = {
        "part_id": part_id,
        "acq_id": part_id,
        "epoch": 2,
        "word": word,
        "reason": Reason.NONE if word is Word.OK else Reason.SEGAD,
        "margin": -3.0,
        "t1": -1.0,
        "t2": 1.5,
        "latency_ns": 20_000_000,
        "deadline_ns": 200_000_000,
    }
    return Verdict(**{**fields, **changes})


def words(**changes: Any) -> Words:
    registers = {
        100: int(Status1.ONLINE | Status1.TRIGGER_READY),
        101: int(Status2.CAMERA_OK),
        104: int(State.READY),
        105: 0,
        106: 0,
        146: 2,
    }
    registers |= changes.pop("registers", {})
    return Words(registers=registers, **changes)


@pytest.fixture
def view() -> LiveView:
    view = LiveView(PROCESSES)
    view.words(words(), NOW)
    return view


@pytest.mark.parametrize(
    ("table", "codes"),
    [
        (texts.WORDS, Word),
        (texts.SIGNS, Word),
        (texts.REASONS, Reason),
        (texts.STATES, State),
        (texts.OFFLINE, OfflineReason),
        (texts.FAULTS, FaultCode),
    ],
)
def test_every_code_has_words(table: dict[Any, str], codes: Any) -> None:
    assert set(table) == set(codes)


def test_before_anything_came_nothing_looks_good() -> None:
    screen = LiveView(PROCESSES).screen(NOW)
    assert screen.is_silent
    assert not screen.is_ready
    assert screen.part is None
    assert (screen.unaccounted, screen.unaccounted_tone) == (texts.NO_DATA, "")
    assert {tile.value for tile in screen.counters} == {texts.NO_DATA}
    assert {process.tone for process in screen.processes} == {"error"}


def test_half_a_second_of_silence_is_an_alarm(view: LiveView) -> None:
    view.verdict(verdict(1), NOW)
    assert not view.screen(NOW + SILENT_NS).is_silent
    screen = view.screen(NOW + SILENT_NS + 1)
    assert screen.is_silent
    assert screen.state_tone == "error"
    assert not screen.is_ready
    assert "0.5 s" in screen.silent_detail
    view.words(words(), NOW + 2 * S)
    assert not view.screen(NOW + 2 * S).is_silent


def test_other_processes_do_not_make_up_for_decide(view: LiveView) -> None:
    view.health(Health(process="record", pid=1, is_serving=True), NOW + 5 * S)
    assert view.screen(NOW + 5 * S).is_silent


def test_a_part_in_words(view: LiveView) -> None:
    view.verdict(
        verdict(
            7,
            Word.NG,
            margin=2.5,
            part_text="<b>SN</b>",
            part_tag=12,
            decides="segad",
            reasons=("rim mean +1",),
            is_challenge=True,
            recipe="cell/3",
        ),
        NOW,
    )
    part = view.screen(NOW).part
    assert part is not None
    assert (part.word, part.sign, part.tone) == ("NG", "✕", "ng")
    assert part.title == "Part 7"
    assert part.tag == "<b>SN</b>"  # as it came: the page shows text
    assert part.reason == texts.REASONS[Reason.SEGAD]
    assert (part.margin, part.t1, part.t2) == ("+2.50", "T1 −1.00", "T2 +1.50")
    assert part.place is not None
    assert part.place > 2 / 3
    assert part.decides == "region forest"
    assert part.latency == "20 of 200 ms"
    assert part.is_challenge


@pytest.mark.parametrize("margin", [None, math.nan, math.inf])
def test_a_part_without_a_score_has_no_place_on_the_scale(
    view: LiveView, margin: float | None
) -> None:
    view.verdict(verdict(1, Word.ERROR, margin=margin), NOW)
    part = view.screen(NOW).part
    assert part is not None
    assert part.place is None


def test_every_view_has_its_words_and_its_own_picture(view: LiveView) -> None:
    """The part itself is the view that decided; the page can show any other."""
    views = (
        ViewResult(camera="left", word=Word.OK, reason=Reason.NONE, frame_id=5),
        ViewResult(camera="right", word=Word.NG, reason=Reason.SEGAD, frame_id=5, pixels=REF),
        ViewResult(camera="top", word=Word.ERROR, reason=Reason.NO_IMAGE),
    )
    whole = verdict(1, Word.NG, camera="right", views=views, pixels=REF, epoch=7)
    view.verdict(whole, NOW)
    assert view.wanted() == ([whole], [whole])
    # Once as the newest part, once in the strip; the view without a picture is not asked for.
    assert view.wanted_views() == [(whole, "left")] * 2
    view.pictured(1, PICTURE)
    view.pictured(1, PICTURE, "left")
    assert view.wanted_views() == []
    part = view.screen(NOW).part
    assert part is not None and part.image is not None
    assert (part.camera, part.image.base) == ("right", "/part/1.jpg?e=7")
    assert part.image.caption.endswith("right")
    assert [(one.camera, one.word) for one in part.views] == [
        ("left", "OK"), ("right", "NG"), ("top", "ERROR"),
    ]  # fmt: skip
    images = [one.image.base if one.image else "" for one in part.views]
    assert images == ["/part/1/left.jpg?e=7", "/part/1.jpg?e=7", ""]


def test_verdict_and_picture_appear_together(view: LiveView) -> None:
    view.verdict(verdict(1, pixels=REF), NOW)
    assert view.screen(NOW).part is None
    view.pictured(1, PICTURE)
    view.verdict(verdict(2, Word.NG, pixels=REF), NOW + 1)
    screen = view.screen(NOW + 2)
    assert screen.part is not None
    assert screen.part.part_id == 1
    view.pictured(2, PICTURE)
    screen = view.screen(NOW + 3)
    assert screen.part is not None
    assert (screen.part.part_id, screen.part.word) == (2, "NG")
    image = screen.part.image
    assert image is not None
    assert image.base == "/part/2.jpg?e=2"
    assert image.heat.startswith("/part/2/heat.png")
    assert image.regions == "/regions/abcd.png"
    assert image.roi == (10, 10, 50, 50)


def test_a_picture_that_does_not_come_holds_no_verdict_back(view: LiveView) -> None:
    view.pictured(1, PICTURE)
    view.verdict(verdict(1, pixels=REF), NOW)
    view.verdict(verdict(2, Word.NG, pixels=REF), NOW + 1)
    view.words(words(), NOW + PATIENCE_NS)
    screen = view.screen(NOW + PATIENCE_NS + 2)
    assert screen.part is not None
    assert (screen.part.part_id, screen.part.image) == (2, None)


def test_a_part_without_pixels_is_shown_at_once(view: LiveView) -> None:
    view.pictured(1, PICTURE)
    view.verdict(verdict(1, pixels=REF), NOW)
    view.verdict(verdict(2, Word.ERROR, reason=Reason.NO_IMAGE), NOW + 1)
    screen = view.screen(NOW + 2)
    assert screen.part is not None
    assert (screen.part.part_id, screen.part.reason) == (2, "No picture came")


def test_the_worst_region_lies_where_it_was_found(view: LiveView) -> None:
    view.pictured(1, PICTURE)
    view.verdict(verdict(1, Word.NG, pixels=REF, region_px=(50, 40, 10, 8)), NOW)
    part = view.screen(NOW).part
    assert part is not None
    assert part.image is not None
    assert part.image.worst == (50, 50, 10, 10)


def test_an_old_verdict_is_history(view: LiveView) -> None:
    view.verdict(verdict(1), NOW)
    view.words(words(), NOW + AGED_NS)
    assert not view.screen(NOW + AGED_NS).is_aged
    screen = view.screen(NOW + AGED_NS + 1)
    assert screen.is_aged
    assert screen.age == "10 s ago"
    assert view.screen(NOW + 200 * S).age == "3 min ago"


def test_the_strip_holds_the_last_rejects_newest_first(view: LiveView) -> None:
    for part_id in range(1, 31):
        view.verdict(verdict(part_id, Word.NG if part_id % 2 else Word.ERROR), NOW)
    strip = view.screen(NOW).strip
    assert [part.part_id for part in strip] == list(range(29, 29 - 2 * STRIP, -2))


def test_history_fills_the_strip_and_doubles_nothing(view: LiveView) -> None:
    view.verdict(verdict(9, Word.NG), NOW)
    view.history([verdict(n, Word.NG) for n in (9, 5, 3)])
    assert [part.part_id for part in view.screen(NOW).strip] == [9, 5, 3]


def test_pictures_that_are_wanted(view: LiveView) -> None:
    view.history([verdict(1, Word.NG)])
    view.verdict(verdict(2, pixels=REF), NOW)
    view.verdict(verdict(3, pixels=REF), NOW)
    newest, strip = view.wanted()
    assert [v.part_id for v in newest] == [3]
    assert [v.part_id for v in strip] == [1]
    view.pictured(1, PICTURE)
    view.pictured(3, PICTURE)
    assert view.wanted() == ([], [])
    for part_id in range(10, 1000):
        view.pictured(part_id, PICTURE)
    assert view.wanted()[1] == []  # the strip's pictures are not forgotten
    assert view.find(2) is not None
    assert view.find(77) is None


def test_the_ledger(view: LiveView) -> None:
    figures = {"accepted": 12, "verdicts": 11, "pending": 1, "unaccounted": 0, "rows_pending": 2}
    view.words(words(ledger=figures), NOW)
    screen = view.screen(NOW)
    assert (screen.unaccounted, screen.unaccounted_tone) == ("0", "ok")
    assert screen.ledger == (
        "12 accepted = 11 verdicts + 1 open",
        "Rows on their way to the archive: 2",
    )
    # Silence takes the green away from the 0.
    assert view.screen(NOW + S).unaccounted_tone == ""
    broken = figures | {"unaccounted": 3, "rows_pending": 0, "rows_missing": 3}
    view.words(words(ledger=broken), NOW)
    screen = view.screen(NOW)
    assert (screen.unaccounted, screen.unaccounted_tone) == ("3", "ng")
    assert screen.ledger[1:] == ("Every row is stored", "3 rows missing")


def test_counters(view: LiveView) -> None:
    view.words(words(counters={"triggers": 1234567, "ok": 9, "ng": 0, "late": 2}), NOW)
    tiles = {tile.label: tile for tile in view.screen(NOW).counters}
    assert tiles["Triggers"].value == "1\N{NO-BREAK SPACE}234\N{NO-BREAK SPACE}567"
    assert (tiles["OK"].value, tiles["OK"].tone) == ("9", "ok")
    assert (tiles["NG"].value, tiles["NG"].tone) == ("0", "")
    assert tiles["Late"].tone == "warn"
    assert tiles["Missed"].value == texts.NO_DATA  # never told is not 0


def test_state_in_words(view: LiveView) -> None:
    screen = view.screen(NOW)
    assert (screen.state, screen.state_tone, screen.is_ready) == ("Ready", "", True)
    view.words(
        words(
            registers={100: int(Status1.ONLINE), 104: int(State.INITIALIZED)},
            offline=OfflineReason.CAMERA,
            notes=("camera top: expected a device, got none",),
        ),
        NOW,
    )
    screen = view.screen(NOW)
    assert (screen.state, screen.state_tone) == ("Not ready: the camera is not available", "warn")
    assert screen.notice == "camera top: expected a device, got none"
    assert not screen.is_ready
    fault = {100: int(Status1.FAULT), 106: int(FaultCode.LEDGER)}
    view.words(words(registers=fault, offline=OfflineReason.CAMERA), NOW)
    screen = view.screen(NOW)
    assert (screen.state, screen.state_tone) == ("Fault: ledger", "ng")
    view.words(words(registers={104: 77}), NOW)
    assert view.screen(NOW).state == "77"


def test_the_words_of_the_plc_are_lamps_and_none_while_decide_is_silent(view: LiveView) -> None:
    first = view.screen(NOW).plc_words.split("  ")[:2]
    assert first == ["●\xa0TriggerReady", "○\xa0TriggerAck"]
    status = Status1.ONLINE | Status1.RESULT_VALID | Status1.FAIL
    view.words(words(registers={100: int(status)}), NOW)
    lit = [w for w in view.screen(NOW).plc_words.replace("\n", "  ").split("  ") if w[0] == "●"]
    assert lit == ["●\xa0ResultValid", "●\xa0Fail"]
    assert view.screen(NOW + SILENT_NS + 1).plc_words == texts.NO_DATA


def test_simulated_shows_from_the_plc_words_and_from_the_part(view: LiveView) -> None:
    assert not view.screen(NOW).is_simulated
    view.verdict(verdict(1, is_simulated=True), NOW)
    assert view.screen(NOW).is_simulated
    view.verdict(verdict(2), NOW)
    assert not view.screen(NOW).is_simulated
    view.words(words(registers={101: int(Status2.SIMULATED)}), NOW)
    assert view.screen(NOW).is_simulated


def test_latency_percentiles_are_those_of_numpy(view: LiveView) -> None:
    rng = np.random.default_rng(4)
    latencies = rng.gamma(4, 6, 1500)
    for part_id, milliseconds in enumerate(latencies, start=1):
        view.verdict(verdict(part_id, latency_ns=int(milliseconds * 1e6)), NOW)
    screen = view.screen(NOW)
    assert screen.latency_title == "Latency in ms, last 1000 parts"
    expected = np.quantile(latencies[-1000:], [0.5, 0.99], method="inverted_cdf")
    assert [tile.value for tile in screen.latency] == [f"{v:.1f}" for v in expected] + ["200"]
    assert screen.latency[1].tone == ""
    view.verdict(verdict(9999, deadline_ns=60_000_000), NOW)
    assert view.screen(NOW).latency[1].tone == "warn"


def test_processes(view: LiveView) -> None:
    for process in PROCESSES[:3]:
        view.health(Health(process=process, pid=1, is_serving=True), NOW)
    view.health(Health(process="infer:0", pid=1, is_serving=False, note="no engine"), NOW + S)
    shown = {process.name: process for process in view.screen(NOW + S).processes}
    assert list(shown) == ["Camera top", "Model", "Decision", "Records"]
    assert (shown["Camera top"].tone, shown["Camera top"].state) == ("ok", "well")
    assert (shown["Model"].tone, shown["Model"].note) == ("warn", "no engine")
    assert (shown["Records"].tone, shown["Records"].state) == ("error", "never heard")
    late = {process.name: process for process in view.screen(NOW + 70 * S).processes}
    assert (late["Decision"].tone, late["Decision"].state) == ("error", "silent for 1 min")


def test_verdicts_that_never_arrived_are_counted() -> None:
    view = LiveView(PROCESSES)
    view.words(words(ledger={"verdicts": 100}), NOW)  # joined late: the past is no loss
    assert view.screen(NOW).skipped == ""
    view.verdict(verdict(101), NOW)
    view.verdict(verdict(103), NOW)
    view.words(words(ledger={"verdicts": 103}), NOW)
    assert view.skipped == 1
    assert "skipped 1" in view.screen(NOW).skipped
    # Decide started anew: its counting begins again, nothing was lost by that.
    view.words(words(ledger={"verdicts": 0}, registers={146: 3}), NOW)
    view.verdict(verdict(104), NOW)
    view.words(words(ledger={"verdicts": 1}, registers={146: 3}), NOW)
    assert view.skipped == 1
    view.words(words(ledger={"verdicts": 3}, registers={146: 3}), NOW)
    assert view.skipped == 3


def test_nobody_reads_the_word_of_one_part_with_the_reasons_of_another(view: LiveView) -> None:
    """A reject that is looked back at says so above its reasons; head and word stay live."""
    view.verdict(verdict(511, Word.NG, reasons=("rim mean",), recipe="cell/3"), NOW)
    view.verdict(verdict(512, recipe="cell/4"), NOW)
    client = Client(page("/"))
    with client:
        shown = LivePage()

    def text(name: str) -> str:
        labels = (e for e in client.elements.values() if isinstance(e, ui.label))
        return next(label.text for label in labels if name in label.classes)

    shown.update(view.screen(NOW))
    assert (text("word"), text("part-title"), text("why-part")) == ("OK", "Part 512", "")
    (reject,) = view.screen(NOW).strip
    shown._show_pinned(reject)
    shown.update(view.screen(NOW))
    assert (text("word"), text("part-title")) == ("OK", "Part 512")
    assert text("reason-row") == "rim mean"
    assert text("why-part") == "Looking back: Part 511, NG"
    assert text("pin-title").startswith(text("why-part"))
    assert text("recipe") == "Recipe cell/4"
    shown._unpin()
    shown.update(view.screen(NOW))
    assert (text("why-part"), text("pin-title"), text("reason-row")) == ("", "", "")
    client.delete()
