"""Object stores. `open_store` finds the one that an address names; each store is one module."""

from __future__ import annotations

from importlib import import_module
from typing import cast
from urllib.parse import urlsplit

from rivet_dagster.errors import ConfigError
from rivet_dagster.stores.base import Store, StoredObject

__all__ = ["STORES", "Store", "StoredObject", "open_store"]

# Address scheme -> module and class. Imported when first used: a code location that only loads never pays.
STORES = {
    "": "rivet_dagster.stores.local:LocalStore",
    "file": "rivet_dagster.stores.local:LocalStore",
}


def open_store(uri: str) -> Store:
    """The store at an address; nothing is read or written yet.

    Raises:
        ConfigError: RIVET_CONFIG_DESTINATION for a scheme without a store.
    """
    scheme = urlsplit(uri).scheme
    if scheme not in STORES:
        known = ", ".join(f"{name}://" for name in STORES if name)
        raise ConfigError(
            "RIVET_CONFIG_DESTINATION",
            f"There is no store for addresses that begin with {scheme}://.",
            f"Give a folder's path, or an address that begins with one of: {known}.",
            fatal=True,
        )
    module, _, name = STORES[scheme].partition(":")
    return cast("Store", getattr(import_module(module), name)(uri))
