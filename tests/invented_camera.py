"""A GenICam device that the test invents: nodes, stream, and a script of what a fetch finds."""

import time
from types import SimpleNamespace

import pytest

pytest.importorskip("harvesters")

from harvesters.core import ImageAcquirer
from harvesters.util.pfnc import dict_by_names

from appliance.camera_genicam import GenicamSource
from appliance.config_camera import Camera
from appliance.recipe import View
from appliance.source import Mode

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
