"""Every kind of type: how it is declared and the literals of its values. What is expected of it is in matrix.csv."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from tests.support.universe import values as common
from tests.support.universe.expected import matrix
from tests.support.universe.mysql import values as v
from tests.support.universe.values import Literals


@dataclass(frozen=True)
class Kind:
    """A kind of type.

    Attributes:
        declared: declarations of it.
        values: gives the literals that suit a declaration.
        beyond: literals that its Arrow type cannot hold.
        choices: what the option `type` may ask for.
    """

    declared: Callable[[random.Random], str]
    values: Callable[[str], Literals]
    beyond: tuple[str, ...] = ()
    choices: tuple[str, ...] = ("text",)


def _always(values: Literals) -> Callable[[str], Literals]:
    return lambda _: values


def _one_of(*declared: str) -> Callable[[random.Random], str]:
    return lambda r: r.choice(declared)


def _sized(name: str, least: int, most: int, *others: str) -> Callable[[random.Random], str]:
    """A name with a size, or one of the others."""
    return lambda r: r.choice((f"{name}({r.randint(least, most)})", *others))


def _integer(name: str, bits: int, *choices: str) -> dict[str, Kind]:
    wide = _one_of(name, f"{name}(5)")
    unsigned = _one_of(f"{name} unsigned", f"{name} unsigned zerofill", f"{name}(3) zerofill")
    return {
        name: Kind(wide, _always(common.integers(bits).map(str)), choices=("text", *choices)),
        f"{name} unsigned": Kind(unsigned, _always(common.unsigned(bits).map(str))),
    }


def _decimals(r: random.Random) -> str:
    """Few or many digits: every width that decimals are kept in."""
    precision = r.choice((1, 9, 10, 18, 19, 38, 39, 65, r.randint(1, 65)))
    return f"decimal({precision},{r.randint(0, min(precision, 30))})" + r.choice(("", "", "", " unsigned", " zerofill"))


def _of_decimal(declared: str) -> Literals:
    return v.decimals(*numbers(declared))


def numbers(declared: str) -> tuple[int, int]:
    """The two numbers of a declaration."""
    first, second = map(int, re.findall(r"\d+", declared)[:2])
    return first, second


def charset_of(declared: str) -> str:
    """The character set that a declaration names; `utf8mb4` where it names none."""
    found = re.search(r"CHARACTER SET (\w+)", declared)
    return found[1] if found else "utf8mb4"


def _fractions(name: str, values: Literals, beyond: tuple[str, ...]) -> Kind:
    return Kind(_sized(name, 0, 6, name, f"{name}(6)"), _always(values), beyond)


def _text(name: str, least: int = 0, *, long: bool = False) -> Kind:
    """Texts of a name with a size where `least` says from which one on, in any character set."""
    sized = _sized(name, least, 20) if least else _one_of(name)
    choices = ("json", "binary") if name.endswith("text") and name != "tinytext" else ("binary",)
    return Kind(
        lambda r: sized(r) + r.choice(("", v.charset(r), v.charset(r))),
        lambda text: v.texts(charset_of(text), long=long),
        choices=choices,
    )


def _members(name: str) -> Kind:
    """An ENUM or a SET, in any character set."""

    def declared(charset: str) -> str:
        listed = ",".join(
            "'" + each.replace("\\", "\\\\").replace("'", "''") + "'" for each in v.labels(charset_of(charset))
        )
        return f"{name}({listed}){charset}"

    def values(text: str) -> Literals:
        label = st.sampled_from(v.labels(charset_of(text)))
        # What is no member becomes an empty text.
        return label | st.just("no member") if name == "enum" else st.lists(label, max_size=4).map(",".join)

    return Kind(lambda r: declared(v.charset(r)), values, choices=())


def _bytes(declared: Callable[[random.Random], str], *choices: str) -> Kind:
    return Kind(declared, _always(v.BYTES), choices=("text", *choices))


_SIXTEEN: Literals = st.binary(min_size=16, max_size=16).map(bytes.hex)
_UUIDS: Literals = st.uuids().map(str) | st.sampled_from(("0" * 8 + "-0000" * 3 + "-" + "0" * 12, "f" * 32))

KINDS: dict[str, Kind] = {
    **_integer("tinyint", 8, "bool"),
    "tinyint(1)": Kind(
        _one_of("tinyint(1)", "bool"),
        _always(st.sampled_from(("0", "1"))),
        beyond=("2", "-1", "127", "-128"),
        choices=("bool", "text"),
    ),
    **_integer("smallint", 16),
    **_integer("mediumint", 24),
    **_integer("int", 32),
    **_integer("bigint", 64),
    "decimal": Kind(_decimals, _of_decimal, choices=("text", "decimal(65, 30)", "decimal(76, 38)", "decimal(38, 10)")),
    "float": Kind(_one_of("float", "float", "float(7,3)", "float unsigned"), _always(v.floats(32))),
    "double": Kind(_one_of("double", "double", "double(20,4)", "double unsigned"), _always(v.floats(64))),
    "bit": Kind(_sized("bit", 2, 64), _always(common.unsigned(64).map(str)), choices=()),
    "bit(1)": Kind(_one_of("bit(1)"), _always(st.sampled_from(("0", "1"))), choices=("uint64",)),
    "year": Kind(_one_of("year"), _always(v.YEARS)),
    "date": Kind(_one_of("date"), _always(v.DATES), v.DATES_BEYOND),
    "datetime": _fractions("datetime", v.DATETIMES, v.DATETIMES_BEYOND),
    "timestamp": _fractions("timestamp", v.TIMESTAMPS, ("0000-00-00 00:00:00",)),
    "time": _fractions("time", common.clock(False) | common.clock(), v.TIMES_BEYOND),
    "char": _text("char", 1),
    "varchar": _text("varchar", 1),
    "tinytext": _text("tinytext"),
    "text": _text("text", long=True),
    "mediumtext": _text("mediumtext", long=True),
    "longtext": _text("longtext", long=True),
    "enum": _members("enum"),
    "set": _members("set"),
    "json": Kind(_one_of("json"), _always(common.JSON)),
    "binary": _bytes(_sized("binary", 1, 15, "char(3) CHARACTER SET binary")),
    "binary(16)": Kind(_one_of("binary(16)"), _always(_SIXTEEN), choices=("text", "uuid")),
    "varbinary": _bytes(_sized("varbinary", 1, 40, "varchar(9) CHARACTER SET binary")),
    "tinyblob": _bytes(_one_of("tinyblob")),
    "blob": _bytes(_one_of("blob", "text CHARACTER SET binary")),
    "mediumblob": _bytes(_one_of("mediumblob")),
    "longblob": _bytes(_one_of("longblob")),
    "geometry": Kind(_one_of(*v.SHAPES), v.shapes),
    "uuid": Kind(_one_of("uuid"), _always(_UUIDS)),
    "inet6": Kind(
        _one_of("inet6"), _always(st.ip_addresses(v=6).map(str) | st.sampled_from(("::", "::ffff:1.2.3.4"))), choices=()
    ),
    "inet4": Kind(_one_of("inet4"), _always(st.ip_addresses(v=4).map(str)), choices=()),
}

MATRIX = matrix(Path(__file__).with_name("matrix.csv"))
