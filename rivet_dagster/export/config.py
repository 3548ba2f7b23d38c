"""What a user says about an export. The same models serve Python, YAML and the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from rivet_dagster.errors import ConfigError
from rivet_dagster.export.names import parse_table
from rivet_dagster.sources.base import ColumnChoice, TypeChoices

MiB = 1 << 20


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _check_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("no time zone has this name; write one such as Europe/Paris") from None
    return value


Zone = Annotated[str, AfterValidator(_check_zone)]
"""IANA name of a time zone."""


class _Counted(_Model):
    """What windows have that are listed in a plan.

    Attributes:
        max_windows: refuse to plan more windows than this.
    """

    max_windows: Annotated[int, Field(ge=1)] = 20_000


class KeysetWindows(_Counted):
    """Windows of about equally many rows along a unique index, or along any other with a unique key behind it.

    Attributes:
        columns: columns of a unique key in its index's order, or the first columns of another index; of a view or a
            query, columns that its owner knows to be unique together. None takes the best key of the table.
        rows: rows a window; None derives it from the width of the rows (about 128 MiB a window).
        boundaries: `exact` walks the index once; `estimated` asks only the server's statistics, where they tell
            enough, the first time that a table is planned.
    """

    type: Literal["keyset"] = "keyset"
    columns: tuple[str, ...] | None = None
    rows: Annotated[int, Field(ge=1)] | None = None
    boundaries: Literal["exact", "estimated"] = "exact"

    @field_validator("columns")
    @classmethod
    def _not_empty(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and (not value or len(set(value)) != len(value)):
            raise ValueError("name each key column once, or leave columns out")
        return value


class IntRangeWindows(_Counted):
    """Windows of aligned ranges of an integer column with an index: 0 to 99,999, 100,000 to 199,999 and so on.

    Attributes:
        column: the column.
        size: how many integers a window spans; None derives it from the rows that the statistics count.
    """

    type: Literal["int_range"] = "int_range"
    column: str
    size: Annotated[int, Field(ge=1)] | None = None


_PERIODS = {"hour": "an hour", "day": "a day", "week": "a week (a Sunday)", "month": "a month"}
_SUNDAY = 6


def _begins(every: str, moment: datetime) -> bool:
    """Whether a period of this length begins at a moment."""
    if moment.minute or moment.second or moment.microsecond or (every != "hour" and moment.hour):
        return False
    return {"week": moment.weekday() == _SUNDAY, "month": moment.day == 1}.get(every, True)


class TimeWindows(_Model):
    """Windows of calendar time: Dagster's own time partitions, without a plan asset.

    Attributes:
        column: a date or timestamp column with an index.
        every: length of a window.
        start: when the first window begins, as a date or a date with a time; earlier rows are not exported.
        end: when the last window ends; None goes on with the time.
        timezone: IANA name of the zone whose days they are, and whose time columns without a zone hold.
        nulls: `error` refuses a table with rows whose time is NULL, which no window has; `ignore` leaves them out.
    """

    type: Literal["time"] = "time"
    column: str
    every: Literal["hour", "day", "week", "month"] = "day"
    start: str
    end: str | None = None
    timezone: Zone = "UTC"
    nulls: Literal["error", "ignore"] = "error"

    @model_validator(mode="after")
    def _on_boundaries(self) -> TimeWindows:
        for name in ("start", "end"):
            value = getattr(self, name)
            if value is not None and not _begins(self.every, datetime.fromisoformat(value)):
                raise ValueError(
                    f"{name} must be where {_PERIODS[self.every]} begins; rows up to there would be in no window"
                )
        return self

    @field_validator("start", "end")
    @classmethod
    def _moment(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                moment = datetime.fromisoformat(value)
            except ValueError:
                raise ValueError("write a date, 2026-01-31, or a date with a time, 2026-01-31T06:00") from None
            if moment.tzinfo is not None:
                raise ValueError("name the zone in timezone, not here")
        return value


class CursorWindows(_Counted):
    """Windows appended in the order of a column that grows, such as `updated_at`: a row that changes comes again.

    Attributes:
        column: a timestamp, date or integer column with an index.
        rows: rows a window; None derives it from the width of the rows.
        lag: how far behind the present a window may end, so that transactions still open come in time: seconds, or
            for an integer column units. It should be longer than the longest transaction that writes the table.
        lookback: how far behind the frontier a cursor sensor has windows read again, for rows that come later still.
        timezone: IANA name of the zone whose time a column without a zone holds.
    """

    type: Literal["cursor"] = "cursor"
    column: str
    rows: Annotated[int, Field(ge=1)] | None = None
    lag: Annotated[int, Field(ge=0)] = 60
    lookback: Annotated[int, Field(ge=0)] = 0
    timezone: Zone = "UTC"


class FullWindows(_Model):
    """One window: for a table without a usable key.

    PostgreSQL reads a table by ranges of its storage, a short statement each; everything else is one long statement,
    which its owner accepts hereby.
    """

    type: Literal["full"] = "full"


PROFILES: Final[Mapping[str, Mapping[str, float]]] = {
    "safe": {
        "page_bytes": 4 * MiB,
        "page_seconds": 0.5,
        "statement_timeout_s": 10.0,
        "lock_timeout_s": 2.0,
        "idle_in_transaction_timeout_s": 30.0,
        "snapshot_s": 300.0,
    },
    "balanced": {
        "page_bytes": 8 * MiB,
        "page_seconds": 1.0,
        "statement_timeout_s": 30.0,
        "lock_timeout_s": 10.0,
        "idle_in_transaction_timeout_s": 60.0,
        "snapshot_s": 900.0,
    },
    "fast": {
        "page_bytes": 16 * MiB,
        "page_seconds": 2.0,
        "statement_timeout_s": 120.0,
        "lock_timeout_s": 30.0,
        "idle_in_transaction_timeout_s": 300.0,
        "snapshot_s": 3600.0,
    },
}
"""What a profile gives the limits that are not set one by one."""


class ReadLimits(_Model):
    """How much one statement may ask of the source and hold in this process.

    Attributes:
        profile: what the limits below are where they are left out: `safe` for a server that is short of everything,
            `fast` for one that nobody else needs. The values below are those of `balanced`.
        page_bytes: bytes that one statement aims to return.
        page_seconds: seconds that one statement may take before the next one asks for less.
        statement_timeout_s: the server ends a statement after this many seconds.
        lock_timeout_s: the server ends a wait for a lock after this many seconds.
        idle_in_transaction_timeout_s: the server ends a window's snapshot that stays idle for this many seconds.
        snapshot_s: a window whose snapshot becomes older than this is given up; so is the one statement of `full`.
        max_value_bytes: a value of more bytes is refused before this process holds it; a row may have several.
        attempts: tries of a window whose failure may pass, such as a lost connection.
        retry_seconds: first pause between tries; doubles from try to try.
    """

    profile: Literal["safe", "balanced", "fast"] = "balanced"
    page_bytes: Annotated[int, Field(ge=64 << 10, le=256 * MiB)] = 8 * MiB
    page_seconds: Annotated[float, Field(gt=0)] = 1.0
    statement_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    lock_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    idle_in_transaction_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    snapshot_s: Annotated[float, Field(gt=0)] = 900.0
    max_value_bytes: Annotated[int, Field(ge=MiB, le=1024 * MiB)] = 256 * MiB
    attempts: Annotated[int, Field(ge=1)] = 4
    retry_seconds: Annotated[float, Field(ge=0)] = 1.0

    @model_validator(mode="before")
    @classmethod
    def _by_profile(cls, values: object) -> object:
        if not isinstance(values, dict):
            return values
        profile = values.get("profile", "balanced")
        return {**(PROFILES.get(profile, {}) if isinstance(profile, str) else {}), **values}


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

WINDOW_TYPES = ("keyset", "int_range", "time", "cursor", "full")

Windows = Annotated[
    Annotated[KeysetWindows, Tag("keyset")]
    | Annotated[IntRangeWindows, Tag("int_range")]
    | Annotated[TimeWindows, Tag("time")]
    | Annotated[CursorWindows, Tag("cursor")]
    | Annotated[FullWindows, Tag("full")],
    Discriminator(
        _named("keyset"),
        custom_error_type="windows",
        custom_error_message=f"its type must be {', '.join(WINDOW_TYPES[:-1])} or {WINDOW_TYPES[-1]}",
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
        query: a SELECT whose rows are exported in place of a table's; `table` is then what the export is called.
        windows: how the table is cut into windows.
        format: how parts are written.
        limits: how much a statement may ask.
        columns: options of single columns, by name.
        unrepresentable: what becomes of values that their column's type cannot hold, where the column does not say.
    """

    table: str
    query: str | None = None
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

    @field_validator("query")
    @classmethod
    def _query(cls, value: str | None) -> str | None:
        if value is None:
            return None
        query = value.strip().rstrip(";").rstrip()
        if not query:
            raise ValueError("it is empty")
        return query

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
        raise invalid("export", exc, _field_name) from None


def invalid(what: str, exc: ValidationError, field_name: Callable[[tuple[int | str, ...]], str]) -> ConfigError:
    """`RIVET_CONFIG_INVALID` that names every field at fault, as `field_name` spells it."""
    faults = "; ".join(
        f"{field_name(fault['loc'])}: {fault['msg'].removeprefix('Value error, ')}"
        for fault in exc.errors(include_url=False, include_input=False)
    )
    return ConfigError(
        "RIVET_CONFIG_INVALID", f"The {what} cannot be used as configured: {faults}.", "Correct these fields."
    )


def _field_name(loc: tuple[int | str, ...]) -> str:
    """A field as the user spells it: without the name of the model that one of several was taken for."""
    models = {1} if loc[:1] in (("windows",), ("format",)) else set()
    return ".".join(str(part) for place, part in enumerate(loc) if place not in models)
