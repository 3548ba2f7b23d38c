"""What an export costs, measured beside other ways to Parquet in one run: `python -m tests.benchmarks`.

    __main__.py     the command line
    suite.py        which contender runs on which table, and how often
    insight.py      what the default contender's time goes to: first use, start-up, row fingerprint, decoding
    overhead.py     what Dagster adds: to a window, to an import, to the commands of `dg`
    stage.py        a private PostgreSQL server with the tables
    mariadb.py      a private MariaDB server with the same tables, and one under binary UUIDs
    wide.py         the tables of long rows
    contender.py    what a contender is; contenders/ has them all
    child.py        runs one contender in a process of its own
    measure.py      starts that process and measures it
    steps.py        runs the default contender step by step, in a process of its own
    reading.py      the pages of an export, with and without decoding
    limits.py       what should hold
    sections.py     the tables of the report
    report.py       the report, for the terminal, as Markdown and as JSON

A megabyte (MB) is 1,000,000 bytes everywhere.
"""
