"""Tables whose rows are long: one of long texts, one of many columns."""

from __future__ import annotations

from tests.benchmarks.stage import Table

_TEXT_BYTES = 40_000
_BROAD_COLUMNS = 400

# A digest over and over: the server keeps a text in half a kilobyte, and sends all of it.
_PROSE = f"""
CREATE UNLOGGED TABLE public.prose (id integer NOT NULL, body text NOT NULL);
INSERT INTO public.prose SELECT n, repeat(md5(n::text), {_TEXT_BYTES // 32}) FROM generate_series(1, %(rows)s) AS n;
ALTER TABLE public.prose ADD PRIMARY KEY (id);
"""

# Types, and values out of the row's number h and the column's number c.
_KINDS = (
    ("integer", "NULLIF((h + {c}) % 1000003, {c})"),
    ("bigint", "h * {c}"),
    ("double precision", "(h % 10007)::float8 / {c}"),
    ("date", "DATE '1990-01-01' + ((h + {c}) % 12000)::integer"),
    ("text", "'v' || (h + {c}) % 9973"),
    ("numeric(12,2)", "((h + {c}) % 99991) * 0.01"),
    ("smallint", "(h + {c}) % 30011"),
    ("numeric(20,6)", "NULLIF((h % {c}) * 0.000001, 0)"),
)


def _broad() -> str:
    """A script that makes the table of many columns: the key, and every kind in turn."""
    kinds = [(number, *_KINDS[number % len(_KINDS)]) for number in range(1, _BROAD_COLUMNS)]
    columns = ", ".join(f"c{number} {kind}" for number, kind, _ in kinds)
    values = ", ".join(value.format(c=number) for number, _, value in kinds)
    return f"""
CREATE UNLOGGED TABLE public.broad (id integer NOT NULL, {columns});
INSERT INTO public.broad SELECT n, {values}
  FROM (SELECT n, hashint8(n)::bigint & 2147483647 AS h FROM generate_series(1, %(rows)s) AS n) AS numbers;
ALTER TABLE public.broad ADD PRIMARY KEY (id);
"""


WIDE_ROWS = 1_000_000
WIDE = (
    Table("prose", _PROSE, "id", WIDE_ROWS, f"an integer key and a text of {_TEXT_BYTES:,} bytes"),
    Table(
        "broad",
        _broad(),
        "id",
        WIDE_ROWS,
        f"{_BROAD_COLUMNS} columns: integers, floats, dates, short texts, numerics, some NULLs",
    ),
)
