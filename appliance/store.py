"""`parts.db`, or a PostgreSQL: one row per part with everything that explains its verdict.

The only room that knows SQL. One process writes (`record`), any other may read. Rows are
idempotent by part id: the same verdict twice is one row; a full verdict fills in a row that was
rebuilt from the journal after a crash. Every write is one transaction, on the disk when the call
returns (WAL, `synchronous=FULL`). A store that cannot be written now raises DeviceError, and a
new Store may succeed later; a database that this software must not touch raises ArtefactError.
"""

import contextlib
import math
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DataError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
)

from appliance.codes import OfflineReason, Reason, Word
from appliance.config import Config
from appliance.errors import ArtefactError, DeviceError
from appliance.messages import LateResult, Verdict, ViewResult
from appliance.migrations import REVISION, known_revisions, migrate, revision_of
from appliance.migrations.tables import line_parts, outbox, parts

BUSY_S = 0.25
"""How long a write waits for another process's lock before the store counts as unwritable."""
CONNECT_S = 2
"""How long a PostgreSQL may take to answer."""
StoreBug = SQLAlchemyError
"""What a Store raises besides DeviceError and ArtefactError, if it does: a bug of ours."""
Where: TypeAlias = Path | str
"""A file, or `postgresql+psycopg://user@host/database`."""

TRANSIENT = frozenset({"pixels", "map", "is_tag_known", "is_kept"})
"""Fields of a Verdict that no row keeps: slots of rings, gone when the row is read, a flag for the
PLC alone, and an order to the archive."""
_OWN: dict[str, Any] = {"late_word": "NONE", "late_margin": None, "image": ""}
"""Columns that arrive later than the verdict, if they do, and what they hold until then."""


class PartRow(msgspec.Struct, frozen=True, kw_only=True):
    """One part as stored."""

    verdict: Verdict
    """Without `pixels` and `map`; numbers that were not finite come back as None or NaN."""
    late_word: Word
    """What a part that was closed as late would have been; NONE = not late, or never scored."""
    late_margin: float | None
    image: str
    """Path of the archived PNG below the data directory; "" = none."""
    stored_utc_ns: int


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


class Outgoing(NamedTuple):
    """A row on its way to the central database."""

    part_id: int
    version: int
    """Grows with every change of the row while it waits."""
    values: dict[str, Any]


class Store:
    """The database, opened and of the right version.

    Raises ArtefactError where the file is no database, damaged, or of a newer software; DeviceError
    where it cannot be opened or migrated now. is_forwarding: note every change for the central
    database.
    """

    def __init__(self, where: Where, is_reader: bool = False, is_forwarding: bool = False) -> None:
        self.where = where
        self._is_forwarding = is_forwarding
        self._name = place(where)
        self._engine = _connect(where, is_reader)
        self._say = _Statements(self._engine.dialect.name)
        try:
            with self._translated():
                if is_reader:
                    self._expect_revision()
                else:
                    self._migrate()
        except BaseException:
            self._engine.dispose()
            raise

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
        with self._translated(), self._engine.begin() as connection:
            if unique:
                now = time.time_ns()
                rows = [_to_row(verdict, now) for verdict in unique.values()]
                written = set(connection.execute(self._say.upsert, rows).scalars())
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
            if self._is_forwarding and touched:
                connection.execute(self._say.post, [{"part_id": n} for n in sorted(touched)])
        wrong = [
            part_id for part_id, known in stored.items() if not _agrees(unique[part_id], *known)
        ]
        return Added(
            new=len(written), known=len(stored) - len(wrong), contradictions=tuple(sorted(wrong))
        )

    def prove(self) -> None:
        """Write without changing anything. Raises DeviceError where the disk takes no write."""
        with self._translated(), self._engine.begin() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = version_num")

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
        with self._translated(), self._engine.connect() as connection:
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
        with self._translated(), self._engine.connect() as connection:
            return tuple(Kept(*row) for row in connection.execute(query))

    def features(self, bundle: str, part_ids: Sequence[int]) -> dict[int, tuple[float, ...]]:
        """Part → statistics as this bundle's columns name them; parts without any are left out."""
        query = sa.select(parts.c.part_id, parts.c.features).where(
            parts.c.bundle == bundle, parts.c.part_id.in_(part_ids)
        )
        with self._translated(), self._engine.connect() as connection:
            return {
                part_id: tuple(math.nan if x is None else x for x in row)
                for part_id, row in connection.execute(query)
                if row
            }

    def delivered(self, after: int) -> tuple[Delivered, ...]:
        """Production parts with OK and an id above this one, oldest first."""
        columns = [parts.c[name] for name in Delivered._fields]
        query = sa.select(*columns).where(*_delivered(after)).order_by(parts.c.part_id)
        with self._translated(), self._engine.connect() as connection:
            return tuple(Delivered(*row) for row in connection.execute(query))

    def delivered_count(self, after: int) -> int:
        """How many `delivered` would give."""
        query = sa.select(sa.func.count()).select_from(parts).where(*_delivered(after))
        with self._translated(), self._engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def words(self, part_ids: Sequence[int]) -> dict[int, Word]:
        """Part → its word, for those that have a row."""
        query = sa.select(parts.c.part_id, parts.c.word).where(parts.c.part_id.in_(part_ids))
        with self._translated(), self._engine.connect() as connection:
            return {part_id: Word[word] for part_id, word in connection.execute(query)}

    def counts(self, first: int = 0, last: int | None = None) -> dict[Word, int]:
        """Parts by word, ids from `first` to `last` (None = to the newest); every word is a key."""
        query = sa.select(parts.c.word, sa.func.count()).group_by(parts.c.word)
        query = query.where(parts.c.part_id >= first)
        if last is not None:
            query = query.where(parts.c.part_id <= last)
        found: dict[Word, int] = {word: 0 for word in Word if word is not Word.NONE}
        with self._translated(), self._engine.connect() as connection:
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
        with self._translated(), self._engine.connect() as connection:
            begin = connection.execute(lowest).scalar()
            if begin is None:
                return (range(first, last + 1),)
            found = [range(start, stop) for start, stop in connection.execute(gaps)]
        return tuple([range(first, begin), *found] if begin > first else found)

    # ---- store and forward ------------------------------------------------------------------

    def outgoing(self, count: int) -> list[Outgoing]:
        """Rows that the central database has not confirmed, the oldest parts first."""
        query = (
            sa.select(outbox.c.part_id.label("of"), outbox.c.version, parts)
            .join(parts, parts.c.part_id == outbox.c.part_id)
            .order_by(outbox.c.part_id)
            .limit(count)
        )
        with self._translated(), self._engine.connect() as connection:
            return [
                Outgoing(row["of"], row["version"], {c.name: row[c.name] for c in parts.c})
                for row in connection.execute(query).mappings()
            ]

    def confirm(self, sent: Sequence[Outgoing]) -> None:
        """The central database has these; a row that changed meanwhile stays owed."""
        if sent:
            values = [{"of": out.part_id, "as_of": out.version} for out in sent]
            with self._translated(), self._engine.begin() as connection:
                connection.execute(_CONFIRM, values)

    def owed(self) -> int:
        """Rows that wait for the central database."""
        query = sa.select(sa.func.count()).select_from(outbox)
        with self._translated(), self._engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def owe(self, part_ids: Sequence[int]) -> None:
        """The central database lacks these: they are sent like rows that are new."""
        with self._translated(), self._engine.begin() as connection:
            connection.execute(self._say.post, [{"part_id": part_id} for part_id in part_ids])

    def ids_below(self, part_id: int | None, count: int) -> list[int]:
        """The highest ids below this one (None = the highest of all), falling."""
        query = sa.select(parts.c.part_id).order_by(parts.c.part_id.desc()).limit(count)
        if part_id is not None:
            query = query.where(parts.c.part_id < part_id)
        with self._translated(), self._engine.connect() as connection:
            return list(connection.execute(query).scalars())

    def ids_of(self, box: str, first: int, last: int) -> set[int]:
        """As the central database: the rows of a box between two ids, both included."""
        query = sa.select(line_parts.c.part_id).where(
            line_parts.c.box == box, line_parts.c.part_id.between(first, last)
        )
        with self._translated(), self._engine.connect() as connection:
            return set(connection.execute(query).scalars())

    def take_in(self, box: str, rows: Sequence[Outgoing]) -> None:
        """As the central database: the newest state of each row of a box, once."""
        values = [{"box": box, **row.values} for row in rows]
        with self._translated(), self._engine.begin() as connection:
            connection.execute(self._say.take_in, values)

    def of_boxes(self) -> dict[str, int]:
        """Box → rows that came from it."""
        query = sa.select(line_parts.c.box, sa.func.count()).group_by(line_parts.c.box)
        with self._translated(), self._engine.connect() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    # ---- reports ----------------------------------------------------------------------------

    def tallied(self, first_utc_ns: int, end_utc_ns: int) -> list[tuple[Word, Reason, int]]:
        """Parts opened in [first, end) by word and reason."""
        query = (
            sa.select(parts.c.word, parts.c.reason, sa.func.count())
            .where(parts.c.opened_utc_ns >= first_utc_ns, parts.c.opened_utc_ns < end_utc_ns)
            .group_by(parts.c.word, parts.c.reason)
        )
        with self._translated(), self._engine.connect() as connection:
            rows = connection.execute(query)
            return [(Word[word], Reason[reason], count) for word, reason, count in rows]

    def latencies_ns(self, first_utc_ns: int, end_utc_ns: int) -> list[int]:
        """Of the parts opened in [first, end), in no order; rebuilt rows have none."""
        query = sa.select(parts.c.latency_ns).where(
            parts.c.opened_utc_ns >= first_utc_ns,
            parts.c.opened_utc_ns < end_utc_ns,
            parts.c.latency_ns > 0,
        )
        with self._translated(), self._engine.connect() as connection:
            return list(connection.execute(query).scalars())

    def strongest_reasons(self, first_utc_ns: int, end_utc_ns: int) -> list[str]:
        """First reason of every NG and UNCERTAIN part opened in [first, end)."""
        query = sa.select(parts.c.reasons).where(
            parts.c.opened_utc_ns >= first_utc_ns,
            parts.c.opened_utc_ns < end_utc_ns,
            parts.c.word.in_(("NG", "UNCERTAIN")),
        )
        with self._translated(), self._engine.connect() as connection:
            return [reasons[0] for reasons in connection.execute(query).scalars() if reasons]

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _translated(self) -> Generator[None]:
        try:
            yield
        except (IntegrityError, DataError):
            raise  # a bug of ours
        except (OperationalError, InterfaceError) as err:
            raise self._unusable(err) from err
        except DatabaseError as err:
            # A server is other people's: rights, a standby, a table that another box just makes.
            if self._engine.dialect.name == "postgresql":
                raise self._unusable(err) from err
            if type(err) is not DatabaseError:
                raise  # programming: a bug of ours
            raise ArtefactError(
                self._name, "an SQLite database", str(err.orig), OfflineReason.STORAGE_POLICY
            ) from err

    def _unusable(self, err: DBAPIError) -> DeviceError:
        return DeviceError(f"{self._name}: expected a usable database, got {err.orig}")

    def _read(self, query: sa.Select[Any]) -> tuple[PartRow, ...]:
        with self._translated(), self._engine.connect() as connection:
            return tuple(_from_row(row) for row in connection.execute(query).mappings())

    def _migrate(self) -> None:
        with self._engine.connect() as connection:
            current = revision_of(connection)
        if current not in (None, *known_revisions()):
            raise self._foreign(str(current))
        if current != REVISION:
            migrate(self._engine, REVISION)

    def _expect_revision(self) -> None:
        with self._engine.connect() as connection:
            current = revision_of(connection)
        if current != REVISION:
            raise self._foreign(str(current))

    def _foreign(self, got: str) -> ArtefactError:
        return ArtefactError(
            self._name,
            f"a database of revision {REVISION} or older",
            f"revision {got}, written by another version of inspectd",
            OfflineReason.STORAGE_POLICY,
        )


def where(config: Config) -> Where:
    """The database of this installation."""
    return config.record.database or config.data_dir / "parts.db"


def place(where: Where) -> str:
    """For messages: without a password."""
    if isinstance(where, Path):
        return str(where)
    try:
        # The driver takes a password among the options, too.
        return sa.make_url(where).set(query={}).render_as_string(hide_password=True)
    except ArgumentError as err:
        expected = "postgresql+psycopg://user@host/database"
        raise ArtefactError("record.database", expected, "another text") from err


def _connect(where: Where, is_reader: bool) -> sa.Engine:
    """An engine whose transactions are real: SQLite's driver alone opens none before DDL."""
    serializers: dict[str, Any] = {
        "json_serializer": lambda value: msgspec.json.encode(value).decode(),
        "json_deserializer": msgspec.json.decode,
    }
    if isinstance(where, str):
        address = sa.make_url(where)
        if address.drivername != "postgresql+psycopg":
            expected = "postgresql+psycopg://user@host/database"
            raise ArtefactError("record.database", expected, address.drivername)
        try:
            return sa.create_engine(
                address, connect_args={"connect_timeout": CONNECT_S}, pool_size=1, **serializers
            )
        except ImportError as err:
            raise ArtefactError(
                "record.database", "the extra `postgres` installed", str(err)
            ) from err
    if is_reader:
        address = f"sqlite:///file:{where}?mode=ro&uri=true"
    else:
        address = f"sqlite:///{where}"
        try:
            where.parent.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise DeviceError(f"{where.parent}: expected a directory to write, got {err}") from err
    engine = sa.create_engine(
        address,
        connect_args={"timeout": BUSY_S, "check_same_thread": False},
        **serializers,
    )

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        connection.isolation_level = None
        if not is_reader:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")

    @event.listens_for(engine, "begin")
    def on_begin(connection: sa.Connection) -> None:  # pyright: ignore[reportUnusedFunction]
        connection.exec_driver_sql("BEGIN" if is_reader else "BEGIN IMMEDIATE")

    return engine


def _delivered(after: int) -> tuple[sa.ColumnElement[bool], ...]:
    is_later = parts.c.part_id > after
    return parts.c.word == Word.OK.name, is_later, sa.not_(parts.c.is_challenge)


def _to_row(verdict: Verdict, now_utc_ns: int) -> dict[str, Any]:
    row = _plain(verdict) | _OWN | {"stored_utc_ns": now_utc_ns}
    row["expected_word"] = verdict.expected_word.name
    row["views"] = [_plain(view) for view in verdict.views] or None
    return row


def _plain(of: ViewResult) -> dict[str, Any]:
    """The fields that a row keeps, of a part or of one view of it."""
    fields = msgspec.structs.asdict(of)
    row = {name: value for name, value in fields.items() if name not in TRANSIENT}
    row.update({name: fields[name].name for name in ("word", "reason")})
    # What one database keeps and the other does not: NUL in a text, NaN in a number.
    for name, value in row.items():
        if isinstance(value, str):
            row[name] = value.replace("\0", "\ufffd")
        elif isinstance(value, float) and math.isnan(value):
            row[name] = None
    return row


def _from_row(row: sa.RowMapping) -> PartRow:
    fields = {name: row[name] for name in Verdict.__struct_fields__ if name not in TRANSIENT}
    fields["expected_word"] = Word[row["expected_word"]]
    fields["views"] = tuple(ViewResult(**_read_back(view)) for view in row["views"] or ())
    return PartRow(
        verdict=Verdict(**_read_back(fields)),
        late_word=Word[row["late_word"]],
        late_margin=row["late_margin"],
        image=row["image"],
        stored_utc_ns=row["stored_utc_ns"],
    )


def _read_back(row: Mapping[str, Any]) -> dict[str, Any]:
    """What `_plain` made, as fields again."""
    return dict(row) | {
        "reason": Reason[row["reason"]],
        "word": Word[row["word"]],
        "reasons": tuple(row["reasons"]),
        "region_px": tuple(row["region_px"]) if row["region_px"] else None,
        # JSON has no NaN: it is kept as null.
        "features": tuple(math.nan if x is None else x for x in row["features"]),
        "gates": {name: math.nan if x is None else x for name, x in row["gates"].items()},
    }


def _agrees(verdict: Verdict, word: str, opened_utc_ns: int) -> bool:
    """A verdict and the row that is there: of one part, and of one opinion.

    A power cut may cost the journal a verdict whose row was stored already. What is rebuilt then
    says "restart"; the row knows better and stays.
    """
    is_one_part = verdict.opened_utc_ns == opened_utc_ns
    return is_one_part and (verdict.is_rebuilt or verdict.word.name == word)


class _Statements:
    """What the dialects say in words of their own."""

    def __init__(self, dialect: str) -> None:
        insert: Any = postgresql.insert if dialect == "postgresql" else sqlite.insert
        new = insert(parts)
        self.upsert = new.on_conflict_do_update(
            index_elements=[parts.c.part_id],
            set_={
                column.name: new.excluded[column.name]
                for column in parts.c
                if column.name != "part_id" and column.name not in _OWN
            },
            where=sa.and_(
                parts.c.is_rebuilt,
                sa.not_(new.excluded.is_rebuilt),
                parts.c.word == new.excluded.word,
                parts.c.opened_utc_ns == new.excluded.opened_utc_ns,
            ),
        ).returning(parts.c.part_id)
        posted = insert(outbox)
        self.post = posted.values(version=1).on_conflict_do_update(
            index_elements=[outbox.c.part_id], set_={"version": outbox.c.version + 1}
        )
        come = insert(line_parts)
        keys = [column.name for column in line_parts.primary_key]
        self.take_in = come.on_conflict_do_update(
            index_elements=keys,
            set_={c.name: come.excluded[c.name] for c in line_parts.c if c.name not in keys},
        )


_of = parts.c.part_id == sa.bindparam("of")
_SET_IMAGE = sa.update(parts).where(_of).values(image=sa.bindparam("path"))
_SET_LATE = (
    sa.update(parts)
    .where(_of)
    .values(late_word=sa.bindparam("as_word"), late_margin=sa.bindparam("by"))
)
_CONFIRM = sa.delete(outbox).where(
    outbox.c.part_id == sa.bindparam("of"), outbox.c.version == sa.bindparam("as_of")
)
