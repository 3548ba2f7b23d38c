"""The reference pages of types are what their generator writes."""

from __future__ import annotations

from docs import typespage


def test_the_pages_are_what_their_generator_writes() -> None:
    assert typespage.PAGE.read_text() == typespage.page(), "run: python -m docs.typespage"
    assert typespage.MYSQL_PAGE.read_text() == typespage.mysql_page(), "run: python -m docs.typespage"
