"""What the live page is laid out with: elements that send only what changed.

All text goes through text nodes and attributes, never through HTML.
"""

import msgspec
from nicegui import ui

from appliance import hmi_texts as texts
from appliance.hmi_screen import ImageView
from appliance.images import scale_css


class Viewer(ui.element, component="hmi_viewer.js"):
    """The picture with heat map and regions; blends in the browser, by two sliders' opacity."""

    def __init__(self) -> None:
        super().__init__()
        self.props["view"] = None
        self.props["scale"] = scale_css()
        self.props["texts"] = {
            "heat": texts.HEAT,
            "regions": texts.REGIONS,
            "worst": texts.FRAME_BOX,
            "empty": texts.NO_PICTURE,
            "t1": "T1",
            "t2": "T2",
        }
        self._shown: ImageView | None = None

    def show(self, image: ImageView | None) -> None:
        """Another part, or none."""
        if image != self._shown:
            self._shown = image
            self.props["view"] = None if image is None else msgspec.to_builtins(image)


class Text:
    """One line on the page; `set` sends only what changed."""

    def __init__(self, classes: str) -> None:
        self._label = ui.label().classes(classes)
        self._tone = ""

    def set(self, text: str, tone: str = "") -> None:
        """Show this; an empty text takes no room."""
        if text != self._label.text:
            self._label.text = text
        if tone != self._tone:
            self._label.classes(remove=f"is-{self._tone}", add=f"is-{tone}" if tone else None)
            self._tone = tone


class Block:
    """A container whose tone follows the screen."""

    def __init__(self, classes: str, tag: str = "div") -> None:
        self.element = ui.element(tag).classes(classes)
        self._tones: frozenset[str] = frozenset()

    def set(self, *tones: str) -> None:
        """Give it these tones and no others."""
        wanted = frozenset(tone for tone in tones if tone)
        if wanted != self._tones:
            self.element.classes(
                remove=" ".join(f"is-{tone}" for tone in self._tones - wanted),
                add=" ".join(f"is-{tone}" for tone in sorted(wanted)),
            )
            self._tones = wanted

    def __enter__(self) -> "Block":
        self.element.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.element.__exit__()


def number_tile() -> tuple[Block, Text, Text]:
    """A number with a name: the whole, the name, the number."""
    with Block("tile") as block:
        return block, Text("tile-label"), Text("tile-value")
