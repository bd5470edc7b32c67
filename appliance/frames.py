"""Pixels between processes: a ring of fixed slots in shared memory, or bytes behind a message.

The writer overwrites the oldest slot and never waits; readers never hold one. A reader compares
(epoch, slot, sequence) before and after it used the pixels: a mismatch means that what it
computed is worthless (`FrameOverwritten`). Before slot i is written, slot i+2 is made invalid:
Python cannot order its stores on ARM, so a slot is marked long before its pixels change.

File: 4096 bytes header (magic, epoch, slots, slot bytes), then one 4096-byte page with the
sequence numbers (uint64 each, 0 = invalid), then the slots, each a multiple of 4096 bytes.
"""
# NumPy's stubs leave the element type of a view open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import math
import mmap
import os
import secrets
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from appliance.codes import Reason
from appliance.errors import ConfigError, PartError
from appliance.messages import PixelRef

_MAGIC = b"inspectd ring 1\n"
_HEADER = struct.Struct("<16sQQQ")
_PAGE = 4096
MAX_SLOTS = _PAGE // 8
_SUFFIX = ".ring"
_DTYPES = ("uint8", "uint16", "float32")
INLINE = ""
"""Name of the ring in a PixelRef whose bytes travel behind the message."""


class FrameOverwritten(PartError):
    """The slot was given to a newer frame before its reader was done."""

    def __init__(self, ref: PixelRef) -> None:
        super().__init__(
            Reason.FRAME_OVERWRITTEN,
            f"frame {ref.sequence} of ring {ref.ring} was overwritten in slot {ref.slot}",
        )


def slots_for(deadline_ms: float, grace_ms: float, rate_hz: float) -> int:
    """Slots so that a frame outlives its deadline and the recorder's grace (design: + 4)."""
    return min(MAX_SLOTS, int(-(-(deadline_ms + grace_ms) * rate_hz // 1000)) + 4)


class RingWriter:
    """Owner of one ring. Every start makes a new file with a new epoch and removes the old ones.

    folder: directory below shared memory, mode 0700, made if missing.
    name: who writes; the file is `NAME.EPOCH.ring`.
    replaces: of the same name, closed once this one is there; where it cannot be made, nothing
    happens to it.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        slots: int,
        slot_bytes: int,
        replaces: "RingWriter | None" = None,
    ) -> None:
        if not 4 <= slots <= MAX_SLOTS:
            raise ConfigError(f"ring {name}", f"4 to {MAX_SLOTS} slots", str(slots))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_rings(folder, name, replaces)
        self._slots = slots
        self._slot_bytes = -(-slot_bytes // _PAGE) * _PAGE
        self._epoch = secrets.randbits(63) | 1
        self._next = 0
        self._sequence = 0
        self.path = folder / f"{name}.{self._epoch:016x}{_SUFFIX}"
        size = 2 * _PAGE + slots * self._slot_bytes
        handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            # Reserve the memory now: a full shared memory would end the process later by SIGBUS.
            os.posix_fallocate(handle, 0, size)
            # All pages mapped at once: else every slot's first frame costs ten times the copy.
            self._map = mmap.mmap(handle, size, mmap.MAP_SHARED | mmap.MAP_POPULATE)
        except OSError as err:
            self.path.unlink()
            raise ConfigError(
                f"ring {name}", f"{size} bytes of shared memory in {folder}", str(err)
            ) from err
        finally:
            os.close(handle)
        _HEADER.pack_into(self._map, 0, _MAGIC, self._epoch, slots, self._slot_bytes)
        self._sequences = np.frombuffer(self._map, np.uint64, slots, _PAGE)
        if replaces is not None:
            replaces.close()

    @property
    def slot_bytes(self) -> int:
        """Room per frame, in bytes."""
        return self._slot_bytes

    def put(self, array: npt.NDArray[Any]) -> PixelRef:
        """Copy `array` into the oldest slot: the only copy that a frame costs on this box."""
        slot, target = self._claim(array.nbytes)
        # The reference names the type without its byte order: the ring's is the machine's.
        dtype = array.dtype.newbyteorder("=")
        view = np.frombuffer(self._map, dtype, array.size, target).reshape(array.shape)
        np.copyto(view, array)
        self._sequence += 1
        self._sequences[slot] = self._sequence
        return PixelRef(
            ring=self.path.name,
            epoch=self._epoch,
            slot=slot,
            sequence=self._sequence,
            shape=array.shape,
            dtype=array.dtype.name,
        )

    def _claim(self, nbytes: int) -> tuple[int, int]:
        if nbytes > self._slot_bytes:
            raise PartError(
                Reason.INTERNAL, f"a frame of {nbytes} bytes for slots of {self._slot_bytes}"
            )
        slot = self._next
        self._next = (slot + 1) % self._slots
        self._sequences[slot] = 0
        self._sequences[(slot + 2) % self._slots] = 0
        return slot, 2 * _PAGE + slot * self._slot_bytes

    def close(self) -> None:
        """Remove the file; readers that still map it keep their pages until they let go."""
        self.path.unlink(missing_ok=True)
        del self._sequences
        # A view that is still referenced keeps the mapping alive; it goes with its last owner.
        try:
            self._map.close()
        except BufferError:
            return


class RingReader:
    """Reads any ring of one folder; maps files on first sight and forgets removed ones."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, _Mapped] = {}

    def view(self, ref: PixelRef) -> npt.NDArray[Any]:
        """The pixels, not copied, not writable; call `check` after use.

        Raises FrameOverwritten, or PartError for a reference that names no pixels.
        """
        ring = self._ring(ref)
        if not ring.holds(ref):
            raise FrameOverwritten(ref)
        dtype, count = _layout(ref)
        if count * dtype.itemsize > ring.slot_bytes:
            got = f"{count * dtype.itemsize} bytes of pixels"
            raise PartError(Reason.INTERNAL, f"expected at most {ring.slot_bytes}, got {got}")
        offset = 2 * _PAGE + ref.slot * ring.slot_bytes
        return np.frombuffer(ring.map, dtype, count, offset).reshape(ref.shape)

    def slot(self, ref: PixelRef) -> npt.NDArray[np.uint8]:
        """All of the slot in which the pixels lie, whole pages, not writable."""
        ring = self._ring(ref)
        begin = 2 * _PAGE + ref.slot * ring.slot_bytes
        return ring.memory[begin : begin + ring.slot_bytes]

    def check(self, ref: PixelRef) -> None:
        """Raises FrameOverwritten where the slot changed hands since `view`."""
        if not self._ring(ref).holds(ref):
            raise FrameOverwritten(ref)

    def copy(self, ref: PixelRef) -> npt.NDArray[Any]:
        """The pixels as an array of one's own, proved whole."""
        array = self.view(ref).copy()
        self.check(ref)
        return array

    def _ring(self, ref: PixelRef) -> "_Mapped":
        ring = self._open.get(ref.ring)
        if ring is None:
            writer = ref.ring.partition(".")[0]
            for name in [n for n in self._open if n.partition(".")[0] == writer]:
                self._open.pop(name)
            if "/" in ref.ring or not ref.ring.endswith(_SUFFIX):
                raise FrameOverwritten(ref)
            try:
                ring = _Mapped(self._folder / ref.ring)
            except (FileNotFoundError, ValueError) as err:  # ValueError: a zero byte in the name
                raise FrameOverwritten(ref) from err
            self._open[ref.ring] = ring
        return ring


class _Mapped:
    """One ring file, mapped read-only."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        head = self.map[: _HEADER.size].ljust(_HEADER.size, b"\0")
        magic, self.epoch, self.slots, self.slot_bytes = _HEADER.unpack(head)
        size = 2 * _PAGE + self.slots * self.slot_bytes
        if magic != _MAGIC or self.slots > MAX_SLOTS or len(self.map) != size:
            # Of the part alone: a process that ended with 78 would stay down.
            got = f"{len(self.map)} bytes that begin with {magic!r}"
            raise PartError(Reason.INTERNAL, f"{path}: expected a frame ring, got {got}")
        self.memory = np.frombuffer(self.map, np.uint8)
        self._sequences = np.frombuffer(self.map, np.uint64, self.slots, _PAGE)

    def holds(self, ref: PixelRef) -> bool:
        return (
            ref.epoch == self.epoch
            and 0 <= ref.slot < self.slots
            and int(self._sequences[ref.slot]) == ref.sequence
        )


def remove_rings(folder: Path, name: str, but: RingWriter | None = None) -> None:
    """Remove what earlier starts of this writer left behind."""
    for path in folder.glob(f"{name}.*{_SUFFIX}"):
        if but is None or path != but.path:
            path.unlink(missing_ok=True)


def inline_pixels(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A copy in one contiguous buffer and the machine's byte order, to travel behind a message: the
    device may have its own back before it is sent."""
    return np.array(array, array.dtype.newbyteorder("="), order="C")


def inline_ref(array: npt.NDArray[Any], sequence: int) -> PixelRef:
    """Reference to pixels that travel behind the message (between boxes)."""
    return PixelRef(
        ring=INLINE,
        epoch=0,
        slot=0,
        sequence=sequence,
        shape=array.shape,
        dtype=array.dtype.name,
    )


def inline_view(ref: PixelRef, payload: bytes | None) -> npt.NDArray[Any]:
    """Pixels that came behind a message. Raises PartError where they are missing or cut short."""
    dtype, count = _layout(ref)
    expected = count * dtype.itemsize
    if payload is None or len(payload) != expected:
        got = "none" if payload is None else f"{len(payload)}"
        raise PartError(Reason.INCOMPLETE_IMAGE, f"expected {expected} bytes of pixels, got {got}")
    return np.frombuffer(payload, dtype).reshape(ref.shape)


def _layout(ref: PixelRef) -> tuple[np.dtype[Any], int]:
    """Type and number of the pixels. Raises PartError: another box may say anything."""
    size_px(ref)
    if ref.dtype not in _DTYPES:
        raise PartError(
            Reason.INTERNAL, f"expected pixels of {', '.join(_DTYPES)}, got {ref.dtype!r}"
        )
    return np.dtype(ref.dtype), math.prod(ref.shape)


def size_px(ref: PixelRef) -> tuple[int, int]:
    """Height and width of a frame by its reference. Raises PartError for what is neither a frame,
    (H, W) or (H, W, C), nor a map, (K, H, W): another box may say anything."""
    shape = ref.shape
    if len(shape) not in (2, 3) or min(shape) < 1:
        got = f"the shape {shape}" if len(shape) <= 3 else f"{len(shape)} dimensions"
        raise PartError(Reason.INTERNAL, f"expected a frame or a map, got {got}")
    return shape[0], shape[1]
