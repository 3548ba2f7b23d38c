"""The SQL of one table's key. Bounds are literals that the driver quotes and the server casts and compares."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from rivet_dagster.sources.base import Key, KeyRange, KeyText, Table, null_key

_NOTHING = sql.SQL("")


def relation(table: Table) -> sql.Composable:
    """What rows come from: the table's name with its schema, or a query in parentheses."""
    if table.kind == "query":
        # Its last line may be a comment.
        return sql.SQL("({}\n)").format(sql.SQL(table.query))  # the user's own words
    return sql.Identifier(table.schema, table.name)


class KeyShape:
    """How statements name, order and bound a table's key.

    Args:
        table: the table.
        key: the order; without columns for a table that is read as a whole.
    """

    def __init__(self, table: Table, key: Key) -> None:
        self._key = key
        self._names = [sql.Identifier("t", name) for name in key.columns]
        columns = [table.column(name) for name in key.columns]
        self.types = [column.compared_as or column.native_type for column in columns]
        self._compared = [
            sql.SQL("{}::{}").format(name, sql.SQL(column.compared_as)) if column.compared_as else name
            for name, column in zip(self._names, columns, strict=True)
        ]
        self.table = relation(table)
        self.columns = _listed(self._names)
        self.texts = _listed([sql.SQL("{}::text").format(name) for name in self._names])
        self.descending = _listed([sql.SQL("{} DESC").format(name) for name in self._names])

    def order(self, span: KeyRange) -> sql.Composable:
        """` ORDER BY` for the rows of `span`; nothing where the key does not tell rows apart.

        Rows with NULL are ordered by it all the same: only so does the index on all columns serve their order.
        """
        ordered = self._key.unique and len(self._names) > span.nulls
        return sql.SQL(" ORDER BY {}").format(_listed(self._names)) if ordered else _NOTHING

    def where(self, span: KeyRange) -> sql.Composable:
        """` WHERE` over the rows of `span`, in the row-value form that an index range scan serves."""
        found = self._nulls(span) if span.nulls else self._bounds(span)
        return sql.SQL(" WHERE ") + sql.SQL(" AND ").join(found) if found else _NOTHING

    def equal(self, key: KeyText, *, nulls: bool) -> sql.Composable:
        """` WHERE` over the rows that have the key of a row, as `KeyRange.after` has it."""
        found = [self._is_null()] if nulls else []
        return sql.SQL(" WHERE ") + sql.SQL(" AND ").join([*found, self._compare("=", key, first=int(nulls))])

    def _is_null(self) -> sql.Composable:
        return sql.SQL("{} IS NULL").format(self._names[0])

    def _nulls(self, span: KeyRange) -> list[sql.Composable]:
        found = [self._is_null()]
        if span.after:
            found.append(self._compare(">", span.after, first=1))
        return found

    def _bounds(self, span: KeyRange) -> list[sql.Composable]:
        lower, upper = (">=", "<") if span.half_open else (">", "<=")
        if span.after is not None:
            bounds = [(">", span.after), (upper, span.hi)]  # it is beyond the lower bound
        else:
            bounds = [(lower, span.lo), (upper, span.hi)]
        found = [self._compare(operator, bound) for operator, bound in bounds if bound]
        if not found and self._key.nullable:
            found.append(sql.SQL("{} IS NOT NULL").format(self._names[0]))
        return found

    def _compare(self, operator: str, bound: KeyText, first: int = 0) -> sql.Composable:
        """The key's columns from the `first` one on, compared with as many values as there are."""
        if first + len(bound) > len(self.types):
            raise ValueError(f"a bound of {len(bound)} values for a key of {len(self.types) - first} columns")
        names = self._compared[first : first + len(bound)]
        values = [self._literal(value, first + place) for place, value in enumerate(bound)]
        if self._key.declared and first + len(bound) > 1:
            return _by_columns(names, operator, values, nullable=bool(first))
        return sql.SQL("({}) {} ({})").format(_listed(names), sql.SQL(operator), _listed(values))

    def _literal(self, value: str, place: int) -> sql.Composable:
        # The type's name comes from the server's own format_type, quoted as it must be.
        return sql.SQL("{}::{}").format(sql.Literal(value), sql.SQL(self.types[place]))


def _by_columns(
    names: Sequence[sql.Composable], operator: str, values: Sequence[sql.Composable], *, nullable: bool
) -> sql.Composable:
    """A comparison column by column, in which NULL is greater than any value, as it is in the order of rows.

    With row values, rows with a NULL behind the first column would be in no range, and lost without a word.

    Args:
        names: the columns.
        operator: how they are compared.
        values: one for each.
        nullable: whether the first of them may be NULL, too.
    """
    if operator == "=":
        return sql.SQL(" AND ").join(_one(name, "=", value) for name, value in zip(names, values, strict=True))
    terms = []
    for size in range(1, len(values) + 1):
        operators = ["="] * (size - 1) + [operator if size == len(values) else operator[0]]
        compared = zip(names, operators, values, strict=False)
        terms.append(
            sql.SQL(" AND ").join(
                _or_null(name, sign, value) if place or nullable else _one(name, sign, value)
                for place, (name, sign, value) in enumerate(compared)
            )
        )
    found = sql.SQL(" OR ").join(sql.SQL("({})").format(term) for term in terms)
    if nullable:
        return sql.SQL("({})").format(found)
    # The first column alone is what an index below the view can be searched by.
    return sql.SQL("({} AND ({}))").format(_one(names[0], operator[0] + "=", values[0]), found)


def _or_null(name: sql.Composable, sign: str, value: sql.Composable) -> sql.Composable:
    compared = _one(name, sign, value)
    return sql.SQL("({} OR {} IS NULL)").format(compared, name) if sign.startswith(">") else compared


def _one(name: sql.Composable, sign: str, value: sql.Composable) -> sql.Composable:
    return sql.SQL("{} {} {}").format(name, sql.SQL(sign), value)


def _listed(parts: Sequence[sql.Composable]) -> sql.Composable:
    return sql.SQL(", ").join(parts)


def key_text(values: Sequence[bytes | str | None]) -> KeyText:
    """A key that the server wrote as text.

    Raises:
        SourceError: RIVET_KEY_NULL.
    """
    if any(value is None for value in values):
        raise null_key()
    return tuple(value.decode() if isinstance(value, bytes) else value for value in values if value is not None)
