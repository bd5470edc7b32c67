"""The Sparkplug B edge node against a real broker; payloads read back by Google's own protobuf."""

import asyncio
import contextlib
import math
import queue
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from appliance.codes import CommandError, Reason, Word
from appliance.config import Config
from appliance.config_bus import Bus, Mqtt
from appliance.config_camera import Camera
from appliance.errors import ConfigError, DeviceError
from appliance.messages import CommandResult, Verdict, Words
from appliance.words import Bank
from tests.ports import free_port
from tests.waiting import until

pytest.importorskip("paho.mqtt", reason="the extra `bus` is not installed")

pytest.importorskip("google.protobuf", reason="protobuf is not installed")


from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from appliance.plc_mqtt import SparkplugNode, verdict_metrics
from tests.sparkplug_reader import Payload, read

needs_broker = pytest.mark.skipif(
    shutil.which("mosquitto") is None and not Path("/usr/sbin/mosquitto").exists(),
    reason="no mosquitto on this machine",
)


def verdict(part_id: int, age_s: float = 0.0) -> Verdict:
    now_ns = time.time_ns() - int(age_s * 1e9)
    return Verdict(
        part_id=part_id, acq_id=part_id, epoch=3, word=Word.NG, reason=Reason.SEGAD,
        part_tag=part_id + 100, camera="top", margin=1.5, t1=1.0, t2=2.0,
        latency_ns=20_000_000, opened_utc_ns=now_ns, recipe="cell/1",
    )  # fmt: skip


class Broker:
    """mosquitto, and a client of it that hears everything."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._file = folder / "mosquitto.conf"
        self._file.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\n")
        self._process: subprocess.Popen[bytes] | None = None
        self.heard: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.start()

    def start(self) -> None:
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        self._process = subprocess.Popen(
            [program, "-c", str(self._file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.ear = mqtt.Client(CallbackAPIVersion.VERSION2)
        self.ear.on_message = lambda *message: self.heard.put(
            (message[2].topic.removeprefix("spBv1.0/inspectd/"), message[2].payload)
        )
        subscribed: list[int] = []
        self.ear.on_subscribe = lambda *_: subscribed.append(1)

        def connect() -> bool:
            with contextlib.suppress(OSError):
                self.ear.connect("127.0.0.1", self.port)
                return True
            return False

        until("the broker", connect)
        self.ear.loop_start()
        self.ear.subscribe("spBv1.0/#", qos=1)
        until("a subscription", lambda: bool(subscribed))

    def stop(self) -> None:
        self.ear.disconnect()
        self.ear.loop_stop()
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    async def next(self, topic: str) -> Any:
        """The next payload of this topic."""
        end = time.monotonic() + 15
        while time.monotonic() < end:
            with contextlib.suppress(queue.Empty):
                name, data = self.heard.get_nowait()
                if name == topic:
                    return Payload.FromString(data)
                continue
            await asyncio.sleep(0.01)
        raise AssertionError(f"nothing came on {topic}")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path)
    yield broker
    broker.stop()


def values(payload: Any) -> dict[str, Any]:
    return read(payload.SerializeToString())


class Asked:
    """What the node asked of decide."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, str, str]] = []

    async def __call__(self, name: str, argument: str, by: str) -> CommandResult:
        self.commands.append((name, argument, by))
        return CommandResult(id="", code=CommandError.DONE)


def make(tmp_path: Path, port: int, ask: Any = None, **settings: Any) -> SparkplugNode:
    section = Mqtt(host="127.0.0.1", port=port, node="box", **settings)
    config = Config(
        root=str(tmp_path), deadline_ms=200, bus=Bus(mqtt=section),
        camera=(Camera(name="top", kind="files", folder="x"),),
    )  # fmt: skip
    return SparkplugNode(section, config, ask or Asked(), structlog.get_logger())


@asynccontextmanager
async def serving(node: SparkplugNode) -> AsyncIterator[None]:
    """As the process `bus` keeps it."""

    async def keep() -> None:
        while True:
            with contextlib.suppress(DeviceError):
                await node.serve()
            await asyncio.sleep(0.1)

    task = asyncio.create_task(keep())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def speak(node: SparkplugNode, state: int = 6) -> None:
    """Words from decide."""
    image = Bank()
    image.set("State", state)
    image.set("Epoch", 3)
    node.words(image, Words(registers={}, counters={"ok": 5}, ledger={"unaccounted": 0}))


@needs_broker
def test_birth_data_rebirth_and_death(broker: Broker, tmp_path: Path) -> None:
    """NBIRTH with seq 0, DBIRTH, DDATA per verdict in sequence; a rebirth; NDEATH at the end."""

    async def live() -> None:
        asked = Asked()
        node = make(tmp_path, broker.port, asked)
        speak(node)
        async with serving(node):
            born = await broker.next("NBIRTH/box")
            assert born.seq == 0
            assert values(born)["bdSeq"] == 0
            assert values(born)["State"] == 6
            assert values(born)["Ledger/unaccounted"] == 0
            device = await broker.next("DBIRTH/box/top")
            assert device.seq == 1
            names = {m.name: m.datatype for m in device.metrics}
            node.verdict(verdict(7), Bank())
            data = await broker.next("DDATA/box/top")
            told = values(data)
            assert {m.name: m.datatype for m in data.metrics} == names
            assert (told["Part Id"], told["Acq Id"], told["Part Tag"]) == (7, 7, 107)
            assert (told["Verdict"], told["Verdict Name"]) == (Word.NG, "NG")
            assert told["Margin"] == 1.5
            assert not any(metric.is_historical for metric in data.metrics)
            speak(node, state=3)
            assert values(await broker.next("NDATA/box"))["State"] == 3

            rebirth = Payload(timestamp=1)
            rebirth.metrics.add(name="Node Control/Rebirth", boolean_value=True)
            broker.ear.publish("spBv1.0/inspectd/NCMD/box", rebirth.SerializeToString(), qos=1)
            again = await broker.next("NBIRTH/box")
            assert (again.seq, values(again)["bdSeq"]) == (0, 0)
            load = Payload(timestamp=1)
            load.metrics.add(name="Node Control/Load Recipe", int_value=2)
            broker.ear.publish("spBv1.0/inspectd/NCMD/box", load.SerializeToString(), qos=1)
            broker.ear.publish("spBv1.0/inspectd/NCMD/box", b"\xff\xff", qos=1)
            for _ in range(500):
                if asked.commands:
                    break
                await asyncio.sleep(0.01)
            assert asked.commands == [("load_recipe", "2", "mqtt:broker")]
        death = await broker.next("NDEATH/box")
        assert values(death) == {"bdSeq": 0}
        assert not death.HasField("seq")

    asyncio.run(live())


@needs_broker
def test_a_lost_connection_is_a_death_and_the_next_birth_has_the_next_number(
    broker: Broker, tmp_path: Path
) -> None:
    async def live() -> None:
        node = make(tmp_path, broker.port)
        speak(node)
        async with serving(node):
            await broker.next("NBIRTH/box")
            client = node._client
            assert client is not None
            line: Any = client.socket()
            line.shutdown(2)  # as a pulled cable, but quicker
            assert values(await broker.next("NDEATH/box"))["bdSeq"] == 0
            assert values(await broker.next("NBIRTH/box"))["bdSeq"] == 1
        # The number goes on after a restart of the process, too.
        async with serving(make(tmp_path, broker.port)):
            assert values(await broker.next("NBIRTH/box"))["bdSeq"] == 2

    asyncio.run(live())


@needs_broker
def test_a_command_that_the_broker_keeps_is_not_obeyed_and_counted(
    broker: Broker, tmp_path: Path
) -> None:
    """It would be obeyed anew at every connection."""

    def load(number: int, retain: bool) -> None:
        wish = Payload(timestamp=1)
        wish.metrics.add(name="Node Control/Load Recipe", int_value=number)
        topic, data = "spBv1.0/inspectd/NCMD/box", wish.SerializeToString()
        broker.ear.publish(topic, data, qos=1, retain=retain).wait_for_publish(10)

    async def live() -> None:
        asked = Asked()
        node = make(tmp_path, broker.port, asked)
        speak(node)
        await asyncio.to_thread(load, 2, True)
        async with serving(node):
            await broker.next("NBIRTH/box")
            for _ in range(1500):
                if node.counters["retained"]:
                    break
                await asyncio.sleep(0.01)
            await asyncio.to_thread(load, 3, False)
            for _ in range(1500):
                if asked.commands:
                    break
                await asyncio.sleep(0.01)
        assert asked.commands == [("load_recipe", "3", "mqtt:broker")]
        assert node.counters["retained"] == 1

    asyncio.run(live())


@needs_broker
def test_a_command_that_came_as_the_broker_went_is_not_obeyed_at_the_next_connection(
    broker: Broker, tmp_path: Path
) -> None:
    """Half a minute later another product may be on the line."""

    def wish(number: int) -> bytes:
        wished = Payload(timestamp=1)
        wished.metrics.add(name="Node Control/Load Recipe", int_value=number)
        data: bytes = wished.SerializeToString()
        return data

    async def live() -> None:
        asked = Asked()
        node = make(tmp_path, broker.port, asked)
        async with serving(node):
            await broker.next("NBIRTH/box")
            node._commanded(wish(2), False)
            assert node._lost is not None
            node._lost.set_result("as paho's thread says so in the same turn")
            await broker.next("NBIRTH/box")
            node._commanded(wish(3), False)
            while not asked.commands:
                await asyncio.sleep(0.01)
        assert asked.commands == [("load_recipe", "3", "mqtt:broker")]

    asyncio.run(asyncio.wait_for(live(), 15))


@needs_broker
def test_verdicts_wait_while_the_broker_is_away_and_what_is_too_much_is_counted(
    broker: Broker, tmp_path: Path
) -> None:
    async def live() -> None:
        node = make(tmp_path, broker.port, keep=8)
        speak(node)
        async with serving(node):
            await broker.next("DBIRTH/box/top")
            broker.stop()
            for _ in range(3000):
                if not node._is_born:
                    break
                await asyncio.sleep(0.01)
            for part_id in range(1, 11):
                node.verdict(verdict(part_id, age_s=30), Bank())
            assert node.counters["dropped"] == 2
            broker.start()
            speak(node)
            for part_id in range(3, 11):
                data = await broker.next("DDATA/box/top")
                assert values(data)["Part Id"] == part_id
                assert all(metric.is_historical for metric in data.metrics)
            assert node.counters["historical"] == 8

    asyncio.run(live())


@needs_broker
def test_when_decide_is_silent_its_cameras_are_dead(broker: Broker, tmp_path: Path) -> None:
    async def live() -> None:
        node = make(tmp_path, broker.port)
        speak(node)
        async with serving(node):
            await broker.next("DBIRTH/box/top")
            node.silent()
            await broker.next("DDEATH/box/top")
            speak(node)
            await broker.next("DBIRTH/box/top")

    asyncio.run(live())


def test_no_broker_is_a_device_error_that_names_the_address(tmp_path: Path) -> None:
    port = free_port()
    node = make(tmp_path, port)
    with pytest.raises(DeviceError, match=f"127.0.0.1:{port}"):
        asyncio.run(node.serve())


def test_files_of_the_section_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        make(tmp_path, 1883, password_file="secret")
    (tmp_path / "secret").write_text("word\n")
    (tmp_path / "secret").chmod(0o644)
    with pytest.raises(ConfigError, match="mode 0600"):
        make(tmp_path, 1883, user="u", password_file="secret")
    (tmp_path / "secret").chmod(0o600)
    make(tmp_path, 1883, user="u", password_file="secret")


def test_a_part_without_margin_tells_nan_and_every_verdict_has_the_same_metrics() -> None:
    bare = msgspec.structs.replace(verdict(1), margin=None, t1=None, t2=None)
    names = [[m.name for m in verdict_metrics(v, False)] for v in (bare, verdict(2))]
    assert names[0] == names[1]
    margin = next(m for m in verdict_metrics(bare, False) if m.name == "Margin")
    assert isinstance(margin.value, float) and math.isnan(margin.value)
