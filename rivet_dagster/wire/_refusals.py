"""Why rows or their values were refused, in words that every protocol shares. Only errors pay for this module."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from rivet_dagster.errors import SourceError

_REPLACING = "null to have NULL in its place, counted, or to text to have the column as the server's text"


def malformed(what: str) -> SourceError:
    """`RIVET_PROTOCOL_ERROR`: the bytes are no rows."""
    return SourceError(
        "RIVET_PROTOCOL_ERROR",
        f"The rows that the server sent cannot be read: {what}.",
        "Treat it as a broken connection: the window is read again on a new one.",
        retryable=True,
    )


def unexpected_null(field: pa.Field[Any]) -> SourceError:
    """`RIVET_VALUE_UNSUPPORTED`: NULL where none may be."""
    return SourceError(
        "RIVET_VALUE_UNSUPPORTED",
        f"Column {field.name} holds NULL, but the catalog said that it never does.",
        "Plan the export again if the column became nullable.",
    )


def too_large(field: pa.Field[Any]) -> SourceError:
    """`RIVET_VALUE_TOO_LARGE`: the values of one batch pass what 32-bit offsets can address."""
    return SourceError(
        "RIVET_VALUE_TOO_LARGE",
        f"Column {field.name} holds more than 2 GiB in one batch, which {field.type} cannot address.",
        "Use smaller batches, or export a view that leaves such values out.",
    )


def invalid_text(field: pa.Field[Any], bytes_type: str) -> SourceError:
    """`RIVET_VALUE_UNSUPPORTED`: a text that Arrow does not take; `bytes_type` is what the engine calls any bytes."""
    return SourceError(
        "RIVET_VALUE_UNSUPPORTED",
        f"Column {field.name} holds text that is not valid UTF-8, which {field.type} cannot hold exactly.",
        f"Correct the value, or export a view that converts it to {bytes_type}.",
    )


def unsupported(field: pa.Field[Any], what: str, *, replaceable: bool) -> SourceError:
    """`RIVET_VALUE_UNSUPPORTED`: a value that Arrow cannot hold; `replaceable` if NULL could take its place."""
    return SourceError(
        "RIVET_VALUE_UNSUPPORTED",
        f"Column {field.name} holds {what}, which {field.type} cannot hold exactly.",
        f"Correct the value, or set the column's option unrepresentable to {_REPLACING}."
        if replaceable
        else "Correct the value, or give the column a type that can hold it: a wider decimal, or text.",
    )
