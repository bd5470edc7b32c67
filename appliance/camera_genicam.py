"""A GenICam camera through harvesters and any GenTL producer.

One device per process. Buffers are fetched here, with time-outs, and never by harvesters' own
thread, which drops frames silently and ignores time-outs. A device that was opened and is lost is
not reopened in this process: harvesters cannot be trusted to recover; the owner ends the process.
"""
# genicam has no type stubs and harvesters only a few: what they give is Any.
# pyright: reportUntypedBaseClass=false

import contextlib
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any

from genicam import gentl
from harvesters.core import Callback, Harvester, ImageAcquirer, ParameterKey, ParameterSet
from harvesters.util.pfnc import dict_by_ints

from appliance.camera_genicam_device import find_device, keep_sigint, load_producer
from appliance.camera_genicam_nodes import (
    PTP_LOCKED,
    SDK_ERRORS,
    Nodes,
    read_field,
    translated,
)
from appliance.camera_genicam_setup import apply, set_up, settings_of
from appliance.camera_genicam_tree import features
from appliance.camera_settings import Feature, Settings
from appliance.codes import OfflineReason
from appliance.config_camera import Camera
from appliance.errors import ArtefactError, ConfigError, DeviceError, PartError
from appliance.pixels import FORMATS, KNOWN, known_as, unpack
from appliance.recipe import View
from appliance.source import Choice, Counts, Frame, FrameIds, Incomplete, Mode

_LOOK_S = 0.0002
"""Shortest patience of `try_fetch`: 0 would wait for ever."""
_PROBE_NS = 1_000_000_000
_DESCRIBE_NS = 1_000_000_000
_HANDLING = "StreamBufferHandlingMode"
_SIMULATORS = ("viky", "TLSimu")
"""Producers that wheels of genicam bring: they show no real part."""
_OWN_VENDOR = "inspectd"
"""Of the cameras of tools/gentl."""


class _CountIncomplete(Callback):
    """harvesters queues incomplete buffers back by itself; this is how we hear of them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def emit(self, context: object = None) -> None:
        """One more buffer of which parts are missing."""
        self.count += 1


class GenicamSource:
    """See `source.Source`."""

    def __init__(self, camera: Camera, mode: Mode, clock: Callable[[], int]) -> None:
        self._camera, self._clock = camera, clock
        self._mode: Mode = mode
        self._label = f"camera {camera.name}"
        self._counts = Counts()
        self._ids = FrameIds()
        self._choice = Choice()
        self._incomplete = _CountIncomplete()
        self._harvester: Any = None
        self._acquirer: Any = None
        self._nodes = Nodes(None, self._label)
        self._format = ""
        self._found: dict[tuple[str, str], Any] = {}
        self._found_handling: str | None = None
        self._is_software_triggered = False
        self._has_timestamps = False
        self._underruns_before = 0
        self._is_invented = Path(camera.producer).stem in _SIMULATORS
        self._probed_ns = 0
        self._identity = ""
        self._settings: Settings = {}
        self._clock_state = ""

    @property
    def is_simulated(self) -> bool:
        """The producers that come with genicam and ours of tools/gentl show no real part."""
        return self._is_invented

    @property
    def is_streaming(self) -> bool:
        """Pictures come by themselves: free run, or no software trigger to hold them back."""
        return self._mode == "free" or (self._mode == "plc" and not self._is_software_triggered)

    @property
    def counts(self) -> Counts:
        """Live figures."""
        return self._counts

    @property
    def settings(self) -> Settings:
        """As read back after the last `configure`."""
        return self._settings

    @property
    def remark(self) -> str:
        """The PTP clock, while it is not locked."""
        if not self._camera.is_ptp or self._clock_state in PTP_LOCKED:
            return ""
        state = self._clock_state or "nothing yet"
        return f"{self._label}: PtpStatus: expected {' or '.join(PTP_LOCKED)}, got {state}"

    @property
    def node_map(self) -> Any:
        """The opened device's own features, for commissioning."""
        return self._acquirer.remote_device.node_map

    def features(self) -> list[Feature]:
        """Category by category, as far as a second goes: a line waits for it."""
        until_ns = self._clock() + _DESCRIBE_NS
        return list(takewhile(lambda _: self._clock() < until_ns, features(self.node_map)))

    def open(self) -> None:
        """Load the producer, find the device, write the nodes of `config.toml`.

        Raises ConfigError (producer, search key or node that cannot be right) and DeviceError.
        """
        harvester = Harvester()
        load_producer(harvester, self._camera)
        self.attach(harvester)

    def attach(self, harvester: Any) -> None:
        """Take the one device that fits from a `Harvester` that has been updated."""
        self._harvester = harvester
        index = find_device(harvester.device_info_list, self._camera)
        info = harvester.device_info_list[index]
        names = [read_field(info, field) for field in ("vendor", "model", "serial_number")]
        self._identity = " ".join(str(name) for name in names if name)
        self._is_invented = self._is_invented or names[0] == _OWN_VENDOR
        config = ParameterSet(
            {
                ParameterKey.NUM_BUFFERS_FOR_FETCH_CALL: self._camera.buffers,
                ParameterKey.ENABLE_AUTO_CHUNK_DATA_UPDATE: False,
            }
        )
        with self._translated("opening the device"), keep_sigint():
            self._acquirer = acquirer = harvester.create(index, config=config)
        self._nodes = Nodes(acquirer.remote_device.node_map, self._label)
        streams = len(acquirer.data_streams)
        if streams != 1:
            raise DeviceError(f"{self._label}: expected one data stream, got {streams}")
        acquirer.add_callback(ImageAcquirer.Events.INCOMPLETE_BUFFER, self._incomplete)
        self._is_software_triggered = set_up(
            self._nodes, self._camera, self._mode, self._wrong_config
        )

    def configure(self, view: View) -> int:
        """Write the view, read it back; what it leaves open is as it was found."""
        nodes = self._nodes
        self._stop()
        apply(nodes, view, self._found, self._wrong_view)
        self._set_handling(view)
        self._settings = {"Device": self._identity, **settings_of(nodes, self._camera)}
        self._format = known_as(str(nodes.read("PixelFormat")))
        if self._format not in FORMATS:
            raise self._wrong_view("PixelFormat", f"one of {KNOWN}", self._format)
        width, height = int(nodes.read("Width")), int(nodes.read("Height"))
        configured = self._camera.width_px * self._camera.height_px
        return max(width * height, configured) * FORMATS[self._format].unpacked_bytes

    def start(self) -> None:
        """Stop and start: the one way to be rid of what the device still holds."""
        self._stop()
        self._ids.begin()
        self._choice = Choice()
        self._underruns_before = self._underruns()
        with self._translated("starting the acquisition"):
            self._acquirer.start()

    def trigger(self, part_tag: int) -> None:
        """Fire the software trigger; without one, choose a frame of the stream by its time."""
        # What lies there now fills the buffers at most; a stream may bring more for ever.
        for _ in range(self._camera.buffers):
            if (shot := self._next(0)) is None:
                break
            self._forget(shot)
        if self._is_software_triggered:
            self._nodes.execute("TriggerSoftware")
        else:
            self._choice.ask(self._nodes.after_ns() if self._has_timestamps else None)

    def fetch(self, timeout_ms: int) -> Frame | Incomplete | None:
        """The next picture; in a stream that somebody waits on, only the one that was chosen."""
        until_ns = self._clock() + timeout_ms * 1_000_000
        while True:
            left_ms = max(0, until_ns - self._clock()) // 1_000_000
            is_choosing = self._choice.is_waiting
            shot = self._next(left_ms)
            if shot is None or not is_choosing:
                return shot
            stamp = shot.device_timestamp_ns if isinstance(shot, Frame) else None
            if self._choice.arrived(stamp):
                return shot
            self._forget(shot)

    def close(self) -> None:
        """Let device and producer go."""
        if self._harvester is not None:
            # Nothing more can be done for a device that fails while it is let go.
            with contextlib.suppress(*SDK_ERRORS):
                self._harvester.reset()
        self._harvester = self._acquirer = None

    def _stop(self) -> None:
        with self._translated("stopping the acquisition"):
            self._acquirer.stop()

    def _next(self, timeout_ms: int) -> Frame | Incomplete | None:
        self._probe()
        if not self._acquirer.is_acquiring():
            return None
        incomplete = self._incomplete.count
        # One wait of the whole time-out instead of many short ones; it ends with the first event.
        self._acquirer.timeout_period_on_update_event_data_call = timeout_ms
        with self._translated("fetching a picture"):
            buffer = self._acquirer.try_fetch(timeout=max(timeout_ms / 1e3, _LOOK_S), is_raw=True)
        arrived_ns = self._clock()
        if buffer is None:
            if self._incomplete.count > incomplete:
                return self._is_incomplete("the device sent a buffer with missing packets")
            return None
        try:
            frame = self._frame(buffer, arrived_ns)
        except PartError as err:
            self._release(buffer)
            return self._is_incomplete(err.detail)
        return self._next(0) if frame is None else frame

    def _frame(self, buffer: Any, arrived_ns: int) -> Frame | None:
        """The picture in a buffer; None (and the buffer queued back) where it is an old one."""
        self._check_format(buffer)
        width = int(read_field(buffer, "width") or self._nodes.read("Width"))
        height = int(read_field(buffer, "height") or self._nodes.read("Height"))
        padding = int(read_field(buffer, "padding_x") or 0)
        filled = read_field(buffer, "size_filled")
        with self._translated("reading a buffer"):
            data = memoryview(buffer.raw_buffer)
        pixels = unpack(data[:filled], width, height, self._format, padding)
        frame_id = read_field(buffer, "frame_id")
        if frame_id is None:
            # Without ids nobody can tell what was lost on the way.
            frame_id, lost = self._counts.whole + 1, 0
        else:
            lost = self._ids.step(frame_id, self._underruns() - self._underruns_before)
        if lost is None:
            # The same frame again, or an old one out of order: nobody's picture.
            self._counts.orphans += 1
            self._release(buffer)
            return None
        # Of a clock that is not locked yet nobody knows what its time means.
        stamp = None if self.remark else read_field(buffer, "timestamp_ns") or None
        self._has_timestamps = stamp is not None
        self._counts.whole += 1
        self._counts.lost += lost
        return Frame(
            pixels=pixels,
            bits=FORMATS[self._format].bits,
            frame_id=frame_id,
            arrived_ns=arrived_ns,
            device_timestamp_ns=stamp,
            lost_before=lost,
            release=lambda: self._release(buffer),
        )

    def _check_format(self, buffer: Any) -> None:
        """Some devices let the node be set and send something else."""
        code = read_field(buffer, "pixel_format")
        name = dict_by_ints.get(code, f"pixel format {code:#x}") if code else self._format
        if name != self._format:
            raise DeviceError(f"{self._label}: expected pictures as {self._format}, got {name}")

    def _underruns(self) -> int:
        """Frames for which the producer had no buffer, where it counts them."""
        return int(read_field(self._acquirer.data_streams[0].module, "num_underrun") or 0)

    def _is_incomplete(self, detail: str) -> Incomplete:
        self._counts.incomplete += 1
        self._ids.incomplete()
        return Incomplete(detail)

    def _forget(self, shot: Frame | Incomplete) -> None:
        if isinstance(shot, Frame):
            self._counts.orphans += 1
            shot.release()

    def _release(self, buffer: Any) -> None:
        with self._translated("queueing a buffer"):
            buffer.parent.queue_buffer(buffer)

    def _probe(self) -> None:
        """Ask once a second whether the device is still there, which no event would tell, and
        whether its clock is locked."""
        now_ns = self._clock()
        if now_ns - self._probed_ns < _PROBE_NS:
            return
        self._probed_ns = now_ns
        with self._translated("asking for the device's state"):
            status = self._acquirer.device.module.access_status
        if status == gentl.DEVICE_ACCESS_STATUS_LIST.DEVICE_ACCESS_STATUS_NOACCESS:
            raise DeviceError(f"{self._label}: the device cannot be reached any more")
        if self._camera.is_ptp:
            self._clock_state = self._nodes.ptp_state()

    def _set_handling(self, view: View) -> None:
        """Which of several waiting pictures comes first: a node of the stream module."""
        if view.handling is not None or self._found_handling is not None:
            stream = Nodes(self._acquirer.data_streams[0].node_map, self._label)
            if self._found_handling is None and stream.has(_HANDLING):
                self._found_handling = str(stream.read(_HANDLING))
            stream.write(_HANDLING, view.handling or self._found_handling, self._wrong_view)

    def _wrong_config(self, name: str, expected: str, got: str) -> ConfigError:
        return ConfigError(f"camera.{self._camera.name}.nodes.{name}", expected, got)

    def _wrong_view(self, name: str, expected: str, got: str) -> ArtefactError:
        return ArtefactError(f"{self._label}: {name}", expected, got, OfflineReason.NO_RECIPE)

    def _translated(self, doing: str) -> contextlib.AbstractContextManager[None]:
        return translated(self._label, doing)
