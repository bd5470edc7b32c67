"""The door of the tool: who is let in, and what is no log-in."""

import http.client
import urllib.parse
import urllib.request
from collections.abc import Iterator

import pytest

from calibration.frame import PAGES
from tests.guest import ask
from tests.tool_world import SECRET, Shop

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    with Shop(parts=6, pictures=1) as shop:
        shop.start()
        yield shop


def form(**fields: str) -> bytes:
    return urllib.parse.urlencode(fields).encode()


@pytest.mark.parametrize("path", [address for address, _, _ in PAGES])
def test_every_page_asks_who_is_there(shop: Shop, path: str) -> None:
    status, _ = ask(shop, path)
    assert status == 303


def test_pictures_are_for_people_who_are_logged_in(shop: Shop) -> None:
    assert ask(shop, "/part/6.jpg")[0] == 401
    assert ask(shop, "/part/6.jpg", Cookie="inspectd_session=guess")[0] == 401
    request = urllib.request.Request(f"{shop.url}/login", form(name="ole", password=SECRET))
    cookie = _cookie_of(request)
    assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower()
    token = cookie.partition(";")[0]
    assert ask(shop, "/part/6.jpg", Cookie=token)[0] == 200
    for odd in ("/part/%3Cscript%3E.jpg", "/part/0.jpg", "/part/99999999999999999999.jpg"):
        assert ask(shop, odd, Cookie=token)[0] in (404, 422)
    assert ask(shop, "/logout", b"", Cookie=token)[0] == 303
    assert ask(shop, "/part/6.jpg", Cookie=token)[0] == 401


def _cookie_of(request: urllib.request.Request) -> str:
    host = urllib.parse.urlsplit(request.full_url)
    connection = http.client.HTTPConnection(host.hostname or "", host.port or 0, timeout=20)
    connection.request("POST", host.path, request.data)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.getheader("set-cookie") or ""


def test_what_is_no_log_in_form_stays_outside(shop: Shop) -> None:
    assert ask(shop, "/login", form(name="eva", password="wrong"))[0] == 401
    assert ask(shop, "/login", b"x" * 5000)[0] == 400
    assert ask(shop, "/login", b"x" * 200_000)[0] == 413
    foreign = ask(shop, "/login", form(name="ole", password=SECRET), Origin="http://evil.example")
    assert foreign[0] == 400
    status, page = ask(
        shop, "/login", form(name="<script>alert(1)</script>", password="x", next="x")
    )
    assert status == 401 and "<script>alert" not in page
    answer = ask(shop, "/login", form(name="ole", password=SECRET, next="http://evil.example"))
    assert answer[0] == 303
