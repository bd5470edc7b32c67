"""The REST API: the real process and real tokens; every example of docs/api.md is run."""

import asyncio
import http.client
import json
import re
import shlex
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from playwright.sync_api import expect

from appliance.audit import AuditJournal
from appliance.codes import Reason, Word
from appliance.config import Config
from appliance.config_camera import Camera
from appliance.messages import Verdict
from appliance.recording import MAP, Entry, SegmentWriter
from appliance.wire import Wiring
from calibration.desk import MOST_WAITING, BusyError, Desk
from calibration.people import LOCK_AFTER, LOCK_S
from calibration.recorded import recorded_map
from calibration.tokens import Tokens
from tests.guest import Guest, chromium, needs_chromium
from tests.tool_world import Shop

DOCUMENT = Path(__file__).parent.parent / "docs" / "api.md"


pytestmark = pytest.mark.timeout(300)


class Answer(NamedTuple):
    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return self.json["error"]


class Client:
    """A program with a token."""

    def __init__(self, shop: Shop, name: str, token: str = "") -> None:
        self.shop = shop
        self.tokens = Tokens(shop.people)
        self.token = token or self.tokens.make("measuring room", 90, shop.user(name))[0]

    def __call__(self, path: str, data: Any = None, **headers: str) -> Answer:
        body = None if data is None else json.dumps(data).encode()
        known = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(
            f"{self.shop.url}/api/v1{path}", body, {**known, **headers}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return Answer(answer.status, answer.read(), dict(answer.headers))
        except urllib.error.HTTPError as err:
            with err:
                return Answer(err.code, err.read(), dict(err.headers))


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    with Shop(parts=600, pictures=4) as shop:
        shop.judge(1, 60)
        shop.start()
        yield shop


@pytest.fixture(scope="module")
def eva(shop: Shop) -> Client:
    return Client(shop, "eva")


def test_every_example_of_the_document_answers_as_it_says(shop: Shop) -> None:
    client = Client(shop, "eva")
    blocks = re.findall(r"^```\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    calls = [place for place, block in enumerate(blocks) if block.startswith("curl")]
    assert len(calls) >= 8
    for place in calls:
        words = shlex.split(blocks[place])
        url = next(word for word in words if word.startswith("$URL")).removeprefix("$URL")
        data = json.loads(words[words.index("-d") + 1]) if "-d" in words else None
        assert "Authorization: Bearer $TOKEN" in words
        answer = client(url, data)
        if "-o" in words:
            assert answer.status == 200 and answer.body.startswith(b"\x89PNG")
            continue
        wanted = json.loads(blocks[place + 1])
        _same_form(wanted, answer.json, url)


def _same_form(wanted: Any, got: Any, where: str) -> None:
    """Same keys and types; an empty object stands for any."""
    if isinstance(wanted, dict):
        assert isinstance(got, dict), where
        assert not wanted or wanted.keys() == got.keys(), where
        for key, value in wanted.items():
            _same_form(value, got[key], f"{where}.{key}")
    elif isinstance(wanted, list):
        assert isinstance(got, list) and got, where
        _same_form(wanted[0], got[0], f"{where}[0]")
    elif wanted is not None:
        assert type(wanted) is type(got), f"{where}: {got!r}"


def test_all_parts_come_once_by_pages(eva: Client, shop: Shop) -> None:
    seen: list[int] = []
    before = ""
    while True:
        page = eva(f"/parts?limit=250{before}").json
        seen += [part["part_id"] for part in page["parts"]]
        if page["next"] is None:
            break
        before = f"&before={page['next']}"
    assert seen == list(range(600, 0, -1))
    words = {part["word"] for part in eva("/parts?word=NG&word=OK&limit=500").json["parts"]}
    assert words == {"NG", "OK"}
    assert [p["part_id"] for p in eva("/parts?text=7590").json["parts"]] == [590]
    middle = eva("/parts/300").json["opened"]
    later = eva(f"/parts?limit=500&since={middle}").json["parts"]
    assert [part["part_id"] for part in later] == list(range(600, 299, -1))
    assert eva(f"/parts?limit=500&until={middle}").json["parts"][0]["part_id"] == 299
    assert eva("/parts?challenge=true").json == {"parts": [], "next": None}
    assert eva("/parts/10").json["label"]["kind"] == shop.kinds[10]


def test_pictures_are_the_archived_ones(eva: Client, shop: Shop) -> None:
    original = eva("/parts/600/image.png")
    path = next(shop.config.data_dir.glob("images/*/*600.png"))
    assert original.body == path.read_bytes()
    assert eva("/parts/600/image.jpg").body.startswith(b"\xff\xd8")
    assert eva("/parts/1/image.png").status == 404
    assert eva("/parts/1/map.npy").error == "map of part 1: expected one kept, got none"


def test_a_part_of_several_cameras_is_told_view_by_view(eva: Client, shop: Shop) -> None:
    part_id = shop.seen_twice()
    part = eva(f"/parts/{part_id}").json
    assert (part["word"], part["camera"], part["detail"]) == ("NG", "side", "side NG")
    assert [(view["camera"], view["word"]) for view in part["views"]] == [
        ("top", "OK"), ("side", "NG"),
    ]  # fmt: skip
    top, beside = part["views"]
    assert (top["margin"], top["reasons"]) == (-3.0, [])
    assert {name: part[name] for name in beside if name not in ("detail", "reasons")} == {
        name: beside[name] for name in beside if name not in ("detail", "reasons")
    }
    for kind in ("png", "jpg"):
        path = f"/parts/{part_id}/image.{kind}"
        decided, other = eva(path).body, eva(f"{path}?camera=top").body
        assert decided == eva(f"{path}?camera=side").body != other
    refused = eva(f"/parts/{part_id}/image.png?camera=..%2F..%2Fx")
    assert (refused.status, refused.error) == (404, "camera: expected top or side, got '../../x'")
    assert eva("/parts/600").json["views"] == []


def test_a_map_is_found_in_the_recording_of_its_minute(tmp_path: Path) -> None:
    path = tmp_path / "20261127T000000" / "000001.ng.mcap"
    writer = SegmentWriter(path, {"box": "b"}, {})
    rng = np.random.default_rng(0)
    maps = {number: rng.normal(size=(8, 6)).astype(np.float32) for number in (4, 5)}
    begun_ns = 0
    for number, pixels in maps.items():
        begun_ns = path.parent.stat().st_mtime_ns
        entry = Entry(f"{MAP}top", begun_ns + number, number, number, b"")
        writer.add_image(entry, pixels, f"top/{number}")
    writer.finish()

    def verdict(**fields: Any) -> Verdict:
        known = {
            "part_id": 1, "acq_id": 1, "epoch": 1, "word": Word.NG, "reason": Reason.SEGAD,
            "camera": "top", "frame_id": 5, "opened_utc_ns": begun_ns, "deadline_ns": 10**9,
        }  # fmt: skip
        return Verdict(**{**known, **fields})

    found = recorded_map(tmp_path, verdict())
    assert found is not None and np.array_equal(found, maps[5])
    assert recorded_map(tmp_path, verdict(frame_id=6)) is None
    assert recorded_map(tmp_path, verdict(camera="side")) is None
    assert recorded_map(tmp_path, verdict(opened_utc_ns=begun_ns - 10**12)) is None
    path.write_bytes(path.read_bytes()[:50])
    assert recorded_map(tmp_path, verdict()) is None


def test_every_write_is_in_the_journal_with_who_and_from_where(eva: Client, shop: Shop) -> None:
    assert eva("/parts/500/label", {"kind": "dent"}).status == 200
    assert shop.opinions.labels([500])[500].kind == "dent"
    entries = list(AuditJournal(shop.config).entries())
    labelled = [entry for entry in entries if entry.subject == "500"][-1]
    assert (labelled.who, labelled.role, labelled.source) == ("eva", "ENGINEER", "api")
    added = [entry for entry in entries if entry.what == "token.added"]
    assert {entry.who for entry in added} >= {"eva"}
    assert eva.token.rpartition("_")[2] not in shop.people.journal.path.read_text()
    for file in shop.config.data_dir.glob("people.db*"):
        assert eva.token.rpartition("_")[2].encode() not in file.read_bytes()


def test_two_who_propose_are_told_apart(eva: Client, shop: Shop) -> None:
    wish = {"recipe": "plate", "base_version": 1, "t1": -1.1, "t2": 1.6, "reason": "week twelve"}
    assert eva("/proposals", wish | {"base_version": 7}).error == "base_version: expected 1, got 7"
    eva("/proposals", wish)
    again = Client(shop, "max")("/proposals", wish)
    assert again.status == 409 and "none open for plate" in again.error
    ole = Client(shop, "ole")("/proposals", wish)
    assert (ole.status, ole.error) == (403, "role: expected engineer or above, got operator")
    assert Client(shop, "ole")("/parts/501/label", {"kind": "good"}).status == 200


@pytest.mark.parametrize(
    ("path", "data", "status", "error"),
    [
        ("/parts?limit=0", None, 422, "query.limit: expected greater than or equal to 1, got '0'"),
        ("/parts?wrod=NG", None, 422, "query.wrod: expected a known name, got 'NG'"),
        ("/parts?word=ng", None, 422, "query.word.0: expected 'OK', 'NG', 'UNCERTAIN' or 'ERROR'"),
        ("/parts?since=2026-11-27T06:00", None, 422, "since: expected a time with a zone"),
        ("/parts/%3Cscript%3E", None, 422, "path.part_id: expected a valid integer"),
        ("/parts/99999999999999999999", None, 422, "path.part_id: expected less than or equal"),
        ("/parts/700", None, 404, "part: expected a known id, got 700"),
        ("/parts/700/label", {"kind": "good"}, 404, "part: expected a known id, got 700"),
        ("/parts/1/label", {"kind": "<script>"}, 422, "label: expected good or the name of a"),
        ("/parts/1/label", {"kind": 5}, 422, "body.kind: expected a valid string, got 5"),
        ("/parts/1/label", {"kind": "good", "by": "x"}, 422, "body.by: expected a known name"),
        ("/parts/1/label", ["good"], 422, "body: expected a valid dictionary"),
        ("/limits/..%2F..%2Fstate", None, 404, ""),
        ("/limits/nobody", None, 404, "recipe: expected a known one, got 'nobody'"),
        ("/parts?since=1970-01-01T00:00Z", None, 422, "since: expected a year of 1971 to 2199"),
        ("/parts?until=9999-12-31T23:59Z", None, 422, "until: expected a year of 1971 to 2199"),
        ("/reports/shift?until=0001-01-01T00:00%2B14:00", None, 422, "until: expected a year of"),
        (
            "/reports/shift?since=2025-01-01T00:00Z&until=2026-02-01T00:00Z",
            None,
            422,
            "since: expected at most 366 days until 2026-02-01",
        ),
        (f"/limits/{'%C3%A4' * 128}", None, 503, "[Errno 36] File name too long"),
        (f"/limits/{'x' * 129}", None, 422, "path.recipe: expected "),
        (f"/proposals?recipe={'x' * 129}", None, 422, "query.recipe: expected "),
        ("/reports/shift?since=2027-01-01T00:00Z&until=2026-01-01T00:00Z", None, 422, "since: exp"),
    ],
)
def test_what_cannot_be_is_refused_in_words(
    eva: Client, path: str, data: Any, status: int, error: str
) -> None:
    answer = eva(path, data)
    assert answer.status == status and answer.error.startswith(error), answer
    assert "<script>" not in answer.headers.get("Content-Type", "")


@pytest.mark.parametrize(
    ("reason", "expected"), [("short", "at least 8 characters"), ("x" * 501, "at most 500 char")]
)
def test_a_reason_is_neither_a_word_nor_a_book(eva: Client, reason: str, expected: str) -> None:
    wish = {"recipe": "plate", "base_version": 1, "t1": 1.0, "t2": 2.0, "reason": reason}
    answer = eva("/proposals", wish)
    assert answer.status == 422 and answer.error.startswith(f"body.reason: expected {expected}")


@pytest.mark.parametrize(
    "limits", [{"t1": 2.0, "t2": 1.0}, {"t1": 1e300, "t2": 1e301}, {"t1": "1", "t2": 2.0}]
)
def test_limits_that_are_none_are_refused(eva: Client, limits: dict[str, Any]) -> None:
    wish = {"recipe": "plate", "base_version": 1, "reason": "week twelve", **limits}
    assert eva("/proposals", wish).status == 422


def test_a_huge_upload_is_not_even_read(eva: Client) -> None:
    assert eva("/parts/1/label", {"kind": "x" * 70_000}).status == 413
    host = urllib.parse.urlsplit(eva.shop.url)
    connection = http.client.HTTPConnection(host.hostname or "", host.port or 0, timeout=60)
    head = {"Authorization": f"Bearer {eva.token}", "Content-Type": "application/json"}
    connection.request("POST", "/api/v1/parts/1/label", iter([b"x"]), head, encode_chunked=True)
    answer = connection.getresponse()
    assert answer.status == 411
    answer.read()
    connection.close()


def test_without_a_good_token_nothing_is_told(shop: Shop) -> None:
    for path in ("/me", "/parts", "/parts/1", "/parts/600/image.jpg", "/limits", "/line"):
        assert Client(shop, "ole", "none")(path, Authorization="Basic eDp5").status == 401, path
    guess = Client(shop, "ole", "insp_abcdef_guess")
    for _ in range(LOCK_AFTER):
        assert guess("/me").status in (401, 429)
    locked = guess("/me")
    assert locked.status == 429 and locked.headers["retry-after"] == str(LOCK_S)
    assert Client(shop, "ole")("/me").status == 200  # other programs of the same address go on


def test_openapi_describes_every_operation(shop: Shop) -> None:
    with urllib.request.urlopen(f"{shop.url}/api/v1/openapi.json", timeout=60) as answer:
        described = json.load(answer)
    assert described["openapi"].startswith("3.")
    operations = {
        (method, path) for path, methods in described["paths"].items() for method in methods
    }
    assert ("post", "/proposals") in operations and (
        "get",
        "/parts/{part_id}/map.npy",
    ) in operations
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            assert operation["security"] == [{"HTTPBearer": []}], (method, path)
            assert operation["description"], (method, path)
    refusal = described["components"]["schemas"]["Refusal"]
    assert refusal["properties"].keys() == {"error"}


@needs_chromium
@pytest.mark.browser
def test_a_token_is_made_shown_once_and_revoked_on_the_page(shop: Shop) -> None:
    with chromium() as browser:
        ole = Guest(browser, shop.url).log_in("ole")
        page = ole.go("tokens")
        page.get_by_label("What it is for").fill("  ")
        ole.press("Make a token")
        ole.told("token: expected a name of 1 to 64 signs")
        page.get_by_label("What it is for").fill("<b>press</b> 7")
        ole.press("Make a token")
        expect(page.locator(".token")).to_contain_text("insp_")
        client = Client(shop, "ole", page.locator(".token").inner_text())
        assert client("/me").json["token"] == "<b>press</b> 7"
        expect(page.get_by_text("/api/v1/parts/{part_id}/label")).to_be_visible()
        page = ole.go("tokens")
        expect(page.locator(".person", has_text="<b>press</b> 7")).to_be_visible()
        expect(page.locator(".token")).to_have_count(0)
        row = page.locator(".person", has_text="<b>press</b> 7")
        row.get_by_role("button", name="Revoke").click()
        expect(row).to_contain_text("revoked by ole")
        assert client("/me").error == "this token has ended"
        assert ole.problems == []


def test_programs_that_wait_are_bounded_and_people_do_not_wait_behind_them(tmp_path: Path) -> None:
    camera = Camera(name="top", kind="files", folder="x")
    config = Config(root=str(tmp_path), runtime=str(tmp_path), deadline_ms=200, camera=(camera,))

    async def crowd(desk: Desk) -> list[str]:
        order: list[str] = []
        free = threading.Event()

        async def program(number: int) -> None:
            def work() -> None:
                free.wait(60)
                order.append(f"program {number}")

            await desk.run_for_program(work)

        programs = [asyncio.create_task(program(number)) for number in range(MOST_WAITING)]
        await asyncio.sleep(0)  # all of them have asked
        with pytest.raises(BusyError, match="fewer than 8 at once"):
            await desk.run_for_program(lambda: None)
        person = asyncio.create_task(desk.run(lambda: order.append("person")))
        await asyncio.sleep(0)
        free.set()
        await asyncio.gather(person, *programs)
        await desk.run_for_program(lambda: None)
        return order

    with Wiring(config.runtime_dir) as wiring:

        async def run() -> list[str]:
            desk = Desk(config, tmp_path / "config.toml", wiring.async_sender("command"))
            try:
                return await crowd(desk)
            finally:
                desk.close()

        order = asyncio.run(run())
    assert order[:2] == ["program 0", "person"] and len(order) == MOST_WAITING + 1
