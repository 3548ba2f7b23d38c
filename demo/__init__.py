"""The demo: five real tables, a private PostgreSQL or MariaDB, Dagster's services and Parquet in a local folder."""


class DemoError(RuntimeError):
    """Something that the demo needs failed; the message says what, and where to look."""
