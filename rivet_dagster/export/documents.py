"""The documents of the commit protocol: plan segments, window manifests, seals.

JSON with sorted fields and a `format` of their own ("rivet.window/1"). Readers ignore fields that they do not know,
so that a later version may add some; a number after the slash that they do not know stops them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, ClassVar, TypeVar

import xxhash
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

from rivet_dagster.errors import IntegrityError

DocumentType = TypeVar("DocumentType", bound="Document")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Document(_Model):
    """A stored JSON object with a name and a version."""

    FORMAT: ClassVar[str]

    def to_bytes(self) -> bytes:
        """Canonical bytes: equal documents have equal bytes."""
        values = {"format": self.FORMAT, **self.model_dump(mode="json")}
        return json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def from_bytes(cls: type[DocumentType], data: bytes, where: str) -> DocumentType:
        """Parse a stored document.

        Raises:
            IntegrityError: RIVET_DOCUMENT_INVALID that names `where` it was read.
        """
        try:
            values = json.loads(data)
            if not isinstance(values, dict) or values.get("format") != cls.FORMAT:
                raise ValueError(f"it is not in the format {cls.FORMAT}")
            return cls.model_validate(values)
        except (ValueError, ValidationError) as exc:
            reason = "fields are missing or wrong" if isinstance(exc, ValidationError) else str(exc)
            raise IntegrityError(
                "RIVET_DOCUMENT_INVALID",
                f"{where} cannot be read: {reason}.",
                "Restore the object, or export the table afresh; if a newer version wrote it, upgrade.",
                fatal=True,
            ) from None


def fingerprint_bytes(data: bytes) -> str:
    """Content fingerprint of some bytes: `xxh3-128:<32 hex digits>`."""
    return fingerprint_blocks([data])


def fingerprint_blocks(blocks: Iterable[bytes]) -> str:
    """Content fingerprint of bytes that come in blocks."""
    digest = xxhash.xxh3_128()
    for block in blocks:
        digest.update(block)
    return f"xxh3-128:{digest.hexdigest()}"


class PlannedColumn(_Model):
    """A column as the plan froze it.

    Attributes:
        name: as the catalog spells it.
        native_type: the declared type, as the server prints it.
        type: canonical name of the type in the parts.
        nullable: whether the catalog allowed NULL.
    """

    name: str
    native_type: str
    type: str
    nullable: bool


def schema_fingerprint(columns: Iterable[PlannedColumn]) -> str:
    """Fingerprint of names, types in the parts and nullability, in order; each word prefixed with its length."""
    words = (
        word.encode()
        for column in columns
        for word in (column.name, column.type, "null" if column.nullable else "not null")
    )
    return fingerprint_bytes(b"".join(b"%d:%b" % (len(word), word) for word in words))


class PlannedWindow(_Model):
    """One planned window.

    Attributes:
        hi: its upper bound, which may compare only the first columns of the key; empty for a whole table.
        rows: rows that the walk counted, or that were estimated.
        nulls: it has the rows whose first key column is NULL, and no bound.
    """

    hi: tuple[str, ...]
    rows: int
    nulls: bool = False


class PlanSegment(Document):
    """Windows that one planning appended. Create-only: a segment never changes.

    Attributes:
        table: `schema.table`.
        engine: the source's engine.
        generation: number of the plan that the segment belongs to.
        number: its place in the plan, from 1.
        mode: the type of its windows: `keyset`, `int_range`, `time`, `cursor` or `full`.
        key: columns in whose order rows are read; windows may be bounded by the first few of them.
        columns: the table's columns, frozen.
        first_window: index of the first window of this segment.
        lo: lower bound of its first window; None for the first segment.
        windows: upper bounds in order; each window begins where the one before it ends. Of slices of time there are
            none, because they follow from their keys.
        size: how many integers a window spans, of `int_range`.
        work_id: the work that began this generation, where it was asked for; empty otherwise.
    """

    FORMAT: ClassVar[str] = "rivet.plan/1"

    table: str
    engine: str
    generation: int
    number: int
    mode: str = "keyset"
    key: tuple[str, ...]
    columns: tuple[PlannedColumn, ...]
    first_window: int
    lo: tuple[str, ...] | None
    windows: tuple[PlannedWindow, ...]
    size: int | None = None
    work_id: str = ""


class Part(_Model):
    """One data file of a window.

    Attributes:
        path: below the export's folder.
        rows: rows in it.
        bytes: size of the file.
        content_fingerprint: `xxh3-128:<32 hex digits>` of the file's bytes.
        columns: checksum of each column's values, 16 hex digits, in the table's order; empty where none were kept.
    """

    path: str
    rows: int
    bytes: int
    content_fingerprint: str
    columns: tuple[str, ...] = ()

    @model_serializer(mode="wrap")
    def _without_absent_columns(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Documents of before there were checksums keep their bytes, and seals of such their ids."""
        values: dict[str, Any] = write(self)
        if not self.columns:
            del values["columns"]
        return values


class ReadStatistics(_Model):
    """What reading a window asked of the source.

    Attributes:
        pages: statements that returned rows.
        wire_bytes: bytes of the rows on the wire.
        duration_s: from the window's start to its commit.
        largest_page_bytes: the most that one statement returned; 0 where it was not noted.
        longest_statement_s: the longest time that one statement ran.
        transaction_s: how long the snapshot was held.
        attempts: tries it took.
        peak_memory_bytes: the most resident memory that the process was seen to take at the end of a page; 0 where it
            was not noted.
    """

    pages: int
    wire_bytes: int
    duration_s: float
    largest_page_bytes: int = 0
    longest_statement_s: float
    transaction_s: float
    attempts: int
    peak_memory_bytes: int = 0


class Replacement(_Model):
    """Values of one column that its type cannot hold and NULL replaced, as the export's options allow.

    Attributes:
        column: which.
        reason: why the type cannot hold them: `NaN`, `infinity`, `out of range`, `array shape`, `zero date` …
        values: how many.
    """

    column: str
    reason: str
    values: int


class WindowManifest(Document):
    """A committed window. Writing this object is the commit.

    Attributes:
        table: `schema.table`.
        key: the window's key.
        generation: its plan's number.
        lo: exclusive lower bound; None is open.
        hi: inclusive upper bound.
        half_open: the other way round: `lo` is part of the window and `hi` is not.
        nulls: it has the rows whose first key column is NULL, and no bounds.
        rows: rows in its parts.
        row_fingerprint: of its rows.
        schema_fingerprint: of names and types of its columns.
        parts: its data files, in key order.
        replaced: values that NULL replaced; empty where none was.
        work_id: the work that read it.
        read_at: when its snapshot was opened, ISO 8601 in UTC.
        snapshot: whether its pages show the table at one moment; false for MyISAM and its like.
        statistics: what reading it asked of the source.
    """

    FORMAT: ClassVar[str] = "rivet.window/1"

    table: str
    key: str
    generation: int
    lo: tuple[str, ...] | None
    hi: tuple[str, ...]
    half_open: bool = False
    nulls: bool = False
    rows: int
    row_fingerprint: str
    schema_fingerprint: str
    parts: tuple[Part, ...]
    replaced: tuple[Replacement, ...] = ()
    work_id: str
    read_at: str
    snapshot: bool = True
    statistics: ReadStatistics


class SealedWindow(_Model):
    """A window of a sealed export."""

    key: str
    rows: int
    row_fingerprint: str
    parts: tuple[Part, ...]


class ExportManifest(Document):
    """The seal: what readers of the export see. It depends on plan and rows alone, not on runs or clocks.

    Attributes:
        seal_id: first 16 digits of the fingerprint of everything else in it.
        table: `schema.table`.
        engine: the source's engine.
        generation: the plan in force.
        key: columns of the key.
        columns: names and types.
        schema_fingerprint: of names and types.
        rows: of all windows.
        bytes: of all parts.
        row_fingerprint: of all rows.
        replaced: values that NULL replaced, of all windows.
        windows: in key order.
    """

    FORMAT: ClassVar[str] = "rivet.export/1"

    seal_id: str
    table: str
    engine: str
    generation: int
    key: tuple[str, ...]
    columns: tuple[PlannedColumn, ...]
    schema_fingerprint: str
    rows: int
    bytes: int
    row_fingerprint: str
    replaced: tuple[Replacement, ...] = ()
    windows: tuple[SealedWindow, ...]

    def identified(self) -> ExportManifest:
        """The same seal with the id that its content gives."""
        bare = self.model_copy(update={"seal_id": ""})
        digest = fingerprint_bytes(bare.to_bytes()).rpartition(":")[2]
        return self.model_copy(update={"seal_id": digest[:16]})


class WorkMarker(Document):
    """An export from the command line that is under way, so that a second start goes on with it."""

    FORMAT: ClassVar[str] = "rivet.work/1"

    work_id: str
    started_at: str
