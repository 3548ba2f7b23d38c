"""What every engine offers to the export: descriptions of tables, and sessions that walk keys and read pages.

No module above this folder knows an engine's SQL; no module in it knows windows' commits, files or Dagster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from rivet_dagster.errors import SourceError

if TYPE_CHECKING:
    import pyarrow as pa

Unrepresentable = Literal["error", "null", "text"]

# What a server sends, this process writes and a network carries without haste.
_USUAL_BYTES_A_SECOND = 50 << 20
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
class Key:
    """Columns that are unique together, never NULL and in the order of one usable index.

    Attributes:
        columns: names, in the index's order.
        index: name of the index.
        primary: whether it is the primary key.
    """

    columns: tuple[str, ...]
    index: str
    primary: bool = False


NO_KEY = Key((), "")
"""In place of a key, for a table that is read as a whole."""


@dataclass(frozen=True)
class Table:
    """A table as its server describes it.

    Attributes:
        schema: schema or database that holds it.
        name: its name.
        columns: in declared order.
        keys: usable keys, the best one first.
        rejected_keys: unique indexes that cannot be used, as (index, reason).
        estimated_rows: by the server's statistics; None where it has none.
        average_row_bytes: by the server's statistics; 0 where it has none.
        snapshots: whether the statements of a transaction see it at one moment; false for MyISAM and its like.
    """

    schema: str
    name: str
    columns: tuple[Column, ...]
    keys: tuple[Key, ...]
    rejected_keys: tuple[tuple[str, str], ...] = field(default=())
    estimated_rows: int | None = None
    average_row_bytes: int = 0
    snapshots: bool = True

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
    """Rows whose key is greater than `lo` and at most `hi`; None leaves that side open."""

    lo: KeyText | None
    hi: KeyText | None


@dataclass(frozen=True)
class Step:
    """Where a walk along the key's index came to: the key reached and the rows passed, fewer at the end."""

    key: KeyText
    rows: int


@dataclass(frozen=True)
class Page:
    """What one short statement of a window brought, or a piece of the only one.

    Attributes:
        rows: rows it returned.
        wire_bytes: bytes of the rows on the wire.
        seconds: from sending the statement to its last byte, with what is decoded meanwhile; for a piece, from the
            moment that it was asked for.
        running_s: how long a statement that comes in pieces runs already; 0 for any other.
    """

    rows: int
    wire_bytes: int
    seconds: float
    running_s: float = 0.0


class WindowReader(Protocol):
    """Reads one window's pages, in key order, from one consistent snapshot."""

    schema: pa.Schema
    """Arrow schema of the batches: types, nullability and native type names of the table's columns."""

    def read_page(self, span: KeyRange, limit: int) -> Page:
        """Run one statement, to its end, for at most `limit` rows of `span` in key order."""
        ...

    def decode_page(self) -> Iterator[pa.RecordBatch]:
        """Decode the page; gives batches as they become complete, which depends on the rows alone, not on pages.

        Take every batch, and let go of each before the next, which uses its memory again.
        """
        ...

    def last_key(self) -> KeyText:
        """Key of the last row of the page, once it is decoded."""
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
    """Seconds after which the server itself ends what takes too long.

    Attributes:
        statement_timeout_s: a statement.
        lock_timeout_s: a wait for a lock.
        idle_in_transaction_timeout_s: a snapshot that nobody reads from.
        connect_timeout_s: an attempt to connect.
        snapshot_s: a window's snapshot, and so the one statement that reads a table as a whole.
    """

    statement_timeout_s: float = 30.0
    lock_timeout_s: float = 10.0
    idle_in_transaction_timeout_s: float = 60.0
    connect_timeout_s: float = 10.0
    snapshot_s: float = 900.0


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

    def walk(self, table: Table, key: Key, after: KeyText | None, rows: int) -> Step | None:
        """Walk the key's index `rows` rows on from `after`; None where no row is beyond it."""
        ...

    def open_window(self, table: Table, key: Key, limits: BatchLimits) -> AbstractContextManager[WindowReader]:
        """One consistent snapshot, held until the context ends."""
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

    reads_whole: bool
    """Whether a window may be opened without a key, whose pages are then pieces of one long statement."""

    @property
    def label(self) -> str:
        """Where it is, without secrets: for messages and metadata."""
        ...

    def connect(self) -> Session:
        """Open a session; RIVET_SOURCE_UNREACHABLE, RIVET_SOURCE_AUTH and their like."""
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


def null_key() -> SourceError:
    """`RIVET_KEY_NULL`: what the catalog says of a key is not so."""
    return SourceError(
        "RIVET_KEY_NULL",
        "A key column holds NULL although the catalog says that it cannot.",
        "Check the table's constraints; choose another key.",
        fatal=True,
    )


def choose_key(table: Table, columns: Sequence[str] | None) -> Key:
    """The key to plan by: the one that `columns` names, else the table's best.

    Raises:
        SourceError: RIVET_KEY_MISSING where the table has none, RIVET_KEY_UNUSABLE where `columns` is none of them.
    """
    rejected = "".join(f" Index {index}: {reason}." for index, reason in table.rejected_keys)
    if not table.keys:
        raise SourceError(
            "RIVET_KEY_MISSING",
            f"Table {table.label} has no usable key: no valid unique index over NOT NULL columns.{rejected} "
            f"As a whole it would hold one query open for {_whole_seconds(table)}.",
            "Add a primary key, or a unique index over NOT NULL columns, and plan again; or accept the long query with "
            "windows of type full.",
            fatal=True,
        )
    if columns is None:
        return table.keys[0]
    for key in table.keys:
        if key.columns == tuple(columns):
            return key
    usable = "; ".join(f"({', '.join(key.columns)}) by {key.index}" for key in table.keys)
    raise SourceError(
        "RIVET_KEY_UNUSABLE",
        f"Columns ({', '.join(columns)}) are no usable key of {table.label}.{rejected}",
        f"Name the columns of a usable key in its index's order: {usable}.",
        fatal=True,
    )


def _whole_seconds(table: Table) -> str:
    """How long reading a table by one statement takes, in words."""
    if table.estimated_rows is None:
        return "an unknown time"
    seconds = table.estimated_rows * (table.average_row_bytes or ASSUMED_ROW_BYTES) / _USUAL_BYTES_A_SECOND
    return f"about {max(1, round(seconds))} s"
