"""A box that has labelled parts with pictures and a small real network, for the jobs of the tool.

The network's map is the picture's brightness. Every part has a bar at the bottom, brighter on one
than on another, and a sticker at the top right, brightest of all; bad parts have a fainter spot at
the top left: a map's maximum cannot tell them apart, statistics of a region can.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from argon2 import PasswordHasher

from appliance.archive import image_path
from appliance.audit import AuditJournal
from appliance.codes import Reason, Word
from appliance.config import Config, load_config
from appliance.messages import Verdict
from appliance.recipe import Limits, Recipe, write_recipe
from appliance.store import Store
from calibration.opinions import Opinions
from calibration.people import People, Role
from tests.networks import write_network_bundle
from tests.ports import free_port
from tests.rig import Rig

NET = (16, 24)
SIZE = (64, 96)
SPOT = (slice(8, 20), slice(8, 32))
"""Rows and columns of the spot in a picture of SIZE."""
BAR = slice(44, 56)
STICKER = (slice(4, 16), slice(68, 92))
SECRET = "correct horse battery"
FIRST_NS = 1_790_000_000_000_000_000


def part_picture(seed: int, is_bad: bool) -> np.ndarray:
    """(64, 96) uint8."""
    rng = np.random.default_rng(seed)
    image = rng.normal(80, 6, SIZE)
    image[BAR] = rng.normal(rng.uniform(190, 240), 4, image[BAR].shape)
    image[STICKER] = 250
    if is_bad:
        image[SPOT] += 60
    return image.clip(1, 254).astype(np.uint8)


class School:
    """The box. kinds: of the parts 1, 2, 3 …; "" = good, and nobody has judged it."""

    def __init__(
        self,
        root: Path,
        kinds: Sequence[str],
        settings: str = "",
        net: tuple[int, int] = NET,
        size: tuple[int, int] = SIZE,
        picture: Callable[[int, str], np.ndarray] | None = None,
    ) -> None:
        self.root, self.kinds = root, kinds
        self._picture = picture or (lambda part_id, kind: part_picture(part_id, _is_bad(kind)))
        (root / "config.toml").write_text(
            f'root = "."\ndeadline_ms = 200\n[[camera]]\nname = "top"\nkind = "files"\n'
            f'folder = "x"\n{settings}'
        )
        self.config: Config = load_config(root / "config.toml")
        self.bundle = write_network_bundle(self.config.bundles_dir / "cell-1", net=net, size=size)
        recipe = Recipe(
            id="cell", version=1, bundle=self.bundle.id, bundle_dir="cell-1", decides="map_max",
            limits=Limits(t1=200.0, t2=250.0, set_by="training", reason="first proposal"),
        )  # fmt: skip
        write_recipe(self.config, recipe)
        (root / "products.toml").write_text('[[product]]\nnumber = 1\nrecipe = "cell/1"\n')
        self.people = quick_people(self.config)
        self.opinions = Opinions(self.people)
        self.users = {
            name: self.people.add(name, Role.ENGINEER, SECRET, "root@shell")
            for name in ("eva", "max")
        }
        self._write_parts()

    def _write_parts(self) -> None:
        verdicts: list[Verdict] = []
        images: dict[int, str] = {}
        for part_id, kind in enumerate(self.kinds, 1):
            opened = FIRST_NS + part_id * 200_000_000
            verdicts.append(
                Verdict(
                    part_id=part_id, acq_id=part_id, epoch=1, word=Word.OK, reason=Reason.NONE,
                    camera="top", decides="map_max", margin=210.0, t1=200.0, t2=250.0,
                    opened_utc_ns=opened, deadline_ns=200_000_000, latency_ns=1,
                    bundle=self.bundle.id, recipe="cell/1", recipe_hash="cd" * 32,
                    software="0.1.0",
                )
            )  # fmt: skip
            images[part_id] = image_path(part_id, opened)
            path = self.config.data_dir / images[part_id]
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), self._picture(part_id, kind))
            if kind:
                self.opinions.label(part_id, kind, self.users["eva"])
        store = Store(self.config.data_dir / "parts.db")
        store.add(verdicts)
        store.add((), images=images)
        store.close()

    def store(self) -> Store:
        """For reading."""
        return Store(self.config.data_dir / "parts.db", is_reader=True)


@contextmanager
def lesson_line(
    pictures: int, is_bad: Callable[[int], bool], net: tuple[int, int] = NET
) -> Iterator[tuple[Rig, str]]:
    """A line that sees such parts, with a real network and the tool; its address. Nothing runs
    yet. is_bad: of the picture with this number."""
    port = free_port()
    changes = {
        "hmi": {"tool_port": port},
        "engine": {"kind": "onnx"},
        "record": {"images": "all", "grace_ms": 200},
        "deadline_ms": 2000,
    }
    with Rig(
        changes, pictures=pictures, picture=lambda number: part_picture(number, is_bad(number))
    ) as rig:
        bundle = write_network_bundle(rig.config.bundles_dir / "cell-1", net=net, size=SIZE)
        (rig.config.recipes_dir / "cell" / "1.toml").unlink()
        recipe = Recipe(
            id="cell", version=1, bundle=bundle.id, bundle_dir="cell-1", decides="map_max",
            limits=Limits(t1=300.0, t2=400.0),
        )  # fmt: skip
        write_recipe(rig.config, recipe)
        yield rig, f"http://127.0.0.1:{port}"


def _is_bad(kind: str) -> bool:
    return kind not in ("good", "")


def quick_people(config: Config) -> People:
    """With a hash that takes no time: a log-in is not what is tested."""
    quick = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    return People(config, AuditJournal(config), hasher=quick)
