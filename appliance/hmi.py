"""PROCESS: verdicts, words and health → one web page that a shift reads across the hall.

Enters: `live` from decide, `health` of everyone, frames and maps from the rings (read-only), rows
of past rejects. Leaves: a page and images on `hmi.host:port`, nothing else: it commands nothing,
and a slow browser slows nobody. All of the page comes from this machine.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import uvicorn
from nicegui import Client

from appliance import hmi_page
from appliance.codes import Word
from appliance.config import Config
from appliance.database import where
from appliance.errors import ArtefactError, DeviceError
from appliance.hmi_pictures import Images, Pictures
from appliance.hmi_screen import Screen
from appliance.hmi_server import end, listen, make_app, make_server
from appliance.hmi_view import STRIP, LiveView
from appliance.messages import Health, Verdict, Words
from appliance.service import Service, be_nice
from appliance.shortage import own_use
from appliance.store import Store
from appliance.tls import Files, files_of
from appliance.wire import AsyncReceiver, Wiring

T = TypeVar("T")
TICK_S = 0.1
SOONEST_S = 0.03
"""Least time between two screens: at most 33 a second."""
PICTURE_S = 0.08
"""Least time between two pictures of the newest part: at most 12 a second."""
LOOK_S = 0.25
"""Until pictures that could not be made are looked at again, without a new part."""
HISTORY_S = 5.0
_RETRIES_S = (0.3, 1.0, 3.0, 3600.0)
"""Pauses after each failure to make a picture."""


def main(service: Service, config: Config, name: str) -> None:
    """Serve until stopped. Raises ConfigError before anything is served: the port is taken, the
    certificate cannot be used."""
    tls = files_of(config)
    listener = listen(config.hmi.host, config.hmi.port)
    be_nice()
    with Wiring(config.runtime_dir, config.wire.remote, config.keys_dir) as wiring:
        asyncio.run(Hmi(service, config, wiring).serve(listener, tls))


class Hmi:
    """The loop's tasks and what they share."""

    def __init__(self, service: Service, config: Config, wiring: Wiring) -> None:
        self._service, self._config = service, config
        self._live = wiring.async_receiver("live")
        self._health = wiring.receiver("health", *config.processes)
        self._own_health = wiring.sender("health", "hmi")
        self._view = LiveView(config.processes)
        self._pictures = Pictures(config)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pictures")
        self._screen: Screen = self._view.screen(service.clock())
        self._store: Store | None = None
        self._retries: dict[tuple[int, str], tuple[int, int]] = {}
        self._lag_ms = 0.0
        self._came = asyncio.Event()
        """A part whose picture has to be made."""
        self._news = asyncio.Event()
        """Something to be seen that is worth a screen before the next tick."""

    async def serve(self, listener: socket.socket, tls: Files | None) -> None:
        """Until the service stops, or a task meets a bug."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        self._service.on_stop(lambda: loop.call_soon_threadsafe(stop.set))
        show = hmi_page.build(lambda: self._screen)
        server = make_server(make_app(self._images, self._pictures.outline), tls)
        serving = asyncio.create_task(server.serve([listener]))
        tasks = [
            asyncio.create_task(task)
            for task in (
                self._follow_live(),
                self._tick(server, show),
                self._make_pictures(),
                self._read_history(),
            )
        ]
        stopping = asyncio.create_task(stop.wait())
        if self._service.is_stopping:
            stop.set()
        done, _ = await asyncio.wait(
            [stopping, serving, *tasks], return_when=asyncio.FIRST_COMPLETED
        )
        for task in (stopping, *tasks):
            task.cancel()
        await end(server, serving)
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._store is not None:
            self._store.close()
        for task in done:
            if task is not stopping:
                task.result()

    async def _follow_live(self) -> None:
        async for message in _messages(self._live):
            if isinstance(message, Verdict):
                self._view.verdict(message, self._service.clock())
                (self._came if message.pixels else self._news).set()
            elif isinstance(message, Words):
                self._view.words(message, self._service.clock())

    async def _tick(self, server: uvicorn.Server, show: Callable[[Screen], None]) -> None:
        """Every 100 ms, and as soon as there is news: the screen of all clients, our health, the
        watchdog."""
        loop = asyncio.get_running_loop()
        while not server.started:
            await asyncio.sleep(0.01)
        self._service.ready()
        while True:
            due = loop.time() + TICK_S
            while (message := self._health.receive()) is not None:
                if isinstance(message, Health):
                    self._view.health(message, self._service.clock())
            self._screen = self._view.screen(self._service.clock())
            show(self._screen)
            self._own_health.send(self._report())
            self._service.turn()
            await asyncio.sleep(SOONEST_S)
            await _within(self._news, due - loop.time())
            self._lag_ms = max(0.0, (loop.time() - due) * 1e3)

    async def _make_pictures(self) -> None:
        """Images of what the page shows, one at a time, while anybody looks."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + PICTURE_S
            if Client.instances and await self._make_those_due():
                await asyncio.sleep(due - loop.time())
            else:
                await _within(self._came, LOOK_S)

    async def _make_those_due(self) -> bool:
        """One of the newest part, one of its other views, one of the strip; False = none is due."""
        newest, strip = self._view.wanted()
        is_any = False
        for wanted in (
            [(verdict, "") for verdict in newest],
            self._view.wanted_views(),
            [(verdict, "") for verdict in strip],
        ):
            now_ns = self._service.clock()
            due = [
                (verdict, camera)
                for verdict, camera in wanted
                if self._retries.get((verdict.part_id, camera), (0, 0))[1] <= now_ns
            ]
            if due:
                is_any = True
                await self._make_picture(*due[0])
        return is_any

    async def _make_picture(self, verdict: Verdict, camera: str) -> None:
        images = await self._in_thread(partial(self._pictures.make, verdict, camera))
        key = verdict.part_id, camera
        if images is not None:
            self._view.pictured(verdict.part_id, images.picture, camera)
            self._news.set()
            self._retries.pop(key, None)
            return
        # Not in the ring any more, and perhaps not yet in the archive.
        tries = self._retries.get(key, (0, 0))[0]
        pause_s = _RETRIES_S[min(tries, len(_RETRIES_S) - 1)]
        self._retries[key] = (tries + 1, self._service.clock() + int(pause_s * 1e9))
        if len(self._retries) > 1000:
            self._retries.pop(next(iter(self._retries)))

    async def _read_history(self) -> None:
        """Past rejects, as soon as the database can be read."""
        while True:
            if self._store is None:
                await self._in_thread(self._open_store)
            await asyncio.sleep(HISTORY_S)

    def _open_store(self) -> None:
        """Leaves the store None where it cannot be read yet: its process may not have made it."""
        try:
            store = Store(where(self._config), is_reader=True)
            rows = store.last(STRIP, [Word.NG])
        except (DeviceError, ArtefactError):
            return
        self._view.history([row.verdict for row in rows])
        self._store = store

    def _report(self) -> Health:
        return Health(
            process="hmi",
            pid=os.getpid(),
            is_serving=True,
            counters={
                "verdicts": self._view.received,
                "skipped": self._view.skipped,
                "foreign": self._live.foreign + self._health.foreign,
                "clients": len(Client.instances),
                "pictures": self._pictures.made,
                "pictures_failed": self._pictures.failed,
            },
            gauges={"lag_ms": self._lag_ms} | own_use(),
        )

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def _images(self, part_id: int, camera: str) -> Images | None:
        """Images of any part: made already, still remembered, or out of the archive."""
        if images := self._pictures.get(part_id, camera):
            return images
        verdict = self._view.find(part_id)
        if verdict is None:
            verdict = await self._in_thread(partial(self._stored, part_id))
        if verdict is None:
            return None
        return await self._in_thread(partial(self._pictures.make, verdict, camera))

    def _stored(self, part_id: int) -> Verdict | None:
        if self._store is None:
            return None
        try:
            row = self._store.part(part_id)
        except (DeviceError, ArtefactError):
            return None
        return row.verdict if row else None


async def _messages(receiver: AsyncReceiver) -> AsyncIterator[object]:
    """All that comes; lets the other tasks run in a flood too."""
    count = 0
    while True:
        _, message = await receiver.receive()
        yield message
        count += 1
        if count % 32 == 0:
            await asyncio.sleep(0)


async def _within(event: asyncio.Event, seconds: float) -> None:
    """Until the event, which is taken with it, or so long."""
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(event.wait(), max(0.0, seconds))
    event.clear()
