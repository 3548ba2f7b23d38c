"""How each column of a table is read: what the query asks for, its form on the wire, its Arrow type."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from rivet_dagster.sources.base import Column, ColumnChoice, Table, TypeChoices
from rivet_dagster.sources.choices import check_choices, field_of, refuse_type
from rivet_dagster.sources.mysql.rules import rule_of
from rivet_dagster.sources.mysql.typemap import AS_HEX, BINARY, SPATIAL, TypeRule, text_rule
from rivet_dagster.sources.typenames import decimal_shape

if TYPE_CHECKING:
    from rivet_dagster.wire.mysqlrows import WireColumn

# Protocol::ColumnType numbers in which a form may come.
_WIRE_TYPES: Final = {
    **dict.fromkeys(("bool", "int1"), frozenset({1})),
    "int2": frozenset({2, 13}),
    "int4": frozenset({3, 9}),
    "int8": frozenset({8}),
    "float4": frozenset({4}),
    "float8": frozenset({5}),
    "decimal": frozenset({0, 246}),
    "date": frozenset({10}),
    "datetime": frozenset({7, 12}),
    "time": frozenset({11}),
    "bit": frozenset({16}),
    **dict.fromkeys(("bytes", "uuid"), frozenset({15, 242, 245, *range(247, 256)})),
}
_UNSIGNED_FLAG = 32
_YEAR = 13

# What else another type than the usual one changes; of the others, the type alone.
_CHOSEN: Final[dict[str, dict[str, Any]]] = {
    "bool": {"form": "bool", "beyond": ("other numbers than 0 and 1",)},
    "uuid": {"form": "uuid"},
    "binary": {"select": "CAST({} AS BINARY)"},
}


@dataclass(frozen=True)
class Reading:
    """How one column is read.

    Attributes:
        field: its field in the batches; the metadata names the native type.
        select: what the query asks for, `{}` being the column.
        form: name of its wire form.
        replace: whether NULL replaces values that the Arrow type cannot hold.
    """

    field: pa.Field[Any]
    select: str
    form: str
    replace: bool = False

    def wire_column(self) -> WireColumn:
        """What the decoder must know of it."""
        from rivet_dagster.wire.mysqlrows import Form, WireColumn  # noqa: PLC0415 (numba, when reading begins)

        return WireColumn(self.field, Form(self.form), self.replace)

    def comes_as(self, type_code: int, flags: int) -> bool:
        """Whether a result's column of this type number and these flags is what the decoder takes it for."""
        if type_code not in _WIRE_TYPES[self.form]:
            return False
        if not pa.types.is_integer(self.field.type) or self.form == "bit" or type_code == _YEAR:
            # Of these, the flag says nothing: a year comes as unsigned, and fits into either.
            return True
        return pa.types.is_unsigned_integer(self.field.type) == bool(flags & _UNSIGNED_FLAG)


def readings(table: Table, choices: TypeChoices) -> tuple[Reading, ...]:
    """How each column of `table` is read, in order.

    Raises:
        ConfigError: RIVET_CONFIG_COLUMN for a choice about a column that is not there, RIVET_CONFIG_TYPE for a type
            that a column cannot have.
    """
    check_choices(table, choices)
    return tuple(_reading(table, column, choices.of(column.name)) for column in table.columns)


def arrow_schema(table: Table, choices: TypeChoices) -> pa.Schema:
    """Arrow schema that reading `table` gives; errors as in `readings`."""
    return pa.schema([reading.field for reading in readings(table, choices)])


def _reading(table: Table, column: Column, choice: ColumnChoice) -> Reading:
    rule = rule_of(column)
    if choice.type is not None:
        rule = _chosen(column, rule, choice.type) or refuse_type(table, column, choice.type, rule.type, *rule.choices)
    elif choice.unrepresentable == "text" and rule.beyond:
        rule = text_rule(column.kind)
    replaced = choice.unrepresentable == "null" and bool(rule.beyond)
    return Reading(field_of(column, rule.type, replaced=replaced), rule.select, rule.form, replaced)


def _chosen(column: Column, rule: TypeRule, asked: str) -> TypeRule | None:
    """The rule for a column whose type the user has chosen; None if it cannot have it."""
    if asked == rule.type:
        return rule
    if decimal_shape(asked) is not None and column.kind == "decimal":
        return replace(rule, type=asked)
    if asked not in rule.choices:
        return None
    return _as_text(column, rule) if asked == "text" else replace(rule, type=asked, **_CHOSEN.get(asked, {}))


def _as_text(column: Column, rule: TypeRule) -> TypeRule:
    if column.kind in BINARY:
        return text_rule(column.kind, AS_HEX)
    if column.kind in SPATIAL:
        return text_rule(column.kind, "ST_AsText({})")
    if column.kind == "json":
        return replace(rule, type="text")
    return text_rule(column.kind, rule.key_text)
