"""The command `inspectd plc-sim`: what it prints, shows and refuses."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from appliance.codes import OfflineReason, State
from appliance.words import Bank
from tests.played_box import READY, box, by_tag, run
from tools.plc_program import PlcOptions, Ring, Sightings
from tools.plc_sim import _main, run_plc
from tools.plc_view import view


class Serving:
    """A Box on its own loop and thread, for a desk PLC in another process."""

    def __init__(self, **settings: Any) -> None:
        self.up, self.stopping = threading.Event(), asyncio.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self.serve(settings)))
        self.thread.start()
        assert self.up.wait(10)

    async def serve(self, settings: dict[str, Any]) -> None:
        self.loop = asyncio.get_running_loop()
        async with box(**settings) as self.box:
            self.up.set()
            await self.stopping.wait()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.stopping.set)
        self.thread.join(10)


def plc_sim(serving: Serving, *arguments: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "appliance", "plc-sim", "--port", str(serving.box.port.port)]
    return subprocess.Popen(
        [*line, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=Path(__file__).parent.parent, env=dict(os.environ),
    )  # fmt: skip


def test_the_command_prints_one_object_and_writes_one_line_per_part(tmp_path: Path) -> None:
    serving = Serving(word_of=by_tag)
    file = tmp_path / "parts.jsonl"
    try:
        process = plc_sim(
            serving, "--parts", "8", "--load-recipe", "1", "--json", "--parts-file", str(file)
        )
        out, err = process.communicate(timeout=30)
    finally:
        serving.close()
    assert process.returncode == 0, err
    summary = json.loads(out)
    assert (summary["parts"], summary["accepted"], summary["rejected"]) == (8, 2, 6)
    assert summary["words"] == {"NG": 2, "UNCERTAIN": 2, "ERROR": 2, "OK": 2}
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [record["tag"] for record in records] == list(range(1, 9))
    assert [record["word"] for record in records] == [by_tag(tag) for tag in range(1, 9)]
    assert "2 accepted, 6 rejected" in err


def test_the_view_shows_words_bits_and_the_newest_parts() -> None:
    serving = Serving()
    try:
        process = plc_sim(
            serving, "--parts", "3", "--deadline-ms", "5000", "--view",
            "--break", "wrong-tag", "--break-from", "3",
        )  # fmt: skip
        _, err = process.communicate(timeout=30)
    finally:
        serving.close()
    shown = err.splitlines()
    assert shown[0].startswith("PLC on the desk → 127.0.0.1:"), err
    assert shown[1] == "breaks a rule: wrong-tag from part 3 on"
    assert "\nStatus1       ONLINE" in err
    assert "3 parts, 2 accepted, 1 rejected" in err
    newest = [line for line in shown if line.startswith("tag ")]
    assert len(newest) == 3
    assert newest[0].startswith("tag 3 ") and "rejected" in newest[0]
    assert newest[2].startswith("tag 1 ") and "accepted" in newest[2]


def test_the_view_of_a_box_that_does_not_answer() -> None:
    lines = view(PlcOptions(ring=Ring.HARDWARE), None, Bank(), [], Sightings(missing_slots=2), "s")
    assert "no answer" in lines
    assert "missing slots 2" in lines
    assert "ring, parts by hardware" in lines[0]


def test_the_view_names_bits_codes_and_unknown_numbers() -> None:
    image = Bank()
    image.set("Status1", READY)
    image.set("State", State.READY)
    image.set("Verdict", 0x1234)
    image.set("OfflineReason", OfflineReason.PLC_COMMUNICATION)
    text = "\n".join(view(PlcOptions(), image, Bank(), [], Sightings(), "s"))
    assert "ONLINE TRIGGER_READY" in text
    assert "6 READY, OfflineReason 8 PLC_COMMUNICATION, FaultCode 0 NONE" in text
    assert "Verdict 0x1234" in text


def test_the_command_ends_on_sigterm_with_what_it_has() -> None:
    serving = Serving()
    try:
        process = plc_sim(serving, "--forever", "--json")
        end = time.monotonic() + 20
        while len(serving.box.taken) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=10)
    finally:
        serving.close()
    assert process.returncode == 0, err
    assert json.loads(out)["accepted"] >= 2


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--ring", "hardware"], 2, "needs --rate"),
        (["--parts-file", "/nowhere/parts.jsonl"], 78, "/nowhere/parts.jsonl: expected a file"),
        (["--parts", "0"], 2, "--parts"),
    ],
)
def test_wrong_usage_is_one_clear_line(arguments: list[str], code: int, says: str) -> None:
    line = [sys.executable, "-m", "appliance", "plc-sim", "--port", "1", *arguments]
    done = subprocess.run(line, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_recipe_that_is_unknown_is_an_answer() -> None:
    serving = Serving()
    try:
        process = plc_sim(serving, "--load-recipe", "9")
        _, err = process.communicate(timeout=30)
    finally:
        serving.close()
    assert process.returncode == 1
    assert "recipe 9 not loaded: UNKNOWN_PRODUCT" in err


def test_what_keeps_the_line_from_being_ready_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tools.plc_sim.TELL_S", 0.1)
    serving = Serving()
    serving.box.conditions.offline = OfflineReason.CAMERA
    options = PlcOptions(port=serving.box.port.port, patience_s=0.5, parts=2)
    try:
        code = run(_main(options, 0, None, as_json=False, as_view=False))
    finally:
        serving.close()
    why = "not ready: the camera is not available (OfflineReason 6)"
    assert code == 1
    assert capsys.readouterr().err.splitlines() == [
        f"plc: {why}; trying on",
        f"plc: 2 parts, 0 accepted, 2 rejected, mostly: {why}",
    ]


def test_nobody_at_the_port_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tools.plc_client.TELL_S", 0.1)
    with socket.socket() as taken:  # bound and not listening: every connection is refused
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        said: list[str] = []

        async def wait_for_the_line() -> None:
            stop = asyncio.Event()
            running = asyncio.create_task(run_plc(PlcOptions(port=port), stop=stop))
            while not said:
                said.extend(capsys.readouterr().err.splitlines())
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)
            stop.set()
            await running

        run(wait_for_the_line())
        said.extend(capsys.readouterr().err.splitlines())
    expected = f"127.0.0.1:{port}: expected an appliance's Modbus server, got no connection"
    assert said == [f"inspectd: {expected}; trying on"]
