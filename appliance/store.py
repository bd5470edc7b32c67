"""`parts.db`, or a PostgreSQL: one row per part with everything that explains its verdict.

One process writes (`record`), any other may read. Rows are idempotent by part id: the same verdict
twice is one row; a full verdict fills in a row that was rebuilt from the journal after a crash. How
it is opened and what it raises: database.py; what a row holds: rows.py.
"""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from appliance.codes import Reason, Word
from appliance.database import Database, Where
from appliance.messages import LateResult, Verdict
from appliance.migrations.tables import parts
from appliance.outbox import owing
from appliance.rows import LATER, PartRow, agrees, from_row, to_row


class Margin(NamedTuple):
    """What a limit is compared with, and little else: for many parts at once."""

    part_id: int
    part_text: str
    word: str
    margin: float
    recipe: str
    image: str


class Kept(NamedTuple):
    """A part whose picture is kept."""

    part_id: int
    part_text: str
    word: str
    camera: str
    image: str


class Delivered(NamedTuple):
    """A part that left the line as good, and what it is found by."""

    part_id: int
    part_tag: int
    part_text: str
    lot: str
    recipe: str
    opened_utc_ns: int


class Added(msgspec.Struct, frozen=True, kw_only=True):
    """What one write did."""

    new: int
    """Rows written, rebuilt rows that were filled in included."""
    known: int
    """Verdicts whose row was there already."""
    contradictions: tuple[int, ...]
    """Parts whose stored row says another word or another time of opening: the first one stays."""


class Store(Database):
    """The rows. is_forwarding: note every change for the central database, see outbox.py."""

    def __init__(self, where: Where, is_reader: bool = False, is_forwarding: bool = False) -> None:
        super().__init__(where, is_reader)
        self._upsert = _upsert(self)
        self._owing = owing(self) if is_forwarding else None

    def add(
        self,
        verdicts: Sequence[Verdict],
        late: Sequence[LateResult] = (),
        images: Mapping[int, str] | None = None,
    ) -> Added:
        """Write rows, late results and image paths ("" = the image is gone) in one transaction.

        A late result or an image of a part without a row is dropped. Raises DeviceError; nothing
        was written then.
        """
        unique = {verdict.part_id: verdict for verdict in verdicts}
        written: set[int] = set()
        stored: dict[int, tuple[str, int]] = {}
        with self.writing() as connection:
            if unique:
                now = time.time_ns()
                rows = [to_row(verdict, now) for verdict in unique.values()]
                written = set(connection.execute(self._upsert, rows).scalars())
                if doubtful := unique.keys() - written:
                    query = sa.select(parts.c.part_id, parts.c.word, parts.c.opened_utc_ns)
                    query = query.where(parts.c.part_id.in_(doubtful))
                    stored = {row[0]: (row[1], row[2]) for row in connection.execute(query)}
            if late:
                values = [
                    {"of": result.part_id, "as_word": result.word.name, "by": result.margin}
                    for result in late
                ]
                connection.execute(_SET_LATE, values)
            if images:
                paths = [{"of": part_id, "path": path} for part_id, path in images.items()]
                connection.execute(_SET_IMAGE, paths)
            touched = unique.keys() | {result.part_id for result in late} | (images or {}).keys()
            if self._owing is not None and touched:
                connection.execute(self._owing, [{"part_id": n} for n in sorted(touched)])
        wrong = [
            part_id for part_id, known in stored.items() if not agrees(unique[part_id], *known)
        ]
        return Added(
            new=len(written), known=len(stored) - len(wrong), contradictions=tuple(sorted(wrong))
        )

    def part(self, part_id: int) -> PartRow | None:
        """One part, or None where no row has this id."""
        rows = self._read(sa.select(parts).where(parts.c.part_id == part_id))
        return rows[0] if rows else None

    def last(self, count: int, words: Sequence[Word] = ()) -> tuple[PartRow, ...]:
        """The newest parts (highest ids), newest first; of these words only, if any are given."""
        query = sa.select(parts).order_by(parts.c.part_id.desc()).limit(count)
        if words:
            query = query.where(parts.c.word.in_([word.name for word in words]))
        return self._read(query)

    def first(self, bundle: str, decides: str, count: int) -> tuple[PartRow, ...]:
        """The oldest production parts of one bundle and score, newest of them first."""
        query = (
            sa.select(parts)
            .where(parts.c.bundle == bundle, parts.c.decides == decides)
            .where(sa.not_(parts.c.is_challenge))
            .order_by(parts.c.part_id)
            .limit(count)
        )
        return self._read(query)[::-1]

    def find(
        self,
        text: str = "",
        words: Sequence[Word] = (),
        before: int | None = None,
        count: int = 50,
        opened_utc_ns: tuple[int | None, int | None] = (None, None),
        is_challenge: bool | None = None,
        after: int = 0,
    ) -> tuple[PartRow, ...]:
        """Parts whose id, tag, text, lot or recipe is `text` or begins with it, newest first.

        before, after: ids below and above these only, for pages. opened_utc_ns: from the first
        time on and before the second, None = open. is_challenge: challenge parts alone, or none.
        """
        query = sa.select(parts).order_by(parts.c.part_id.desc()).limit(count)
        if words:
            query = query.where(parts.c.word.in_([word.name for word in words]))
        if before is not None:
            query = query.where(parts.c.part_id < before)
        if after:
            query = query.where(parts.c.part_id > after)
        since_ns, until_ns = opened_utc_ns
        if since_ns is not None:
            query = query.where(parts.c.opened_utc_ns >= since_ns)
        if until_ns is not None:
            query = query.where(parts.c.opened_utc_ns < until_ns)
        if is_challenge is not None:
            query = query.where(parts.c.is_challenge == is_challenge)
        if text:
            names = (parts.c.part_text, parts.c.lot, parts.c.recipe)
            known = [column.startswith(text, autoescape=True) for column in names]
            if text.isdecimal() and len(text) <= 18:
                known += [parts.c.part_id == int(text), parts.c.part_tag == int(text)]
            query = query.where(sa.or_(*known))
        return self._read(query)

    def margins(
        self, bundle: str, decides: str, count: int, part_ids: Sequence[int] | None = None
    ) -> tuple[Margin, ...]:
        """Margins that may be compared with each other: of one bundle and one score, newest first.

        Challenge parts and parts without a margin are left out, and parts with several views, whose
        margin is that of the worst one. part_ids: of these parts alone.
        """
        columns = (
            parts.c.part_id, parts.c.part_text, parts.c.word, parts.c.margin, parts.c.recipe,
            parts.c.image,
        )  # fmt: skip
        query = (
            sa.select(*columns)
            .where(parts.c.bundle == bundle, parts.c.decides == decides)
            .where(parts.c.margin.is_not(None), sa.not_(parts.c.is_challenge))
            .where(parts.c.views.is_(None))
            .order_by(parts.c.part_id.desc())
            .limit(count)
        )
        if part_ids is not None:
            query = query.where(parts.c.part_id.in_(part_ids))
        with self.reading() as connection:
            return tuple(Margin(*row) for row in connection.execute(query))

    def kept(
        self,
        recipe_id: str,
        count: int,
        words: Sequence[Word] = (),
        part_ids: Sequence[int] | None = None,
    ) -> tuple[Kept, ...]:
        """Parts with a picture that any version of a recipe judged, newest first, challenge parts
        left out. words: of these alone, if any are given; part_ids: of these parts alone."""
        columns = (parts.c.part_id, parts.c.part_text, parts.c.word, parts.c.camera, parts.c.image)
        query = (
            sa.select(*columns)
            .where(parts.c.recipe.startswith(f"{recipe_id}/", autoescape=True))
            .where(parts.c.image != "", sa.not_(parts.c.is_challenge))
            .order_by(parts.c.part_id.desc())
            .limit(count)
        )
        if words:
            query = query.where(parts.c.word.in_([word.name for word in words]))
        if part_ids is not None:
            query = query.where(parts.c.part_id.in_(part_ids))
        with self.reading() as connection:
            return tuple(Kept(*row) for row in connection.execute(query))

    def features(self, bundle: str, part_ids: Sequence[int]) -> dict[int, tuple[float, ...]]:
        """Part → statistics as this bundle's columns name them; parts without any are left out."""
        query = sa.select(parts.c.part_id, parts.c.features).where(
            parts.c.bundle == bundle, parts.c.part_id.in_(part_ids)
        )
        with self.reading() as connection:
            return {
                part_id: tuple(math.nan if x is None else x for x in row)
                for part_id, row in connection.execute(query)
                if row
            }

    def delivered(self, after: int) -> tuple[Delivered, ...]:
        """Production parts with OK and an id above this one, oldest first."""
        columns = [parts.c[name] for name in Delivered._fields]
        query = sa.select(*columns).where(*_delivered(after)).order_by(parts.c.part_id)
        with self.reading() as connection:
            return tuple(Delivered(*row) for row in connection.execute(query))

    def delivered_count(self, after: int) -> int:
        """How many `delivered` would give."""
        query = sa.select(sa.func.count()).select_from(parts).where(*_delivered(after))
        with self.reading() as connection:
            return int(connection.execute(query).scalar_one())

    def words(self, part_ids: Sequence[int]) -> dict[int, Word]:
        """Part → its word, for those that have a row."""
        query = sa.select(parts.c.part_id, parts.c.word).where(parts.c.part_id.in_(part_ids))
        with self.reading() as connection:
            return {part_id: Word[word] for part_id, word in connection.execute(query)}

    def counts(self, first: int = 0, last: int | None = None) -> dict[Word, int]:
        """Parts by word, ids from `first` to `last` (None = to the newest); every word is a key."""
        query = sa.select(parts.c.word, sa.func.count()).group_by(parts.c.word)
        query = query.where(parts.c.part_id >= first)
        if last is not None:
            query = query.where(parts.c.part_id <= last)
        found: dict[Word, int] = {word: 0 for word in Word if word is not Word.NONE}
        with self.reading() as connection:
            for word, count in connection.execute(query):
                found[Word[word]] = count
        return found

    def missing(self, first: int, last: int) -> tuple[range, ...]:
        """Runs of ids between `first` and `last`, both included, that have no row."""
        if last < first:
            return ()
        following = sa.func.lead(parts.c.part_id, 1, last + 1).over(order_by=parts.c.part_id)
        inside = (
            sa.select(parts.c.part_id, following.label("following"))
            .where(parts.c.part_id.between(first, last))
            .subquery()
        )
        gaps = (
            sa.select(inside.c.part_id + 1, inside.c.following)
            .where(inside.c.following > inside.c.part_id + 1)
            .order_by(inside.c.part_id)
        )
        lowest = sa.select(sa.func.min(parts.c.part_id)).where(parts.c.part_id.between(first, last))
        with self.reading() as connection:
            begin = connection.execute(lowest).scalar()
            if begin is None:
                return (range(first, last + 1),)
            found = [range(start, stop) for start, stop in connection.execute(gaps)]
        return tuple([range(first, begin), *found] if begin > first else found)

    def tallied(self, first_utc_ns: int, end_utc_ns: int) -> list[tuple[Word, Reason, int]]:
        """Parts opened in [first, end) by word and reason."""
        query = (
            sa.select(parts.c.word, parts.c.reason, sa.func.count())
            .where(parts.c.opened_utc_ns >= first_utc_ns, parts.c.opened_utc_ns < end_utc_ns)
            .group_by(parts.c.word, parts.c.reason)
        )
        with self.reading() as connection:
            rows = connection.execute(query)
            return [(Word[word], Reason[reason], count) for word, reason, count in rows]

    def latencies_ns(self, first_utc_ns: int, end_utc_ns: int) -> list[int]:
        """Of the parts opened in [first, end), in no order; rebuilt rows have none."""
        query = sa.select(parts.c.latency_ns).where(
            parts.c.opened_utc_ns >= first_utc_ns,
            parts.c.opened_utc_ns < end_utc_ns,
            parts.c.latency_ns > 0,
        )
        with self.reading() as connection:
            return list(connection.execute(query).scalars())

    def strongest_reasons(self, first_utc_ns: int, end_utc_ns: int) -> list[str]:
        """First reason of every NG and UNCERTAIN part opened in [first, end)."""
        query = sa.select(parts.c.reasons).where(
            parts.c.opened_utc_ns >= first_utc_ns,
            parts.c.opened_utc_ns < end_utc_ns,
            parts.c.word.in_(("NG", "UNCERTAIN")),
        )
        with self.reading() as connection:
            return [reasons[0] for reasons in connection.execute(query).scalars() if reasons]

    def _read(self, query: sa.Select[Any]) -> tuple[PartRow, ...]:
        with self.reading() as connection:
            return tuple(from_row(row) for row in connection.execute(query).mappings())


def _delivered(after: int) -> tuple[sa.ColumnElement[bool], ...]:
    is_later = parts.c.part_id > after
    return parts.c.word == Word.OK.name, is_later, sa.not_(parts.c.is_challenge)


def _upsert(store: Database) -> Any:
    """A row, once; a full one in the place of a rebuilt one. Returns the ids that were written."""
    new = store.insert(parts)
    return new.on_conflict_do_update(
        index_elements=[parts.c.part_id],
        set_={
            column.name: new.excluded[column.name]
            for column in parts.c
            if column.name != "part_id" and column.name not in LATER
        },
        where=sa.and_(
            parts.c.is_rebuilt,
            sa.not_(new.excluded.is_rebuilt),
            parts.c.word == new.excluded.word,
            parts.c.opened_utc_ns == new.excluded.opened_utc_ns,
        ),
    ).returning(parts.c.part_id)


_of = parts.c.part_id == sa.bindparam("of")
_SET_IMAGE = sa.update(parts).where(_of).values(image=sa.bindparam("path"))
_SET_LATE = (
    sa.update(parts)
    .where(_of)
    .values(late_word=sa.bindparam("as_word"), late_margin=sa.bindparam("by"))
)
