"""PROCESS: what everyone reports → Prometheus, on a port of its own; off unless configured.

Enters: `health` of all processes, `live` of decide. Leaves: text on http(s)://`metrics.host:port`/.
Names and labels are made from the names in the messages, so that a new counter is there by itself.
A process of its own, since no scrape may cost the line anything; its death is nobody's matter.
"""

import os
import socket
import ssl
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler

from prometheus_client import CollectorRegistry, Counter, Histogram, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from appliance.codes import Reason, Status1, Status2, Word
from appliance.config import Config
from appliance.errors import AddressInUse
from appliance.messages import Health, Verdict, Words
from appliance.registers import REGISTERS
from appliance.service import Service
from appliance.shortage import own_use
from appliance.tls import files_of
from appliance.wire import Inbox, Wiring

_BEAT_NS = 100_000_000
_PATIENCE_S = 5.0
_BUCKETS_S = (
    0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5,
    1.0, 2.0,
)  # fmt: skip
_STATES = ("State", "OfflineReason", "FaultCode", "Epoch")


def main(service: Service, config: Config, name: str) -> None:
    """Serve until stopped. Raises ConfigError where the port is taken or the certificate bad."""
    others = (*config.processes, *(name for name in config.companions if name != "metrics"))
    tls = files_of(config)
    with Wiring(config.runtime_dir, config.wire.remote, config.keys_dir) as wiring:
        live, healths = wiring.receiver("live"), wiring.receiver("health", *others)
        own = wiring.sender("health", "metrics")
        metrics = Metrics(service, others)
        registry = CollectorRegistry()
        registry.register(metrics)
        settings = config.metrics
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if tls else None
        if tls and context:
            context.load_cert_chain(*tls)
        try:
            server = Exporter(settings.host, settings.port, registry, context)
        except OSError as err:
            address = f"{settings.host}:{settings.port}"
            raise AddressInUse("metrics.port", f"a free port {address}", str(err)) from err
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        inbox, beat_ns = Inbox(live, healths), 0
        service.ready()
        while not service.is_stopping:
            for _, message in inbox.poll(100):
                metrics.take(message)
            if service.clock() - beat_ns >= _BEAT_NS:
                beat_ns = service.clock()
                foreign = live.foreign + healths.foreign
                own.send(
                    Health(
                        process="metrics",
                        pid=os.getpid(),
                        is_serving=True,
                        counters={"scrapes": metrics.scrapes, "foreign": foreign},
                        gauges=own_use(),
                    )
                )
            service.turn()
        server.shutdown()
        thread.join(1)
        server.server_close()


class _Handler(WSGIRequestHandler):
    timeout = _PATIENCE_S

    def log_message(self, format: str, *args: object) -> None:
        """No line for each scrape."""


class Exporter(ThreadingWSGIServer):
    """Answers scrapes, each in a thread of its own, its TLS handshake included: whoever connects
    and says nothing keeps nobody waiting, and is gone after 5 s. Raises OSError: the address."""

    def __init__(
        self, host: str, port: int, registry: Collector, context: ssl.SSLContext | None = None
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._context = context
        super().__init__((host, port), _Handler)
        self.set_app(make_wsgi_app(registry))

    def get_request(self) -> tuple[Any, Any]:
        """The next connection; nothing has been read from it."""
        connection, address = super().get_request()
        if self._context is not None:
            connection.settimeout(_PATIENCE_S)
            connection = self._context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away or speaks no TLS is its own matter."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Metrics(Collector):
    """The newest of everything, as a scrape wants it. Scrapes come in a thread of their own."""

    def __init__(self, service: Service, processes: Iterable[str]) -> None:
        self._clock = service.clock
        self._lock = threading.Lock()
        self._health: dict[str, tuple[int, Health]] = {}
        self._processes = tuple(processes)
        self._words: Words | None = None
        self.scrapes = 0
        self._seen = CollectorRegistry()
        self._verdicts = Counter(
            "inspectd_verdicts_seen",
            "Verdicts seen by this exporter since it started",
            ("word", "reason"),
            registry=self._seen,
        )
        self._latency = Histogram(
            "inspectd_latency_seconds",
            "Trigger to verdict",
            buckets=_BUCKETS_S,
            registry=self._seen,
        )
        self._stages = Histogram(
            "inspectd_stage_seconds",
            "Time of a part in one stage",
            ("stage",),
            buckets=_BUCKETS_S,
            registry=self._seen,
        )

    def take(self, message: object) -> None:
        """One message of `health` or `live`."""
        match message:
            case Health():
                with self._lock:
                    self._health[message.process] = self._clock(), message
            case Words():
                with self._lock:
                    self._words = message
            case Verdict():
                self._verdicts.labels(Word(message.word).name, Reason(message.reason).name).inc()
                if not message.is_rebuilt:
                    self._latency.observe(message.latency_ns / 1e9)
                for stage, took_ns in message.stages_ns.items():
                    self._stages.labels(stage).observe(took_ns / 1e9)
            case _:
                pass

    def collect(self) -> Iterator[Metric]:
        """What a scrape gets."""
        with self._lock:
            health, words = dict(self._health), self._words
            self.scrapes += 1
        yield from self._of_processes(health)
        if words is not None:
            yield from _of_words(words)
        yield from self._seen.collect()

    def _of_processes(self, health: dict[str, tuple[int, Health]]) -> Iterator[Metric]:
        up = GaugeMetricFamily(
            "inspectd_up", "1 while health younger than 1 s was heard", labels=["process"]
        )
        serving = GaugeMetricFamily(
            "inspectd_serving", "1 while device or engine are usable", labels=["process"]
        )
        age = GaugeMetricFamily(
            "inspectd_health_age_seconds", "Since the last sign of life", labels=["process"]
        )
        events = CounterMetricFamily(
            "inspectd_events", "Every counter of every process", labels=["process", "event"]
        )
        figures = GaugeMetricFamily(
            "inspectd_figure", "Every figure of every process", labels=["process", "figure"]
        )
        now_ns = self._clock()
        for process in dict.fromkeys((*self._processes, *health)):
            heard_ns, message = health.get(process, (None, None))
            since_s = float("inf") if heard_ns is None else (now_ns - heard_ns) / 1e9
            up.add_metric([process], float(since_s < 1.0))
            age.add_metric([process], since_s)
            if message is None:
                continue
            serving.add_metric([process], float(message.is_serving))
            for name, value in message.counters.items():
                events.add_metric([process, name], value)
            for name, value in message.gauges.items():
                figures.add_metric([process, name], value)
        yield from (up, serving, age, events, figures)


def _of_words(words: Words) -> Iterator[Metric]:
    counters = CounterMetricFamily(
        "inspectd_parts", "Counters of the decision process, over restarts", labels=["counter"]
    )
    for name, value in words.counters.items():
        counters.add_metric([name], value)
    ledger = GaugeMetricFamily(
        "inspectd_ledger", "The ledger; `unaccounted` must stay 0", labels=["figure"]
    )
    for name, value in words.ledger.items():
        ledger.add_metric([name], value)
    states = GaugeMetricFamily(
        "inspectd_register", "State, OfflineReason, FaultCode, Epoch as the PLC reads them",
        labels=["register"],
    )  # fmt: skip
    for name in _STATES:
        states.add_metric([name], words.registers[REGISTERS[name].address])
    bits = GaugeMetricFamily("inspectd_status", "Bits of HR 100 and 101", labels=["bit"])
    for address, kind in ((100, Status1), (101, Status2)):
        for bit in kind:
            name = (bit.name or "").lower()
            bits.add_metric([name], float(bool(words.registers[address] & bit)))
    yield from (counters, ledger, states, bits)
