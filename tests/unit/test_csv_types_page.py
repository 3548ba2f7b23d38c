"""The reference page of types is what its generator writes."""

from __future__ import annotations

from docs import typespage


def test_the_page_is_what_its_generator_writes() -> None:
    assert typespage.PAGE.read_text() == typespage.page(), "run: python -m docs.typespage"
