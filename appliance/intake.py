"""How a part comes to be: the PLC asks for it, or it comes by itself. Pure; time is an argument.

Enters: the PLC's trigger, or when a frame or a step opened a part. Leaves: a part in the book, and
`Trigger` to every camera of one that was asked for. Whether a part may come is asked before: by
TriggerReady.
"""

from collections.abc import Callable

from appliance.challenge import Challenge
from appliance.codes import Reason, Word
from appliance.config import Config
from appliance.handshake import Conditions
from appliance.messages import FrameReady, Trigger, camera_label
from appliance.part import Part, Sight
from appliance.parts import PartBook
from appliance.recipe import LoadedRecipe
from appliance.setups import Setups
from appliance.states import Event
from appliance.words import Bank, PlcInput

_MS = 1_000_000


class Intake:
    """Of one line.

    count: one more of a counter. trigger: to the camera of this name; False where it takes none.
    """

    def __init__(
        self,
        config: Config,
        book: PartBook,
        setups: Setups,
        conditions: Conditions,
        challenge: Challenge,
        bank: Bank,
        count: Callable[[str], None],
        trigger: Callable[[str, Trigger], bool],
    ) -> None:
        self._config, self._book, self._setups = config, book, setups
        self._conditions, self._challenge, self._bank = conditions, challenge, bank
        self._count, self._trigger = count, trigger
        self._deadline_ns = config.deadline_ms * _MS
        self._is_paired = config.trigger != "hardware"
        self._far = {
            camera.name: (config.stale_ms(camera) * _MS, int(camera.arrival_delay_ms * _MS))
            for camera in config.camera
            if config.is_elsewhere(camera_label(camera.name))
        }
        """Cameras of other boxes: how late they may fire, and their `arrival_delay_ms`."""
        self.plc: PlcInput | None = None
        """What it wrote last."""
        self.newest_part_id = 0
        self.to_keep = 0
        """Parts whose picture will still be kept by SaveNextN."""

    def asked(self, plc: PlcInput, received_ns: int) -> int:
        """The PLC's trigger, received at this time. Returns the part's AcqID."""
        is_challenge, expected = self._challenge.terms(plc)
        part = self._book.open(
            received_ns,
            received_ns + self._allowed_ns(plc),
            self._recipe(),
            part_tag=plc.part_tag,
            part_text=plc.part_text,
            lot=plc.lot,
            is_challenge=is_challenge,
            expected=expected,
        )
        self._opened(part)
        self._conditions.move(Event.TRIGGERED)
        self._conditions.move(Event.RESOURCES_FREE)
        for camera, sight in part.sights.items():
            self._book.asked_camera(sight)
            is_elsewhere = self._config.is_elsewhere(camera_label(camera))
            asked_ns = 0 if is_elsewhere else received_ns
            trigger = Trigger(part_id=part.part_id, part_tag=part.part_tag, asked_ns=asked_ns)
            if not self._trigger(camera, trigger):
                self._book.trigger_refused(sight, received_ns)
        return part.acq_id

    def check_shot(self, sight: Sight, frame: FrameReady, now_ns: int) -> None:
        """Of a camera on another box: was its trigger fired in time, or stuck on the network? What
        it says are durations, so the way back counts as lateness, too. Here the camera knows.
        """
        limit_ns, delay_ns = self._far.get(sight.camera, (0, 0))
        fired_ns = now_ns - frame.trigger_to_frame_ns - max(0, frame.age_ns - delay_ns)
        late_ns = fired_ns - sight.part.zero_ns
        if limit_ns and late_ns > limit_ns:
            late, most = late_ns // _MS, limit_ns // _MS
            detail = f"the trigger may have been fired {late} ms late, expected at most {most} ms"
            self._book.close(sight, Word.ERROR, Reason.ASSOCIATION_LOST, now_ns, detail)

    def unasked(self, zero_ns: int, plc: PlcInput | None = None, tag: int = 0) -> Part:
        """A part that comes by itself; with the PLC's words where these brought it."""
        part = self._book.open(
            zero_ns,
            zero_ns + self._allowed_ns(plc or self.plc),
            self._recipe(),
            part_tag=tag,
            part_text=plc.part_text if plc else "",
            lot=plc.lot if plc else "",
            is_paired=self._is_paired,
        )
        part.is_tag_known = tag != 0
        self._opened(part)
        self._bank.set("AcqID", part.acq_id)
        return part

    def _opened(self, part: Part) -> None:
        part.is_kept = self.to_keep > 0
        self.to_keep -= part.is_kept
        self.newest_part_id = part.part_id
        self._conditions.open_parts = len(self._book)
        self._count("triggers")

    def _recipe(self) -> LoadedRecipe:
        recipe = self._setups.current
        if recipe is None:
            raise RuntimeError("TriggerReady without a recipe")
        return recipe

    def _allowed_ns(self, plc: PlcInput | None) -> int:
        """The configured deadline, or the shorter one that the PLC asks for."""
        wanted_ns = plc.deadline_ms * _MS if plc else 0
        return wanted_ns if 0 < wanted_ns <= self._deadline_ns else self._deadline_ns
