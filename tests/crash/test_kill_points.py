"""SIGKILL at every boundary of an export, then the same command again: the result is the undisturbed one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rivet_dagster.export.faults import POINTS
from tests.support.cli import Result, rivet
from tests.support.readers import assert_same, exported_rows, source_rows, tree

# Events are Dagster's: a death there is tried in tests/e2e.
REACHED = [point for point in POINTS if point not in {"before_event", "after_event"}]


def export(dsn: str, lake: Path, spool: Path, fault: str = "") -> Result:
    arguments = ("--table", "public.orders", "--to", str(lake), "--rows-per-window", "400", "--json")
    return rivet("export", "--source", dsn, *arguments, env={"RIVET_FAULT": fault, "RIVET_SPOOL_DIR": str(spool)})


@pytest.mark.parametrize("point", REACHED)
def test_killed_and_started_again(point: str, dsn: str, sql: Callable[[str], Any], tmp_path: Path) -> None:
    sql("CREATE TABLE public.orders (id int PRIMARY KEY, note text)")
    sql("INSERT INTO public.orders SELECT n, 'order ' || n FROM generate_series(1, 2000) AS n")
    spool = tmp_path / "spool"
    nth = 1 if point in {"after_plan_segment", "during_seal"} else 3
    assert export(dsn, tmp_path / "killed", spool, f"{point}:{nth}:kill").code == -9
    resumed = export(dsn, tmp_path / "killed", spool)
    assert resumed.code == 0, resumed.err
    assert export(dsn, tmp_path / "undisturbed", spool).code == 0
    killed, undisturbed = (tree(tmp_path / name / "public.orders") for name in ("killed", "undisturbed"))
    assert killed.keys() == undisturbed.keys(), "no file too many, none too few"
    assert all(killed[name] == undisturbed[name] for name in killed if "/windows/" not in name)
    assert_same(exported_rows(tmp_path / "killed/public.orders"), source_rows(dsn, "public.orders", "id"))
    assert list(spool.iterdir()) == [], "no spool of a dead process is left"
