"""`inspectd camera` on our own producer and on viky, as an engineer commissions a camera."""

import itertools
import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tomli_w
from typer.testing import CliRunner

pytest.importorskip("harvesters")

from appliance.camera_command import app
from appliance.camera_files import FolderSource
from appliance.config_camera import Camera
from appliance.errors import ConfigError
from appliance.recipe import View
from appliance.source import Frame
from appliance.wire import Wiring
from tests.gentl import producer


def ask(*arguments: str) -> Any:
    """Standard output of a command that succeeds."""
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def cti(tmp_path: Path) -> str:
    pictures = [np.full((20, 30), 10 * number, np.uint8) for number in range(1, 6)]
    return str(producer(tmp_path, left=pictures, right=pictures))


def test_list_says_which_devices_there_are_and_how_to_name_them(cti: str) -> None:
    found = json.loads(ask("list", "--producer", cti, "--json"))["devices"]
    assert [(d["serial_number"], d["access"]) for d in found] == [
        ("left", "free"),
        ("right", "free"),
    ]
    assert "serial_number left" in ask("list", "--producer", cti)
    assert len(json.loads(ask("list", "--producer", "viky", "--json"))["devices"]) == 3


def test_no_device_is_exit_1(tmp_path: Path) -> None:
    empty = producer(tmp_path)
    done = CliRunner().invoke(app, ["list", "--producer", str(empty)])
    assert done.exit_code == 1
    assert "no device" in done.stderr


def test_show_has_access_range_unit_and_entries(cti: str) -> None:
    options = ("--producer", cti, "--serial", "left")
    features = json.loads(ask("show", *options, "--json"))["features"]
    by_name = {feature["name"]: feature for feature in features}
    assert len(by_name) == len(features) > 40
    exposure = by_name["ExposureTime"]
    assert (exposure["access"], exposure["least"], exposure["unit"]) == ("RW", 10.0, "us")
    assert by_name["Width"]["most"] == 30 and by_name["WidthMax"]["access"] == "RO"
    assert "Mono12p" in by_name["PixelFormat"]["entries"]
    text = ask("show", "exposuretime", *options)
    assert "  ExposureTime = 1000.0 us  [RW]  10 … 1e+06" in text
    assert "PixelFormat" not in text


def test_set_writes_in_order_and_reads_back(cti: str) -> None:
    options = ("--producer", cti, "--serial", "right", "--json")
    done = json.loads(
        ask("set", "LineSelector=Line2", "LineSource=ExposureActive", "Width=0x10",
            "ChunkModeActive=true", "TimestampLatch", *options)
    )["features"]  # fmt: skip
    assert [feature["value"] for feature in done] == ["Line2", "ExposureActive", 16, True, None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("Speed=1", "Speed: expected a feature of the device"),
        ("WidthMax=3", "WidthMax: expected a feature that can be written now, got access RO"),
        ("Width=99", r"Width: expected 99 to be accepted \(1 to 30\)"),
        ("Width=wide", r"Width: expected a value of kind integer \(1 to 30\), got 'wide'"),
        ("ChunkModeActive=maybe", "ChunkModeActive: expected true or false, got 'maybe'"),
        ("PixelFormat=Mono14", r"PixelFormat: .*one of Mono8, "),
    ],
)
def test_what_cannot_be_set_is_named_with_what_could(cti: str, change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ask("set", change, "--producer", cti, "--serial", "left")


@pytest.mark.parametrize("extra", [(), ("--triggered",)])
def test_snap_keeps_the_last_picture_and_measures(
    cti: str, tmp_path: Path, extra: tuple[str, ...]
) -> None:
    file = tmp_path / "a.png"
    figures = json.loads(
        ask("snap", str(file), "--frames", "4", "--pixel-format", "Mono12p", "--producer", cti,
            "--serial", "left", "--json", *extra)
    )  # fmt: skip
    image = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    assert image is not None and image.dtype == np.uint16 and image.shape == (20, 30)
    assert (figures["bits"], figures["frames"], figures["is_simulated"]) == (12, 4, True)
    assert figures["mean"] == pytest.approx(image.mean() / 16, abs=0.01)
    assert (figures["trigger_to_picture_ms"] is None) is (not extra)


def test_the_camera_of_a_configuration_is_set_up_as_the_line_would(
    cti: str, tmp_path: Path
) -> None:
    camera = {
        "name": "top", "kind": "genicam", "producer": cti, "device": {"serial_number": "right"},
        "nodes": {"Gain": 6.0},
    }  # fmt: skip
    config = tmp_path / "config.toml"
    config.write_text(tomli_w.dumps({"root": ".", "deadline_ms": 100, "camera": [camera]}))
    assert "Gain = 6.0 dB" in ask("show", "Gain", "--config", str(config))
    with pytest.raises(ConfigError, match="--camera: expected one of top, got 'side'"):
        ask("show", "--config", str(config), "--camera", "side")


def test_an_ambiguous_device_is_one_line_and_exit_1(cti: str) -> None:
    done = CliRunner().invoke(app, ["show", "--producer", cti])
    assert done.exit_code == 1
    assert "expected one device (any), got 2 among" in done.stderr


@pytest.mark.parametrize("extra", [(), ("--triggered",)])
def test_a_recording_is_a_camera_that_shows_the_same_pictures(
    cti: str, tmp_path: Path, extra: tuple[str, ...]
) -> None:
    out = tmp_path / "recorded"
    figures = json.loads(
        ask("record", str(out), "--frames", "6", "--pixel-format", "Mono12", "--producer", cti,
            "--serial", "left", "--json", *extra)
    )  # fmt: skip
    assert (figures["frames"], figures["bits"]) == (6, 12)
    camera = Camera(name="again", kind="files", folder=str(out))
    source = FolderSource(camera, "plc", time.monotonic_ns)
    source.open()
    source.configure(View())
    source.start()
    shown: list[int] = []
    for _ in range(6):
        source.trigger(0)
        shot = source.fetch(1000)
        assert isinstance(shot, Frame) and shot.bits == 12 and shot.pixels.shape == (20, 30)
        value = int(shot.pixels[0, 0])
        assert (shot.pixels == value).all() and value % 16 == 0
        shown.append(value // 160)
    # The folder's own five pictures in their order, from wherever the stream was joined.
    assert all((after - before) % 5 == 1 for before, after in itertools.pairwise(shown))
    with pytest.raises(ConfigError, match="expected a new or an empty folder"):
        ask("record", str(out), "--producer", cti, "--serial", "left")


def test_pictures_for_training_are_png_files(cti: str, tmp_path: Path) -> None:
    out = tmp_path / "good"
    ask("record", str(out), "--frames", "3", "--as", "png", "--producer", cti, "--serial", "left")
    images = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted(out.iterdir())]
    assert [image.shape for image in images if image is not None] == [(20, 30)] * 3
    done = CliRunner().invoke(app, ["record", str(tmp_path / "x"), "--as", "jpg"])
    assert done.exit_code == 2


def test_a_running_line_keeps_its_camera(cti: str, tmp_path: Path) -> None:
    camera = {"name": "top", "kind": "genicam", "producer": cti, "device": {"id_": "left"}}
    config = tmp_path / "config.toml"
    config.write_text(tomli_w.dumps({"root": ".", "deadline_ms": 100, "camera": [camera]}))
    with Wiring(tmp_path / "run") as wiring:
        wiring.receiver("trigger", "top")
        for command in (("show",), ("snap",), ("record", str(tmp_path / "x"))):
            with pytest.raises(ConfigError, match="expected a line that is stopped"):
                ask(*command, "--config", str(config))
        assert "left" in ask("list", "--config", str(config))
