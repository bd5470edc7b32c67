"""PROCESS tool: people judge parts, set limits, see who changed what. Beside the line, not in it.

Enters: `parts.db` and the archive (read only), recipes, what decide says (`live`), people. Leaves:
pages on `hmi.host:hmi.tool_port`, labels and proposals, new versions of recipes, and orders to
decide. It never touches a verdict; it may be slow, killed or switched off at any time.
"""

import asyncio
import socket
from pathlib import Path

from nicegui import ui

from appliance.config import Config
from appliance.errors import ConfigError, DeviceError
from appliance.hmi_server import end, listen, make_app, make_server
from appliance.service import Service, be_nice
from appliance.tls import Files, files_of
from appliance.wire import AsyncReceiver, Wiring
from calibration import (
    control,
    frame,
    page_audit,
    page_calibrate,
    page_camera,
    page_challenge,
    page_health,
    page_msa,
    page_parts,
    page_recipes,
    page_report,
    page_segments,
    page_teach,
    page_tokens,
    page_users,
)
from calibration.desk import Desk
from calibration.door import add_door
from calibration.drift_watch import Watch

_HERE = Path(__file__).parent
_TICK_S = 0.25


def main(service: Service, config: Config, name: str) -> None:
    """Serve until stopped. Raises ConfigError before anything is served."""
    if not config.hmi.tool_port:
        raise ConfigError("config.toml: hmi.tool_port", "a port for the tool", "0")
    tls = files_of(config)
    listener = listen(config.hmi.host, config.hmi.tool_port, "hmi.tool_port")
    be_nice()
    with Wiring(config.runtime_dir, config.wire.remote, config.keys_dir) as wiring:
        asyncio.run(_serve(service, config, wiring, listener, tls))


async def _serve(
    service: Service, config: Config, wiring: Wiring, listener: socket.socket, tls: Files | None
) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    service.on_stop(lambda: loop.call_soon_threadsafe(stop.set))
    try:
        desk = Desk(config, service.config_path, wiring.async_sender("command"))
    except DeviceError as err:
        raise ConfigError(config.data_dir / "people.db", "a usable database", str(err)) from err
    build(desk)
    server = make_server(make_app(desk.images, desk.outline, lambda app: add_door(app, desk)), tls)
    processes = wiring.async_receiver("health", *config.processes)

    async def follow(heard: AsyncReceiver) -> None:
        while True:
            _, message = await heard.receive()
            desk.heard(message)

    async def tick() -> None:
        while not server.started:
            await asyncio.sleep(0.01)
        service.ready()
        while True:
            service.turn()
            await asyncio.sleep(_TICK_S)

    serving = asyncio.create_task(server.serve([listener]))
    tasks = [
        asyncio.create_task(task)
        for task in (
            follow(wiring.async_receiver("live")),
            follow(processes),
            tick(),
            control.watch(desk),
            Watch(desk).run(),
        )
    ]
    stopping = asyncio.create_task(stop.wait())
    if service.is_stopping:
        stop.set()
    done, _ = await asyncio.wait([stopping, serving, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in (stopping, *tasks):
        task.cancel()
    await end(server, serving)
    desk.close()
    for task in done:
        if task is not stopping:
            task.result()


def build(desk: Desk) -> None:
    """Register all pages."""
    ui.add_css(_HERE.parent / "appliance" / "hmi.css", shared=True)
    ui.add_css(_HERE / "tool.css", shared=True)
    for path in (_HERE.parent / "appliance" / "hmi_watch.js", _HERE / "decimal_comma.js"):
        ui.add_head_html(f"<script>{path.read_text(encoding='utf-8')}</script>", shared=True)
    for address, page in (
        ("/parts", page_parts.build),
        ("/calibrate", page_calibrate.build),
        ("/segments", page_segments.build),
        ("/teach", page_teach.build),
        ("/challenge", page_challenge.build),
        ("/msa", page_msa.build),
        ("/recipes", page_recipes.build),
        ("/camera", page_camera.build),
        ("/health", page_health.build),
        ("/report", page_report.build),
        ("/tokens", page_tokens.build),
        ("/users", page_users.build),
        ("/audit", page_audit.build),
    ):
        frame.register(desk, address, page)
