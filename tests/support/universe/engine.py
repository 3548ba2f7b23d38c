"""What an engine's package gives to what all engines share."""

from __future__ import annotations

from typing import Protocol

from hypothesis import strategies as st

from tests.support.universe.cases import Case, CaseColumn
from tests.support.universe.expected import Expectation


class Engine(Protocol):
    """A server with a database for the tests' tables."""

    dsn: str
    """Address of the database."""

    @property
    def label(self) -> str:
        """Name and version, for messages."""

    plain_schema: str
    """A schema that is always there."""

    def cases(self) -> st.SearchStrategy[Case]:
        """Cases for this server; shrinks to fewer columns, then fewer rows, then simpler values."""

    def plain_key(self, rows: int) -> CaseColumn:
        """A key of numbers from 1 on, called id."""

    def make_table(self, case: Case) -> None:
        """Create and fill the case's table."""

    def drop_table(self, case: Case) -> None:
        """Drop the case's table, and its schema where it is the case's own."""

    def expectation(self, case: Case) -> Expectation:
        """Ask the server for every value of the case's table, each by the question that its type has."""

    def change(self, case: Case) -> bool:
        """Set one column of one row to a value that stands in another row, or to NULL; whether there was such a row."""
