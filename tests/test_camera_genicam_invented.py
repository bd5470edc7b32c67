"""The adapter on an invented device: buffers, triggers, clocks, what a camera may lack."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("harvesters")

from genicam import genapi, gentl

from appliance.camera_genicam_nodes import Nodes, is_same
from appliance.config_camera import Strobe, TriggerLine
from appliance.errors import ArtefactError, ConfigError, DeviceError
from appliance.recipe import View
from appliance.source import Frame, Incomplete
from tests.invented_camera import Node, invented, triggered


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


@pytest.mark.parametrize("mode", ["plc", "hardware"])
@pytest.mark.parametrize(
    ("selector", "count"),
    [
        ("FrameBurstStart", "AcquisitionBurstFrameCount"),
        ("AcquisitionStart", "AcquisitionFrameCount"),
    ],
)
def test_one_trigger_gives_one_picture(mode, selector, count):
    """A burst that somebody left in the user set: its second picture shows the part before."""
    pictures = Node(3)
    invented(mode, **triggered(TriggerSelector=Node("x", (selector,)), **{count: pictures}))
    assert pictures.value == 1


def test_a_count_of_pictures_that_nobody_may_write_refuses_no_camera_that_gives_one():
    class Locked:
        @property
        def value(self):
            return 1

        @value.setter
        def value(self, value):
            raise genapi.AccessException("Node is not writable.")

    nodes = triggered(TriggerSelector=Node("x", ("AcquisitionStart",)))
    source, _ = invented("plc", AcquisitionFrameCount=Locked(), **nodes)
    assert not source.is_streaming


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


class Gone(Node):
    """Of a camera whose cable is pulled as it is written."""

    @property
    def value(self):
        return 0

    @value.setter
    def value(self, value):
        raise gentl.IoException("write failed")


def test_a_cable_that_is_pulled_while_the_camera_is_set_up_is_no_wrong_configuration():
    """Exit 78 would leave the camera down until a person came; it is tried again instead."""
    with pytest.raises(DeviceError, match="camera top: writing BlackLevel: "):
        invented(nodes={"BlackLevel": 4}, BlackLevel=Gone(0))


def test_a_read_back_value_is_compared_as_its_kind_asks():
    assert is_same("Mono8", "Mono8") and not is_same("Mono8", "Mono12")
    assert is_same(4, 4) and not is_same(4, 5)
    assert is_same(100.0, 100.9) and not is_same(100.0, 101.1)
    assert is_same(20, 20.1) and not is_same(20, 21.0)
    assert is_same(0.0, 0.0) and not is_same(0.0, 0.1)
