"""PROCESS camera: `Trigger` → pixels into the ring, and one `FrameReady` or `NoFrame`.

One blocking loop. It opens the source, shows in its health whether it serves, prepares and swaps
set-ups, and answers every trigger exactly once: with the picture that was exposed for it, or with
the reason why there is none. A picture that cannot be proved to belong to a part is an orphan:
counted, never sent. A device that was opened and is lost ends the process; the next one waits in
front of opening.
"""

import os
from collections.abc import Callable

import msgspec

from appliance.backoff import Backoff
from appliance.camera_files import FolderSource
from appliance.camera_lines import LineSource
from appliance.camera_settings import Found, Settings, write_features, write_found
from appliance.camera_views import Views
from appliance.codes import Reason
from appliance.config import Config
from appliance.config_camera import Camera
from appliance.errors import ArtefactError, ConfigError, DeviceError, DeviceTimeout
from appliance.messages import (
    AnyMessage,
    Health,
    Prepare,
    Prepared,
    Swap,
    Trigger,
    camera_label,
    refusal,
)
from appliance.outlet import Outlet
from appliance.recipe import View
from appliance.service import Service
from appliance.shortage import own_use
from appliance.source import Frame, Incomplete, Source
from appliance.triggers import Triggers
from appliance.wire import Inbox, Wiring

_MS = 1_000_000
_IDLE_MS = 10
_SLICE_MS = 5
"""Longest wait for a picture before triggers and set-ups are looked at again."""
_HEALTH_NS = 100 * _MS
_GOOD_RUN_NS = 10_000 * _MS
_OPENINGS = 20
"""Failed openings before the process is renewed: producers leak a little at each."""
_MISSES = 2
"""Triggers in a row without a picture, and the device counts as lost."""


def main(service: Service, config: Config, name: str) -> None:
    """Serve until stopped. Ends the process with exit code 1 where an opened device is lost."""
    names = [camera.name for camera in config.camera]
    if name not in names and (name or len(names) > 1):
        raise ConfigError("--name", f"one of {', '.join(names)}", repr(name))
    camera = config.camera[names.index(name) if name else 0]
    with Wiring(config.runtime_dir, config.wire.remote, config.keys_dir) as wiring:
        is_lost = CameraProcess(service, config, camera, wiring).run()
    if is_lost:
        # Not through harvesters' finalizers: they may hang on a device that is gone.
        service.leave(1)


def make_source(config: Config, camera: Camera, service: Service) -> Source:
    """What `kind` names, its blocks of lines put together. Raises ConfigError where packages are
    not installed."""
    source = _device_source(config, camera, service)
    return LineSource(source, camera.blocks) if camera.blocks > 1 else source


def _device_source(config: Config, camera: Camera, service: Service) -> Source:
    if camera.kind == "files":
        folder = str(config.root_dir / camera.folder)
        return FolderSource(
            msgspec.structs.replace(camera, folder=folder), config.trigger, service.clock
        )
    try:
        from appliance.camera_genicam import GenicamSource
    except ImportError as err:  # not installed, or a library that it wants is not
        expected = "harvesters and genicam (extra camera, docs/install.md)"
        raise ConfigError(f"camera.{camera.name}.kind", expected, str(err)) from err
    return GenicamSource(camera, config.trigger, service.clock)


class CameraProcess:
    """One camera: its source, its set-up, its triggers."""

    def __init__(self, service: Service, config: Config, camera: Camera, wiring: Wiring) -> None:
        self._service, self._config, self._camera = service, config, camera
        self._clock, self._log = service.clock, service.log
        self._label = camera_label(camera.name)
        self._source = make_source(config, camera, service)
        self._outlet = Outlet(config, camera, wiring, service.clock)
        file = config.runtime_dir / f"camera-{camera.name}.backoff"
        self._backoff = Backoff(file, camera.backoff_max_s)
        self._inbox = Inbox(
            wiring.receiver("trigger", camera.name), wiring.receiver("prepare", self._label)
        )
        self._health_sender = wiring.sender("health", self._label)
        # A tenth of the deadline stays for the answer, so that decide hears why before it expires.
        patience_ms = min(camera.frame_timeout_ms, config.deadline_ms * 9 // 10)
        self._triggers = Triggers(patience_ms * _MS, config.stale_ms(camera) * _MS)
        self._patience_ms = patience_ms
        self._is_asked_for_each = config.trigger == "plc"
        self._note = "starting"
        self._is_open = False
        self._views = Views(config, camera.name, self._begin)
        self._held: Prepare | None = None
        self._counters = {"triggers": 0, "refused_triggers": 0, "no_image": 0, "orphans": 0}
        self._misses = 0
        self._heard_ns = 0
        self._opened_ns = 0
        self._told_ns = 0

    def run(self) -> bool:
        """Serve until stopped; True where an opened device was lost and the process must end."""
        self._service.ready()
        failures = 0
        while not self._service.is_stopping:
            self._wait()
            if self._service.is_stopping:
                break
            try:
                self._open()
            except DeviceError as err:
                failures += 1
                self._failed(err)
                self._source.close()
                if failures >= _OPENINGS:
                    return True
                continue
            failures = 0
            try:
                while not self._service.is_stopping:
                    self._turn()
            except DeviceError as err:
                self._failed(err)
                return True
            self._source.close()
        self._outlet.close()
        return False

    def _wait(self) -> None:
        """Back off: alive, reporting, and answering every trigger that there is no camera."""
        until_ns = self._clock() + int(self._backoff.wait_s * 1e9)
        while not self._service.is_stopping and self._clock() < until_ns:
            self._look(_IDLE_MS)
            self._report()
            self._service.turn()

    def _open(self) -> None:
        config, camera = self._config, self._camera.name
        self._report(is_now=True)
        self._service.extend(60)
        self._source.open()
        self._is_open, self._note = True, ""
        self._opened_ns = self._clock()
        self._log.info("camera open")
        self._leave_word(lambda: write_features(config, camera, self._source.features()))
        held, self._held = self._held, None
        if held is not None:
            self._prepare(held)

    def _failed(self, err: DeviceError) -> None:
        """The device cannot be opened or was lost: say so once, to everyone, and wait longer."""
        if self._note != str(err):
            self._log.error("camera lost" if self._is_open else "no camera", why=str(err))
        self._note, self._is_open = str(err), False
        self._answer_all(str(err))
        self._backoff.failed()
        self._report(is_now=True)

    def _begin(self, view: View) -> Settings:
        """A new acquisition with this view; nothing exposed before can come out of it."""
        if self._triggers.asked is not None:
            self._answer_all("the acquisition was begun anew")
        # The ring first: making a large one takes as long as many frames.
        self._outlet.begin(self._source.configure(view))
        settings = self._source.settings
        self._source.start()
        self._heard_ns = self._clock()
        return settings

    def _turn(self) -> None:
        is_awaiting = self._is_awaiting()
        self._look(0 if is_awaiting else _IDLE_MS)
        for trigger in self._triggers.stale(self._clock()):
            self._refuse(trigger, "it waited too long behind another picture")
        trigger = self._triggers.next()
        if trigger is not None:
            fired_ns = self._clock()
            self._triggers.fired(trigger, fired_ns)
            self._source.trigger(trigger.part_tag)
        if self._is_awaiting():
            self._collect(self._source.fetch(_SLICE_MS))
        else:
            while (shot := self._source.fetch(0)) is not None:
                self._collect(shot)
        self._check_time(self._clock())
        self._report()
        self._service.turn()

    def _is_awaiting(self) -> bool:
        """A picture is expected within moments, so wait for it and not for messages."""
        if self._is_asked_for_each:
            return self._triggers.asked is not None
        return self._views.running is not None

    def _collect(self, shot: Frame | Incomplete | None) -> None:
        if shot is None:
            return
        self._heard_ns = self._clock()
        asked = self._triggers.answered()
        is_wanted = asked is not None or not self._is_asked_for_each
        part_id = asked.part_id if asked else 0
        if isinstance(shot, Incomplete):
            if is_wanted:
                self._outlet.none(part_id, Reason.INCOMPLETE_IMAGE, shot.detail)
        elif not is_wanted or self._views.in_force is None:
            self._counters["orphans"] += 1
            shot.release()
        else:
            self._misses = 0
            self._outlet.frame(
                shot,
                part_id,
                self._views.in_force.setup_hash,
                asked.fired_ns if asked else None,
                self._source.is_simulated,
            )
            if self._heard_ns - self._opened_ns > _GOOD_RUN_NS:
                self._backoff.succeeded()

    def _check_time(self, now_ns: int) -> None:
        """Silence is a loss: of one picture, and of the device where it lasts."""
        limit_ns = self._camera.frame_timeout_ms * _MS
        if self._triggers.overdue(now_ns):
            self._misses += 1
            self._counters["no_image"] += 1
            why = f"no picture within {self._patience_ms} ms of the trigger"
            self._answer_all(why)
            if self._misses >= _MISSES:
                raise DeviceTimeout(f"{self._label}: {why}, {self._misses} times in a row")
            # The picture may still come: a new acquisition keeps it from the next part.
            self._source.start()
            self._heard_ns = self._clock()
        elif self._source.is_streaming and self._views.running is not None:
            if now_ns - self._heard_ns > limit_ns:
                limit_ms = self._camera.frame_timeout_ms
                raise DeviceTimeout(f"{self._label}: no picture within {limit_ms} ms")

    def _answer_all(self, why: str) -> None:
        """Nobody who waits for a picture will get one."""
        asked = self._triggers.answered()
        if asked is not None:
            self._outlet.none(asked.part_id, Reason.NO_IMAGE, why)
        if not self._is_open:
            for trigger in self._triggers.drop():
                self._refuse(trigger, why)

    def _look(self, timeout_ms: int) -> None:
        messages = [message for _, message in self._inbox.poll(timeout_ms)]
        now_ns = self._clock()
        self._triggers.looked(now_ns)
        for message in messages:
            self._take(message, now_ns)

    def _take(self, message: AnyMessage, now_ns: int) -> None:
        match message:
            case Trigger():
                self._counters["triggers"] += 1
                if not self._is_open:
                    self._refuse(message, self._note)
                elif self._views.in_force is None or not self._is_asked_for_each:
                    self._refuse(message, "the camera has no set-up for it in force")
                elif not self._triggers.take(message, now_ns):
                    self._refuse(message, "it may be too old: the camera was busy or stopped")
            case Prepare():
                self._prepare(message)
            case Swap():
                if not self._views.swap(message.setup_hash):
                    self._log.warning("swap to what was never prepared", setup=message.setup_hash)
            case _:
                self._log.warning("foreign message", kind=type(message).__name__)

    def _refuse(self, trigger: Trigger, why: str) -> None:
        """A trigger that must not be answered with a picture: it would show another part."""
        self._counters["refused_triggers"] += 1
        self._outlet.none(trigger.part_id, Reason.NO_IMAGE, f"the trigger was not fired: {why}")

    def _prepare(self, message: Prepare) -> None:
        """Check the recipe and try its settings on; the set-up in force stays in force."""
        try:
            setup = self._views.load(message)
            if not self._is_open:
                # Its settings can only be tried on the device: answered when there is one.
                self._held = message
                return
            found = self._views.try_on(setup)
            word = Found(recipe=setup.recipe, settings=dict(found))
            self._leave_word(lambda: write_found(self._config, self._camera.name, word))
            self._views.prepared(setup, found)
        except ArtefactError as err:
            self._outlet.tell(refusal(self._label, message.setup_hash, err))
            return
        self._outlet.tell(Prepared(process=self._label, setup_hash=setup.setup_hash))

    def _leave_word(self, write: Callable[[], None]) -> None:
        """For people: what the device has, beside the sockets. No reason to stop a line."""
        try:
            write()
        except OSError as err:
            self._log.warning("what the device has cannot be written down", why=str(err))

    def _report(self, is_now: bool = False) -> None:
        now_ns, in_force = self._clock(), self._views.in_force
        if not is_now and now_ns - self._told_ns < _HEALTH_NS:
            return
        self._told_ns = now_ns
        source, own = self._source.counts, self._counters
        counters = {
            **own,
            **self._outlet.counters,
            "frames_incomplete": source.incomplete,
            "frames_lost": source.lost + own["no_image"],
            "orphans": own["orphans"] + source.orphans,
        }
        self._health_sender.send(
            Health(
                process=self._label,
                pid=os.getpid(),
                life=self._service.life,
                # The first picture must not be lost because infer is still on its way to us.
                is_serving=self._is_open and self._outlet.is_heard,
                setup_hash=in_force.setup_hash if in_force else "",
                is_simulated=self._source.is_simulated,
                counters=counters,
                gauges=self._outlet.gauges | own_use(),
                note=self._note or self._remark(),
            )
        )

    def _remark(self) -> str:
        """What people should know while the camera serves."""
        if not self._outlet.is_heard:
            return "infer is not connected"
        in_force, said = self._views.in_force, [self._source.remark]
        if in_force is not None and self._views.settings and not in_force.approved:
            never = f"the limits of {in_force.recipe} were never approved for a camera's settings"
            said.append(f"{self._label}: {never}")
        return "; ".join(sentence for sentence in said if sentence)
