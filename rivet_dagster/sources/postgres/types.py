"""How each column of a table is read: what the query asks for, its form on the wire, its Arrow type."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from rivet_dagster.sources.base import Column, ColumnChoice, Table, TypeChoices
from rivet_dagster.sources.choices import check_choices, field_of, refuse_type
from rivet_dagster.sources.postgres.typemap import (
    BY_OID,
    INET,
    INTERVAL,
    INTERVAL_OID,
    INTERVAL_PARTS,
    MONEY_OID,
    NUMERIC_OID,
    PLAIN,
    TEXT_OID,
    UNBOUNDED_NUMERIC,
    TypeRule,
    text_rule,
)
from rivet_dagster.sources.typenames import decimal_shape, element_name

if TYPE_CHECKING:
    from rivet_dagster.wire.pgcopy import WireColumn

_NUMERIC_MODIFIER_BASE = 4
_LARGEST_PRECISION = 76
_ARRAY_OIDS = {TEXT_OID: 1009, NUMERIC_OID: 1231}


@dataclass(frozen=True)
class Reading:
    """How one column is read.

    Attributes:
        field: its field in the batches; the metadata names the native type.
        select: what the query asks for, `{}` being the column.
        form: name of its wire form.
        wire_type: oid of what the query gives.
        element_form: name of its elements' wire form; empty for what is no array.
        element_type: oid of its elements on the wire.
        replace: whether NULL replaces values that the Arrow type cannot hold.
    """

    field: pa.Field[Any]
    select: str
    form: str
    wire_type: int
    element_form: str = ""
    element_type: int = 0
    replace: bool = False

    def wire_column(self) -> WireColumn:
        """What the decoder must know of it."""
        from rivet_dagster.wire.pgcopy import Elements, Form, WireColumn  # noqa: PLC0415 (numba, when reading begins)

        elements = Elements(Form(self.element_form), self.element_type) if self.element_form else None
        return WireColumn(self.field, Form(self.form), elements, self.replace)


def numeric_shape(modifier: int) -> tuple[int, int] | None:
    """Precision and scale of a declared numeric; None for one without, whose values have no common scale."""
    if modifier < _NUMERIC_MODIFIER_BASE:
        return None
    packed = modifier - _NUMERIC_MODIFIER_BASE
    scale = packed & 0x7FF
    # Eleven bits, signed: numeric(3,-2) is legal since PostgreSQL 15.
    return packed >> 16 & 0xFFFF, scale - 0x800 if scale & 0x400 else scale


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
    as_text = choice.type == "text" or (choice.type is None and choice.unrepresentable == "text")
    if column.element is not None:
        if as_text:
            return _made(column, text_rule(0, "", ""), choice)
        return _list_reading(table, column, column.element, choice)
    rule = _rule(column)
    if choice.type is not None:
        rule = _chosen(column, rule, choice.type) or refuse_type(table, column, choice.type, rule.type, *rule.choices)
    elif as_text and rule.beyond:
        rule = text_rule(0, "", "")
    return _made(column, rule, choice)


def _rule(column: Column) -> TypeRule:
    """The rule for a column that is no array, as its type is declared."""
    if column.kind == "enum":
        return replace(text_rule(column.type_id, "", ""), select=PLAIN, wire_oid=column.type_id)
    if column.type_id in (NUMERIC_OID, MONEY_OID):
        return _numeric_rule(column)
    special = {INTERVAL_OID: INTERVAL, INET.oid: INET}.get(column.type_id)
    return special or BY_OID.get(column.type_id) or text_rule(column.type_id, "", "")


def _numeric_rule(column: Column) -> TypeRule:
    shape = numeric_shape(column.type_modifier)
    if shape is None:
        return UNBOUNDED_NUMERIC
    precision, scale = shape
    # Hundreds need no places, and thousandths of a hundredth have as many digits as places.
    precision, scale = max(precision - min(scale, 0), scale), max(scale, 0)
    if precision > _LARGEST_PRECISION:
        return UNBOUNDED_NUMERIC
    return replace(BY_OID[column.type_id], type=f"decimal({precision}, {scale})")


def _chosen(column: Column, rule: TypeRule, asked: str) -> TypeRule | None:
    """The rule for a column, or for an array's elements, whose type the user has chosen; None if it cannot have it."""
    if asked == rule.type:
        return rule
    if decimal_shape(asked) is not None and column.type_id in (NUMERIC_OID, MONEY_OID):
        return replace(BY_OID[column.type_id], type=asked)
    if asked == "interval" and column.type_id == INTERVAL_OID:
        return INTERVAL_PARTS
    if asked == "text":
        # Where the wire carries text anyway, only the type's name changes.
        return replace(rule, type="text") if rule.type == "json" else text_rule(column.type_id, "", "")
    return None


def _list_reading(table: Table, column: Column, element: Column, choice: ColumnChoice) -> Reading:
    rule = _rule(element)
    if choice.type is not None:
        offered = ("text", *(f"list({name})" for name in (rule.type, *rule.choices)))
        inner = element_name(choice.type)
        chosen = None if inner is None else _chosen(element, rule, inner)
        rule = chosen or refuse_type(table, column, choice.type, *offered)
    select, wire_type, element_type = PLAIN, column.type_id, element.declared_id
    if rule.select != PLAIN:
        select, wire_type, element_type = rule.select_array, _ARRAY_OIDS[rule.wire_oid], rule.wire_oid
    listed = replace(rule, type=f"list({rule.type})", form="list", select=select, beyond=("other shapes",))
    made = _made(column, listed, choice)
    return replace(made, wire_type=wire_type, element_form=rule.form, element_type=element_type)


def _made(column: Column, rule: TypeRule, choice: ColumnChoice) -> Reading:
    replaced = choice.unrepresentable == "null" and bool(rule.beyond)
    return Reading(
        field=field_of(column, rule.type, replaced=replaced),
        select=rule.select,
        form=rule.form,
        wire_type=rule.wire_oid or column.type_id,
        replace=replaced,
    )
