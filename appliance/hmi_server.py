"""The web server of the page: a port, addresses of images, headers, and an end within two seconds.

NiceGUI makes the page itself and serves its own files; nothing is ever fetched from elsewhere, and
the browser is told to refuse it.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI, Response
from nicegui import Client, ui
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from appliance import hmi_texts
from appliance.errors import AddressInUse
from appliance.hmi_pictures import Images
from appliance.tls import Files

_CLOSE_S = 0.4
"""For the browsers to answer the closing of their connections."""
_END_S = 1.4
"""After that, for NiceGUI to end its tasks: on a busy machine they need some turns."""
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; "
        "connect-src 'self' ws: wss:; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
}
_LARGEST_ID = (1 << 63) - 1
_IMAGE_HEADERS = {"Cache-Control": "private, max-age=600"}


def listen(host: str, port: int, key: str = "hmi.port") -> socket.socket:
    """The port of a page, bound. Raises ConfigError naming `key` where that is not possible."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as err:
        listener.close()
        raise AddressInUse(
            f"config.toml: hmi.host, {key}", f"a free address, {host}:{port}", str(err)
        ) from err
    return listener


def make_app(
    images: Callable[[int, str], Awaitable[Images | None]],
    outline: Callable[[str], bytes | None],
    extend: Callable[[FastAPI], None] = lambda app: None,
) -> FastAPI:
    """Page and images. images: of a part by its id, and of several cameras by the camera ("" = the
    one that decided); outline: regions by the name of a `Picture`.

    extend: adds further addresses; they must be there before the pages, which take all that is
    left.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    app.add_middleware(_Hardened)

    @app.get("/part/{part_id}.jpg")
    @app.get("/part/{part_id}/{camera}.jpg")
    async def picture(  # pyright: ignore[reportUnusedFunction]
        part_id: int, camera: str = ""
    ) -> Response:
        found = await images(part_id, camera) if 0 < part_id <= _LARGEST_ID else None
        return _image(found.jpeg if found else None, "image/jpeg")

    @app.get("/part/{part_id}/heat.png")
    @app.get("/part/{part_id}/{camera}/heat.png")
    async def heat(  # pyright: ignore[reportUnusedFunction]
        part_id: int, camera: str = ""
    ) -> Response:
        found = await images(part_id, camera) if 0 < part_id <= _LARGEST_ID else None
        return _image(found.heat if found else None, "image/png")

    @app.get("/regions/{name}.png")
    async def regions(name: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        return _image(outline(name), "image/png")

    extend(app)
    ui.run_with(
        app,
        title=hmi_texts.TITLE,
        dark=None,
        tailwind=False,
        binding_refresh_interval=None,
        show_welcome_message=False,
        message_history_length=100,
    )
    return app


def make_server(app: FastAPI, tls: Files | None) -> uvicorn.Server:
    """A server that leaves signals and logging to the process. tls: None = plain HTTP."""
    return _Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="on",
            proxy_headers=False,  # anybody on the box could name the address that is locked out
            ws_per_message_deflate=False,  # costs more than a plant's network gains
            timeout_graceful_shutdown=1,
            ssl_certfile=tls.certificate if tls else None,
            ssl_keyfile=tls.key if tls else None,
        )
    )


async def end(server: uvicorn.Server, serving: "asyncio.Task[None]") -> None:
    """Close all connections and end what NiceGUI runs, whatever the browsers do.

    A connection whose browser does not answer is dropped, so that the server's own end is walked
    through to its last step: cut off half-way it would log an error at every stop.
    """
    for client in Client.instances.values():
        # Cancelling them is not enough: up to Python 3.11 `asyncio.wait_for`, in which these loops
        # sit, forgets a cancellation that comes together with what it waits for.
        client.outbox.stop()
    server.should_exit = True
    done, _ = await asyncio.wait([serving], timeout=_CLOSE_S)
    if not done:
        for connection in tuple(server.server_state.connections):
            connection.transport.abort()
        done, _ = await asyncio.wait([serving], timeout=_END_S)
    if not done:
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving


class _Hardened:
    """Headers for every answer. FastAPI's own decorator would pass each through two more tasks."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def hardened(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, hardened)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Signals belong to the service."""
        yield


def _image(data: bytes | None, kind: str) -> Response:
    if not data:
        return Response(status_code=404)
    return Response(data, media_type=kind, headers=_IMAGE_HEADERS)
