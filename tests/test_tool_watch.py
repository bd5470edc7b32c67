"""The tasks of the tool's process go on where disk or database cannot be used for a while."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from appliance.config import Config
from appliance.config_camera import Camera
from appliance.errors import DeviceError
from appliance.messages import Words
from appliance.wire import Wiring
from calibration import control, drift_watch
from calibration.desk import Desk


@pytest.mark.parametrize(
    "task", [control.watch, lambda desk: drift_watch.Watch(desk).run()], ids=["control", "drift"]
)
def test_what_cannot_be_read_is_read_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Callable[[Desk], Awaitable[None]]
) -> None:
    monkeypatch.setattr(control, "LOOK_S", 0.0)
    monkeypatch.setattr(drift_watch, "LOOK_S", 0.0)
    camera = Camera(name="top", kind="files", folder="x")
    config = Config(root=str(tmp_path), runtime=str(tmp_path), deadline_ms=200, camera=(camera,))
    errors: list[Exception] = [DeviceError("the database is locked"), OSError(28, "No space left")]

    async def run(desk: Desk) -> None:
        asked = asyncio.Event()

        async def broken(call: object) -> object:
            if errors:
                raise errors.pop()
            asked.set()
            return await asyncio.Event().wait()

        monkeypatch.setattr(desk, "run", broken)
        watching = asyncio.ensure_future(task(desk))
        await asyncio.wait(
            [watching, asyncio.ensure_future(asked.wait())],
            return_when=asyncio.FIRST_COMPLETED,
            timeout=60,
        )
        assert asked.is_set() and not watching.done()
        watching.cancel()

    with Wiring(config.runtime_dir) as wiring:

        async def opened() -> None:
            desk = Desk(config, tmp_path / "config.toml", wiring.async_sender("command"))
            desk.heard(Words(registers={}, owner="eva"))
            try:
                await run(desk)
            finally:
                desk.close()

        asyncio.run(opened())
