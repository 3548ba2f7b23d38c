"""The SQL of one table's key. Bounds are bound values; the server casts and compares them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from rivet_dagster.errors import SourceError
from rivet_dagster.sources.base import Key, KeyRange, KeyText, Table, null_key
from rivet_dagster.sources.mysql.queries import trimmed
from rivet_dagster.sources.mysql.rules import NOT_FAITHFUL, rule_of

# Why a unique index is no key, where nothing else is against it.
MAY_BE_NULL: Final = "a column of it may be NULL"


def quoted(name: str) -> str:
    """An identifier, quoted."""
    return "`" + name.replace("`", "``") + "`"


def relation(table: Table) -> str:
    """What rows come from: the table's quoted name, with its schema, or its query in parentheses."""
    if table.kind == "query":
        return f"({trimmed(table.query)}\n)"  # behind a line's end, where a comment would swallow it
    return f"{quoted(table.schema)}.{quoted(table.name)}"


class KeyShape:
    """How statements name, order and bound a table's key.

    NULL is the least value, as the servers sort it. Only of a declared key can another column than the first be NULL:
    such rows are then below every bound that they are compared with, and none is lost.

    Args:
        table: the table.
        key: the key; without columns for a table that is read as a whole.

    Attributes:
        table: what follows FROM.
        hint: what follows that and its alias `t`: the index that is forced, if there is one.
        texts: the key as texts, for a list of what is selected.
        columns, descending: for ORDER BY.
        bare_nulls: no order can be kept among rows whose first column is NULL.

    Raises:
        SourceError: RIVET_KEY_UNUSABLE for a declared key that the server does not sort by as it compares.
    """

    def __init__(self, table: Table, key: Key) -> None:
        rules = [rule_of(table.column(name)) for name in key.columns]
        unordered = [name for name, rule in zip(key.columns, rules, strict=True) if not rule.key]
        if unordered:
            raise SourceError(
                "RIVET_KEY_UNUSABLE",
                f"Values of {', '.join(unordered)} in {table.label} are not compared in the order that they sort in.",
                "Name other columns.",
                fatal=True,
            )
        self._names = [f"t.{quoted(name)}" for name in key.columns]
        self._bounds = [rule.key for rule in rules]
        self._key = key
        self._compared = _compared(table, key)
        ordered = self._names[: self._compared]
        self.table = relation(table)
        self.hint = f" FORCE INDEX ({quoted(key.index)})" if key.index else ""
        self.columns = ", ".join(ordered)
        self.texts = ", ".join(spelled(rule.key_text, name) for rule, name in zip(rules, self._names, strict=True))
        self.descending = ", ".join(f"{name} DESC" for name in ordered)
        self.bare_nulls = self._compared < len(key.columns) or len(key.columns) == 1

    def order(self, span: KeyRange) -> str:
        """For ORDER BY; rows with NULL are sorted by the other columns alone, or the servers sort what is sorted."""
        return ", ".join(self._names[1:]) if span.nulls else self.columns

    def where(self, span: KeyRange, bind: Callable[[str], str]) -> str:
        """` WHERE` over the rows of `span`.

        Args:
            span: what to read.
            bind: gives the SQL for each value of a bound, from left to right: a placeholder, or a literal.
        """
        if span.nulls:
            # IS NULL also finds the date 0000-00-00, where a column behind a view or a query is declared NOT NULL.
            conditions = [f"{self._names[0]} <=> NULL"]
            if span.after:
                conditions.append(self._beyond(">", ">", self._whole(span.after, 1), bind, 1))
        else:
            conditions = self._between(span, bind)
        return " WHERE " + " AND ".join(conditions) if conditions else ""

    def _between(self, span: KeyRange, bind: Callable[[str], str]) -> list[str]:
        conditions = []
        if span.after:
            conditions.append(self._beyond(">", ">", self._whole(span.after, 0), bind))
        elif span.lo:
            conditions.append(self._beyond(">", ">=" if span.half_open else ">", span.lo, bind))
        if span.hi:
            conditions.append(self._beyond("<", "<" if span.half_open else "<=", span.hi, bind))
        if self._key.nullable and not conditions:
            conditions.append(f"{self._names[0]} IS NOT NULL")
        return conditions

    def equals(self, key: KeyText, bind: Callable[[str], str], *, nulls: bool) -> str:
        """` WHERE` over the rows that have the key of a row, as `KeyRange.after` has it."""
        first = int(nulls)
        bound = [spelled(sql, bind(value), "?") for sql, value in zip(self._bounds[first:], key, strict=True)]
        conditions = [f"{self._names[0]} <=> NULL"] if nulls else []
        conditions += [f"{name} = {sql}" for name, sql in zip(self._names[first:], bound, strict=True)]
        return " WHERE " + " AND ".join(conditions)

    def _whole(self, key: KeyText, first: int) -> KeyText:
        if len(key) != len(self._names) - first:
            raise ValueError(f"{len(key)} values of a row for a key of {len(self._names)} columns")
        return key

    def _beyond(self, operator: str, last: str, bound: KeyText, bind: Callable[[str], str], first: int = 0) -> str:
        """A comparison with a bound column by column: the servers take no row values for a range of an index.

        Args:
            operator: for every column but the last one of the bound.
            last: for the last one.
            bound: values of the columns from `first` on, of as many as there are.
            bind: as in `where`.
            first: the first column.
        """
        if len(bound) > len(self._names) - first:
            raise ValueError(f"a bound of {len(bound)} values for a key of {len(self._names)} columns")
        bound = bound[: self._compared - first]
        terms = []
        for size in range(1, len(bound) + 1):
            operators = ["="] * (size - 1) + [last if size == len(bound) else operator]
            terms.append(
                " AND ".join(
                    self._comparison(first + at, sign, bind(value))
                    for at, (sign, value) in enumerate(zip(operators, bound, strict=False))
                )
            )
        return "(" + " OR ".join(f"({term})" for term in terms) + ")"

    def _comparison(self, column: int, sign: str, value: str) -> str:
        name = self._names[column]
        found = f"{name} {sign} {spelled(self._bounds[column], value, '?')}"
        loose = self._key.declared and not (self._key.nullable and column == 0)
        return f"({found} OR {name} <=> NULL)" if loose and sign.startswith("<") else found


def _compared(table: Table, key: Key) -> int:
    """How many of the key's columns tell rows apart that have no NULL.

    The servers sort by what stands behind the columns of a unique index, although no two rows get that far.
    """
    if (key.index, MAY_BE_NULL) in table.rejected_keys:
        for index in table.indexes:
            if index.name == key.index and key.columns[: len(index.columns)] == index.columns:
                return len(index.columns)
    return len(key.columns)


def spelled(template: str, sql: str, place: str = "{}") -> str:
    """A rule's template with `sql` in its places, which may look like a place itself."""
    return sql.join(template.split(place))


def key_text(values: Sequence[object]) -> KeyText:
    """A key that the server wrote as text.

    Raises:
        SourceError: RIVET_KEY_NULL; RIVET_VALUE_UNSUPPORTED for a text that Unicode does not have.
    """
    texts: list[str] = []
    for value in values:
        if value is None:
            raise null_key()
        if isinstance(value, bytes) and value == NOT_FAITHFUL:
            raise SourceError(
                "RIVET_VALUE_UNSUPPORTED",
                "A key column holds a text that its character set and Unicode do not write alike.",
                "Correct the value, or plan by another key.",
            )
        texts.append(value.decode() if isinstance(value, bytes) else str(value))
    return tuple(texts)
