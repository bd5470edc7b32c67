"""The GenTL adapter on viky, and on an invented harvesters for what viky cannot do."""

import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("harvesters")

import genicam
from genicam import gentl
from harvesters.core import ImageAcquirer
from harvesters.util.pfnc import dict_by_names

from appliance.camera_genicam import GenicamSource
from appliance.camera_genicam_device import producer_path
from appliance.camera_genicam_nodes import Nodes, is_same
from appliance.codes import OfflineReason
from appliance.config import Camera, Strobe, TriggerLine
from appliance.errors import ArtefactError, ConfigError, DeviceError
from appliance.recipe import View
from appliance.source import Frame, Incomplete, Mode

FAST = {"AcquisitionFrameRate": 200, "Width": 120, "Height": 100, "PixelFormat": "Mono8"}


def a_camera(producer="viky", device=None, nodes=None, **settings):
    return Camera(
        name="top",
        kind="genicam",
        producer=str(producer),
        device={"serial_number": "0"} if device is None else device,
        nodes=FAST if nodes is None else nodes,
        **settings,
    )


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


# ---- opening --------------------------------------------------------------------------------


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


# ---- settings of a recipe -------------------------------------------------------------------


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


def test_a_frame_larger_than_configured_is_expected(make):
    source = make(width_px=800, height_px=800)
    source.open()
    assert source.configure(View()) == 800 * 800


# ---- an invented device ---------------------------------------------------------------------


class Node:
    """A node of GenApi as far as the adapter uses one; rounds what it is given."""

    def __init__(self, value, symbolics=(), step=0.0):
        self._value, self.symbolics, self._step = value, symbolics, step
        self.executed = 0

    @property
    def value(self):
        return self._value

    @value.setter
    def value(self, value):
        self._value = round(value / self._step) * self._step if self._step else value

    def execute(self):
        self.executed += 1


class Stream:
    """Takes buffers back."""

    def __init__(self):
        self.queued = []
        self.num_underrun = 0

    def queue_buffer(self, buffer):
        self.queued.append(buffer)


class Acquirer:
    """harvesters' ImageAcquirer: a script of what `try_fetch` finds."""

    Events = ImageAcquirer.Events

    def __init__(self, nodes):
        self.stream = Stream()
        self.data_streams = [SimpleNamespace(module=self.stream)]
        self.remote_device = SimpleNamespace(node_map=nodes)
        self.device = SimpleNamespace(module=SimpleNamespace(access_status=5))
        self.script = []
        self.callbacks = {}
        self.is_running = False
        self.timeout_period_on_update_event_data_call = 1

    def add_callback(self, event, callback):
        self.callbacks[event] = callback

    def is_acquiring(self):
        return self.is_running

    def start(self):
        self.is_running = True

    def stop(self):
        self.is_running = False

    def try_fetch(self, *, timeout, is_raw):
        assert timeout > 0 and is_raw
        if not self.script:
            return None
        found = self.script.pop(0)
        if isinstance(found, Exception):
            raise found
        if found == "incomplete":
            self.callbacks[self.Events.INCOMPLETE_BUFFER].emit(context=self)
            return None
        return found

    def sends(self, frame_id, value=7, name="Mono8", **fields):
        buffer = SimpleNamespace(
            frame_id=frame_id,
            width=4,
            height=2,
            padding_x=0,
            size_filled=8,
            pixel_format=dict_by_names[name],
            raw_buffer=bytes([value] * 8),
            parent=self.stream,
            timestamp_ns=0,
        )
        for field, content in fields.items():
            setattr(buffer, field, content)
        self.script.append(buffer)
        return buffer


SETTINGS = ("trigger", "strobe", "chunks", "packet_size_bytes", "is_ptp", "user_set", "nodes")


def invented(mode: Mode = "free", **nodes):
    """A source on an invented device, opened as `open` would; settings of the camera by name."""
    settings = {name: nodes.pop(name) for name in SETTINGS if name in nodes}
    node_map = SimpleNamespace(
        Width=Node(4), Height=Node(2), PixelFormat=Node("Mono8", ("Mono8", "Mono12p")), **nodes
    )
    acquirer = Acquirer(node_map)
    harvester = SimpleNamespace(
        device_info_list=[SimpleNamespace(serial_number="0")],
        create=lambda index, config: acquirer,
        reset=lambda: None,
    )
    source = GenicamSource(a_camera(**{"nodes": {}, **settings}), mode, time.monotonic_ns)
    source.attach(harvester)
    source.configure(View())
    source.start()
    return source, acquirer


def triggered(**more):
    return {
        "TriggerSelector": Node("AcquisitionStart"),
        "TriggerMode": Node("Off"),
        "TriggerSource": Node("Line1", ("Line1", "Software")),
        "TriggerSoftware": Node(None),
        **more,
    }


def test_incomplete_buffers_are_heard_of_and_are_not_lost_too():
    source, device = invented()
    device.sends(1)
    device.script.append("incomplete")
    device.sends(3)
    shots = [source.fetch(0) for _ in range(4)]
    assert [type(shot) for shot in shots] == [Frame, Incomplete, Frame, type(None)]
    assert (source.counts.whole, source.counts.incomplete, source.counts.lost) == (2, 1, 0)


def test_a_buffer_with_too_few_bytes_is_incomplete_and_given_back():
    source, device = invented()
    buffer = device.sends(1, size_filled=7)
    shot = source.fetch(0)
    assert isinstance(shot, Incomplete) and "expected 8 bytes" in shot.detail
    assert device.stream.queued == [buffer]


def test_a_buffer_is_given_back_once_when_its_frame_is_released():
    source, device = invented()
    buffer = device.sends(1, value=9)
    frame = source.fetch(0)
    assert isinstance(frame, Frame)
    np.testing.assert_array_equal(frame.pixels, np.full((2, 4), 9))
    assert device.stream.queued == []
    frame.release()
    assert device.stream.queued == [buffer]


def test_row_padding_is_removed():
    source, device = invented()
    rows = np.array([[1, 2, 3, 4, 99, 99], [5, 6, 7, 8, 99, 99]], np.uint8)
    device.sends(1, raw_buffer=rows.tobytes(), size_filled=12, padding_x=2)
    frame = source.fetch(0)
    assert isinstance(frame, Frame)
    np.testing.assert_array_equal(frame.pixels, rows[:, :4])


def test_gaps_wraps_repeats_and_underruns_are_counted():
    source, device = invented()
    for frame_id in (65534, 65535, 1, 4, 4, 5):
        device.sends(frame_id)
    lost = []
    while isinstance(frame := source.fetch(0), Frame):
        lost.append((frame.frame_id, frame.lost_before))
    assert lost == [(65534, 0), (65535, 0), (1, 0), (4, 2), (5, 0)]
    assert (source.counts.lost, source.counts.orphans) == (2, 1)
    assert len(device.stream.queued) == 1  # the repeated one
    device.stream.num_underrun = 3
    device.sends(6)
    frame = source.fetch(0)
    assert isinstance(frame, Frame) and frame.lost_before == 1


def test_a_device_without_optional_fields_still_delivers():
    source, device = invented()
    buffer = device.sends(1)
    for field in ("frame_id", "width", "height", "padding_x", "size_filled", "pixel_format"):
        delattr(buffer, field)
    frame = source.fetch(0)
    assert isinstance(frame, Frame)
    assert (frame.pixels.shape, frame.lost_before, frame.device_timestamp_ns) == ((2, 4), 0, None)


def test_a_format_that_nobody_asked_for_is_refused_by_name():
    source, device = invented()
    device.sends(1, name="Mono12p")
    with pytest.raises(DeviceError, match="camera top: expected pictures as Mono8, got Mono12p"):
        source.fetch(0)


def test_a_format_that_nobody_can_unpack_is_refused_by_name():
    source, _ = invented()
    with pytest.raises(ArtefactError, match=r"PixelFormat: expected one of Mono8, .*got Mono14"):
        source.configure(View(pixel_format="Mono14"))


def test_exposure_is_rounded_by_the_device_within_reason():
    source, _ = invented(ExposureTime=Node(1000.0, step=7.3), Gain=Node(0.0, step=0.5))
    source.configure(View(exposure_us=5000.0))
    with pytest.raises(ArtefactError, match=r"ExposureTime: expected 10.0, got 7.3"):
        source.configure(View(exposure_us=10.0))
    with pytest.raises(ArtefactError, match=r"Gain: expected 0.7, got 0.5"):
        source.configure(View(gain_db=0.7))


def test_what_a_recipe_leaves_open_goes_back_to_what_was_found():
    exposure = Node(1000.0)
    source, _ = invented(ExposureTime=exposure)
    source.configure(View(exposure_us=300.0))
    assert exposure.value == 300.0
    source.configure(View())
    source.start()
    assert exposure.value == 1000.0


def test_plc_mode_uses_the_software_trigger():
    nodes = triggered()
    source, device = invented("plc", **nodes)
    assert not source.is_streaming
    assert [nodes[n].value for n in ("TriggerSelector", "TriggerMode", "TriggerSource")] == [
        "FrameStart",
        "On",
        "Software",
    ]
    old = device.sends(1)
    source.trigger(0)
    assert nodes["TriggerSoftware"].executed == 1
    assert (source.counts.orphans, device.stream.queued) == (1, [old])
    device.sends(2)
    frame = source.fetch(0)
    assert isinstance(frame, Frame) and frame.frame_id == 2


def test_free_run_switches_the_trigger_off():
    nodes = triggered(TriggerMode=Node("On"))
    source, _ = invented("free", **nodes)
    assert source.is_streaming
    assert nodes["TriggerMode"].value == "Off"


def test_hardware_mode_takes_the_line_of_the_configuration():
    nodes = triggered(
        TriggerActivation=Node("FallingEdge"),
        LineSelector=Node("Line2", ("Line1", "Line2")),
        LineMode=Node("Output"),
        LineDebouncerTime=Node(0.0),
    )
    source, _ = invented("hardware", trigger=TriggerLine(debouncer_us=20.0), **nodes)
    assert not source.is_streaming
    assert {name: node.value for name, node in nodes.items() if name != "TriggerSoftware"} == {
        "TriggerSelector": "FrameStart",
        "TriggerMode": "On",
        "TriggerSource": "Line1",
        "TriggerActivation": "RisingEdge",
        "LineSelector": "Line1",
        "LineMode": "Input",
        "LineDebouncerTime": 20.0,
    }


def test_an_old_camera_is_triggered_by_the_selector_that_it_has():
    nodes = triggered(TriggerSelector=Node("x", ("AcquisitionStart", "FrameBurstStart")))
    invented("plc", **nodes)
    assert nodes["TriggerSelector"].value == "FrameBurstStart"


@pytest.mark.parametrize(
    ("trigger", "message"),
    [
        (TriggerLine(activation="AnyEdge"), r"nodes\.TriggerActivation: expected 'AnyEdge'"),
        (TriggerLine(debouncer_us=5.0), r"nodes\.LineDebouncerTime: expected a node"),
        (TriggerLine(delay_us=5.0), r"nodes\.TriggerDelay: expected a node"),
    ],
)
def test_what_the_trigger_of_a_device_lacks_is_named(trigger, message):
    with pytest.raises(ConfigError, match=message):
        invented("hardware", trigger=trigger, **triggered())


def test_a_device_without_a_trigger_is_no_hardware_triggered_one():
    with pytest.raises(ConfigError, match="TriggerMode: expected a device that can be triggered"):
        invented("hardware")


def test_strobe_chunks_packet_size_clock_and_user_set():
    nodes = {
        "UserSetSelector": Node("x"),
        "UserSetLoad": Node(None),
        "LineSelector": Node("Line1", ("Line1", "Line2")),
        "LineMode": Node("Input"),
        "LineSource": Node("Off"),
        "ChunkModeActive": Node(False),
        "ChunkSelector": Node("x"),
        "ChunkEnable": Node(False),
        "GevSCPSPacketSize": Node(1500),
        "GevIEEE1588": Node(False),
        "GevIEEE1588Status": Node("Listening"),
    }
    invented(
        "free", user_set="Default", strobe=Strobe(), chunks=("Timestamp", "FrameID"),
        packet_size_bytes=9000, is_ptp=True, **nodes,
    )  # fmt: skip
    assert nodes.pop("UserSetLoad").executed == 1
    assert {name: node.value for name, node in nodes.items()} == {
        "UserSetSelector": "Default",
        "LineSelector": "Line2",
        "LineMode": "Output",
        "LineSource": "ExposureActive",
        "ChunkModeActive": True,
        "ChunkSelector": "FrameID",
        "ChunkEnable": True,
        "GevSCPSPacketSize": 9000,
        "GevIEEE1588": True,
        "GevIEEE1588Status": "Listening",
    }


def test_a_killed_program_lets_go_of_a_gige_camera_after_a_second():
    nodes = {"GevHeartbeatTimeout": Node(3000), "DeviceLinkHeartbeatTimeout": Node(3e6)}
    invented("free", **nodes)
    assert {name: node.value for name, node in nodes.items()} == {
        "GevHeartbeatTimeout": 1000,
        "DeviceLinkHeartbeatTimeout": 1e6,
    }


def test_a_heartbeat_that_the_config_names_is_the_only_one_that_is_written():
    nodes = {"GevHeartbeatTimeout": Node(3000), "DeviceLinkHeartbeatTimeout": Node(3e6)}
    invented("free", nodes={"GevHeartbeatTimeout": 5000}, **nodes)
    assert {name: node.value for name, node in nodes.items()} == {
        "GevHeartbeatTimeout": 5000,
        "DeviceLinkHeartbeatTimeout": 3e6,
    }


def test_a_clock_whose_lock_nobody_can_see_is_refused():
    with pytest.raises(ConfigError, match=r"nodes\.PtpStatus: expected a node that says"):
        invented("free", is_ptp=True, PtpEnable=Node(False))


def test_settings_are_what_shapes_the_picture_and_does_not_move_by_itself():
    nodes = {
        "ExposureAuto": Node("Off"), "ExposureTime": Node(999.9612), "GainAuto": Node("Continuous"),
        "Gain": Node(3.0), "Gamma": Node(1.0), "DeviceTemperature": Node(41.0),
        "BalanceRatioSelector": Node("Red", ("Red", "Blue")), "BalanceRatio": Node(1.25),
    }  # fmt: skip
    source, _ = invented("free", **nodes)
    assert source.settings == {
        "Device": "0", "ExposureAuto": "Off", "ExposureTime": "1000", "GainAuto": "Continuous",
        "Gamma": "1", "PixelFormat": "Mono8", "Width": "4", "Height": "2",
        "BalanceRatio Red": "1.25", "BalanceRatio Blue": "1.25",
    }  # fmt: skip


def test_region_binning_and_white_balance_of_a_recipe():
    nodes = {
        "OffsetX": Node(8),
        "OffsetY": Node(4),
        "BinningHorizontal": Node(1),
        "BinningVertical": Node(1),
        "BalanceRatioSelector": Node("Red"),
        "BalanceRatio": Node(1.0),
    }
    source, device = invented("free", **nodes)
    width = device.remote_device.node_map.Width
    view = View(sensor_roi=(2, 1, 4, 2), binning=2, balance_red=1.5, balance_blue=2.5)
    source.configure(view)
    assert [nodes[n].value for n in ("OffsetX", "OffsetY")] == [2, 1]
    assert [nodes[n].value for n in ("BinningHorizontal", "BinningVertical")] == [2, 2]
    assert (nodes["BalanceRatioSelector"].value, nodes["BalanceRatio"].value) == ("Blue", 2.5)
    assert width.value == 4
    source.configure(View())
    assert [nodes[n].value for n in ("OffsetX", "OffsetY", "BinningVertical")] == [8, 4, 1]


def test_without_software_trigger_the_third_frame_answers():
    source, device = invented(
        "plc", TriggerMode=Node("On"), TriggerSource=Node("Line1", ("Line1",))
    )
    assert source.is_streaming
    device.sends(1)
    device.sends(2)
    source.trigger(0)
    for frame_id in (3, 4, 5, 6):
        device.sends(frame_id)
    frame = source.fetch(0)
    assert isinstance(frame, Frame) and frame.frame_id == 5
    assert source.counts.orphans == 4
    assert [buffer.frame_id for buffer in device.stream.queued] == [1, 2, 3, 4]
    # Nobody asked for the next one: it is the owner's to count.
    frame = source.fetch(0)
    assert isinstance(frame, Frame) and frame.frame_id == 6


def test_with_timestamps_and_a_latch_the_first_later_frame_answers():
    latch = Node(None)
    source, device = invented(
        "plc", TimestampLatch=latch, TimestampLatchValue=Node(5_000_000), ExposureTime=Node(1000.0)
    )
    device.sends(1, timestamp_ns=4_900_000)
    source.trigger(0)
    source.configure(View())
    source.start()
    device.sends(2, timestamp_ns=4_950_000)
    source.trigger(0)
    assert latch.executed == 2
    for frame_id, stamp in ((3, 5_500_000), (4, 6_000_000), (5, 6_000_001), (6, 7_000_000)):
        device.sends(frame_id, timestamp_ns=stamp)
    frame = source.fetch(0)
    assert isinstance(frame, Frame)
    assert (frame.frame_id, frame.device_timestamp_ns) == (5, 6_000_001)


def test_ticks_of_older_cameras_are_nanoseconds_too():
    nodes = Nodes(
        SimpleNamespace(
            GevTimestampControlLatch=Node(None),
            GevTimestampValue=Node(125_000_000),
            GevTimestampTickFrequency=Node(125_000_000),
        ),
        "camera top",
    )
    assert nodes.latch_ns() == 1_000_000_000
    assert Nodes(SimpleNamespace(), "camera top").latch_ns() is None


def test_a_device_that_is_gone_is_a_device_error():
    source, device = invented()
    device.script.append(gentl.IoException("read failed"))
    with pytest.raises(DeviceError, match="camera top: fetching a picture: "):
        source.fetch(0)
    source, device = invented()
    device.device.module.access_status = 3
    source._probed_ns = 0
    with pytest.raises(DeviceError, match="camera top: the device cannot be reached any more"):
        source.fetch(0)


def test_a_read_back_value_is_compared_as_its_kind_asks():
    assert is_same("Mono8", "Mono8") and not is_same("Mono8", "Mono12")
    assert is_same(4, 4) and not is_same(4, 5)
    assert is_same(100.0, 100.9) and not is_same(100.0, 101.1)
    assert is_same(20, 20.1) and not is_same(20, 21.0)
    assert is_same(0.0, 0.0) and not is_same(0.0, 0.1)
