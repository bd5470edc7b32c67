"""One verdict into the words that a PLC reads: the level words, and the ring. Pure.

decide fills the bank of the Modbus server with these; the process `bus` fills one of its own, which
it copies into controllers that do not speak Modbus. Replay makes them once more.
"""

from dataclasses import asdict

from appliance.codes import SlotFlags
from appliance.messages import PlcTold, Verdict
from appliance.registers import (
    FROM_VISION,
    RING_ADDRESS,
    RING_SLOTS,
    SLOT_FIELDS,
    SLOT_WORDS,
)
from appliance.verdict import display_score
from appliance.words import Bank, Value, WordOrder

_MS = 1_000_000
_RING_IDS = 65_535
_FLAGS = [name for name, _ in SLOT_FIELDS].index("flags")
_LEVEL = tuple(row for row in FROM_VISION if 115 <= row.address < 153)
_LEVEL_ADDRESS, _LEVEL_WORDS = _LEVEL[0].address, sum(row.size for row in _LEVEL)


def write_result(bank: Bank, verdict: Verdict) -> None:
    """HR 115–152, but for the status bits."""
    put = bank.set
    put("InspectionID", verdict.acq_id)
    put("Verdict", verdict.word)
    put("Reason", verdict.reason)
    put("Score", display_score(verdict.margin))
    put("ScoreLimit", display_score(verdict.t2))
    put("LatencyMs", min(0xFFFF, verdict.latency_ns // _MS))
    put("DeadlineUsedMs", min(0xFFFF, verdict.deadline_ns // _MS))
    put("PartTagEcho", verdict.part_tag)
    put("PartIdEcho", verdict.part_text)
    put("DefectCount", min(0xFFFF, verdict.defects))
    put("WorstRegion", verdict.region_px or (0, 0, 0, 0))
    for name, value in (("Margin", verdict.margin), ("T1", verdict.t1), ("T2", verdict.t2)):
        put(name, float("nan") if value is None else value)
    put("ResultTear", verdict.acq_id)


def level_words(bank: Bank, part_id: int) -> PlcTold:
    """What `write_result` wrote, with Epoch among it."""
    words = tuple(bank.read(_LEVEL_ADDRESS, _LEVEL_WORDS))
    return PlcTold(part_id=part_id, address=_LEVEL_ADDRESS, words=words)


def told_again(told: PlcTold, verdict: Verdict, order: WordOrder, is_tag_known: bool) -> PlcTold:
    """The same words for this verdict. is_tag_known: of every part, see `Ring`."""
    bank = Bank(order)
    if told.address == _LEVEL_ADDRESS:
        bank.set("Epoch", verdict.epoch)
        write_result(bank, verdict)
        return level_words(bank, verdict.part_id)
    ring = Ring(bank, verdict.epoch, is_tag_known)
    ring.put(verdict)
    if len(told.words) == SLOT_WORDS and not told.words[_FLAGS] & SlotFlags.TAG_KNOWN:
        # That hangs on the PLC's other parts, too, and is not judged anew.
        ring.tagged(verdict.part_tag, 0, 0)
    return ring.newest(verdict.part_id)


def named(told: PlcTold, order: WordOrder) -> dict[str, Value]:
    """Name → value of result words, those of a slot as "slot …"; {} for words of no result."""
    bank = Bank(order)
    if told.address == _LEVEL_ADDRESS and len(told.words) == _LEVEL_WORDS:
        bank.write(told.address, told.words)
        return {row.name: bank.get(row.name) for row in _LEVEL}
    if told.address >= RING_ADDRESS and len(told.words) == SLOT_WORDS:
        bank.write(RING_ADDRESS, told.words)
        return {f"slot {name}": value for name, value in asdict(bank.read_slot(0)).items()}
    return {}


class Ring:
    """The slots of HR 210–329 and the words about them."""

    def __init__(self, bank: Bank, epoch: int, is_tag_known: bool) -> None:
        self._bank, self.epoch, self._is_tag_known = bank, epoch, is_tag_known
        self._seq = 0
        self._count = 0
        self._acked_count = 0
        """Of all results ever put into the ring, how many the PLC consumed."""
        self._unread = 0
        self._tags = [0] * RING_SLOTS
        """Of the part in each slot, where the slot says that it is known; else 0."""
        self._numbers = [0] * RING_SLOTS
        """Of the result in each slot, among all ever put."""
        self._awaited: dict[int, int] = {}
        """Tag → until when the PLC may look for a result under it."""
        self._doubtful: dict[int, int] = {}
        """Tag → until when it may look for those of two parts: what comes is told to neither."""

    def tagged(self, tag: int, now_ns: int, until_ns: int) -> None:
        """Another part has this tag from now on, and the PLC looks for its result until then: what
        lies here under it is none of its results. Where the PLC has not acknowledged that, or it
        is yet to come, the PLC may look for the part before, too.
        """
        if not tag:
            return
        is_settled = False
        for index, held in enumerate(self._tags):
            if held == tag:
                is_settled = self._numbers[index] < self._acked_count
                self._hide(index)
        if not is_settled and now_ns < self._awaited.get(tag, 0):
            self._doubtful[tag] = until_ns
        for tags in (self._awaited, self._doubtful):
            for old in [old for old, ends_ns in tags.items() if ends_ns <= now_ns]:
                del tags[old]
        self._awaited[tag] = until_ns

    def _hide(self, index: int) -> None:
        """Its tag is not known any more."""
        self._tags[index] = 0
        address = RING_ADDRESS + index * SLOT_WORDS + _FLAGS
        flags = self._bank.read(address, 1)[0] & ~int(SlotFlags.TAG_KNOWN)
        self._bank.write(address, (flags,))

    def put(self, verdict: Verdict, now_ns: int = 0) -> bool:
        """Into the next slot. True where that overwrote what nobody had acknowledged."""
        tag = verdict.part_tag
        seq = self._seq % _RING_IDS + 1
        is_overwriting = self._count - RING_SLOTS + 1 > self._acked_count
        is_tag_known = self._is_tag_known or verdict.is_tag_known
        is_tag_known = is_tag_known and tag != 0 and now_ns >= self._doubtful.get(tag, 0)
        for older in [i for i, held in enumerate(self._tags) if tag and held == tag]:
            self._hide(older)
        index = self._count % RING_SLOTS
        self._tags[index], self._numbers[index] = tag if is_tag_known else 0, self._count
        flags = SlotFlags.TAG_KNOWN if is_tag_known else SlotFlags(0)
        flags |= SlotFlags.CHALLENGE if verdict.is_challenge else SlotFlags(0)
        flags |= SlotFlags.SIMULATED if verdict.is_simulated else SlotFlags(0)
        self._bank.put_slot(
            index,
            seq=seq,
            verdict=verdict.word,
            reason=verdict.reason,
            flags=flags | (self.epoch & 0xFF) << 8,
            score=display_score(verdict.margin),
            latency_ms=min(0xFFFF, verdict.latency_ns // _MS),
            part_tag=verdict.part_tag,
            inspection_id=verdict.acq_id,
        )
        self._seq = seq
        self._count += 1
        self._bank.set("RingLast", seq)
        self._bank.set("RingOldest", self._oldest())
        return is_overwriting

    def newest(self, part_id: int) -> PlcTold:
        """The slot that was written last, as it lies there."""
        address = RING_ADDRESS + (self._count - 1) % RING_SLOTS * SLOT_WORDS
        words = tuple(self._bank.read(address, SLOT_WORDS))
        return PlcTold(part_id=part_id, address=address, words=words)

    def count_unread(self) -> None:
        """One more overwritten before it was acknowledged."""
        self._unread = (self._unread + 1) & 0xFFFF
        self._bank.set("RingUnread", self._unread)

    def acknowledge(self, seq: int) -> None:
        """AckSeq: the highest contiguous sequence that the PLC consumed; never runs ahead."""
        behind = (self._seq - seq) % _RING_IDS
        if seq and behind < min(self._count, RING_SLOTS):
            self._acked_count = max(self._acked_count, self._count - behind)

    def _oldest(self) -> int:
        held = min(self._count, RING_SLOTS)
        return (self._seq - held) % _RING_IDS + 1 if held else 0
