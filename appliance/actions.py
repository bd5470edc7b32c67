"""What each order does to the line. Who may give it, and by which name or code: orders.py.

Enters: an order that was allowed, and the time, monotonic ns. Leaves: changes of box, parts and
counters; what takes long is handed to whoever reads files, with the answer that it shall give.
"""

from collections.abc import Callable
from dataclasses import replace

from appliance.alarms import Alarms
from appliance.box import Box
from appliance.challenge import Challenge
from appliance.codes import CommandError
from appliance.handshake import Handshake
from appliance.hardware import HardwareTrigger
from appliance.intake import Intake
from appliance.product import Product
from appliance.setups import Answer, Setups
from appliance.states import Event
from appliance.tally import Tally
from appliance.words import Bank, decode_input


class Actions:
    """Of one line."""

    def __init__(
        self,
        *,
        bank: Bank,
        handshake: Handshake,
        box: Box,
        intake: Intake,
        setups: Setups,
        product: Product,
        challenge: Challenge,
        tally: Tally,
        alarms: Alarms,
        hardware: HardwareTrigger | None,
        is_continuous: bool,
        load_recipe: Callable[[int, Answer], None],
        load_recipe_by_hash: Callable[[int, Answer], None],
        reload_products: Callable[[Answer], None],
        keep_counters: Callable[[], None],
    ) -> None:
        """load_recipe…: reads the files and calls `Product.change`.

        is_continuous: parts come by themselves. keep_counters: into the journal, now.
        """
        self._bank, self._handshake, self._box, self._intake = bank, handshake, box, intake
        self._setups, self._challenge, self._hardware = setups, challenge, hardware
        self._tally, self._alarms, self._keep_counters = tally, alarms, keep_counters
        self._is_continuous = is_continuous
        self._product = product
        self._load_recipe, self._load_recipe_by_hash = load_recipe, load_recipe_by_hash
        self.reload_products = reload_products
        """`products.toml` anew; the product in force follows from the next part on."""

    def load_recipe(self, number: int, answer: Answer) -> None:
        """Of the product that the PLC calls so."""
        self._load_recipe(number, self._product.ordered(answer))

    def load_recipe_by_hash(self, wanted: int, answer: Answer) -> None:
        """wanted: first 32 bits of the hash of a recipe that `products.toml` names."""
        self._load_recipe_by_hash(wanted, self._product.ordered(answer))

    def reset_counters(self) -> None:
        """Those of this shift, and what alarms at a rate have seen."""
        self._tally.reset_shift()
        self._alarms.restart()

    def clear_overrun(self) -> None:
        """Command 11."""
        self._handshake.clear_overrun()

    def clear_error(self, now_ns: int) -> None:
        """What is latched ends, unless its cause goes on."""
        self._handshake.clear_error(now_ns)

    def resync(self, now_ns: int) -> CommandError:
        """No part is at the cameras. Only hardware triggers can lose their association; nothing
        to do is done."""
        plc = self._intake.plc
        if self._hardware is not None and plc is not None:
            self._hardware.resync(plc.trigger_count, now_ns)
            self._box.follow_hardware(now_ns)
        return CommandError.DONE

    def set_running(self, is_running: bool, now_ns: int) -> CommandError:
        """Whether parts that come by themselves are taken."""
        if not self._is_continuous:
            return CommandError.WRONG_STATE
        self._box.is_stopped = not is_running
        self._box.follow(now_ns)
        return CommandError.DONE

    def start_job(self, part_tag: int, now_ns: int) -> int:
        """The part's id, or 0 where TriggerReady is 0 or the PLC triggers."""
        plc = replace(decode_input(self._bank), part_tag=part_tag, part_text="", deadline_ms=0)
        return self._intake.newest_part_id if self._handshake.start_job(plc, now_ns) else 0

    def start_challenge(self) -> CommandError:
        """The next parts are challenge parts."""
        # Only a Trigger says what must come out: without that nothing would be compared.
        return CommandError.WRONG_STATE if self._is_continuous else self._challenge.start()

    def end_challenge(self, is_proof: bool) -> CommandError:
        """is_proof: its parts, by what the PLC said of them, are the proof."""
        return self._challenge.end(is_proof)

    def unlock_challenge(self, now_ns: int) -> None:
        """A person answers for parts after a failed test."""
        self._challenge.answer()
        self._challenge_judged(now_ns)

    def pass_challenge(self, now_ns: int) -> None:
        """A person found a test passed."""
        self._challenge.passed()
        self._challenge_judged(now_ns)

    def fail_challenge(self, now_ns: int) -> None:
        """A person found a test failed."""
        self._challenge.failed()
        self._challenge_judged(now_ns)

    def _challenge_judged(self, now_ns: int) -> None:
        self._keep_counters()
        self._box.follow(now_ns)

    def drift(self, level: int) -> None:
        """Level 0 to 3: calm, warn, a challenge is due, hold."""
        self._challenge.drifted(level)
        self._keep_counters()

    def save_next(self, count: int) -> None:
        """The pictures of so many parts from now on are kept; 0 = of none more."""
        self._intake.to_keep = count

    def halt(self, now_ns: int) -> None:
        """No part until `reset`."""
        self._box.is_halted = True
        self._box.follow(now_ns)

    def reset(self, now_ns: int) -> None:
        """The end of `halt`, and of what is latched."""
        self._box.is_halted = False
        self._handshake.conditions.move(Event.RESET)
        self._handshake.clear_error(now_ns)
        self._box.follow(now_ns)

    def owner_changed(self, owner: str, now_ns: int) -> None:
        """owner: the person who has control now; "" = the PLC has it."""
        self._handshake.conditions.is_maintenance = bool(owner)
        if not owner:
            # What happened meanwhile nobody watched: camera and infer confirm what they hold.
            self._setups.confirm(now_ns)
        self._box.follow(now_ns)
