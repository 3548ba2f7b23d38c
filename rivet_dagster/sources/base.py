"""What every engine offers to the export: descriptions of tables, and sessions that walk keys and read pages.

No module above this folder knows an engine's SQL; no module in it knows windows' commits, files or Dagster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Protocol

from rivet_dagster.errors import SourceError

if TYPE_CHECKING:
    import pyarrow as pa

    from rivet_dagster.sources.vitals import Identity, Probe

Unrepresentable = Literal["error", "null", "text"]

ASSUMED_ROW_BYTES = 128

KeyText = tuple[str, ...]
"""One key value, a text a key column, as the server writes it and reads it back. Only the server compares keys."""


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: its name, as the catalog spells it.
        native_type: the declared type with its modifiers, as the server prints it (`numeric(12,2)`).
        nullable: whether the catalog allows NULL.
        type_id: the engine's own number or name of the type; that of the base type, where it is derived from one.
        type_modifier: the engine's own encoding of length, precision and scale; -1 for none.
        average_bytes: mean width of a value by the server's statistics; 0 where unknown.
        unbounded: values may be much wider than statistics say, which count what is stored elsewhere as a pointer.
        kind: `base`, or what else the engine calls the type: `enum`, `composite`, `range` …
        declared_id: number or name of the type before it was resolved to its base type.
        compared_as: type to compare keys as, where the declared one has no operators; empty where it has.
        element: what an array holds; None for what is no array.
        collation: name of the collation that compares its texts; empty where the engine does not say.
    """

    name: str
    native_type: str
    nullable: bool
    type_id: int = 0
    type_modifier: int = -1
    average_bytes: int = 0
    unbounded: bool = False
    kind: str = "base"
    declared_id: int = 0
    compared_as: str = ""
    element: Column | None = None
    collation: str = ""


@dataclass(frozen=True)
class ColumnChoice:
    """What the user wants of one column.

    Attributes:
        type: canonical name of the type in the parts; None for the usual one.
        unrepresentable: what becomes of a value that the Arrow type cannot hold: `error` refuses it, `null` puts
            NULL in its place and counts it, `text` reads the whole column as the server's text.
    """

    type: str | None = None
    unrepresentable: Unrepresentable = "error"


@dataclass(frozen=True)
class TypeChoices:
    """What the user wants of the columns' types.

    Attributes:
        columns: by name.
        unrepresentable: for every other column.
    """

    columns: Mapping[str, ColumnChoice] = field(default_factory=dict)
    unrepresentable: Unrepresentable = "error"

    def of(self, name: str) -> ColumnChoice:
        """What is wanted of the column called `name`."""
        return self.columns.get(name) or ColumnChoice(unrepresentable=self.unrepresentable)


@dataclass(frozen=True)
class Index:
    """An index whose ranges statements can read.

    Attributes:
        name: its name.
        columns: in its order; further columns that it only carries are left out.
    """

    name: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Key:
    """Columns in whose order rows are read, page by page. Windows may be bounded by the first few of them alone.

    Attributes:
        columns: names. The first of them are those of the index, in its order.
        index: name of the index that serves the order; empty for a view or a query.
        primary: whether it is the primary key.
        unique: whether no two rows have the same values. Where they may, a window is read by one statement.
        nullable: the first column may be NULL, and such rows are a window of their own. The others are never NULL.
        declared: only the user says so of a view or a query. It is checked while it is read.
    """

    columns: tuple[str, ...]
    index: str
    primary: bool = False
    unique: bool = True
    nullable: bool = False
    declared: bool = False


NO_KEY = Key((), "", unique=False)
"""In place of a key, for a table that is read as a whole."""

Kind = Literal["table", "view", "query"]


@dataclass(frozen=True)
class Table:
    """A table as its server describes it; also a view, or a query in the place of one.

    Attributes:
        schema: schema or database that holds it; of a query, the name that its export has.
        name: its name.
        columns: in declared order.
        keys: usable unique keys that are never NULL, the best one first.
        rejected_keys: unique indexes that cannot be used, as (index, reason).
        estimated_rows: by the server's statistics; None where it has none.
        average_row_bytes: by the server's statistics; 0 where it has none.
        snapshots: whether the statements of a transaction see it at one moment; false for MyISAM and its like.
        indexes: whose ranges can be read, unique or not, also over columns that may be NULL.
        kind: `table` also for a partitioned table and a materialised view.
        query: what the rows come from, where `kind` is `query`.
    """

    schema: str
    name: str
    columns: tuple[Column, ...]
    keys: tuple[Key, ...]
    rejected_keys: tuple[tuple[str, str], ...] = field(default=())
    estimated_rows: int | None = None
    average_row_bytes: int = 0
    snapshots: bool = True
    indexes: tuple[Index, ...] = ()
    kind: Kind = "table"
    query: str = ""

    @property
    def label(self) -> str:
        """`schema.table`, as people write it."""
        return f"{self.schema}.{self.name}"

    def column(self, name: str) -> Column:
        """The column called `name`; KeyError if there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)


@dataclass(frozen=True)
class KeyRange:
    """A range of rows in the order of a key. A bound of fewer values than the key has compares its first columns.

    Without `nulls` it has no row whose first key column is NULL, however open it is.

    Attributes:
        lo: lower bound, not itself part of the range; None is open.
        hi: upper bound, part of the range; None is open.
        half_open: the other way round: `lo` is part of the range, and `hi` is not.
        nulls: instead of all that, the rows whose first key column is NULL.
        after: only the rows beyond this one: the whole key of a row, or of one of `nulls` all but its first column.
    """

    lo: KeyText | None
    hi: KeyText | None
    half_open: bool = False
    nulls: bool = False
    after: KeyText | None = None


@dataclass(frozen=True)
class Step:
    """Where a walk along the key's index came to: the key reached and the rows passed, fewer at the end."""

    key: KeyText
    rows: int


@dataclass(frozen=True)
class Page:
    """What one short statement of a window brought, or a piece of the only one.

    Attributes:
        rows: rows it returned; 0 for a piece of which only decoding can tell.
        wire_bytes: bytes of the rows on the wire.
        seconds: from sending the statement to its last byte, with what is decoded meanwhile; for a piece, from the
            moment that it was asked for.
        running_s: how long a statement that comes in pieces runs already; 0 for any other.
        ended: no row of the window is left.
    """

    rows: int
    wire_bytes: int
    seconds: float
    running_s: float = 0.0
    ended: bool = False


class WindowReader(Protocol):
    """Reads one window's pages, in key order, from one consistent snapshot."""

    schema: pa.Schema
    """Arrow schema of the batches: types, nullability and native type names of the table's columns."""

    def read_page(self, span: KeyRange, limit: int) -> Page:
        """Run one statement, to its end, for at most `limit` rows of `span` in key order.

        Where the key does not tell rows apart, the next piece of about `limit` rows of one statement for all of
        `span`, or the next range of the table's storage; give the same span again for every piece.
        """
        ...

    def decode_page(self) -> Iterator[pa.RecordBatch]:
        """Decode the page; gives batches as they become complete, which depends on the rows alone, not on pages.

        Take every batch, and let go of each before the next, which uses its memory again.
        """
        ...

    def last_key(self) -> KeyText | None:
        """Key of the last row of the page, once it is decoded, as `KeyRange.after` takes it; None for a piece.

        Raises:
            SourceError: RIVET_KEY_NULL; RIVET_KEY_NOT_UNIQUE for a declared key that another row has, too.
        """
        ...

    def finish(self) -> Iterator[pa.RecordBatch]:
        """The rows that are left, once the window's last page is decoded."""
        ...

    def replaced(self) -> Mapping[tuple[str, str], int]:
        """How many values NULL replaced so far, by column and reason."""
        ...


@dataclass(frozen=True)
class BatchLimits:
    """Where a batch (a row group of the part) ends: at the row that reaches one of these.

    Attributes:
        wire_bytes: bytes of the rows as the server sent them.
        rows: rows.
    """

    wire_bytes: int = 16 << 20
    rows: int = 1 << 20


@dataclass(frozen=True)
class SourceLimits:
    """What is asked of a server at most: seconds after which it ends what takes too long, sizes, connections.

    Attributes:
        statement_timeout_s: a statement.
        lock_timeout_s: a wait for a lock.
        idle_in_transaction_timeout_s: a snapshot that nobody reads from.
        connect_timeout_s: an attempt to connect.
        snapshot_s: a window's snapshot, and so the one statement that reads a table as a whole.
        max_value_bytes: a value of more bytes on the wire is refused before this process holds it.
        page_bytes: a page that would be larger is given up, unless it is a single row; None for no limit.
        slots: how many connections may read from this server (on PostgreSQL: from this database) at the same time, over
            all processes and machines; None does not count them.
    """

    statement_timeout_s: float = 30.0
    lock_timeout_s: float = 10.0
    idle_in_transaction_timeout_s: float = 60.0
    connect_timeout_s: float = 10.0
    snapshot_s: float = 900.0
    max_value_bytes: int = 256 << 20
    page_bytes: int | None = None
    slots: int | None = None


@dataclass(frozen=True)
class ServerFacts:
    """What a session is connected to; as text, for people: `PostgreSQL 15.18, hot standby`.

    Attributes:
        version: the server's name and version number.
        notes: what else matters to a reader: that it is a replica, that a pooler or proxy stands before it.
    """

    version: str
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ", ".join([self.version, *self.notes])


class Session(Protocol):
    """One connection to a source. Not thread-safe, except for `cancel`."""

    def facts(self) -> ServerFacts:
        """What the session is connected to; a round trip or a few, so ask once, not once a window."""
        ...

    def describe(self, schema: str, name: str) -> Table:
        """Columns, keys and estimates of a table; RIVET_SOURCE_TABLE_MISSING if there is none."""
        ...

    def tables(self, schema: str) -> tuple[str, ...]:
        """Names of the tables of a schema that the user may read, in order; no views, no partitions of tables."""
        ...

    def describe_query(self, schema: str, name: str, query: str) -> Table:
        """Columns of what a query returns; it has no keys. `schema` and `name` are what its export is called."""
        ...

    def walk(
        self, table: Table, key: Key, after: KeyText | None, rows: int, until: KeyText | None = None
    ) -> Step | None:
        """Walk the key's index `rows` rows on from `after`; None where no row is beyond it.

        Args:
            table: the table.
            key: the order; it is unique.
            after: where to begin; it may have fewer values than the key. None is the first row that is not NULL.
            rows: how many to pass.
            until: no farther than this bound, which is part of the walk.
        """
        ...

    def last(self, table: Table, key: Key) -> KeyText | None:
        """The greatest key; None where the table has no row, or only such with NULL."""
        ...

    def count(self, table: Table, key: Key, span: KeyRange, limit: int) -> int:
        """How many rows `span` has; no more than `limit` are looked at."""
        ...

    def boundaries(self, table: Table, key: Key, span: KeyRange, windows: int) -> tuple[KeyText, ...] | None:
        """Bounds that cut `span` into about `windows` windows of as many rows by the server's statistics alone.

        Returns:
            Bounds on the key's first column within `span`, which both its ends give; they ascend in the order that
            the server compares them, without equal ones. They may be far fewer than asked for. None where there are
            no statistics, or where these cannot tell.
        """
        ...

    def now(self) -> datetime:
        """The server's time, in UTC."""
        ...

    def open_window(self, table: Table, key: Key, limits: BatchLimits) -> AbstractContextManager[WindowReader]:
        """One consistent snapshot, held until the context ends, and with it one of the source's slots.

        Raises:
            SourceError: RIVET_SOURCE_SLOTS where all of them are taken. Nothing is held then; try again later.
        """
        ...

    def cancel(self) -> None:
        """Ask the server to end the running statement; callable from another thread."""
        ...

    def close(self) -> None:
        """Close the connection; closing twice is harmless."""
        ...


class Source(Protocol):
    """A database that sessions can be opened on."""

    engine: str
    """Name of the engine: `postgresql`."""

    @property
    def label(self) -> str:
        """Where it is, without secrets: for messages and metadata."""
        ...

    def connect(self) -> Session:
        """Open a session; RIVET_SOURCE_UNREACHABLE, RIVET_SOURCE_AUTH and their like."""
        ...

    def probe(self, table: Table | None = None, key: Key | None = None) -> Probe:
        """Look how the server is; connects when it is first looked. Rows of `table` by `key` are the canary's."""
        ...

    def identity(self) -> Identity:
        """As whom it is read, and what that user may do: a connection and a short statement or two."""
        ...

    def warm(self) -> None:
        """Load the compiled code that reading needs; where it is in no cache, compiling takes seconds."""
        ...

    def schema_of(self, table: Table) -> pa.Schema:
        """Arrow schema that reading `table` gives; RIVET_CONFIG_COLUMN, RIVET_CONFIG_TYPE for impossible choices."""
        ...


def check_page_rows(table: Table, held: int, announced: int) -> None:
    """Whether a decoded page held the rows that the server announced.

    Raises:
        SourceError: RIVET_PROTOCOL_ERROR.
    """
    if held != announced:
        raise SourceError(
            "RIVET_PROTOCOL_ERROR",
            f"A page of {table.label} held {held} rows where the server announced {announced}.",
            "It is tried again on a new connection.",
            retryable=True,
        )


class PageTooLarge(SourceError):  # noqa: N818 (as the other errors say what is so)
    """`RIVET_PAGE_TOO_LARGE`: a page was given up, since it would have been larger than `SourceLimits.page_bytes`.

    Args:
        rows: of the page, up to the one that was too much.
        wire_bytes: bytes of these rows, as far as they are known.
        most: bytes that a page may have.
    """

    def __init__(self, rows: int, wire_bytes: int, most: int) -> None:
        super().__init__(
            "RIVET_PAGE_TOO_LARGE",
            f"A page was given up at {wire_bytes} bytes, its first {rows} rows, where {most} may be held.",
            "Its window is read again at once, by fewer rows a page.",
            retryable=True,
        )
        self.rows = rows
        self.wire_bytes = wire_bytes
        self.most = most

    def __reduce__(self) -> tuple[object, ...]:
        return (PageTooLarge, (self.rows, self.wire_bytes, self.most))


def no_slot(slots: int) -> SourceError:
    """`RIVET_SOURCE_SLOTS`: others read from the source already, as many as may."""
    return SourceError(
        "RIVET_SOURCE_SLOTS",
        f"All {slots} slots of the source are taken: as many connections as may read from it do so already.",
        "It is tried again. If it goes on, wait for the other exports of this source, or raise slots for all of them.",
        retryable=True,
    )


def null_key() -> SourceError:
    """`RIVET_KEY_NULL`: what the catalog or the user says of a key is not so."""
    return SourceError(
        "RIVET_KEY_NULL",
        "A key column holds NULL although it was said that it cannot.",
        "Check the table's constraints, or the key that is declared for a view or a query; choose another key.",
        fatal=True,
    )


def not_unique(table: Table, key: Key) -> SourceError:
    """`RIVET_KEY_NOT_UNIQUE`: what the user says of a key is not so."""
    return SourceError(
        "RIVET_KEY_NOT_UNIQUE",
        f"Several rows of {table.label} have the same ({', '.join(key.columns)}), which is declared to be a key.",
        "Name columns that are unique together.",
        fatal=True,
    )


def value_too_large(table: Table, column: str, size: int, most: int, row: tuple[tuple[str, str], ...]) -> SourceError:
    """`RIVET_VALUE_TOO_LARGE`: a value of `size` bytes where `most` may be; `row` has names and values of a key."""
    where = ", ".join(f"{name} = {value}" for name, value in row) or "no key to name it by"
    return SourceError(
        "RIVET_VALUE_TOO_LARGE",
        f"Column {column} of {table.label} holds a value of {size} bytes, more than max_value_bytes ({most}), in the "
        f"row with {where}.",
        "Raise max_value_bytes, or export a query that leaves the value or its row out; other windows are exported.",
    )
