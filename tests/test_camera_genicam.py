"""The adapter on the producer that the genicam package ships."""

import shutil
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("harvesters")

import genicam

from appliance.camera_genicam import GenicamSource
from appliance.camera_genicam_device import producer_path
from appliance.camera_genicam_nodes import Nodes
from appliance.codes import OfflineReason
from appliance.errors import ArtefactError, ConfigError, DeviceError
from appliance.recipe import View
from appliance.source import Frame, Mode
from tests.invented_camera import FAST, a_camera


@pytest.fixture
def make():
    """Makes sources and closes them."""
    made = []

    def make_source(mode: Mode = "plc", **settings):
        source = GenicamSource(a_camera(**settings), mode, time.monotonic_ns)
        made.append(source)
        return source

    yield make_source
    for source in made:
        source.close()


def frame_of(source) -> Frame:
    end = time.monotonic() + 3
    while time.monotonic() < end:
        shot = source.fetch(50)
        if isinstance(shot, Frame):
            return shot
    raise AssertionError("no frame within 3 s")


def test_viky_is_the_producer_inside_the_genicam_package():
    assert producer_path("viky") == Path(genicam.__file__).parent / "viky.cti"
    assert producer_path("/opt/vendor/camera.cti") == Path("/opt/vendor/camera.cti")


def test_any_path_to_a_producer_will_do(make, tmp_path):
    copy = tmp_path / "vendor.cti"
    shutil.copy(producer_path("viky"), copy)
    source = make(producer=copy)
    source.open()
    source.configure(View())
    source.start()
    source.trigger(0)
    assert frame_of(source).pixels.shape == (100, 120)
    assert not source.is_simulated


def test_a_missing_producer_is_named(make, tmp_path):
    with pytest.raises(ConfigError, match=r"camera\.top\.producer: .*no file .*gone\.cti"):
        make(producer=tmp_path / "gone.cti").open()


def test_a_producer_that_does_not_load_is_named(make, tmp_path):
    (tmp_path / "bad.cti").write_bytes(b"not a library")
    with pytest.raises(ConfigError, match=r"camera\.top\.producer: .*that loads, got .*bad\.cti"):
        make(producer=tmp_path / "bad.cti").open()


def test_a_library_that_is_no_producer_is_named(make):
    library = next(Path(genicam.__file__).parent.glob("libLog_*.so"))
    with pytest.raises(ConfigError, match=r"camera\.top\.producer: .*libLog_.* without GCInitLib"):
        make(producer=library).open()


@pytest.mark.parametrize(
    ("device", "got"),
    [
        ({"serial_number": "9"}, r"\(serial_number 9\), got 0 among Viky 0; Viky 1; Viky 2"),
        ({}, r"\(any\), got 3 among"),
        ({"model": "Viky"}, r"\(model Viky\), got 3 among"),
        # viky does not offer this field at all; harvesters' own search would match all three.
        ({"user_defined_name": "top"}, r"\(user_defined_name top\), got 0 among"),
    ],
)
def test_the_key_must_fit_exactly_one_device(make, device, got):
    with pytest.raises(DeviceError, match=f"camera top: expected one device {got}"):
        make(device=device).open()


def test_an_unknown_search_key_is_a_configuration_error(make):
    with pytest.raises(ConfigError, match=r"camera\.top\.device: expected only id_.*got serial"):
        make(device={"serial": "0"}).open()


def test_a_device_in_use_is_a_device_error(make):
    make().open()
    with pytest.raises(DeviceError, match="camera top: "):
        make().open()


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ({"Brightness": 1}, r"nodes\.Brightness: expected a node of the device, got no such node"),
        ({"Width": 5000}, r"nodes\.Width: expected 5000 to be accepted, got Value = 5000 must be"),
        ({"Width": "wide"}, r"nodes\.Width: expected 'wide' to be accepted, got "),
        ({"Width": 200.5}, r"nodes\.Width: expected 200.5 to be accepted, got "),
        ({"PixelFormat": 8}, r"nodes\.PixelFormat: expected 8 to be accepted, got "),
        ({"PixelFormat": "Mono12"}, r"nodes\.PixelFormat: expected 'Mono12' to be accepted, got "),
        ({"WidthMax": 3}, r"nodes\.WidthMax: "),
    ],
)
def test_nodes_that_cannot_be_are_named(make, nodes, message):
    with pytest.raises(ConfigError, match=rf"camera\.top\.{message}") as err:
        make(nodes=nodes).open()
    assert "\n" not in str(err.value)


def test_whole_numbers_may_be_written_with_a_point(make):
    source = make(nodes=FAST | {"Width": 200.0})
    source.open()
    assert source.configure(View()) == 200 * 100


def test_the_handler_of_ctrl_c_stays_ours(make):
    def ours(*_):
        raise AssertionError("not called")

    before = signal.signal(signal.SIGINT, ours)
    try:
        make().open()
        assert signal.getsignal(signal.SIGINT) is ours
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_pixel_format_of_the_recipe_is_set_and_taken_back(make):
    source = make()
    source.open()
    assert source.configure(View()) == 120 * 100
    assert source.configure(View(pixel_format="RGBa8")) == 120 * 100 * 3
    source.start()
    source.trigger(0)
    frame = frame_of(source)
    assert frame.pixels.shape == (100, 120, 3)
    frame.release()
    assert source.configure(View()) == 120 * 100
    source.start()
    source.trigger(0)
    assert frame_of(source).pixels.shape == (100, 120)


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (View(exposure_us=500.0), "camera top: ExposureTime: expected a node of the device"),
        (View(gain_db=3.0), "camera top: Gain: expected a node of the device"),
        (View(pixel_format="Mono12"), "camera top: PixelFormat: expected 'Mono12' to be accepted"),
    ],
)
def test_settings_the_device_lacks_are_refused_by_node(make, view, message):
    source = make()
    source.open()
    source.configure(View())
    source.start()
    with pytest.raises(ArtefactError, match=message) as err:
        source.configure(view)
    assert err.value.offline == OfflineReason.NO_RECIPE
    # Nothing runs with half of the settings, and the old ones still work.
    assert source.fetch(30) is None
    source.configure(View())
    source.start()
    source.trigger(0)
    frame_of(source).release()


def test_nothing_is_written_while_pictures_are_acquired(make, monkeypatch):
    """Many cameras lock their nodes then, and some take the value and spoil the stream."""
    source = make()
    writes = []

    def watched(write):
        def watch(nodes, name, *rest):
            writes.append((name, source._acquirer.is_acquiring()))
            return write(nodes, name, *rest)

        return watch

    source.open()
    for method in ("write", "try_write"):
        monkeypatch.setattr(Nodes, method, watched(getattr(Nodes, method)))
    for pixel_format in (None, "RGBa8", "Mono8"):
        source.configure(View(pixel_format=pixel_format))
        source.start()
        assert source._acquirer.is_acquiring()
        source.trigger(0)
        frame_of(source).release()
    assert "PixelFormat" in [name for name, _ in writes]
    assert [name for name, is_acquiring in writes if is_acquiring] == []


def test_a_frame_larger_than_configured_is_expected(make):
    source = make(width_px=800, height_px=800)
    source.open()
    assert source.configure(View()) == 800 * 800
