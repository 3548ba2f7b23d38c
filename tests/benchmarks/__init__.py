"""What an export costs, measured beside other ways from PostgreSQL to Parquet in one run: `python -m tests.benchmarks`.

    __main__.py     the command line
    suite.py        which contender runs on which table, and how often
    stage.py        a private server with the tables
    contender.py    what a contender is; contenders/ has them all
    child.py        runs one contender in a process of its own
    measure.py      starts that process and measures it
    limits.py       what must hold
    report.py       the tables, for the terminal and for Markdown

A megabyte (MB) is 1,000,000 bytes everywhere.
"""
