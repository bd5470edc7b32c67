"""The box as the PLC sees it: control words in, status and result words out. Pure; time given.

Level mode: one result at a time in HR 115–152, held until ResultAck. Ring mode: results only in
the ring, acknowledged by AckSeq. The ring is filled in both. Only this class sets TriggerReady,
and only from conditions of the decision process. All timing rules are those of docs/plc.md.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from appliance.codes import (
    LATCHING_FAULTS,
    CommandError,
    Control,
    FaultCode,
    OfflineReason,
    State,
    Status1,
    Status2,
    Word,
)
from appliance.messages import PlcTold, Verdict
from appliance.registers import COUNTERS
from appliance.results import Ring, level_words, write_result
from appliance.states import Event, may_trigger, next_state
from appliance.words import Bank, PlcInput

QUEUE_MAX = 8
"""Parts that may be open or unread with BufferResults and in ring mode."""
_MS = 1_000_000
NO_BITS = Status2(0)
_COMMAND_GUARD_NS = 62_000 * _MS
"""No command may execute for ever. A change of recipe has its own guard of 60 s, which answers
first: this one is for what never answers."""

Accept = Callable[[PlcInput, int], int]
"""Open a part for this input, received at this time; returns its AcqID."""
Done = Callable[[CommandError], None]
Ask = Callable[[int, int, int, Done], None]
"""Command code, argument and time; `Done` is called once with the answer, perhaps at once."""
Count = Callable[[str], None]
"""One more of the counter with this name."""
Told = Callable[[PlcTold, int], None]
"""The words of a result lie there for the PLC, since this time."""


@dataclass(slots=True)
class Conditions:
    """What the decision process knows about the rest of the box; it keeps these current."""

    state: State = State.PREOPERATIONAL
    offline: OfflineReason = OfflineReason.STARTING
    """NONE when camera, engine, recipe and journal allow a part."""
    fault: FaultCode = FaultCode.NONE
    """What is wrong just now; NONE ends the fault bit but for latching faults."""
    open_parts: int = 0
    recipe_orders: int = 0
    """Changes of recipe that were ordered and not answered yet: no part, from the same turn on."""
    status2: Status2 = NO_BITS
    """All bits but those that the handshake itself knows."""
    is_warning: bool = False
    is_maintenance: bool = False
    """A person has control: no part, and no command of the PLC."""

    def move(self, event: Event) -> None:
        """The state machine, where something happens."""
        self.state = next_state(self.state, event)


class Handshake:
    """One PLC's side of the machine, projected on a register bank."""

    def __init__(
        self,
        bank: Bank,
        conditions: Conditions,
        accept: Accept,
        ask: Ask,
        cleared: Callable[[FaultCode], None],
        count: Count,
        *,
        mode: Literal["level", "ring"],
        is_triggered_by_plc: bool,
        epoch: int,
        heartbeat_timeout_ms: int,
        acknowledge_timeout_ms: int,
        deadline_ms: int,
        told: Told | None = None,
    ) -> None:
        self._bank, self.conditions = bank, conditions
        self._accept, self._ask, self._cleared, self._count = accept, ask, cleared, count
        self._told = told
        self._is_level = mode == "level"
        self._is_triggered_by_plc = is_triggered_by_plc
        self._epoch = epoch
        self._heartbeat_timeout_ns = heartbeat_timeout_ms * _MS
        self._acknowledge_timeout_ns = acknowledge_timeout_ms * _MS
        self._deadline_ms = deadline_ms
        self._plc: PlcInput | None = None
        self._beat_at_ns: int | None = None
        self._bits = Status1(0)
        self._command_failed = False
        self._commands = 0
        self._running = 0
        """Number of the command that runs; 0 where none does."""
        self._command_until_ns = 0
        self._is_abandoned = False
        """The PLC dropped Execute while the command ran: nobody waits for its answer."""
        self._latched = FaultCode.NONE
        self._answered = FaultCode.NONE
        """The latched fault that the last answer which the PLC read could show."""
        self._shown_fault = FaultCode.NONE
        self._waiting: deque[Verdict] = deque()
        self._valid_until_ns: int | None = None
        self._is_simulated = False
        """What the level words show was not made of real pictures by a real network."""
        self._ring = Ring(bank, epoch, is_triggered_by_plc)
        self._has_unread = False
        self._warned_deadline = False
        self._shown: dict[str, int] = {}
        bank.set("Epoch", epoch)
        bank.set("Margin", float("nan"))

    @property
    def is_trigger_ready(self) -> bool:
        """As it stands in HR 100."""
        return Status1.TRIGGER_READY in self._bits

    @property
    def fault(self) -> FaultCode:
        """The fault that holds now: latched, or going on."""
        return self._latched or self.conditions.fault

    def on_write(self, plc: PlcInput, now_ns: int) -> None:
        """All that one accepted write means; called before the same request is answered."""
        before = self._plc
        # Levels that were held through our own restart are no edges: a command must not run twice.
        old = before.control if before else plc.control
        self._plc = plc
        if before is None or plc.heartbeat != before.heartbeat:
            if before is not None:
                self._beat_at_ns = now_ns
            self._bank.set("PlcHeartbeatEcho", plc.heartbeat)
        rising, falling = plc.control & ~old, old & ~plc.control
        if Control.CLEAR_ERROR in rising:
            self._clear(self._answered, now_ns)
        self.refresh(now_ns)
        if plc.epoch_echo == self._epoch:  # first: a trigger asks what the PLC has consumed
            self._ring.acknowledge(plc.ack_seq)
        if Control.TRIGGER in rising:
            self._trigger(plc, now_ns)
        elif Control.TRIGGER in falling:
            self._bits &= ~Status1.TRIGGER_ACK
        if Control.RESULT_ACK in rising and self._is_level:
            self._drop_result()
        if Control.EXECUTE in rising:
            self._execute(plc, now_ns)
        elif Control.EXECUTE in falling:
            self._bits &= ~(Status1.CMD_DONE | Status1.CMD_EXECUTING)
            self._command_failed = False
            self._is_abandoned = self._running != 0
        self.refresh(now_ns)

    def shown(self, is_shown: bool = True) -> None:
        """An answer with Status1 or FaultCode is on its way to the PLC: it may act on the fault.

        is_shown: False where another one writes from now on, who has read nothing yet.
        """
        self._answered = self._latched if is_shown else FaultCode.NONE

    def tagged(self, tag: int, now_ns: int) -> None:
        """A part with this tag is at the camera, accepted or not: its result is none that the ring
        holds already."""
        self._ring.tagged(tag, now_ns, now_ns + self._deadline_ms * _MS)

    def _trigger(self, plc: PlcInput, now_ns: int) -> None:
        self.tagged(plc.part_tag, now_ns)
        if not (self._is_triggered_by_plc and self.is_trigger_ready):
            self._count("missed_triggers")
            self._bits |= Status1.ACQ_ERROR
            return
        self._warned_deadline = plc.deadline_ms > self._deadline_ms
        self._bits |= Status1.TRIGGER_ACK
        self._open(plc, now_ns)

    def _open(self, plc: PlcInput, now_ns: int) -> int:
        self._bits |= Status1.ACQUIRING
        self._bits &= ~Status1.EXPOSURE_COMPLETE
        acq_id = self._accept(plc, now_ns)
        self._bank.set("AcqID", acq_id)
        return acq_id

    def start_job(self, plc: PlcInput, now_ns: int) -> int:
        """A part that another bus asks for, under the same conditions; AcqID, or 0 = refused."""
        self.refresh(now_ns)
        if not (self._is_triggered_by_plc and self.is_trigger_ready):
            return 0
        if self._plc is not None and Control.TRIGGER in self._plc.control:
            return 0  # until TriggerAck falls, AcqID is the id of the PLC's own part
        self.tagged(plc.part_tag, now_ns)
        acq_id = self._open(plc, now_ns)
        self.refresh(now_ns)
        return acq_id

    def _execute(self, plc: PlcInput, now_ns: int) -> None:
        self._bank.set("CmdEcho", plc.command)
        if self._running:
            self._show_command_done(CommandError.BUSY)
            return
        self._bits |= Status1.CMD_EXECUTING
        self._bits &= ~Status1.CMD_DONE
        self._command_failed = False
        self._commands += 1
        self._running = self._commands
        self._command_until_ns = now_ns + _COMMAND_GUARD_NS
        self._ask(plc.command, plc.argument, now_ns, partial(self._command_done, self._running))

    def _command_done(self, number: int, result: CommandError) -> None:
        if number != self._running:
            return  # the guard has answered for it
        self._running = 0
        if self._is_abandoned:
            self._is_abandoned = False
        else:
            self._show_command_done(result)

    def _show_command_done(self, result: CommandError) -> None:
        self._bits &= ~Status1.CMD_EXECUTING
        self._bits |= Status1.CMD_DONE
        self._command_failed = result != CommandError.DONE
        self._bank.set("CmdResult", result)

    def clear_overrun(self) -> None:
        """Command 11."""
        self._bits &= ~Status1.OVERRUN

    def clear_error(self, now_ns: int) -> None:
        """A person, or a bus that people use: what is latched ends, unless its cause goes on."""
        self._clear(self._latched, now_ns)

    def _clear(self, known: FaultCode, now_ns: int) -> None:
        """known: the latched fault that is acknowledged. One that came while ClearError was on its
        way was seen by nobody, and stays."""
        self._bits &= ~Status1.ACQ_ERROR
        self._has_unread = False
        self._cleared(known)
        if self._latched == known:
            self._latched = FaultCode.NONE
            self._shown_fault = self.conditions.fault
        self.refresh(now_ns)

    def exposure_complete(self) -> None:
        """The part's picture is taken; it may move."""
        self._bits |= Status1.EXPOSURE_COMPLETE
        self._bits &= ~Status1.ACQUIRING

    def deliver(self, verdict: Verdict, now_ns: int, is_newest: bool = True) -> None:
        """A verdict exists: into the ring at once, into the level words when they are free.

        is_newest: no part was accepted since; one that was may be before the camera still.
        """
        if is_newest:
            self._bits &= ~Status1.ACQUIRING
        self._put_in_ring(verdict, now_ns)
        if self._is_level:
            self._waiting.append(verdict)
        elif self._told is not None:
            self._told(self._ring.newest(verdict.part_id), now_ns)
        self.refresh(now_ns)

    def refresh(self, now_ns: int) -> None:
        """Bring every status word up to date; called in the same turn as what changed them."""
        self._expire_result(now_ns)
        self._show_next_result(now_ns)
        if self._running and now_ns >= self._command_until_ns:
            self._command_done(self._running, CommandError.TIMED_OUT)
        conditions, plc = self.conditions, self._plc
        if conditions.fault in LATCHING_FAULTS and not self._latched:
            self._latched = conditions.fault
        fault = self.fault
        if fault and not self._shown_fault:
            self._shown_fault = fault
        elif fault and fault != self._shown_fault and self._shown_fault not in LATCHING_FAULTS:
            self._shown_fault = fault
        is_alive = (
            self._beat_at_ns is not None and now_ns - self._beat_at_ns < self._heartbeat_timeout_ns
        )
        control = plc.control if plc else Control(0)
        offline = conditions.offline
        if conditions.recipe_orders:
            offline = OfflineReason.RECIPE_CHANGING
        if conditions.is_maintenance:
            offline = OfflineReason.MAINTENANCE
        if offline == OfflineReason.NONE and not is_alive:
            offline = OfflineReason.PLC_COMMUNICATION
        if offline == OfflineReason.NONE and Control.SET_OFFLINE in control:
            offline = OfflineReason.STOPPED_BY_PERSON
        is_online = offline == OfflineReason.NONE and conditions.state in (
            State.READY,
            State.SINGLE_EXECUTION,
            State.CONTINUOUS_EXECUTION,
        )
        is_ready = (
            is_online
            and Control.ENABLE in control
            and may_trigger(conditions.state)
            and not self._latched
            and self._has_room(control)
        )
        bits = self._bits & ~(
            Status1.ONLINE | Status1.TRIGGER_READY | Status1.BUSY | Status1.FAULT | Status1.WARNING
        )
        bits |= Status1.ONLINE if is_online else Status1(0)
        bits |= Status1.TRIGGER_READY if is_ready else Status1(0)
        bits |= Status1.BUSY if conditions.open_parts else Status1(0)
        bits |= Status1.FAULT if fault else Status1(0)
        if conditions.is_warning or self._warned_deadline or self._has_unread:
            bits |= Status1.WARNING
        self._bits = bits
        status2 = conditions.status2
        status2 |= Status2.PLC_COMM_OK if is_alive else Status2(0)
        status2 |= Status2.CMD_FAILED if self._command_failed else Status2(0)
        status2 |= Status2.MAINTENANCE if conditions.is_maintenance else Status2(0)
        status2 |= Status2(0) if is_online and is_alive else Status2.SAFE_STATE
        # A slot of the ring has a flag of its own; of the level words this bit is it.
        status2 |= Status2.SIMULATED if self._is_simulated else Status2(0)
        self._show("Status1", bits)
        self._show("Status1Copy", bits)
        self._show("Status2", status2)
        self._show("State", conditions.state)
        self._show("OfflineReason", offline)
        self._show("FaultCode", self._shown_fault)

    def _show(self, name: str, value: int) -> None:
        """Most words are the same turn after turn: only what changed is encoded."""
        if self._shown.get(name) != value:
            self._shown[name] = value
            self._bank.set_counter(name, value)

    def beat(self, count: int) -> None:
        """The decision loop's heartbeat, every 100 ms."""
        self._bank.set("VisionHeartbeat", count & 0xFFFF)
        self._bank.set("VisionHeartbeatCopy", count & 0xFFFF)

    def show_counters(self, counters: Mapping[str, int]) -> None:
        """Those that have a register; 32 bits, they wrap."""
        for name, _ in COUNTERS:
            self._show(name, counters[name])

    def _has_room(self, control: Control) -> bool:
        open_parts, unread = self.conditions.open_parts, len(self._waiting)
        is_held = self._valid_until_ns is not None
        if self._is_level and Control.BUFFER_RESULTS not in control:
            return open_parts == 0 and unread == 0 and not is_held
        return open_parts + unread + is_held < QUEUE_MAX

    def _expire_result(self, now_ns: int) -> None:
        if self._valid_until_ns is not None and now_ns >= self._valid_until_ns:
            self._has_unread = True
            self._count("unread")
            self._drop_result()

    def _drop_result(self) -> None:
        self._valid_until_ns = None
        self._bits &= ~(Status1.RESULT_VALID | Status1.PASS | Status1.FAIL)

    def _show_next_result(self, now_ns: int) -> None:
        plc = self._plc
        if (
            self._valid_until_ns is not None
            or not self._waiting
            or (plc is not None and Control.RESULT_ACK in plc.control)
        ):
            return
        verdict = self._waiting.popleft()
        write_result(self._bank, verdict)
        self._is_simulated = verdict.is_simulated
        self._bits ^= Status1.INSPECTION_TOGGLE
        self._bits &= ~(Status1.PASS | Status1.FAIL)
        self._bits |= Status1.PASS if verdict.word == Word.OK else Status1.FAIL
        self._bits |= Status1.RESULT_VALID
        self._valid_until_ns = now_ns + self._acknowledge_timeout_ns
        if self._told is not None:
            self._told(level_words(self._bank, verdict.part_id), now_ns)

    def _put_in_ring(self, verdict: Verdict, now_ns: int) -> None:
        if self._ring.put(verdict, now_ns) and not self._is_level:
            self._ring.count_unread()
            self._count("overruns")
            self._bits |= Status1.OVERRUN
