"""The pictures of a recording, as a folder camera shows them: a whole line can be rehearsed.

In the order in which decide heard of them, bit for bit, with their significant bits and the name of
the file that a folder camera had shown then.
"""

from pathlib import Path

from appliance.errors import ArtefactError, DeviceError
from appliance.messages import FrameReady
from appliance.pixels import Pixels
from appliance.recording import CAMERA, TAPE, Recording
from appliance.wire import decode

_FRAMES = (f"{TAPE}seen", f"{TAPE}opened_by", f"{TAPE}ignored")


class RecordedPictures:
    """Every picture of one recording, read when it is shown.

    camera: whose pictures where it holds several; "" = of the first. Raises DeviceError.
    """

    def __init__(self, path: Path, camera: str = "") -> None:
        try:
            self._recording = Recording(path)
            frames = [
                (message, entry.log_ns)
                for entry in self._recording.entries()
                if entry.topic in _FRAMES
                and isinstance(message := decode(entry.data), FrameReady)
                and self._recording.has_image(CAMERA + message.camera, entry.log_ns)
            ]
        except ArtefactError as err:
            raise DeviceError(str(err)) from err
        names = {message.camera for message, _ in frames}
        chosen = camera if camera in names else min(names, default="")
        self._frames = [(frame, log_ns) for frame, log_ns in frames if frame.camera == chosen]
        if not self._frames:
            raise DeviceError(f"{path}: expected a recording with pictures, got none")
        self.largest_bytes = max(self[index].nbytes for index in (0, len(self._frames) - 1))

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Pixels:
        """(H, W) or (H, W, 3) RGB, uint8 or uint16, read-only. Raises DeviceError."""
        frame, log_ns = self._frames[index]
        try:
            return self._recording.image(CAMERA + frame.camera, log_ns)[1]
        except ArtefactError as err:
            raise DeviceError(str(err)) from err

    def name(self, index: int) -> str:
        """What the row of its part will call it."""
        frame, _ = self._frames[index]
        return frame.source or f"{self._recording.path.name}#{frame.frame_id}"

    def bits(self, index: int) -> int:
        """Significant bits of a channel."""
        return self._frames[index][0].bits
