"""Tables for tests and benchmarks, made by the server itself."""

from __future__ import annotations

from typing import Any

import psycopg

_WORDS = "'{carefully,final,deposits,sleep,furiously,even,requests,haggle,blithely,ironic,packages,quickly}'::text[]"

# The columns of TPC-H's lineitem behind a key of its own: integers, exact decimals, dates and short texts.
LINEITEM = f"""
CREATE TABLE public.lineitem (
    id bigint NOT NULL,
    l_orderkey bigint NOT NULL,
    l_partkey integer NOT NULL,
    l_suppkey integer NOT NULL,
    l_linenumber integer NOT NULL,
    l_quantity numeric(15,2) NOT NULL,
    l_extendedprice numeric(15,2) NOT NULL,
    l_discount numeric(15,2) NOT NULL,
    l_tax numeric(15,2) NOT NULL,
    l_returnflag char(1) NOT NULL,
    l_linestatus char(1) NOT NULL,
    l_shipdate date NOT NULL,
    l_commitdate date NOT NULL,
    l_receiptdate date NOT NULL,
    l_shipinstruct char(25) NOT NULL,
    l_shipmode char(10) NOT NULL,
    l_comment varchar(44) NOT NULL
);
INSERT INTO public.lineitem
SELECT n, n / 4 * 8 + 1, h % 200000, h % 10000, n % 7 + 1,
       (h % 50 + 1)::numeric, ((h % 10000000) / 100.0)::numeric(15,2), (h % 11) / 100.0, (h % 9) / 100.0,
       substr('ANR', (h % 3)::int + 1, 1), substr('OF', (h % 2)::int + 1, 1),
       DATE '1992-01-02' + (h % 2500)::int, DATE '1992-01-31' + (h % 2400)::int, DATE '1992-01-04' + (h % 2520)::int,
       ('{{DELIVER IN PERSON,COLLECT COD,NONE,TAKE BACK RETURN}}'::text[])[h % 4 + 1],
       ('{{REG AIR,AIR,RAIL,SHIP,TRUCK,MAIL,FOB}}'::text[])[h % 7 + 1],
       ({_WORDS})[h % 12 + 1] || ' ' || ({_WORDS})[h / 12 % 12 + 1] || ' ' || ({_WORDS})[h / 144 % 12 + 1]
  FROM (SELECT n, abs(hashint8(n))::bigint AS h FROM generate_series(1, %(rows)s) AS n) AS numbers;
ALTER TABLE public.lineitem ADD PRIMARY KEY (id);
"""

# Wide and narrow types with a fifth of the values missing, under a key without order.
EVENTS = """
CREATE TABLE public.events (
    id uuid NOT NULL,
    at timestamptz NOT NULL,
    local timestamp,
    kind text NOT NULL,
    payload jsonb,
    note text,
    amount numeric(38,10),
    ratio double precision,
    score real,
    flag boolean,
    raw bytea,
    small smallint
);
INSERT INTO public.events
SELECT md5(n::text)::uuid, TIMESTAMPTZ '2024-01-01' + n * INTERVAL '1.000001 second',
       CASE WHEN n % 5 <> 0 THEN TIMESTAMP '2024-01-01' + n * INTERVAL '1 second' END,
       ('{click,view,purchase,refund}'::text[])[n % 4 + 1],
       CASE WHEN n % 5 <> 1 THEN jsonb_build_object('user', n % 1000, 'path', '/p/' || md5(n::text)) END,
       CASE WHEN n % 5 <> 2 THEN repeat(md5(n::text), (n % 4)::int) END,
       CASE WHEN n % 5 <> 3 THEN (n * 1234567.0123456789)::numeric(38,10) END,
       CASE WHEN n % 5 <> 4 THEN n / 7.0 END,
       CASE WHEN n % 5 <> 0 THEN (n % 1000) / 3.0 END,
       CASE WHEN n % 5 <> 1 THEN n % 2 = 0 END,
       CASE WHEN n % 5 <> 2 THEN decode(md5(n::text), 'hex') END,
       CASE WHEN n % 5 <> 3 THEN (n % 30000)::smallint END
  FROM generate_series(1, %(rows)s) AS n;
ALTER TABLE public.events ADD PRIMARY KEY (id);
"""


def make_table(connection: psycopg.Connection[Any], script: str, rows: int) -> None:
    """Run a script that creates and fills a table, and let the server count its rows."""
    for statement in script.split(";\n"):
        if statement.strip():
            connection.execute(statement.replace("%(rows)s", str(rows)))  # type: ignore[call-overload]
    connection.execute("VACUUM ANALYZE")
