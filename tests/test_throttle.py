"""Heat, from directory trees as Linux lays them out; real numbers of the machines named."""

import shutil
import subprocess
from pathlib import Path

import pytest

from appliance.throttle import Throttle
from appliance.throttle_nvidia import NvidiaThrottle


def put(sysfs: Path, files: dict[str, str]) -> Throttle:
    for name, text in files.items():
        path = sysfs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return Throttle(sysfs)


PC = {
    "class/thermal/thermal_zone0/type": "acpitz",
    "class/thermal/thermal_zone0/temp": "27800",
    "class/thermal/thermal_zone0/trip_point_0_type": "critical",
    "class/thermal/thermal_zone0/trip_point_0_temp": "119000",
    "class/thermal/thermal_zone1/type": "x86_pkg_temp",
    "class/thermal/thermal_zone1/temp": "54000",
    "class/thermal/thermal_zone1/trip_point_0_type": "passive",
    "class/thermal/thermal_zone1/trip_point_0_temp": "0",
    "class/thermal/cooling_device0/type": "Processor",
    "class/thermal/cooling_device0/cur_state": "0",
    "class/thermal/cooling_device0/max_state": "10",
    "class/thermal/cooling_device1/type": "intel_powerclamp",
    "class/thermal/cooling_device1/cur_state": "-1",
    "class/thermal/cooling_device2/type": "Fan",
    "class/thermal/cooling_device2/cur_state": "1",
    "class/thermal/cooling_device3/type": "TCC Offset",
    "class/thermal/cooling_device3/cur_state": "3",
    "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "4711",
    "devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "12",
}
BOARD = {
    "class/thermal/thermal_zone0/type": "cpu-thermal",
    "class/thermal/thermal_zone0/temp": "61500",
    "class/thermal/thermal_zone0/trip_point_0_type": "passive",
    "class/thermal/thermal_zone0/trip_point_0_temp": "99000",
    "class/thermal/thermal_zone0/trip_point_1_type": "active",
    "class/thermal/thermal_zone0/trip_point_1_temp": "46000",
    "class/thermal/cooling_device0/type": "pwm-fan",
    "class/thermal/cooling_device0/cur_state": "2",
    "class/thermal/cooling_device1/type": "cpu-throttle-alert",
    "class/thermal/cooling_device1/cur_state": "0",
    "class/thermal/cooling_device2/type": "thermal-devfreq-0",
    "class/thermal/cooling_device2/cur_state": "0",
}


@pytest.mark.parametrize("machine", [PC, BOARD, {}])
def test_a_cool_machine_is_not_throttled(tmp_path: Path, machine: dict[str, str]) -> None:
    throttle = put(tmp_path, machine)
    assert throttle.look() == ""
    assert throttle.look() == "", "counts that stand still are old"
    assert throttle.lost == ""


@pytest.mark.parametrize(
    ("machine", "file", "text", "said"),
    [
        (PC, "class/thermal/cooling_device0/cur_state", "3", "Processor at step 3"),
        (BOARD, "class/thermal/cooling_device1/cur_state", "1", "cpu-throttle-alert at step 1"),
        (BOARD, "class/thermal/cooling_device2/cur_state", "2", "thermal-devfreq-0 at step 2"),
        (BOARD, "class/thermal/thermal_zone0/temp", "99000", "cpu-thermal 99 °C, limit 99 °C"),
        (PC, "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "4712", "cpu0 low"),
    ],
)
def test_heat_is_said_and_its_end(
    tmp_path: Path, machine: dict[str, str], file: str, text: str, said: str
) -> None:
    now = [0.0]
    put(tmp_path, machine)
    throttle = Throttle(tmp_path, lambda: now[0])
    assert throttle.look() == ""
    cool = (tmp_path / file).read_text()
    (tmp_path / file).write_text(text)
    assert throttle.look().startswith(said)
    (tmp_path / file).write_text(cool if "count" not in file else text)
    now[0] += 11.0
    assert throttle.look() == ""


@pytest.mark.parametrize("text", ["", "hot", "4e3"])
def test_a_sensor_that_answers_nonsense_is_left_out(tmp_path: Path, text: str) -> None:
    throttle = put(tmp_path, PC | {"class/thermal/cooling_device0/cur_state": text})
    assert throttle.look() == "" == throttle.lost


@pytest.mark.parametrize(
    ("machine", "file", "lost"),
    [
        (PC, "class/thermal/cooling_device0/cur_state", "Processor"),
        (PC, "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "cpu0"),
        (BOARD, "class/thermal/thermal_zone0/temp", "cpu-thermal"),
        (PC, "class/thermal/thermal_zone1/temp", ""),  # its trip point is switched off
        (BOARD, "class/thermal/cooling_device0/cur_state", ""),  # a fan
    ],
)
def test_what_cannot_be_read_any_more_is_no_cool_place(
    tmp_path: Path, machine: dict[str, str], file: str, lost: str
) -> None:
    throttle = put(tmp_path, machine)
    assert throttle.look() == "" == throttle.lost
    away = (tmp_path / file).rename(tmp_path / "away")
    assert throttle.look() == "" and throttle.lost == lost
    away.rename(tmp_path / file)
    assert throttle.look() == "" == throttle.lost


def test_a_tree_that_is_gone_loses_all_that_was_known(tmp_path: Path) -> None:
    throttle = put(tmp_path / "sys", PC)
    throttle.look()
    (tmp_path / "sys").rename(tmp_path / "away")
    assert throttle.look() == ""
    assert throttle.lost == "Processor, cpu0, intel_powerclamp"


def test_without_a_driver_no_gpu_is_asked() -> None:
    gpu = NvidiaThrottle("libno-such-driver.so.1")
    assert gpu.cards == 0
    assert gpu.look() == ""


NVML = """
#include <stdlib.h>
int nvmlInit_v2(void) { return getenv("NVML_IS_AWAY") != NULL; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **card) {
    *card = (void *)(size_t)(0x700000000000 + index);  /* a handle needs all its bits */
    return 0;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void *card, unsigned long long *reasons) {
    const char *told = getenv("NVML_REASONS");
    if (told && *told == '?') return 15;  /* NVML_ERROR_GPU_IS_LOST */
    *reasons = card == (void *)0x700000000001 && told ? strtoull(told, 0, 16) : 0x4;
    return 0;
}
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_a_card_says_why_its_clock_is_low(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library with the names and types of nvml.h: no card is here."""
    library = str(tmp_path / "libnvidia-ml.so.1")
    command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", library]
    subprocess.run(command, input=NVML, text=True, check=True)
    gpu = NvidiaThrottle(library)
    assert gpu.cards == 2 and gpu.look() == "", "a power cap is how a card works"
    monkeypatch.setenv("NVML_REASONS", "44")
    assert gpu.look() == "GPU 1: hardware thermal slowdown"
    monkeypatch.setenv("NVML_REASONS", "a8")
    said = "GPU 1: hardware slowdown, software thermal slowdown, power brake"
    assert gpu.look() == said
    monkeypatch.setenv("NVML_REASONS", "?")
    assert gpu.look() == "" and gpu.lost == "GPU 0, GPU 1"
    monkeypatch.setenv("NVML_REASONS", "0")
    assert gpu.look() == "" == gpu.lost
    monkeypatch.setenv("NVML_IS_AWAY", "1")
    assert NvidiaThrottle(library).cards == 0
