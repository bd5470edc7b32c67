"""A box with parts, pictures and people for tests and pictures of the tool, without a line.

The pictures are plates that `tools.draw_parts` draws; the margins are drawn from known
distributions, so that what a page says of them can be checked. Decide is played by the test.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
from argon2 import PasswordHasher

from appliance.archive import image_path, view_path
from appliance.audit import AuditJournal
from appliance.bundle import Bundle, InputContract, Manifest, finish_bundle
from appliance.closing import as_whole
from appliance.codes import CommandError, Reason, Word
from appliance.config import Config, load_config
from appliance.messages import Command, CommandResult, Verdict, ViewResult, Words
from appliance.recipe import Limits, Recipe, load_recipe, write_recipe
from appliance.segments import column_names
from appliance.store import Store
from appliance.wire import Wiring
from calibration.opinions import Opinions
from calibration.people import People, Role, User
from calibration.publish import newest, publish, use
from tests.ports import free_port
from tests.processes import has_tool, let_go, stopped
from tests.waiting import until
from tools.draw_parts import DEFECTS, SIDE_PX, draw

T1, T2 = -1.0, 1.5
SECRET = "correct horse battery"
PEOPLE = {
    "eva": Role.ENGINEER, "max": Role.ENGINEER, "ole": Role.OPERATOR, "ada": Role.ADMIN,
    "tim": Role.TECHNICIAN,
}  # fmt: skip
REGIONS = tuple(
    f"{row} {column}".replace("middle centre", "centre")
    for row in ("top", "middle", "bottom")
    for column in ("left", "centre", "right")
)
FIRST_NS = 1_790_000_000_000_000_000


class Shop:
    """Files, the tool's process, and decide as the test plays it."""

    def __init__(self, parts: int = 600, pictures: int = 0) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="insp", dir="/tmp"))
        self.port = free_port()
        (self.root / "config.toml").write_text(
            'root = "."\ndeadline_ms = 200\n[[camera]]\nname = "top"\nkind = "files"\n'
            f'folder = "x"\n[hmi]\nis_enabled = false\ntool_port = {self.port}\n'
        )
        self.config: Config = load_config(self.root / "config.toml")
        (self.root / "products.toml").write_text(
            '# the integrator\'s own words\n[[product]]\nnumber = 1\nrecipe = "plate/1"\n'
        )
        self.bundle = _write_bundle(self.config.bundles_dir / "plate-1")
        write_recipe(
            self.config,
            Recipe(
                id="plate",
                version=1,
                bundle=self.bundle.id,
                bundle_dir="plate-1",
                decides="segad",
                limits=Limits(t1=T1, t2=T2, set_by="training", reason="first proposal"),
            ),
        )
        self.kinds: dict[int, str] = {}
        self._rng = np.random.default_rng(0)
        self._next = 1
        self.produce(parts, pictures)
        quick = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
        self.people = People(self.config, AuditJournal(self.config), hasher=quick)
        self.opinions = Opinions(self.people)
        self.users = {
            name: self.people.add(name, role, SECRET, "root@shell") for name, role in PEOPLE.items()
        }
        self.process: subprocess.Popen[str] | None = None
        self.orders: list[Command] = []
        self.answer = CommandError.DONE
        self.holds = threading.Event()
        """Decide takes orders and leaves them without an answer while it is set."""
        self.owner = ""
        self.said: dict[str, Any] = {}
        """Fields of the Words that decide says ten times a second; "is_silent": it says nothing."""
        self._stopping = threading.Event()
        self._decide = threading.Thread(target=self._play_decide)
        self._decide.start()

    def __enter__(self) -> "Shop":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def produce(self, count: int, pictures: int = 0, shift: float = 0.0) -> None:
        """So many more parts; the last ones with pictures. shift: of all margins."""
        rng = self._rng
        names = ("good", *DEFECTS)
        verdicts: list[Verdict] = []
        images: dict[int, str] = {}
        begins = self._next
        self._next += count
        for part_id in range(begins, begins + count):
            kind = names[rng.choice(5, p=[0.8, 0.05, 0.05, 0.05, 0.05])]
            margin = float(
                np.float32(shift + (rng.normal(-3, 1) if kind == "good" else rng.normal(2.4, 1.3)))
            )
            word = Word.OK if margin < T1 else Word.UNCERTAIN if margin < T2 else Word.NG
            reasons = (
                ()
                if word is Word.OK
                else (
                    "segment top left: q99.5 of supersimplenet is high",
                    "segment centre: mean of supersimplenet is high",
                )
            )
            self.kinds[part_id] = kind
            opened = FIRST_NS + part_id * 200_000_000
            verdicts.append(
                Verdict(
                    part_id=part_id, acq_id=part_id, epoch=1, word=word,
                    reason=Reason.NONE if word is Word.OK else Reason.SEGAD, reasons=reasons,
                    part_tag=part_id + 7000, camera="top", decides="segad", margin=margin,
                    t1=T1, t2=T2, opened_utc_ns=opened, deadline_ns=200_000_000,
                    latency_ns=int(rng.gamma(20, 900_000)),
                    stages_ns={
                        "exposure": int(rng.gamma(30, 60_000)),
                        "network": int(rng.gamma(40, 350_000)),
                        "features": int(rng.gamma(20, 20_000)),
                    },
                    bundle=self.bundle.id, recipe="plate/1", recipe_hash="cd" * 32,
                    software="0.1.0",
                )
            )  # fmt: skip
            if part_id >= begins + count - pictures:
                images[part_id] = image_path(part_id, opened)
                path = self.config.data_dir / images[part_id]
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), draw(7, kind, part_id))
        store = Store(self.config.data_dir / "parts.db")
        for start in range(0, count, 5000):
            store.add(verdicts[start : start + 5000])
        store.add((), images=images)
        store.close()

    def passes(
        self, name: str, word: Word, *, is_challenge: bool = True, picture: Any = None
    ) -> int:
        """One more part of this name, as the test wants it; its id."""
        part_id = self._next
        self._next += 1
        opened = FIRST_NS + part_id * 200_000_000
        margin = {Word.OK: -3.0, Word.NG: 3.0}[word] + float(self._rng.normal(0, 0.05))
        verdict = Verdict(
            part_id=part_id, acq_id=part_id, epoch=1, word=word, part_text=name, camera="top",
            reason=Reason.NONE if word is Word.OK else Reason.SEGAD, decides="segad",
            margin=margin, t1=T1, t2=T2, opened_utc_ns=opened, deadline_ns=200_000_000,
            latency_ns=20_000_000, bundle=self.bundle.id, recipe="plate/1", recipe_hash="cd" * 32,
            is_challenge=is_challenge,
        )  # fmt: skip
        images: dict[int, str] = {}
        if picture is not None:
            images[part_id] = image_path(part_id, opened)
            path = self.config.data_dir / images[part_id]
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), picture)
        store = Store(self.config.data_dir / "parts.db")
        store.add([verdict], images=images)
        store.close()
        return part_id

    def seen_twice(self, words: tuple[Word, Word] = (Word.OK, Word.NG)) -> int:
        """One more part, of cameras top and side, with both pictures; its id."""
        part_id = self._next
        self._next += 1
        opened = FIRST_NS + part_id * 200_000_000
        views = tuple(
            ViewResult(
                camera=camera, word=word, margin=3.0 if word is Word.NG else -3.0, t1=T1, t2=T2,
                reason=Reason.SEGAD if word is Word.NG else Reason.NONE, decides="segad",
                reasons=(f"segment {camera} centre: mean is high",) if word is Word.NG else (),
                bundle=self.bundle.id,
            )
            for camera, word in zip(("top", "side"), words, strict=True)
        )  # fmt: skip
        whole = as_whole(views)
        verdict = Verdict(
            **msgspec.structs.asdict(whole), part_id=part_id, acq_id=part_id, epoch=1, views=views,
            opened_utc_ns=opened, deadline_ns=200_000_000, latency_ns=30_000_000,
            recipe="plate/1", recipe_hash="cd" * 32, software="0.1.0",
        )  # fmt: skip
        path = image_path(part_id, opened)
        for number, view in enumerate(views):
            of_view = path if view.camera == whole.camera else view_path(path, view.camera)
            file = self.config.data_dir / of_view
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), draw(7, "good" if view.word is Word.OK else "scratch", number))
        store = Store(self.config.data_dir / "parts.db")
        store.add([verdict], images={part_id: path})
        store.close()
        return part_id

    def judge(self, first: int, last: int, by: str = "ole") -> None:
        """Label parts as what they are."""
        for part_id in range(first, last + 1):
            self.opinions.label(part_id, self.kinds[part_id], self.users[by])

    def publishes(self, t2: float, reason: str = "meanwhile, by somebody else") -> str:
        """The next version, by max, past every page; its name."""
        current = newest(self.config, "plate")
        assert current is not None
        new = publish(
            self.config, AuditJournal(self.config), current.recipe, (-1.0, t2), who="max",
            reason=reason,
        )  # fmt: skip
        use(self.config, current.name, new.name)
        return new.name

    @property
    def newest(self) -> int:
        """Id of the newest part."""
        return self._next - 1

    def calm_down(self) -> None:
        """Ends what a test left under way, so that the next one, or its second try, begins anew."""
        self.answer, self.owner = CommandError.DONE, ""
        self.holds.clear()
        self.said.clear()
        self.orders.clear()
        for asked in self.opinions.proposals():
            if asked.state == "open":
                by = self.users["eva" if asked.by == "max" else "max"]
                self.opinions.decide(asked.id, "rejected", "left open by a test", by)
        if self.process is not None and self.process.poll() is not None:
            self.start()

    def user(self, name: str) -> User:
        return self.users[name]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def limits(self, version: int) -> Limits:
        return load_recipe(self.config, f"plate/{version}").recipe.limits

    def start(self) -> None:
        """The process, until it answers."""
        environment = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
        command = [sys.executable, "-m", "appliance", "process", "tool"]
        self.process = subprocess.Popen(
            [*command, "--config", str(self.root / "config.toml")],
            env=environment, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        until("answer of the tool", self._answers)

    def _answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None
        return has_tool(self.url)

    def stop(self) -> str:
        """As the supervisor does; what it wrote to stderr."""
        return stopped(self.process)

    def _play_decide(self) -> None:
        import asyncio

        async def play() -> None:
            with Wiring(self.config.runtime_dir) as wiring:
                commands, live = wiring.async_receiver("command"), wiring.sender("live")
                while not self._stopping.is_set():
                    if not self.said.get("is_silent"):
                        said = {"registers": {}, "owner": self.owner, **self.said}
                        live.send(Words(**said))
                    try:
                        route, message = await asyncio.wait_for(commands.receive(), 0.1)
                    except asyncio.TimeoutError:
                        continue
                    if isinstance(message, Command):
                        self.orders.append(message)
                        if self.answer is CommandError.DONE:
                            self._obey(message)
                        answer = CommandResult(id=message.id, code=self.answer, detail="a detail")
                        while self.holds.is_set() and not self._stopping.is_set():
                            await asyncio.sleep(0.05)
                        await commands.send(answer, route)

        asyncio.run(play())

    def _obey(self, order: Command) -> None:
        if order.name == "take_control":
            self.owner = order.by
        elif order.name == "release_control":
            self.owner = ""
        elif order.name == "drift":
            self.said["drift"] = int(order.argument)

    def close(self) -> None:
        let_go(self.process)
        self._stopping.set()
        self._decide.join()
        self.people.close()
        shutil.rmtree(self.root, ignore_errors=True)


def _write_bundle(folder: Path) -> Bundle:
    """Nine regions over the plate and a network that looks at nothing."""
    draft = folder.with_name(f"{folder.name}.draft")
    draft.mkdir(parents=True)
    rows, columns = np.mgrid[0:64, 0:64]
    cv2.imwrite(str(draft / "segments.png"), (rows // 22 * 3 + columns // 22).astype(np.uint8))
    contract = InputContract(
        height_px=64, width_px=64, source_height_px=SIDE_PX, source_width_px=SIDE_PX, channels=3,
        smallest_defect_px=1.0,
    )  # fmt: skip
    manifest = Manifest(
        kind="null", product="plate", created_utc="", files={}, input=contract,
        detectors=("supersimplenet",), segments=REGIONS,
        columns=column_names(REGIONS, ("supersimplenet",)),
    )  # fmt: skip
    return finish_bundle(draft, folder, manifest)
