"""A process of its own that exports a case, with the libraries that its environment puts first."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa

from tests.support.exports import export_all
from tests.support.universe.cases import Case
from tests.support.universe.roundtrip import export_of


def main(dsn: str, case: str, lake: str) -> None:
    """Export the case in this file to a lake, and say with which pyarrow."""
    export_all(export_of(dsn, Case.from_json(Path(case).read_text()), Path(lake)))
    print(pa.__version__)  # noqa: T201 (it is the answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
