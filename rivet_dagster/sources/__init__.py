"""Sources. `open_source` finds the engine that an address names; each engine is one package or module."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import cast

from rivet_dagster.errors import ConfigError
from rivet_dagster.sources.base import Source, SourceLimits, TypeChoices

__all__ = ["ENGINES", "Source", "SourceLimits", "TypeChoices", "open_source", "warm_engines"]

# Address scheme -> module and class. Imported when first used: a code location that only loads never pays.
ENGINES = {
    "postgresql": "rivet_dagster.sources.postgres.source:PostgresSource",
    "postgres": "rivet_dagster.sources.postgres.source:PostgresSource",
    "mysql": "rivet_dagster.sources.mysql.source:MysqlSource",
    "mariadb": "rivet_dagster.sources.mysql.source:MysqlSource",
}


def open_source(dsn: str, limits: SourceLimits | None = None, types: TypeChoices | None = None) -> Source:
    """The source at an address such as `postgresql://reader@db.example.com/shop`; nothing is connected yet.

    Args:
        dsn: the address.
        limits: time-outs; None for the usual ones.
        types: what the user wants of the columns' types; None for the usual ones.

    Raises:
        ConfigError: RIVET_CONFIG_SOURCE for a scheme without an engine, or an engine whose driver is not installed.
    """
    scheme, separator, _ = dsn.partition("://")
    if not separator or scheme not in ENGINES:
        raise ConfigError(
            "RIVET_CONFIG_SOURCE",
            "The source's address does not begin with the name of an engine.",
            f"Write it as one of: {', '.join(f'{name}://user@host/database' for name in ENGINES)}.",
            fatal=True,
        )
    module, _, name = ENGINES[scheme].partition(":")
    try:
        engine = getattr(import_module(module), name)
    except ModuleNotFoundError as exc:
        raise ConfigError(
            "RIVET_CONFIG_SOURCE",
            f"The driver for {scheme} is not installed: there is no module {exc.name}.",
            f"Install it with: pip install 'rivet-dagster[{module.split('.')[2]}]'.",
            fatal=True,
        ) from exc
    return cast("Source", engine(dsn, limits or SourceLimits(), types or TypeChoices()))


def warm_engines() -> None:
    """Load the compiled code of every engine whose driver is installed."""
    for module in dict.fromkeys(place.partition(":")[0] for place in ENGINES.values()):
        with suppress(ModuleNotFoundError):
            import_module(module).warm()
