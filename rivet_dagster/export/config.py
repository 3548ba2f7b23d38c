"""What a user says about an export. The same models serve Python, YAML and the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, field_validator

from rivet_dagster.errors import ConfigError
from rivet_dagster.export.names import parse_table
from rivet_dagster.sources.base import ColumnChoice, TypeChoices

MiB = 1 << 20


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class KeysetWindows(_Model):
    """Windows of about equally many rows along a unique index.

    Attributes:
        columns: columns of a unique key in its index's order; None takes the best key of the table.
        rows: rows a window; None derives it from the width of the rows (about 128 MiB a window).
        max_windows: refuse to plan more windows than this.
    """

    type: Literal["keyset"] = "keyset"
    columns: tuple[str, ...] | None = None
    rows: Annotated[int, Field(ge=1)] | None = None
    max_windows: Annotated[int, Field(ge=1)] = 20_000

    @field_validator("columns")
    @classmethod
    def _not_empty(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and (not value or len(set(value)) != len(value)):
            raise ValueError("name each key column once, or leave columns out")
        return value


class FullWindows(_Model):
    """One window, read by one statement: for a table without a usable key, where its owner accepts a long query."""

    type: Literal["full"] = "full"


class ReadLimits(_Model):
    """How much one statement may ask of the source and hold in this process.

    Attributes:
        page_bytes: bytes that one statement aims to return.
        page_seconds: seconds that one statement may take before the next one asks for less.
        statement_timeout_s: the server ends a statement after this many seconds.
        lock_timeout_s: the server ends a wait for a lock after this many seconds.
        idle_in_transaction_timeout_s: the server ends a window's snapshot that stays idle for this many seconds.
        snapshot_s: a window whose snapshot becomes older than this is given up; so is the one statement of `full`.
        attempts: tries of a window whose failure may pass, such as a lost connection.
        retry_seconds: first pause between tries; doubles from try to try.
    """

    page_bytes: Annotated[int, Field(ge=64 << 10, le=256 * MiB)] = 8 * MiB
    page_seconds: Annotated[float, Field(gt=0)] = 1.0
    statement_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    lock_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    idle_in_transaction_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    snapshot_s: Annotated[float, Field(gt=0)] = 900.0
    attempts: Annotated[int, Field(ge=1)] = 4
    retry_seconds: Annotated[float, Field(ge=0)] = 1.0


class ParquetFormat(_Model):
    """Parquet parts.

    Attributes:
        compression: codec of the pages.
        level: the codec's level; None takes the codec's default.
        row_group_bytes: a row group ends at the row that reaches this many bytes on the wire.
        part_bytes: a part ends with the row group that reaches this many bytes in the file.
    """

    type: Literal["parquet"] = "parquet"
    compression: Literal["zstd", "snappy", "lz4", "gzip", "none"] = "zstd"
    level: int | None = 1
    row_group_bytes: Annotated[int, Field(ge=64 << 10, le=512 * MiB)] = 16 * MiB
    part_bytes: Annotated[int, Field(ge=MiB)] = 512 * MiB

    @field_validator("level")
    @classmethod
    def _level(cls, value: int | None) -> int | None:
        if value is not None and not 1 <= value <= 22:
            raise ValueError("a compression level is 1 to 22")
        return value

    @property
    def options(self) -> dict[str, Any]:
        """What the writer of parts takes."""
        return {"compression": self.compression, "level": self.level}


class CsvFormat(_Model):
    """CSV parts: a header, commas, UTF-8, texts in quotes, NULL as nothing at all.

    Attributes:
        compression: of the whole file, which is then called `.csv.gz` or `.csv.zst`.
        row_group_bytes: rows are written together up to the one that reaches this many bytes on the wire.
        part_bytes: a part ends with the rows that reach this many bytes in the file.
    """

    type: Literal["csv"] = "csv"
    compression: Literal["gzip", "zstd", "none"] = "gzip"
    row_group_bytes: Annotated[int, Field(ge=64 << 10, le=512 * MiB)] = 16 * MiB
    part_bytes: Annotated[int, Field(ge=MiB)] = 512 * MiB

    @property
    def options(self) -> dict[str, Any]:
        """What the writer of parts takes."""
        return {"compression": self.compression}


def _named(usual: str) -> Callable[[object], object]:
    """Finds which of several models is meant: the one that `type` names, `usual` where nothing does."""
    return lambda value: value.get("type", usual) if isinstance(value, dict) else getattr(value, "type", None)


PartsFormat = Annotated[
    Annotated[ParquetFormat, Tag("parquet")] | Annotated[CsvFormat, Tag("csv")],
    Discriminator(
        _named("parquet"), custom_error_type="format", custom_error_message="its type must be parquet or csv"
    ),
]

Windows = Annotated[
    Annotated[KeysetWindows, Tag("keyset")] | Annotated[FullWindows, Tag("full")],
    Discriminator(
        _named("keyset"), custom_error_type="windows", custom_error_message="its type must be keyset or full"
    ),
]


class ColumnOptions(_Model):
    """How one column is exported, where the usual way is not wanted.

    Attributes:
        type: its type in the parts, by canonical name: `text`, `decimal(38, 10)`, `interval`, `list(text)` …
        unrepresentable: what becomes of a value that the type cannot hold, such as an infinite date: `error` refuses
            it, `null` puts NULL in its place and counts it, `text` exports the whole column as the server's text.
            None takes the export's.
    """

    type: str | None = None
    unrepresentable: Literal["error", "null", "text"] | None = None


class ExportConfig(_Model):
    """One table and how it is exported.

    Attributes:
        table: `schema.table`; parts with dots or quotes are written in double quotes.
        windows: how the table is cut into windows.
        format: how parts are written.
        limits: how much a statement may ask.
        columns: options of single columns, by name.
        unrepresentable: what becomes of values that their column's type cannot hold, where the column does not say.
    """

    table: str
    windows: Windows = KeysetWindows()
    format: PartsFormat = ParquetFormat()
    limits: ReadLimits = ReadLimits()
    columns: dict[str, ColumnOptions] = {}
    unrepresentable: Literal["error", "null"] = "error"

    @field_validator("table")
    @classmethod
    def _table(cls, value: str) -> str:
        try:
            parse_table(value)
        except ConfigError as exc:
            raise ValueError(f"{exc.what} {exc.advice}") from None
        return value

    @property
    def type_choices(self) -> TypeChoices:
        """What is wanted of the columns' types."""
        columns = {
            name: ColumnChoice(options.type, options.unrepresentable or self.unrepresentable)
            for name, options in self.columns.items()
        }
        return TypeChoices(columns, self.unrepresentable)

    @property
    def relation(self) -> tuple[str, str]:
        """Schema and name of the table."""
        return parse_table(self.table)


def parse_config(values: dict[str, object]) -> ExportConfig:
    """An `ExportConfig` from plain values.

    Raises:
        ConfigError: RIVET_CONFIG_INVALID that names every field at fault.
    """
    try:
        return ExportConfig.model_validate(values)
    except ValidationError as exc:
        faults = "; ".join(
            f"{_field_name(fault['loc'])}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in exc.errors(include_url=False, include_input=False)
        )
        raise ConfigError(
            "RIVET_CONFIG_INVALID",
            f"The export cannot be used as configured: {faults}.",
            "Correct these fields.",
        ) from None


def _field_name(loc: tuple[int | str, ...]) -> str:
    """A field as the user spells it: without the name of the model that one of several was taken for."""
    models = {1} if loc[:1] in (("windows",), ("format",)) else set()
    return ".".join(str(part) for place, part in enumerate(loc) if place not in models)
