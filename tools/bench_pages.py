"""What the pages cost the line, and how fast they answer with a full archive.

`page`: a line at ten parts a second, rounds with two clients of the live page and rounds without,
in turn; the clients speak HTTP and websocket as a browser does and draw nothing.
`tool`: 100,000 parts in the archive, every page of the tool and the API asked over HTTP.
"""

import ast
import asyncio
import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import aiohttp
import numpy as np
import socketio

from appliance.audit import AuditJournal
from appliance.codes import Reason, Word
from appliance.messages import Verdict
from appliance.recipe import load_recipe
from appliance.store import Store
from appliance.wire import Wiring
from calibration.frame import PAGES
from calibration.people import People, Role
from calibration.tokens import Tokens
from tools.bench_line import BenchLine, Ear, cpu_seconds, free_port, numbered
from tools.bench_row import NotMeasuredError, Row, figure, quantiles

CLIENTS = 2
ROUNDS = 6
"""Pairs of a round with clients and one without."""
_PARTS_PER_S = 10.0
_FEWEST_S = 10.0
_SETTLE_S = 2.0
"""After clients came or went."""
PARTS = 100_000
_ASKED = 5
"""Times that every page is asked for; the slowest answer counts."""
_SECRET = "correct horse battery"
_QUERY = re.compile(r"query: (\{[^}]*\})")
_PICTURE = re.compile(r"/part/(\d+)\.jpg\?e=\d+")
_CLIENT_NICE = 5
"""The clients stand for other machines: they give way to the line."""


def page(seconds: float) -> list[Row]:
    """Ratio of the line's p99 with and without clients, CPU a part, and when an image is there."""
    round_s = max(seconds, _FEWEST_S)
    port = free_port()
    ratios: list[float] = []
    cpu_ms: list[float] = []
    with BenchLine(numbered, 16, hmi={"is_enabled": True, "port": port}) as line:
        line.start()
        with Ear(line) as ear:
            ear.await_ready()
            line.start_plc("--forever", "--rate", f"{_PARTS_PER_S:g}")
            ear.await_parts(20)
            with _Watchers(line, f"http://127.0.0.1:{port}") as watchers:
                for number in range(ROUNDS):
                    lasts_s = 2 * (ROUNDS - number) * (round_s + _SETTLE_S)
                    sys.stderr.write(f"inspectd: page: {lasts_s:.0f} s to go\n")
                    p99s: dict[bool, float] = {}
                    for is_on in (True, False) if number % 2 else (False, True):
                        watchers.open(CLIENTS if is_on else 0)
                        ear.sleep(_SETTLE_S)
                        begun, cpu = ear.figure("verdicts"), cpu_seconds(line.pids()["hmi"])
                        ear.sleep(round_s)
                        count = ear.figure("verdicts") - begun
                        ear.await_rows()
                        if count < round_s * _PARTS_PER_S / 2:
                            raise NotMeasuredError(f"only {count} parts in {round_s:.0f} s")
                        latencies = [v.latency_ns / 1e6 for v in line.verdicts(count)]
                        p99s[is_on] = float(np.percentile(latencies, 99))
                        if is_on:
                            spent = cpu_seconds(line.pids()["hmi"]) - cpu
                            cpu_ms.append(spent / count * 1e3)
                    ratios.append(p99s[True] / p99s[False])
                delays_ms = watchers.delays_ms
            line.plc_report()
    if not delays_ms:
        raise NotMeasuredError("no client was shown a picture")
    ratio, per_part = float(np.median(ratios)), float(np.median(cpu_ms))
    return [
        Row(
            bench="page", what=f"line p99 with {CLIENTS} clients of the live page ÷ without",
            value=figure(ratio), unit="", must=1.2,
            spread={"lowest": figure(min(ratios)), "highest": figure(max(ratios))},
        ),
        Row(
            bench="page", what="CPU of the page per part shown", value=figure(per_part), unit="ms",
            must=20.0, note=f"{CLIENTS} clients together, {_PARTS_PER_S:g} parts/s",
        ),
        Row(
            bench="page", what="verdict → its picture and heat map fetched by a client, p99",
            value=figure(float(np.percentile(delays_ms, 99))), unit="ms", must=150.0,
            spread=quantiles(delays_ms) | {"pictures": len(delays_ms)},
        ),
    ]  # fmt: skip


class _Watchers:
    """Clients of the live page, on a loop of their own, and when they were shown what."""

    def __init__(self, line: BenchLine, url: str) -> None:
        self._url, self._loop = url, asyncio.new_event_loop()
        self._verdict_s: dict[int, float] = {}
        self._seen: set[tuple[int, int]] = set()
        self._clients: list[tuple[socketio.AsyncClient, aiohttp.ClientSession]] = []
        self.delays_ms: list[float] = []
        self._wiring = Wiring(line.config.runtime_dir)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _CLIENT_NICE)
        self._loop.run_forever()

    def __enter__(self) -> "_Watchers":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._begin(), self._loop).result(30)
        return self

    def __exit__(self, *_: object) -> None:
        self.open(0)
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._wiring.close()

    def open(self, count: int) -> None:
        """From now on so many, new ones."""
        asyncio.run_coroutine_threadsafe(self._reopen(count), self._loop).result(30)

    async def _begin(self) -> None:
        self._follow = asyncio.create_task(self._hear())

    async def _end(self) -> None:
        self._follow.cancel()
        await asyncio.wait([self._follow])

    async def _hear(self) -> None:
        live = self._wiring.async_receiver("live")
        while True:
            _, message = await live.receive()
            if isinstance(message, Verdict):
                self._verdict_s[message.part_id] = time.monotonic()

    async def _reopen(self, count: int) -> None:
        for client, session in self._clients:
            await client.disconnect()
            await session.close()
        self._clients = [await self._connect(number) for number in range(count)]

    async def _connect(self, number: int) -> tuple[socketio.AsyncClient, aiohttp.ClientSession]:
        session = aiohttp.ClientSession(self._url)
        text = (await _fetched(session, "/")).decode()
        found = _QUERY.search(text)
        if found is None:
            raise NotMeasuredError("the live page names no client")
        query = _as_json(found[1])
        query |= {"document_id": f"d{number}{time.time()}", "tab_id": f"t{number}"}
        client = socketio.AsyncClient()

        async def heard(event: str, *data: object) -> None:
            await self._shown(number, session, data)

        client.on("*", heard)
        address = f"{self._url}?{urlencode(query)}"
        await client.connect(
            address, socketio_path="/_nicegui_ws/socket.io", transports=["websocket"]
        )
        if query.get("implicit_handshake") != "true":
            await client.call("handshake", query)
        return client, session

    async def _shown(self, number: int, session: aiohttp.ClientSession, data: object) -> None:
        """Fetch what is new, as the browser would."""
        text = json.dumps(data)
        for found in _PICTURE.finditer(text):
            part = int(found[1])
            begun_s = self._verdict_s.get(part)
            if begun_s is None or (number, part) in self._seen:
                continue
            self._seen.add((number, part))
            addresses = [found[0], found[0].replace(".jpg", "/heat.png")]
            wanted = [address for address in addresses if address in text]
            if all(await asyncio.gather(*(_fetched(session, one) for one in wanted))):
                self.delays_ms.append((time.monotonic() - begun_s) * 1e3)


async def _fetched(session: aiohttp.ClientSession, path: str) -> bytes:
    """What one GET answers with; b"" where that is no 200."""
    async with session.get(path) as answer:
        body = await answer.read()
        return body if answer.status == 200 else b""


def _as_json(text: str) -> dict[str, Any]:
    """What NiceGUI writes into its page, the text of a Python dict, as a browser sends it back."""
    found: object = ast.literal_eval(text)
    if not isinstance(found, dict):
        raise NotMeasuredError("the live page names no client")
    return {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in found.items()
    }


def _body(host: str, path: str, cookie: str = "", token: str = "") -> bytes:
    """What one GET answers with; b"" where that is no 200."""
    connection = http.client.HTTPConnection(host, timeout=60)
    try:
        headers = {"Cookie": cookie} if cookie else {}
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        return body if answer.status == 200 else b""
    finally:
        connection.close()


def tool(seconds: float) -> list[Row]:
    """The slowest answer of every page and of the API's lists, with 100,000 parts."""
    port = free_port()
    with BenchLine(numbered, 16, hmi={"tool_port": port}) as line:
        _fill(line)
        people = People(line.config, AuditJournal(line.config))
        admin = people.add("bench", Role.ADMIN, _SECRET, "bench")
        token, _ = Tokens(people).make("bench", 1, admin)
        people.close()
        command = [sys.executable, "-m", "appliance", "process", "tool"]
        process = subprocess.Popen([*command, "--config", str(line.config_path)])
        try:
            host = f"127.0.0.1:{port}"
            _await(lambda: _body(host, "/login"), "page of the tool")
            cookie = _log_in(host)
            rows = [_asked(host, address, cookie) for address, _, _ in PAGES]
            rows += [_asked(host, address, "", token) for address in _API]
            rows.append(_asked(host, "/challenge/quarantine.html", cookie))
        finally:
            process.terminate()
            process.wait(30)
    return rows


_API = (
    "/api/v1/parts?limit=500",
    "/api/v1/parts?text=nothing",
    "/api/v1/parts?challenge=true",
    "/api/v1/reports/shift?since=2026-01-01T00:00Z",
)


def _asked(host: str, address: str, cookie: str, token: str = "") -> Row:
    taken: list[float] = []
    for _ in range(_ASKED):
        begun = time.monotonic()
        if not _body(host, address, cookie, token):
            raise NotMeasuredError(f"{address} gave no answer")
        taken.append(time.monotonic() - begun)
    return Row(
        bench="tool", what=f"{address} with {PARTS} parts, slowest of {_ASKED}",
        value=figure(max(taken)), unit="s", must=1.0, spread={"fastest": figure(min(taken))},
    )  # fmt: skip


def _log_in(host: str) -> str:
    connection = http.client.HTTPConnection(host, timeout=60)
    form = urlencode({"name": "bench", "password": _SECRET})
    connection.request(
        "POST", "/login", form, {"Content-Type": "application/x-www-form-urlencoded"}
    )
    answer = connection.getresponse()
    answer.read()
    connection.close()
    cookie = (answer.getheader("set-cookie") or "").partition(";")[0]
    if not cookie:
        raise NotMeasuredError("the tool let nobody in")
    return cookie


def _await(check: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if check():
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise NotMeasuredError(f"after {seconds:.0f} s still no {what}")


def _fill(line: BenchLine) -> None:
    """Rows as a line with a forest of 32 features writes them; no pictures."""
    rng = np.random.default_rng(0)
    recipe = load_recipe(line.config, "bench/1")
    store = Store(line.config.data_dir / "parts.db")
    begin_ns = time.time_ns() - PARTS * 100_000_000
    for first in range(1, PARTS + 1, 5000):
        verdicts: list[Verdict] = []
        for part_id in range(first, first + 5000):
            margin = float(np.float32(rng.normal(-3 if rng.random() < 0.99 else 2, 1)))
            word = Word.OK if margin < -1 else Word.UNCERTAIN if margin < 1.5 else Word.NG
            verdicts.append(
                Verdict(
                    part_id=part_id, acq_id=part_id % 65535 + 1, epoch=1, word=word,
                    reason=Reason.NONE if word is Word.OK else Reason.SEGAD,
                    reasons=() if word is Word.OK else ("rim q99.5 +2.41",),
                    part_tag=part_id, camera="top", decides="map_max", margin=margin, t1=-1.0,
                    t2=1.5, features=tuple(rng.normal(size=32).tolist()),
                    gates={"mean": 120.0, "focus": 30.0}, latency_ns=int(rng.gamma(20, 900_000)),
                    stages_ns={"exposure": 2_000_000, "network": 14_000_000},
                    opened_utc_ns=begin_ns + part_id * 100_000_000, deadline_ns=200_000_000,
                    bundle=recipe.recipe.bundle, recipe=recipe.name, recipe_hash=recipe.hash,
                    software="bench",
                )
            )  # fmt: skip
        store.add(verdicts)
    store.close()
