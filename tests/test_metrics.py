"""Every counter and stage for Prometheus, from a real line."""

import contextlib
import socket
import ssl
import threading
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from appliance.certificate import make
from appliance.metrics import Exporter
from tests.ports import free_port
from tests.rig import Rig
from tests.waiting import until


def scrape(port: int) -> dict[str, float]:
    """ "NAME VALUE-OF-LABEL …", by the names of the labels → value."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        " ".join((sample.name, *(v for _, v in sorted(sample.labels.items())))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counters_stages_ledger_and_states_are_there() -> None:
    port = free_port()
    with Rig({"metrics": {"port": port}}) as rig:
        rig.start()
        with rig.ear("camera:top", "metrics") as ear:
            until("Ready", lambda: ear.is_ready, 30)
            until("exporter", lambda: "metrics" in ear.listen().health, 20)
            rig.drive(parts=10)
            until(
                "ten verdicts",
                lambda: scrape(port).get("inspectd_verdicts_seen_total NONE OK") == 10,
            )
            until("rows", lambda: scrape(port).get("inspectd_ledger rows_pending") == 0)
            for count in ("triggers camera:top", "scored infer:0"):  # told ten times a second
                until(count, lambda c=count: scrape(port).get(f"inspectd_events_total {c}") == 10)
            seen = scrape(port)
            assert seen["inspectd_ledger unaccounted"] == 0
            assert seen["inspectd_ledger accepted"] == 10
            assert seen["inspectd_latency_seconds_count"] == 10
            for stage in ("engine", "hand_over"):
                assert seen[f"inspectd_stage_seconds_count {stage}"] == 10
            for process in ("camera:top", "infer:0", "decide", "record"):
                assert seen[f"inspectd_up {process}"] == 1
            triggers = ear.listen().health["camera:top"].counters["triggers"]
            assert seen["inspectd_events_total triggers camera:top"] == triggers == 10
            assert seen["inspectd_events_total scored infer:0"] == 10
            assert seen["inspectd_status online"] == 1
            assert seen["inspectd_register FaultCode"] == 0
            rig.kill("record")
            until("its silence", lambda: scrape(port)["inspectd_health_age_seconds record"] > 0.3)
        assert rig.stop() == 0


@pytest.mark.parametrize("is_secure", [True, False])
def test_who_connects_and_says_nothing_keeps_nobody_waiting(
    tmp_path: Path, is_secure: bool
) -> None:
    files = tmp_path / "page.crt", tmp_path / "page.key"
    for file, data in zip(files, make(("localhost", "127.0.0.1"), 2), strict=True):
        file.write_bytes(data)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    server = Exporter("127.0.0.1", 0, CollectorRegistry(), context if is_secure else None)
    serving = threading.Thread(target=server.serve_forever, args=(0.01,))
    serving.start()
    try:
        with contextlib.ExitStack() as idle:
            for said in (b"", b"", b"GET / HTTP/1.0", b"\x16\x03\x01"):
                silent = socket.create_connection(("127.0.0.1", server.server_port), 5)
                idle.enter_context(silent).sendall(said)
            trust = ssl.create_default_context(cafile=str(files[0]))
            url = f"http{'s' * is_secure}://127.0.0.1:{server.server_port}/metrics"
            for _ in range(2):
                with urllib.request.urlopen(
                    url, timeout=5, context=trust if is_secure else None
                ) as answer:
                    assert answer.status == 200
    finally:
        server.shutdown()
        serving.join()
        server.server_close()
