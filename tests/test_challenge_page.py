"""Challenge tests, quarantine and MSA studies: the rules alone, then on the real page."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

from appliance.audit import AuditJournal
from appliance.codes import Status2, Word
from appliance.errors import ConfigError
from appliance.store import Delivered
from calibration.challenge_rules import CHECKS, Shown, check_count, has_pattern, judge, last_good
from calibration.challenges import Challenges
from calibration.frame import whole
from calibration.page_msa import check_range
from calibration.page_report import as_csv as report_csv
from calibration.page_report import counts
from calibration.quarantine import as_csv
from calibration.studies import MOST
from calibration.study_log import StudyLog
from tests.guest import Enter, ask, needs_chromium
from tests.test_people import World
from tests.tool_world import Shop
from tests.waiting import until

pytestmark = pytest.mark.timeout(300)

OK, NG, NONE = Word.OK, Word.NG, Word.NONE


def shown(*words: tuple[Word, Word], first: int = 1) -> list[Shown]:
    """Expected and got, in their order."""
    return [
        Shown(first + place, f"p{place}", expected, got)
        for place, (expected, got) in enumerate(words)
    ]


def test_a_consecutive_test_needs_every_part_and_a_bad_one() -> None:
    both = shown((NG, NG), (OK, OK))
    assert judge("consecutive", both, ["p0", "p1"], {}) == ()
    assert judge("consecutive", both, ["p0", "p1", "p9"], {}) == ("part p9 was not shown",)
    assert judge("consecutive", both[1:], [], {}) == ("no bad part was shown",)
    assert judge("consecutive", [], [], {}) == ("no challenge part went through",)
    assert judge("consecutive", shown((NG, OK), (NONE, OK)), [], {}) == (
        "part p0: expected NG, got OK",
        "part p1: nobody says what it must be, got OK",
    )


def test_a_test_of_more_parts_than_are_read_is_not_judged() -> None:
    parts = shown(*[(NG, NG)] * 5)
    check_count(parts, 6)
    with pytest.raises(ConfigError, match="fewer than 5 challenge parts, got more: break it off"):
        check_count(parts, 5)


def test_no_cell_of_a_table_is_a_formula() -> None:
    texts = ("=1+1", "+1", "-1", "@SUM(A1)", "plate 7", "a=1")
    parts = [Delivered(number, -5, text, text, "plate/1", 0) for number, text in enumerate(texts)]
    rows = list(csv.reader(as_csv(parts).splitlines()))[1:]
    assert [row[:4] for row in rows] == [
        [str(number), "-5", shown, shown]
        for number, shown in enumerate(("'=1+1", "'+1", "'-1", "'@SUM(A1)", "plate 7", "a=1"))
    ]
    report = {"from": "6", "to": "14", "counts": {"OK": -3}, "reasons": {"=1": 4}}
    table = report_csv({**report, "regions": {}, "latency_ms": {"p50": -0.5}}).decode()
    assert table.splitlines()[3:] == ["counts,OK,-3", "reasons,'=1,4", "latency_ms,p50,-0.5"]


@pytest.mark.parametrize(
    ("value", "got"), [(None, "nothing"), (0.5, "0.5"), (1.000001, "1.000001"), (np.inf, "inf")]
)
def test_a_field_of_whole_numbers_is_not_cut_to_one(value: float | None, got: str) -> None:
    with pytest.raises(ConfigError, match=f"^Days: expected a whole number, got {got}$"):
        whole(value, "Days")
    assert (whole(0.0, "Days"), whole(1e18, "Days"), whole(365, "Days")) == (0, 10**18, 365)


def test_a_challenge_part_is_for_a_day_at_least(tmp_path: Path) -> None:
    world = World(tmp_path)
    challenges = Challenges(world.people, clock=lambda: 1)
    for days in (-1, 0, 3661):
        with pytest.raises(ConfigError, match=f"expected 1 to 3660 days, got {days}"):
            challenges.add("red", NG, days, "", world.eva)
    with pytest.raises(ConfigError, match="a note of at most 200 letters, got 201"):
        challenges.add("red", NG, 1, "x" * 201, world.eva)
    challenges.add("red", NG, 1, "", world.eva)
    assert [part.use_by_utc_ns for part in challenges.parts()] == [86_400_000_000_001]
    world.people.close()


def test_a_share_of_a_shift_is_not_called_all_where_a_part_is_missing() -> None:
    shares = {"quality": 99_996 / 100_000, "inspected": 1.0}
    assert [said for _, said in counts(shares)] == ["99.996 %", "100 %"]


def test_a_study_is_of_two_to_so_many_parts() -> None:
    check_range(1, 2)
    check_range(7, MOST + 6)
    for first, last in ((0, 5), (5, 5), (6, 5), (7, MOST + 7), (1, 10**15), (10**20, 10**20 + 5)):
        with pytest.raises(ConfigError, match=f"2 to {MOST} parts, got {first} to {last}"):
            check_range(first, last)


@pytest.mark.parametrize(
    ("words", "is_one"),
    [
        ([(NG, NG), (OK, OK), (NG, NG)], True),
        ([(OK, OK), (NG, NG), (OK, OK), (NG, NG)], True),
        ([(NG, NG), (NG, NG), (OK, OK)], False),
        ([(NG, NG), (OK, NG), (NG, NG)], False),
        ([(NG, NG), (OK, OK)], False),
        ([], False),
    ],
)
def test_memory_is_bad_good_bad(words: list[tuple[Word, Word]], is_one: bool) -> None:
    assert has_pattern(shown(*words)) is is_one
    assert (judge("memory", shown(*words), [], {}) == ()) is is_one


def test_fail_safe_wants_an_answer_to_every_check() -> None:
    assert judge("fail-safe", [], [], dict.fromkeys(CHECKS, True)) == ()
    assert judge("fail-safe", [], [], {"confirm": True, "bin": False}) == (
        "air: not checked", "bin: the line did not stop",
    )  # fmt: skip
    bad = judge("fail-safe", shown((NG, OK)), [], dict.fromkeys(CHECKS, True))
    assert bad == ("part p0: expected NG, got OK",)


def test_what_a_plc_proved_is_the_newest_whole_row_without_a_wrong_part() -> None:
    good = shown((NG, NG), (OK, OK), first=10)
    wrong = shown((NG, OK), (OK, OK), first=20)
    harmless = shown((OK, OK), first=30)
    newest_first = [*good, *wrong, *harmless][::-1]
    assert last_good(newest_first) == 11
    assert last_good([*wrong, *harmless][::-1]) is None
    assert last_good([]) is None


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    with Shop(parts=60) as shop:
        shop.start()
        yield shop


def fresh(shop: Shop) -> int:
    """Nothing under way, no parts in the list, no orders; the number of the next test."""
    challenges, ada = Challenges(shop.people), shop.user("ada")
    if (running := challenges.running()) is not None:
        challenges.end(running, "broken off", (), (), 0, ada)
    for part in challenges.parts():
        challenges.remove(part.id, ada)
    shop.said.clear()
    shop.orders.clear()
    known = challenges.tests(1)
    return known[0].id + 1 if known else 1


def told(shop: Shop) -> list[str]:
    return [entry.what for entry in AuditJournal(shop.config).entries()]


@needs_chromium
@pytest.mark.browser
def test_a_technician_runs_tests_that_pass_and_fail(shop: Shop, guest: Enter) -> None:
    number = fresh(shop)
    shop.said["challenge_due_utc_s"] = 1_790_000_000
    tim = guest("tim")
    page = tim.go("challenge")
    expect(page.get_by_text("DUE since 2026-09-21")).to_be_visible()
    tim.press("Begin: Consecutive")
    tim.told("challenge parts in the list and in date, got none")
    for name, word in (("red", "NG"), ("<b>gold", "OK")):
        page.get_by_label("Name", exact=True).fill(name)
        if word == "OK":
            page.get_by_label("Must be").click()
            page.get_by_role("option", name="OK").click()
        if word == "NG":
            page.get_by_label("Days").fill("")
            tim.press("Add")
            tim.told("Days: expected a whole number, got nothing")
            page.get_by_label("Days").fill("30")
        tim.press("Add")
        expect(page.locator(".person", has_text=name)).to_contain_text(word)
    tim.press("Begin: Consecutive")
    expect(page.get_by_text("Every part is a challenge part now")).to_be_visible()
    shop.passes("red", Word.NG)
    shop.passes("<b>gold", Word.OK)
    expect(page.locator(".rows tbody tr")).to_have_count(2)
    tim.press("End and judge")
    tim.told(f"Test {number}: passed.")
    expect(page.get_by_text(f"passed: number {number}, consecutive, tim")).to_be_visible()
    expect(page.get_by_text(re.compile(r"delivered as OK since then .*: 0\."))).to_be_visible()
    orders = [(order.name, order.argument) for order in shop.orders]
    assert orders == [
        ("start_challenge", ""),
        ("end_challenge", ""),
        ("pass_challenge", f"Test {number}: passed."),
    ]
    good = [shop.passes("", Word.OK, is_challenge=False) for _ in range(3)]
    tim.press("Begin: Memory")
    expect(page.get_by_text("Memory, begun by tim")).to_be_visible()
    for name, word in (("red", Word.NG), ("<b>gold", Word.NG), ("red", Word.NG)):
        shop.passes(name, word)
    expect(page.locator(".rows tbody tr").nth(2)).to_be_visible()
    tim.press("End and judge")
    tim.told(f"Test {number + 1}: failed.")
    assert shop.orders[-1].name == "fail_challenge"
    said = f"Test {number + 1}: failed. part <b>gold: expected OK, got NG"
    assert shop.orders[-1].argument == said
    expect(
        page.get_by_text(re.compile(rf"delivered as OK since then .*: {len(good)}\."))
    ).to_be_visible()
    cookie = "; ".join(f"{c['name']}={c['value']}" for c in tim.context.cookies())  # pyright: ignore
    status, text = ask(shop, "/challenge/quarantine.csv", Cookie=cookie)
    assert status == 200 and [row.split(",")[0] for row in text.splitlines()[1:]] == [
        str(part_id) for part_id in good
    ]
    status, text = ask(shop, "/challenge/quarantine.html", Cookie=cookie)
    assert status == 200 and ": 3." in text and "<script" not in text
    assert ask(shop, "/challenge/quarantine.csv")[0] == 401
    assert {"challenge.part_added", "challenge.passed", "challenge.failed"} <= set(told(shop))
    assert tim.problems == []


@needs_chromium
@pytest.mark.browser
def test_fail_safe_lock_and_unlock_want_answers_and_reasons(shop: Shop, guest: Enter) -> None:
    number = fresh(shop)
    tim, ole = guest("tim"), guest("ole")
    page = tim.go("challenge")
    tim.press("Begin: Fail-safe")
    rows = page.locator(".check")
    rows.nth(0).get_by_role("button", name="The line stopped").click()
    expect(rows.nth(0).locator(".is-on")).to_have_text("The line stopped")
    rows.nth(1).get_by_role("button", name="The line went on").click()
    expect(rows.nth(1).locator(".is-on")).to_have_text("The line went on")
    tim.press("End and judge")
    tim.told(f"Test {number}: failed.")
    assert shop.orders[-1].argument == f"Test {number}: failed. air: not checked"
    tim.press("Lock the line")
    tim.told("reason: expected at least 8 letters")
    page.get_by_label("Reason to lock or unlock").fill("the bin was bent straight")
    tim.press("Unlock")
    until("order", lambda: shop.orders[-1].name == "unlock_challenge")
    assert shop.orders[-1].argument == "the bin was bent straight"
    until("entry in the journal", lambda: told(shop)[-1] == "challenge.unlocked")
    shop.said["registers"] = {101: int(Status2.CHALLENGE_FAILED)}
    expect(page.get_by_text("FAILED: the line is locked")).to_be_visible()
    page = ole.go("challenge")
    expect(page.get_by_text("FAILED: the line is locked")).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("Begin|Lock|Unlock|Add"))).to_have_count(0)
    assert tim.problems == [] and ole.problems == []


@needs_chromium
@pytest.mark.browser
def test_a_study_is_made_kept_and_prints_and_a_picture_shown_twice_is_none(
    shop: Shop, guest: Enter
) -> None:
    fresh(shop)
    rng = np.random.default_rng()
    ids = [
        shop.passes(name, word, picture=rng.integers(0, 255, (16, 16), np.uint8))
        for _ in range(10)
        for name, word in (("red", Word.NG), ("gold", Word.OK))
    ]
    twice = rng.integers(0, 255, (16, 16), np.uint8)
    wrong = [shop.passes("red", Word.NG, picture=twice) for _ in range(2)]
    for name, word in (("red", Word.NG), ("gold", Word.OK)):
        Challenges(shop.people).add(name, word, 30, "", shop.user("tim"))
    tim = guest("tim")
    page = tim.go("msa")
    page.get_by_label("First part").fill(str(ids[0]))
    page.get_by_label("Last part").fill(str(wrong[-1]))
    tim.press("Make the study")
    tim.told("a new acquisition for every presentation, got the very picture")
    page.get_by_label("Last part").fill(str(ids[-1]))
    tim.press("Make the study")
    expect(page.get_by_text(f"Parts {ids[0]} to {ids[-1]}, tim")).to_be_visible()
    expect(page.get_by_text("wide enough").first).to_be_visible()
    expect(page.locator(".rows tbody tr", has_text="miss").first).to_contain_text("acceptable")
    expect(page.locator(".agreement tr", has_text="miss").first).to_contain_text(
        "≤ 95 %; ≤ 2 % takes 149 bad parts"
    )
    cookie = "; ".join(f"{c['name']}={c['value']}" for c in tim.context.cookies())  # pyright: ignore
    study = StudyLog(shop.people).studies(1)[0].id
    status, text = ask(shop, f"/msa/{study}.html", Cookie=cookie)
    assert status == 200 and "Attribute agreement (AIAG MSA, 4th edition)" in text
    assert ask(shop, "/msa/999.html", Cookie=cookie)[0] == 404
    assert ask(shop, f"/msa/{study}.html")[0] == 401
    assert "study.made" in told(shop)
    assert tim.problems == []
