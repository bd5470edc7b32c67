"""Which parts of this box may teach: labelled ones by their label, the newest OK ones unjudged.

Enters: rows with a picture, labels of people. Leaves: parts for a job, each with what it is for,
and what a person should know about them before the job is started. Verify parts stay what they are:
they judge what was made and have no say in it.
"""

from collections import Counter
from typing import NamedTuple

from appliance.codes import Word
from appliance.jobs import JobPart
from appliance.store import Kept, Store
from calibration import texts
from calibration.bounds import confidence_of, parts_needed
from calibration.limits import GOOD
from calibration.opinions import Opinions, is_fresh

FOREST = 5
"""Bad parts (and good ones) that a forest needs; with fewer the map maximum decides."""
VERIFY = parts_needed(0.05, 0, confidence_of(1))
"""Bad verify parts that can prove at most 5 % escapes when they are opened for the first time."""
LOOKED_AT = 24
_CHUNK = 500


class Lesson(NamedTuple):
    """Parts for a job."""

    parts: tuple[JobPart, ...]
    without_picture: int
    """Labelled parts that cannot be used: their picture was not kept, or is gone."""

    def count(self, role: str, is_good: bool | None = None) -> int:
        """Parts of a role; of these the good or the bad ones alone."""
        return sum(
            part.role == role and (is_good is None or (part.kind == GOOD) == is_good)
            for part in self.parts
        )


def labelled(store: Store, opinions: Opinions, recipe_id: str) -> Lesson:
    """All labelled parts of a recipe with a picture, whatever version judged them."""
    labels = opinions.labels()
    ids = sorted(labels)
    rows: list[Kept] = []
    for start in range(0, len(ids), _CHUNK):
        rows += store.kept(recipe_id, _CHUNK, part_ids=ids[start : start + _CHUNK])
    parts = tuple(
        JobPart(
            part_id=row.part_id, name=_name(row), kind=labels[row.part_id].kind, image=row.image,
            camera=row.camera, role="verify" if is_fresh(recipe_id, _name(row)) else "learn",
        )
        for row in sorted(rows)
    )  # fmt: skip
    return Lesson(parts, len(ids) - len(parts))


def unjudged(
    store: Store, opinions: Opinions, recipe_id: str, count: int, words: tuple[Word, ...]
) -> tuple[JobPart, ...]:
    """The newest parts with a picture that nobody has judged; no view of a verify part."""
    known = labelled(store, opinions, recipe_id)
    taken = {part.name for part in known.parts}
    labels = opinions.labels()
    rows = store.kept(recipe_id, count + len(known.parts), words)
    return tuple(
        JobPart(
            part_id=row.part_id, name=_name(row), kind="", image=row.image, camera=row.camera,
            role="unjudged",
        )
        for row in rows
        if row.part_id not in labels and _name(row) not in taken
    )[:count]  # fmt: skip


def looked_at(store: Store, opinions: Opinions, recipe_id: str) -> Lesson:
    """Parts for the preview: half of them bad where there are so many, never a verify part."""
    known = labelled(store, opinions, recipe_id)
    learn = [part for part in reversed(known.parts) if part.role == "learn"]
    bad = [part for part in learn if part.kind != GOOD][: LOOKED_AT // 2]
    good = [part for part in learn if part.kind == GOOD][: LOOKED_AT // 2]
    words = (Word.OK, Word.NG, Word.UNCERTAIN)
    rest = unjudged(store, opinions, recipe_id, LOOKED_AT - len(bad) - len(good), words)
    return Lesson((*bad, *good, *rest), known.without_picture)


def warnings(lesson: Lesson) -> tuple[str, ...]:
    """What a person should know before these parts teach anything."""
    said: list[str] = []
    bad, good = lesson.count("learn", False), lesson.count("learn", True)
    if min(bad, good) < FOREST:
        said.append(texts.FEW_FOR_FOREST.format(good=good, bad=bad, needed=FOREST))
    if lesson.without_picture:
        said.append(texts.WITHOUT_PICTURE.format(count=lesson.without_picture))
    if (fresh := lesson.count("verify", False)) < VERIFY:
        said.append(texts.FEW_TO_VERIFY.format(bad=fresh, needed=VERIFY))
    kinds = Counter(p.kind for p in lesson.parts if p.role == "learn" and p.kind not in (GOOD, ""))
    if rare := sorted(kind for kind, count in kinds.items() if count < FOREST):
        said.append(texts.RARE_KINDS.format(kinds=", ".join(rare), needed=FOREST))
    return tuple(said)


def _name(row: Kept) -> str:
    return row.part_text or str(row.part_id)
