"""Names: of tables as people write them, of windows, and of everything below an export's folder."""

from __future__ import annotations

import hashlib
import re

from rivet_dagster.errors import ConfigError

_PART = re.compile(r'\s*(?:"((?:[^"]|"")+)"|([^".\s]+))\s*')
_WINDOW_KEY = re.compile(r"g([1-9][0-9]*)-w([0-9]{6,})")
_PLAIN = re.compile(r"[A-Za-z0-9_-]")
# File systems take names of 255 bytes. Of a longer one, so many characters stay for people to read.
_LONGEST_FOLDER = 255
_READABLE = 100
_HASH_DIGITS = 32

MANIFEST = "manifest.json"
SUCCESS = "_SUCCESS"
WORK = "work.json"
QUARANTINE = "quarantine"


def parse_table(text: str) -> tuple[str, str]:
    """Schema and name from `schema.table`, either part possibly in double quotes.

    Raises:
        ConfigError: RIVET_CONFIG_TABLE.
    """
    first = _PART.match(text)
    if first and text[first.end() : first.end() + 1] == ".":
        second = _PART.fullmatch(text, first.end() + 1)
        if second:
            return _unquoted(first), _unquoted(second)
    raise ConfigError(
        "RIVET_CONFIG_TABLE",
        f"{text!r} is no table name.",
        'Write schema.table, with double quotes around a part that holds dots, quotes or spaces: "My Schema".orders.',
        fatal=True,
    )


def _unquoted(match: re.Match[str]) -> str:
    quoted, plain = match.groups()
    return plain if quoted is None else str(quoted).replace('""', '"')


def table_folder(schema: str, name: str) -> str:
    """Name of an export's folder: `schema.table`, with plain names; a name over 255 bytes ends in its hash instead.

    Distinct tables have distinct folders.
    """
    folder = f"{plain_name(schema)}.{plain_name(name)}"
    if len(folder) <= _LONGEST_FOLDER:
        return folder
    # Whole names have one point and shortened ones none, so neither can be taken for the other.
    readable = folder[:_READABLE].replace(".", "-")
    return f"{readable}-{hashlib.sha256(folder.encode()).hexdigest()[:_HASH_DIGITS]}"


def plain_name(text: str) -> str:
    """The text with all but ASCII letters, digits, `_` and `-` escaped as SQL/XML does (`_x0020_`)."""
    # An underscore that would read as the start of an escape is escaped itself, so that names stay distinct.
    return "".join(
        c if _PLAIN.fullmatch(c) and not (c == "_" and text[i + 1 : i + 2] == "x") else f"_x{ord(c):04X}_"
        for i, c in enumerate(text)
    )


def window_key(generation: int, index: int) -> str:
    """Opaque name of a window and of its Dagster partition: `g1-w000017`."""
    return f"g{generation}-w{index:06d}"


def window_stem(key: str) -> str:
    """What a window is called within its generation: `w000017`, or of a slice of time `t2026-01-31`."""
    match = _WINDOW_KEY.fullmatch(key)
    return f"w{match[2]}" if match else f"t{plain_name(key)}"


def generation_of(key: str) -> int | None:
    """The generation that a window's key names; None for a slice of time, whose key is the same in all."""
    match = _WINDOW_KEY.fullmatch(key)
    return int(match[1]) if match else None


def plan_folder(generation: int) -> str:
    """Folder of a generation's plan segments."""
    return f"g{generation}/plan"


def segment_path(generation: int, number: int) -> str:
    """Path of one plan segment; numbers begin at 1."""
    return f"{plan_folder(generation)}/{number:06d}.json"


def window_folder(generation: int) -> str:
    """Folder of a generation's window manifests."""
    return f"g{generation}/windows"


def window_path(generation: int, key: str) -> str:
    """Path of a window's manifest, whose write commits the window."""
    return f"{window_folder(generation)}/{window_stem(key)}.json"


def data_folder(generation: int) -> str:
    """Folder of a generation's data files."""
    return f"g{generation}/data"


def part_folder(generation: int, key: str) -> str:
    """Folder of a window's data files."""
    return f"{data_folder(generation)}/{window_stem(key)}"


def part_path(generation: int, key: str, part: int, content_fingerprint: str, suffix: str) -> str:
    """Path of a data file: where it belongs and the first 16 digits of what it holds."""
    digits = content_fingerprint.rpartition(":")[2][:16]
    return f"{part_folder(generation, key)}/part-{part:05d}-{digits}.{suffix}"


def seal_path(generation: int, seal_id: str) -> str:
    """Path of the immutable copy of a seal."""
    return f"g{generation}/seals/{seal_id}.json"
