"""The units: hardened, without a complaint of systemd's, and alive under a real systemd."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.codes import Word
from tests.rig import Rig
from tests.systemd_world import UNITS, Machine, why_not
from tests.waiting import until

LINE = ("camera-top", "infer-0", "decide", "record")
needs_analyze = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd is not installed"
)
INSTANCES = (
    *(f"inspectd@{which}" for which in (*LINE, "hmi", "tool", "metrics", "bus")),
    "inspectd-retry@decide",
    "inspectd-work",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units, each instance by its own name, with a program that exists on every machine."""
    folder = tmp_path_factory.mktemp("units")
    shutil.copytree(UNITS, folder, dirs_exist_ok=True)
    for instance in INSTANCES:
        name, sign, _ = instance.partition("@")
        template = UNITS / f"{name}{sign}.service"
        text = template.read_text().replace("/opt/inspectd/current/bin/inspectd", "/bin/true")
        (folder / f"{instance}.service").write_text(text)
        (folder / template.name).write_text(text)
    return folder


def analyze(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments],
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{folder}:"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


@needs_analyze
@pytest.mark.parametrize("instance", INSTANCES)
def test_systemd_understands_every_line(folder: Path, instance: str) -> None:
    """Its exit code is 0 on misspelled keys: any word on standard error is a failure."""
    done = analyze(folder, "verify", f"./{instance}.service", "./inspectd.target")
    assert (done.returncode, done.stderr) == (0, "")


@needs_analyze
def test_a_misspelled_key_would_be_noticed(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    unit = tmp_path / "inspectd@decide.service"
    unit.write_text(unit.read_text().replace("WatchdogSec=", "WatchdogSecs="))
    assert "WatchdogSecs" in analyze(tmp_path, "verify", f"./{unit.name}").stderr


@needs_analyze
@pytest.mark.parametrize("instance", INSTANCES)
def test_exposure_is_at_most_2(folder: Path, instance: str) -> None:
    unit = f"./{instance}.service"
    done = analyze(folder, "security", "--offline=true", "--threshold=20", unit)
    assert done.returncode == 0, done.stdout


_INSTALL = """
set -euo pipefail
say() { echo "$*" >&2; }
die() { say "$*"; exit 1; }
for name in rm mkdir cp chown systemd-sysusers systemd-tmpfiles systemctl; do
    eval "$name() { echo $name \\"\\$@\\" >>calls; }"
done
base=$PWD config=config.toml units=$PWD/units
eval "$(sed -n '/^needed()/p; /^place_units()/,/^}/p; /^start()/,/^}/p' "$1")"
enabled() { printf 'inspectd@camera-old.service\\ninspectd@decide.service\\n'; }
place_units
start
"""


def place_units(tmp_path: Path, answer: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """What `tools/install --units` does where `inspectd config units` gives this answer."""
    program = tmp_path / "current" / "bin" / "inspectd"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\n{answer}\n")
    program.chmod(0o755)
    command = ["bash", "-c", _INSTALL, "install", str(UNITS.parent / "tools" / "install")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    calls = tmp_path / "calls"
    return done, calls.read_text().splitlines() if calls.exists() else []


def test_units_that_config_toml_names_no_more_are_disabled(tmp_path: Path) -> None:
    names = "inspectd@camera-top.service inspectd@decide.service"
    done, calls = place_units(tmp_path, f"printf '%s\\n' {names}")
    assert done.returncode == 0, done.stderr
    assert [call for call in calls if "disable" in call] == [
        "systemctl --quiet disable --now inspectd@camera-old.service"
    ]
    assert f"systemctl --quiet enable inspectd.target {names}" in calls
    assert f"systemctl start inspectd.target {names}" in calls


def test_a_further_infer_gets_the_drop_in_of_the_first(tmp_path: Path) -> None:
    names = " ".join(f"inspectd@{name}.service" for name in ("infer-0", "infer-1", "decide"))
    done, calls = place_units(tmp_path, f"printf '%s\\n' {names}")
    assert done.returncode == 0, done.stderr
    first, further = (f"{tmp_path}/units/inspectd@infer-{n}.service.d" for n in (0, 1))
    assert [call for call in calls if call.startswith(f"cp -r {first}")] == [
        f"cp -r {first} {further}"
    ]
    assert f"systemctl start inspectd.target {names}" in calls


def test_a_typo_in_config_toml_does_not_stop_the_running_line(tmp_path: Path) -> None:
    done, calls = place_units(tmp_path, "echo 'config.toml: expected a key' >&2; exit 78")
    assert done.returncode == 1
    assert "no unit was changed" in done.stderr
    assert calls == []


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig() as rig:
        yield rig


@pytest.fixture(scope="module")
def machine(rig: Rig) -> Iterator[Machine]:
    """The whole line under systemd; a retry after 2 s instead of 60."""
    if why_not():
        pytest.skip(why_not())
    quicker = (
        "sed -i 's/sleep 60/sleep 2/' inspectd-retry@.service\n"
        "mkdir -p inspectd.target.wants\n"
        + "\n".join(f"ln -s ../inspectd@.service inspectd.target.wants/inspectd@{name}.service"
                    for name in LINE)
        + "\n"
        # The limit is met in a test of its own.
        "for name in infer-0 decide; do\n"
        "printf '[Unit]\\nStartLimitBurst=30\\n' >inspectd@$name.service.d/90-limit.conf\ndone\n"
    )  # fmt: skip
    with Machine(rig, quicker) as machine:
        machine.systemctl("start", "inspectd.target")
        until("all ready", lambda: machine.is_active(*LINE), 30)
        yield machine


def serves(rig: Rig) -> None:
    """Parts come, and every one is judged OK."""
    report, parts = rig.drive(parts=5)
    assert {part.word for part in parts} == {Word.OK}
    assert report.accepted == 5


def test_the_line_judges_under_all_its_hardening(machine: Machine, rig: Rig) -> None:
    serves(rig)
    assert machine.systemctl("show", "--property=User", "--value", "inspectd@infer-0") != "root"
    limits = {name: machine.show(name, "StartLimitBurst") for name in ("camera-top", "record")}
    assert limits == {"camera-top": "10", "record": "5"}


@pytest.mark.parametrize("name", LINE)
def test_what_is_killed_starts_again(machine: Machine, rig: Rig, name: str) -> None:
    old = machine.kill(name, signal.SIGKILL)
    until(f"another {name}", lambda: machine.pid(name) not in (0, old), 20)
    until("ready", lambda: machine.is_active(*LINE), 20)
    if name == "decide":
        serves(rig)


@pytest.mark.parametrize("name", ["infer-0", "decide"])
def test_what_hangs_ends_by_the_watchdog(machine: Machine, rig: Rig, name: str) -> None:
    old = machine.kill(name, signal.SIGSTOP)
    until(f"another {name}", lambda: machine.pid(name) not in (0, old), 20)
    until("ready", lambda: machine.is_active(*LINE), 20)
    serves(rig)


_PATIENT = """
import sys, time
from appliance.service import Service
service = Service("patient")
service.ready()
service.turn()
service.extend(20)
time.sleep(4)
open("/run/log/loaded", "w").close()
service.turn()
time.sleep(60)
"""


def test_a_step_that_said_so_may_take_long_and_a_hang_after_it_may_not(machine: Machine) -> None:
    """Loading an engine takes longer than the watchdog's 2 s."""
    done = machine.run("sh", "-c", f"cat >/run/t/patient.py <<'END'\n{_PATIENT}\nEND")
    assert done.returncode == 0, done.stderr
    unit = (
        "[Service]\nType=notify\nWatchdogSec=2\nWatchdogSignal=SIGKILL\n"
        "Environment=PYTHONPATH=/run/t/code:/run/t/site\n"
        f"ExecStart={machine.python} /run/t/patient.py\n"
    )
    path = "/run/systemd/system/patient.service"
    machine.run("sh", "-c", f"cat >{path} <<'END'\n{unit}\nEND")
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "patient.service")

    def result() -> str:
        return machine.ask("show", "--property=Result", "--value", "patient.service")

    def is_loaded() -> bool:
        assert result() == "success"
        return machine.run("test", "-e", "/run/log/loaded").returncode == 0

    until("the end of its loading", is_loaded, 20)
    until("the watchdog", lambda: result() == "watchdog", 20)


def test_too_many_crashes_are_a_fault_and_one_try_a_minute(machine: Machine, rig: Rig) -> None:
    """Given up, the file that decide reads, and service again by itself."""
    machine.systemctl("reset-failed", "inspectd@record.service")
    pids: set[int] = set()

    def is_spent() -> bool:
        pid = machine.pid("record")
        if pid and pid not in pids:
            pids.add(pid)
            machine.kill("record", signal.SIGKILL)
        return machine.show("record", "ActiveState") == "failed"

    until("the start limit", is_spent, 30)
    assert len(pids) in (5, 6), "with or without the start that was there before"
    spent = ("test", "-e", "/run/inspectd/spent-record")
    until("the file for decide", lambda: machine.run(*spent).returncode == 0)
    until("another try", lambda: machine.is_active("record"), 20)
    assert machine.run(*spent).returncode == 1
    serves(rig)


def test_a_wrong_configuration_stays_down(machine: Machine) -> None:
    """Exit 78 is for a person: no restart, and no try a minute later."""
    machine.run("sed", "-i", "s/deadline_ms/dead_line_ms/", "/etc/inspectd/config.toml")
    try:
        before = machine.show("record", "NRestarts")
        machine.ask("restart", "inspectd@record.service")
        until("failed", lambda: machine.show("record", "ActiveState") == "failed", 20)
        assert machine.show("record", "ExecMainStatus") == "78"
        assert machine.show("record", "Result") == "exit-code"
        retry = ("show", "--property=Result", "--value", "inspectd-retry@record.service")
        until("the retry to decline", lambda: machine.ask(*retry) == "exec-condition")
        assert machine.show("record", "ActiveState") == "failed"
        assert int(machine.show("record", "NRestarts")) <= int(before)
        assert machine.run("test", "-e", "/run/inspectd/spent-record").returncode == 1
    finally:
        machine.run("sed", "-i", "s/dead_line_ms/deadline_ms/", "/etc/inspectd/config.toml")
    library = "LD_LIBRARY_PATH=/run/t/python/lib"  # another Python's may lie in /usr/lib
    path = "PYTHONPATH=/run/t/code:/run/t/site"
    env = ("env", path, library, machine.python, "-m", "appliance")
    done = machine.run(*env, "reset-failed", "--config", "/etc/inspectd/config.toml")
    assert done.returncode == 0, done.stderr
    assert machine.is_active(*LINE)


def test_stopping_the_target_ends_all(machine: Machine) -> None:
    """Exit 0 of every process, and none is started again."""
    machine.systemctl("stop", "inspectd.target")
    until("their end", lambda: not any(machine.pid(name) for name in LINE), 20)
    for name in LINE:
        assert machine.show(name, "Result") == "success"
        assert machine.show(name, "ActiveState") == "inactive"
