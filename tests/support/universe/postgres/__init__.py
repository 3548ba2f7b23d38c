"""PostgreSQL, as the tests see it."""
