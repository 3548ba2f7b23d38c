"""The SQL of one table's key. Bounds are bound values; the server casts and compares them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rivet_dagster.errors import SourceError
from rivet_dagster.sources.base import Key, KeyRange, KeyText, Table, null_key
from rivet_dagster.sources.mysql.rules import NOT_FAITHFUL, rule_of


def quoted(name: str) -> str:
    """An identifier, quoted."""
    return "`" + name.replace("`", "``") + "`"


def relation(table: Table) -> str:
    """The table's quoted name, with its schema."""
    return f"{quoted(table.schema)}.{quoted(table.name)}"


class KeyShape:
    """How statements name, order and bound a table's key.

    Args:
        table: the table.
        key: the key; without columns for a table that is read as a whole.
    """

    def __init__(self, table: Table, key: Key) -> None:
        self._names = [f"t.{quoted(name)}" for name in key.columns]
        rules = [rule_of(table.column(name)) for name in key.columns]
        self._bounds = [rule.key for rule in rules]
        self.table = relation(table)
        self.index = quoted(key.index)
        self.columns = ", ".join(self._names)
        self.texts = ", ".join(spelled(rule.key_text, name) for rule, name in zip(rules, self._names, strict=True))
        self.descending = ", ".join(f"{name} DESC" for name in self._names)

    def where(self, span: KeyRange, bind: Callable[[str], str]) -> str:
        """` WHERE` over the rows of `span`.

        Args:
            span: what to read.
            bind: gives the SQL for each value of a bound, from left to right: a placeholder, or a literal.
        """
        conditions = [
            self._beyond(operator, last, bound, bind)
            for operator, last, bound in ((">", ">", span.lo), ("<", "<=", span.hi))
            if bound
        ]
        return " WHERE " + " AND ".join(conditions) if conditions else ""

    def _beyond(self, operator: str, last: str, bound: KeyText, bind: Callable[[str], str]) -> str:
        """A comparison with a bound column by column: the servers take no row values for a range of an index."""
        if len(bound) != len(self._names):
            raise ValueError(f"a bound of {len(bound)} values for a key of {len(self._names)} columns")
        terms = []
        for size in range(1, len(bound) + 1):
            operators = ["="] * (size - 1) + [last if size == len(bound) else operator]
            compared = zip(self._names, operators, self._bounds, bound, strict=False)
            terms.append(
                " AND ".join(f"{name} {sign} {spelled(sql, bind(value), '?')}" for name, sign, sql, value in compared)
            )
        return "(" + " OR ".join(f"({term})" for term in terms) + ")"


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
