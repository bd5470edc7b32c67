"""What a test plans for a part on virtual time, the peers it meets, the recipe that judges it."""

from dataclasses import dataclass

import msgspec

from appliance.messages import PixelRef, Verdict
from appliance.recipe import Limits, LoadedRecipe, Recipe, setup_hash

MS = 1_000_000


def loaded(name: str = "cell", t1: float = 1.0, t2: float = 2.0, version: int = 1) -> LoadedRecipe:
    """A recipe as if read from its file."""
    recipe = Recipe(
        id=name,
        version=version,
        bundle="ab" * 32,
        bundle_dir="b",
        decides="map_max",
        limits=Limits(t1=t1, t2=t2),
    )
    text = msgspec.json.encode(recipe)
    return LoadedRecipe(
        recipe=recipe,
        path=f"{name}/{version}.toml",
        hash=f"{hash(text) & 0xFFFFFFFF:08x}" * 8,
        setup_hash=setup_hash(recipe),
    )


def pixels(sequence: int) -> PixelRef:
    return PixelRef(ring="r", epoch=1, slot=0, sequence=sequence, shape=(1, 64, 64), dtype="uint8")


@dataclass
class Plan:
    """What happens to one view of a part between trigger and score; nothing by default."""

    camera: str = "good"
    """good, silent, none, incomplete, queue_full, double, then_none, after_none, foreign."""
    infer: str = "good"
    """good, silent, failed, double, nan, other_frame, other_setup, map_lost."""
    camera_ms: float = 15.0
    infer_ms: float = 20.0
    is_infer_first: bool = False
    is_bad: bool = False
    is_doubtful: bool = False
    """A test says so: whose picture it is cannot be known."""

    @property
    def is_faulty(self) -> bool:
        """Something about this part is wrong: it may never end as OK."""
        return (
            self.is_doubtful
            or self.camera not in ("good", "double", "then_none")
            or self.infer not in ("good", "double")
        )


@dataclass
class Process:
    """A peer: alive or dead, and what it has loaded."""

    pid: int
    setup: str = ""
    prepared: str = ""
    is_alive: bool = True
    refuses: bool = False
    free_ns: int = 0
    """It does one thing after the other, and its messages keep their order."""


@dataclass
class Shown:
    """One verdict with when it came."""

    verdict: Verdict
    at_ns: int
