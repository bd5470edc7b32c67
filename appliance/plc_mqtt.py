"""MQTT: a Sparkplug B edge node, one device per camera, one DDATA per verdict.

While the broker is away verdicts are kept in memory, up to a limit, and sent as historical when it
is back. There is one reconnect loop, ours: paho's own is not used. paho's thread runs the socket.
"""

import asyncio
import socket
import ssl
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from appliance.codes import CommandError, Reason, Word
from appliance.config import Config
from appliance.config_bus import Mqtt
from appliance.errors import ConfigError, DeviceError
from appliance.messages import Verdict, Words
from appliance.projection import Ask
from appliance.registers import FROM_VISION
from appliance.sparkplug import BadPayload, DataType, Metric, decode, encode
from appliance.words import Bank

_NAMESPACE = "spBv1.0"
_CONNECT_S = 10.0
_REBIRTH = "Node Control/Rebirth"
_LOAD_RECIPE = "Node Control/Load Recipe"
_SHOWN = ("State", "OfflineReason", "FaultCode", "RecipeId", "Status1", "Status2", "Epoch")
"""Registers of the node itself; the heartbeat would be a message every 100 ms for nothing."""
_KINDS = {"u16": DataType.UINT16, "u32": DataType.UINT32}
_REGISTERS = {row.name: row for row in FROM_VISION}
_COUNT_EVERY_S = 1.0


def utc_ms() -> int:
    """For people: deadlines are nobody's business here."""
    return time.time_ns() // 1_000_000


def verdict_metrics(verdict: Verdict, is_historical: bool) -> list[Metric]:
    """What a DDATA tells about one part."""
    at_ms = (verdict.opened_utc_ns + verdict.latency_ns) // 1_000_000
    rows: Sequence[tuple[str, DataType, Any]] = (
        ("Part Id", DataType.UINT64, verdict.part_id),
        ("Acq Id", DataType.UINT16, verdict.acq_id),
        ("Part Tag", DataType.UINT32, verdict.part_tag),
        ("Part Text", DataType.STRING, verdict.part_text),
        ("Lot", DataType.STRING, verdict.lot),
        ("Verdict", DataType.UINT16, verdict.word),
        ("Verdict Name", DataType.STRING, verdict.word.name),
        ("Reason", DataType.UINT16, verdict.reason),
        ("Margin", DataType.DOUBLE, _number(verdict.margin)),
        ("T1", DataType.DOUBLE, _number(verdict.t1)),
        ("T2", DataType.DOUBLE, _number(verdict.t2)),
        ("Latency ms", DataType.DOUBLE, verdict.latency_ns / 1e6),
        ("Recipe", DataType.STRING, verdict.recipe),
        ("Recipe Hash", DataType.STRING, verdict.recipe_hash),
        ("Is Simulated", DataType.BOOLEAN, verdict.is_simulated),
        ("Is Challenge", DataType.BOOLEAN, verdict.is_challenge),
    )
    return [
        Metric(name=name, kind=kind, value=value, time_ms=at_ms, is_historical=is_historical)
        for name, kind, value in rows
    ]


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


class SparkplugNode:
    """A Projection."""

    name = "mqtt"

    def __init__(self, settings: Mqtt, config: Config, ask: Ask, log: Any) -> None:
        """Raises ConfigError where a file that the section names is not there."""
        self._settings, self._ask, self._log = settings, ask, log
        self._node = settings.node or socket.gethostname()
        self._cameras = [camera.name for camera in config.camera]
        self._keep: deque[Verdict] = deque()
        self.counters = {"sent": 0, "dropped": 0, "historical": 0, "retained": 0}
        self._state_file = config.state_dir / "mqtt_bdseq"
        self._password = _secret(config.root_dir, settings.password_file)
        self._ca = _file(config.root_dir, settings.ca_file)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: mqtt.Client | None = None
        self._lost: asyncio.Future[str] | None = None
        self._commands: asyncio.Queue[tuple[str, Any]] = asyncio.Queue(100)
        self._changed = asyncio.Event()
        self._seq = 0
        self._bdseq = self._last_bdseq()
        self._image: Bank | None = None
        self._counters_at_s = 0.0
        self._words: Words | None = None
        self._shown: dict[str, int] = {}
        self._is_silent = True
        self._is_stale_told = False
        self._is_born = False

    def words(self, image: Bank, words: Words) -> None:
        """Sent where something changed."""
        self._image, self._words, self._is_silent = image, words, False
        self._changed.set()

    def verdict(self, verdict: Verdict, image: Bank) -> None:
        """Sent, or kept while the broker is away."""
        self._keep.append(verdict)
        while len(self._keep) > self._settings.keep:
            self._keep.popleft()
            self.counters["dropped"] += 1
        self._changed.set()

    def silent(self) -> None:
        """The devices die: Sparkplug's way to say that nothing they said may be believed."""
        if not self._is_silent:
            self._is_silent = True
            self._changed.set()

    async def prepare(self) -> None:
        """Nothing takes long here."""

    async def serve(self) -> None:
        """Connect, be born, publish. Raises DeviceError when the broker is lost."""
        loop = self._loop = asyncio.get_running_loop()
        self._lost = loop.create_future()
        self._commands = asyncio.Queue(100)  # what came as the last connection went is over
        connected: asyncio.Future[str] = loop.create_future()
        client = self._client = self._make_client(connected)
        client.will_set(self._topic("NDEATH"), self._death(), qos=1)
        try:
            await asyncio.to_thread(
                client.connect, self._settings.host, self._settings.port, keepalive=5
            )
        except (OSError, ValueError) as err:
            raise DeviceError(f"{self._settings.host}:{self._settings.port}: {err}") from err
        client.loop_start()
        try:
            refusal = await asyncio.wait_for(connected, _CONNECT_S)
            if refusal:
                raise DeviceError(f"the broker refuses: {refusal}")
            client.subscribe(self._topic("NCMD"), qos=1)
            self._give_birth()
            await self._publish_until_lost()
        except (asyncio.TimeoutError, TimeoutError) as err:
            raise DeviceError(f"the broker gave no answer in {_CONNECT_S:g} s") from err
        finally:
            self._is_born = False
            await asyncio.to_thread(self._hang_up, client)
            self._count_bdseq()

    def _make_client(self, connected: "asyncio.Future[str]") -> mqtt.Client:
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=f"{self._settings.group}-{self._node}",
            reconnect_on_failure=False,
        )  # fmt: skip
        if self._settings.user:
            client.username_pw_set(self._settings.user, self._password or None)
        if self._ca is not None:
            client.tls_set(ca_certs=str(self._ca), cert_reqs=ssl.CERT_REQUIRED)
        loop = self._loop
        assert loop is not None

        def tell(future: "asyncio.Future[str] | None", text: str) -> None:
            if future is not None and not future.done():
                future.set_result(text)

        def on_connect(_: Any, __: Any, ___: Any, code: Any, ____: Any) -> None:
            text = str(code) if code.is_failure else ""
            loop.call_soon_threadsafe(tell, connected, text)

        def on_disconnect(_: Any, __: Any, ___: Any, code: Any, ____: Any) -> None:
            loop.call_soon_threadsafe(tell, self._lost, str(code))

        def on_message(_: Any, __: Any, message: Any) -> None:
            kept = bool(message.retain)
            loop.call_soon_threadsafe(self._commanded, bytes(message.payload), kept)

        client.on_connect, client.on_disconnect = on_connect, on_disconnect
        client.on_message = on_message
        return client

    def _hang_up(self, client: mqtt.Client) -> None:
        if client.is_connected():
            said = client.publish(self._topic("NDEATH"), self._death(), qos=1)
            with suppress(RuntimeError, ValueError):  # lost meanwhile: the broker says it for us
                said.wait_for_publish(1.0)
            client.disconnect()
        client.loop_stop()

    async def _publish_until_lost(self) -> None:
        assert self._lost is not None
        while True:
            changed = asyncio.ensure_future(self._changed.wait())
            await asyncio.wait([changed, self._lost], return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            if self._lost.done():
                raise DeviceError(f"the broker is lost: {self._lost.result()}")
            self._changed.clear()
            self._publish_news()
            while not self._commands.empty():
                await self._obey(*self._commands.get_nowait())

    def _give_birth(self) -> None:
        """NBIRTH with every metric, DBIRTH of every camera; sequence numbers start at 0."""
        self._seq = 0
        at_ms = utc_ms()
        node = [
            Metric(name="bdSeq", kind=DataType.UINT64, value=self._bdseq, time_ms=at_ms),
            Metric(name=_REBIRTH, kind=DataType.BOOLEAN, value=False, time_ms=at_ms),
            Metric(name=_LOAD_RECIPE, kind=DataType.UINT32, value=0, time_ms=at_ms),
            *self._node_metrics(at_ms, is_birth=True),
        ]
        self._send("NBIRTH", node)
        self._is_born, self._is_stale_told = True, self._is_silent
        if not self._is_silent:
            self._bear_devices()
        self._changed.set()

    def _bear_devices(self) -> None:
        empty = Verdict(part_id=0, acq_id=0, epoch=0, word=Word.NONE, reason=Reason.NONE)
        for camera in self._cameras:
            self._send("DBIRTH", verdict_metrics(empty, False), camera)

    def _death(self) -> bytes:
        at_ms = utc_ms()
        metric = Metric(name="bdSeq", kind=DataType.UINT64, value=self._bdseq, time_ms=at_ms)
        return encode([metric], at_ms, None)

    def _last_bdseq(self) -> int:
        try:
            return (int(self._state_file.read_text(encoding="ascii")) + 1) % 256
        except (OSError, ValueError):
            return 0

    def _count_bdseq(self) -> None:
        """A death certificate belongs to one connection: the next has the next number."""
        try:
            self._state_file.parent.mkdir(parents=True, exist_ok=True)
            self._state_file.write_text(f"{self._bdseq}", encoding="ascii")
        except OSError as err:
            self._log.warning("bdSeq will begin anew after a restart", why=str(err))
        self._bdseq = (self._bdseq + 1) % 256

    def _publish_news(self) -> None:
        if self._is_silent:
            if not self._is_stale_told:
                self._is_stale_told = True
                for camera in self._cameras:
                    self._send("DDEATH", [], camera)
            return
        if self._is_stale_told:
            self._is_stale_told = False
            self._bear_devices()
        at_ms = utc_ms()
        if news := self._node_metrics(at_ms, is_birth=False):
            self._send("NDATA", news)
        while self._keep:
            verdict = self._keep[0]
            late_ms = at_ms - (verdict.opened_utc_ns + verdict.latency_ns) // 1_000_000
            is_historical = late_ms > 1000
            camera = verdict.camera or self._cameras[0]
            if not self._send("DDATA", verdict_metrics(verdict, is_historical), camera):
                return  # lost meanwhile: kept for the next connection
            self._keep.popleft()
            self.counters["sent"] += 1
            self.counters["historical"] += is_historical

    def _node_metrics(self, at_ms: int, is_birth: bool) -> list[Metric]:
        values: dict[str, tuple[DataType, int]] = {}
        image, words = self._image, self._words
        for name in _SHOWN:
            kind = _KINDS[_REGISTERS[name].kind]
            values[name] = kind, image.number(name) if image is not None else 0
        is_counting = is_birth or time.monotonic() - self._counters_at_s > _COUNT_EVERY_S
        if is_counting and words is not None:
            self._counters_at_s = time.monotonic()
            for group, figures in (("Counters", words.counters), ("Ledger", words.ledger)):
                values |= {f"{group}/{k}": (DataType.INT64, v) for k, v in figures.items()}
        news = {k: v for k, v in values.items() if is_birth or self._shown.get(k) != v[1]}
        self._shown |= {name: value for name, (_, value) in news.items()}
        return [
            Metric(name=name, kind=kind, value=value, time_ms=at_ms)
            for name, (kind, value) in news.items()
        ]

    def _send(self, kind: str, metrics: list[Metric], device: str = "") -> bool:
        client = self._client
        if client is None or not client.is_connected():
            return False
        payload = encode(metrics, utc_ms(), self._seq)
        done = client.publish(self._topic(kind, device), payload, qos=0)
        if done.rc != mqtt.MQTT_ERR_SUCCESS:
            return False
        self._seq = (self._seq + 1) % 256
        return True

    def _topic(self, kind: str, device: str = "") -> str:
        topic = f"{_NAMESPACE}/{self._settings.group}/{kind}/{self._node}"
        return f"{topic}/{device}" if device else topic

    def _commanded(self, payload: bytes, is_retained: bool) -> None:
        if is_retained:
            # The broker would repeat it at every connection, long after anybody wished it.
            self.counters["retained"] += 1
            self._log.warning("retained MQTT command not obeyed: publish it without retain")
            return
        try:
            metrics = decode(payload)
        except BadPayload as err:
            self._log.warning("foreign MQTT command", why=str(err))
            return
        for name, value in metrics:
            if not self._commands.full():
                self._commands.put_nowait((name, value))
        self._changed.set()

    async def _obey(self, name: str, value: Any) -> None:
        if name == _REBIRTH and value:
            self._give_birth()
        elif name == _LOAD_RECIPE and isinstance(value, int):
            # Asked aside: a change of recipe takes up to a minute, verdicts go on meanwhile.
            task = asyncio.ensure_future(self._load(value))
            task.add_done_callback(lambda done: done.exception())
        else:
            self._log.warning("unknown MQTT command", name=name)

    async def _load(self, number: int) -> None:
        answer = await self._ask("load_recipe", str(number), "mqtt:broker")
        if answer.code != CommandError.DONE:
            self._log.warning("recipe not loaded", number=number, why=answer.detail)


def _file(root: Path, name: str) -> Path | None:
    if not name:
        return None
    path = root / name
    if not path.is_file():
        raise ConfigError(path, "a file", "no such file")
    return path


def _secret(root: Path, name: str) -> str:
    path = _file(root, name)
    if path is None:
        return ""
    if path.stat().st_mode & 0o077:
        raise ConfigError(path, "mode 0600", f"{path.stat().st_mode & 0o777:04o}")
    return path.read_text(encoding="utf-8").strip()
