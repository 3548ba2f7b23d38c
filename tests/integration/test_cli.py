"""The command line: export, resume, validate, errors. No secret may appear anywhere."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from demo.postgres import EmbeddedPostgres
from tests.conftest import PASSWORD
from tests.support.cli import Result, command, rivet
from tests.support.readers import exported_rows, sealed, source_rows, tree

Sql = Callable[[str], list[tuple[Any, ...]]]


@pytest.fixture
def orders(sql: Sql) -> Sql:
    sql(
        "CREATE TABLE public.orders (id int PRIMARY KEY, region text NOT NULL, total numeric(9,2), UNIQUE (region, id))"
    )
    sql("INSERT INTO public.orders SELECT n, 'r' || n % 7, n / 3.0 FROM generate_series(1, 5000) AS n")
    return sql


def export(dsn: str, lake: Path, *more: str, env: dict[str, str] | None = None) -> Result:
    arguments = ("export", "--source", dsn, "--table", "public.orders", "--to", str(lake), "--rows-per-window", "900")
    return rivet(*arguments, *more, env=env)


def test_exports_and_validates(dsn: str, orders: Sql, lake: Path) -> None:
    done = export(dsn, lake, "--json")
    assert done.code == 0, done.err
    assert (done.json["rows"], done.json["windows"], done.json["parts"]) == (5000, 6, 6)
    assert done.json["row_fingerprint"].startswith("rivet-row-1:")
    assert exported_rows(lake / "public.orders") == source_rows(dsn, "public.orders", "id")
    checked = rivet("validate", str(lake / "public.orders"), "--json")
    assert checked.code == 0, checked.err
    assert checked.json["ok"] is True
    assert checked.json["rows"] == 5000


def test_prints_a_table_for_people(dsn: str, orders: Sql, lake: Path) -> None:
    done = export(dsn, lake, "--key", "region, id", "--workers", "1")
    assert done.code == 0, done.err
    for words in ("public.orders is sealed in", "5,000", "longest statement", "rivet-row-1:"):
        assert words in done.out
    assert sealed(lake / "public.orders")["key"] == ["region", "id"]
    assert "is sound" in rivet("validate", str(lake / "public.orders")).out


def test_the_source_may_come_from_the_environment(dsn: str, orders: Sql, lake: Path) -> None:
    done = rivet("export", "--table", "public.orders", "--to", str(lake), "--json", env={"RIVET_SOURCE": dsn})
    assert done.code == 0, done.err


def test_a_sealed_table_is_extended_and_read_anew(dsn: str, orders: Sql, lake: Path) -> None:
    export(dsn, lake)
    orders("INSERT INTO public.orders SELECT n, 'new', 0 FROM generate_series(6000, 6099) AS n")
    orders("UPDATE public.orders SET total = -1 WHERE id = 10")
    done = export(dsn, lake, "--json")
    assert (done.json["windows"], done.json["windows_reused"], done.json["resumed"]) == (7, 0, False)
    assert exported_rows(lake / "public.orders") == source_rows(dsn, "public.orders", "id")


def test_an_unchanged_table_gives_the_same_files(dsn: str, orders: Sql, lake: Path) -> None:
    export(dsn, lake)
    before = tree(lake)
    export(dsn, lake)
    after = tree(lake)
    assert before.keys() == after.keys()
    # A window's manifest names the work that read it and its timings; everything else is equal to the byte.
    assert all(before[name] == after[name] for name in before if "/windows/" not in name)


def test_goes_on_where_it_stopped(dsn: str, orders: Sql, lake: Path, tmp_path: Path) -> None:
    killed = export(dsn, lake, "--workers", "1", env={"RIVET_FAULT": "after_manifest_put:3:kill"})
    assert killed.code == -9
    assert not (lake / "public.orders/_SUCCESS").exists()
    done = export(dsn, lake, "--json")
    assert (done.json["resumed"], done.json["windows_reused"]) == (True, 3)
    assert export(dsn, tmp_path / "other", "--json").json["windows_reused"] == 0
    undisturbed, resumed = tree(tmp_path / "other"), tree(lake)
    assert undisturbed.keys() == resumed.keys()
    assert all(undisturbed[name] == resumed[name] for name in resumed if "/windows/" not in name)


def test_fresh_reads_every_window_anew(dsn: str, orders: Sql, lake: Path) -> None:
    export(dsn, lake, "--workers", "1", env={"RIVET_FAULT": "after_manifest_put:3:kill"})
    done = export(dsn, lake, "--fresh", "--json")
    assert (done.json["resumed"], done.json["windows_reused"]) == (False, 0)


def test_a_window_that_fails_does_not_stop_the_others(dsn: str, orders: Sql, lake: Path) -> None:
    failed = export(dsn, lake, "--workers", "1", env={"RIVET_FAULT": "after_page@g1-w000002:1:raise"})
    assert failed.code == 1
    assert "1 of 6 windows failed: g1-w000002" in failed.err
    done = export(dsn, lake, "--json")
    assert done.json["windows_reused"] == 5


def test_killed_processes_leave_no_spool_behind(dsn: str, orders: Sql, lake: Path, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    env = {"RIVET_SPOOL_DIR": str(spool)}
    export(dsn, lake, env={**env, "RIVET_FAULT": "after_spool_close:1:kill"})
    assert len(list(spool.iterdir())) == 1
    assert export(dsn, lake, env=env).code == 0
    assert list(spool.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_is_orderly(dsn: str, sql: Sql, lake: Path, tmp_path: Path, number: int, code: int) -> None:
    sql("CREATE TABLE public.orders (id int PRIMARY KEY, note text)")
    sql("INSERT INTO public.orders SELECT n, repeat('x', 300) FROM generate_series(1, 300000) AS n")
    spool = tmp_path / "spool"
    arguments = ("export", "--table", "public.orders", "--to", str(lake), "--rows-per-window", "3000")
    process = subprocess.Popen(
        # A shell that starts the tests in the background makes everything below it ignore SIGINT.
        ["env", "--default-signal=INT", *command(*arguments)],
        env={**os.environ, "RIVET_SOURCE": dsn, "RIVET_SPOOL_DIR": str(spool)},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list((lake / "public.orders/g1/windows").glob("*.json")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err.splitlines()) == (
        code,
        ["RIVET_INTERRUPTED: The export was stopped.", "Finished windows are kept: start again to go on."],
    )
    assert list(spool.iterdir()) == []
    done = export(dsn, lake, "--json")
    assert done.json["windows_reused"] > 0
    assert exported_rows(lake / "public.orders") == source_rows(dsn, "public.orders", "id")


# --------------------------------------------------------------------------------------------------- damage


def damaged(folder: Path, change: Callable[[Path], None]) -> Result:
    change(sorted((folder / "g1/data").rglob("*.parquet"))[2])
    return rivet("validate", str(folder), "--json")


def test_a_flipped_byte_is_found(dsn: str, orders: Sql, lake: Path) -> None:
    export(dsn, lake)

    def flip(part: Path) -> None:
        data = bytearray(part.read_bytes())
        data[len(data) // 2] ^= 1
        part.write_bytes(data)

    found = damaged(lake / "public.orders", flip)
    assert found.code == 3
    assert [(f["code"], f["window"]) for f in found.json["findings"]] == [("RIVET_PART_DAMAGED", "g1-w000002")]
    # An export mends it: a part is never taken for stored by its name alone.
    assert export(dsn, lake).code == 0
    assert rivet("validate", str(lake / "public.orders")).code == 0


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda part: part.unlink(), "RIVET_PART_MISSING"),
        (lambda part: part.write_bytes(part.read_bytes()[:-1]), "RIVET_PART_SIZE"),
    ],
)
def test_missing_and_cut_parts_are_found(
    dsn: str, orders: Sql, lake: Path, change: Callable[[Path], None], code: str
) -> None:
    export(dsn, lake)
    found = damaged(lake / "public.orders", change)
    assert found.code == 3
    assert [finding["code"] for finding in found.json["findings"]] == [code]
    assert "g1-w000002" in rivet("validate", str(lake / "public.orders")).out


def test_an_edited_manifest_is_found(dsn: str, orders: Sql, lake: Path) -> None:
    export(dsn, lake)
    manifest = lake / "public.orders/manifest.json"
    manifest.write_text(manifest.read_text().replace('"rows": 900', '"rows": 901', 1))
    found = rivet("validate", str(lake / "public.orders"), "--json")
    assert found.code == 3
    assert found.json["error"]["code"] == "RIVET_SEAL_BROKEN"


def test_a_seal_that_was_not_finished_is_found_and_repaired(dsn: str, orders: Sql, lake: Path) -> None:
    export(dsn, lake)
    success = lake / "public.orders/_SUCCESS"
    whole = success.read_bytes()
    success.write_bytes(b"that of the seal before")
    found = rivet("validate", str(lake / "public.orders"), "--json")
    assert (found.code, [finding["code"] for finding in found.json["findings"]]) == (3, ["RIVET_SEAL_BROKEN"])
    repaired = rivet("repair", "--source", dsn, "--table", "public.orders", "--to", str(lake), "--json")
    assert (repaired.code, repaired.json["windows"], repaired.json["left"]) == (0, [], [])
    assert success.read_bytes() == whole
    assert rivet("validate", str(lake / "public.orders")).code == 0


def test_nothing_sealed_is_an_error_with_advice(lake: Path) -> None:
    found = rivet("validate", str(lake / "public.orders"))
    assert found.code == 1
    assert "RIVET_EXPORT_UNSEALED" in found.err
    assert not lake.exists(), "validation must not create folders"


# --------------------------------------------------------------------------------------------------- errors


def refused(result: Result, code: str, exit_code: int = 1) -> Result:
    assert result.code == exit_code, (result.out, result.err)
    assert code in result.err
    lines = result.err.strip().splitlines()
    assert len(lines) == 2, f"what happened, and what to do: {lines}"
    assert "Traceback" not in result.err
    for secret in (PASSWORD, quote(PASSWORD, safe=""), "pass@word", "wr0ng"):
        assert secret not in result.out + result.err
    return result


def test_a_table_without_a_key(dsn: str, sql: Sql, lake: Path) -> None:
    sql("CREATE TABLE public.orders (id int, note text)")
    sql("CREATE UNIQUE INDEX nullable ON public.orders (id)")
    found = refused(export(dsn, lake), "RIVET_KEY_MISSING")
    assert "nullable" in found.err
    assert not lake.exists()


def test_a_server_that_is_not_there(lake: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        dsn = f"postgresql://reader:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/shop"
        refused(export(dsn, lake), "RIVET_SOURCE_UNREACHABLE", 2)


def test_a_wrong_password(postgres: EmbeddedPostgres, lake: Path) -> None:
    refused(export(postgres.dsn(password="wr0ng"), lake), "RIVET_SOURCE_AUTH")
    refused(export(postgres.dsn(user="nobody_knows", password="wr0ng"), lake), "RIVET_SOURCE_AUTH")
    refused(export(postgres.dsn("nodatabase"), lake), "RIVET_SOURCE_DATABASE_MISSING")


def test_a_missing_table(dsn: str, lake: Path) -> None:
    refused(export(dsn, lake), "RIVET_SOURCE_TABLE_MISSING")
    assert not lake.exists()


def test_an_address_that_is_none(lake: Path) -> None:
    refused(export("oracle://x:wr0ng@y/z", lake), "RIVET_CONFIG_SOURCE")
    refused(export(f"postgresql://reader:{PASSWORD}@127.0.0.1:1/shop", lake), "RIVET_CONFIG_DSN")


def test_plain_text_to_another_host_is_not_the_default(lake: Path) -> None:
    from rivet_dagster.sources.postgres.connect import parse_dsn

    assert parse_dsn("postgresql://u@db.example.com/x")["sslmode"] == "verify-full"
    assert parse_dsn("postgresql://u@127.0.0.1,db.example.com/x")["sslmode"] == "verify-full"
    assert "sslmode" not in parse_dsn("postgresql://u@localhost/x")
    assert parse_dsn("postgresql://u@db.example.com/x?sslmode=disable")["sslmode"] == "disable"


def test_a_destination_that_cannot_be_written(dsn: str, orders: Sql) -> None:
    folder = Path(tempfile.mkdtemp(prefix="rivet-read-only-"))
    try:
        folder.chmod(0o555)
        arguments = ("export", "--source", dsn, "--table", "public.orders", "--to", str(folder / "lake"))
        refused(rivet(*arguments, obey_modes=True), "RIVET_STORE_NOT_WRITABLE")
        assert list(folder.iterdir()) == []
    finally:
        shutil.rmtree(folder)


def test_wrong_options_are_named(dsn: str, lake: Path) -> None:
    found = refused(export(dsn, lake, "--key", "a,a"), "RIVET_CONFIG_INVALID")
    assert "windows.columns" in found.err


def test_help_is_quick_about_imports() -> None:
    """`--help`, and a code location's definitions, must not pay for Arrow, numba or drivers."""
    for statement in ("import rivet_dagster.cli", "from rivet_dagster import build_rivet_assets, RivetResource"):
        check = f"{statement}; import sys; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
        assert not {"numba", "pyarrow", "psycopg", "obstore"} & set(done.stdout.split()), statement
