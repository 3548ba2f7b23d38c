"""Sessions as a DBA's servers have them: TLS, Unix sockets, narrow users, odd defaults, proxies, restarts.

The proxies are a TCP proxy that shows another greeting, as ProxySQL and MaxScale do.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import dagster as dg
import pymysql
import pytest
from pymysql.connections import Connection

from demo.mariadb import MariaServer
from demo.server import free_port, server_account
from rivet_dagster import ExportConfig, RivetResource, build_rivet_assets
from rivet_dagster.errors import SourceError
from rivet_dagster.sources import open_source
from rivet_dagster.sources.base import BatchLimits, KeyRange, KeyText, SourceLimits
from rivet_dagster.sources.mysql.session import MysqlSession
from tests.conftest import PASSWORD
from tests.support.exports import export_all, prepared
from tests.support.mysql_auth import Certificates, certificates
from tests.support.mysql_proxy import TcpProxy
from tests.support.mysql_tables import Sql, ask, client, database_of, session_of, source_rows
from tests.support.readers import assert_same, exported_rows, tree

SMALL_PAGES = {"page_bytes": 65536, "retry_seconds": 0}
SECRET = "pä55 w/ord€"

NUMBERS = """
CREATE TABLE t (id int NOT NULL PRIMARY KEY, v varchar(60) NOT NULL, note text, amount decimal(12,2), at datetime(6),
    ratio double, small float, raw varbinary(20), day date, made timestamp(3) NULL);
INSERT INTO t SELECT seq, repeat(char(65 + seq % 26), seq % 60),
    if(seq % 3, concat('back\\\\slash "', seq, '''€'), NULL), seq / 7,
    '2024-01-01' + interval seq * 1000001 microsecond, seq / 3, seq / 7, unhex(left(md5(seq), 20)),
    '2024-01-01' + interval seq day, '2024-01-01' + interval seq hour FROM seq_1_to_6000
"""


def make_numbers(sql: Sql) -> None:
    for statement in NUMBERS.split(";\n"):
        sql(statement)


@pytest.fixture
def numbers(mysql_dsn: str, mysql_sql: Sql) -> str:
    """Address of a database with a table of some six hundred kilobytes."""
    make_numbers(mysql_sql)
    return mysql_dsn


def named(dsn: str) -> str:
    return f"{database_of(dsn)}.t"


def check_whole(dsn: str, lake: Path) -> None:
    assert_same(exported_rows(lake / named(dsn)), source_rows(dsn, "t", "id"))


def documents(lake: Path) -> dict[str, bytes]:
    """What an export wrote, without what says how it was read."""
    return {path: data for path, data in tree(lake).items() if "/windows/" not in path}


def refused(dsn: str) -> SourceError:
    with pytest.raises(SourceError) as caught:
        open_source(dsn).connect()
    assert PASSWORD not in str(caught.value)
    assert SECRET not in str(caught.value)
    return caught.value


def kind(error: SourceError) -> tuple[str, bool]:
    return error.code, error.retryable


AUTH = ("RIVET_SOURCE_AUTH", False)


# ------------------------------------------------------------------------------------------ a server of its own


@dataclass(frozen=True)
class Guarded:
    """A server with TLS and MariaDB's own authentication.

    Attributes:
        files: its certificates; the authority's may sign clients too.
        dsn: a database with the table of numbers, for the superuser.
    """

    server: MariaServer
    files: Certificates
    dsn: str

    def address(self, user: str = "", **options: Any) -> str:
        """That of the database, for a user with the secret; options written `ssl_mode` for `ssl-mode`."""
        told = "&".join(f"{name.replace('_', '-')}={value}" for name, value in options.items())
        dsn = self.server.dsn(database_of(self.dsn), user=user, password=SECRET) if user else self.dsn
        return f"{dsn}?{told}" if told else dsn

    def sql(self, *statements: str) -> None:
        with client(self.dsn) as connection:
            for statement in statements:
                ask(connection, statement)

    @contextmanager
    def set_globals(self, **values: str) -> Iterator[None]:
        """Defaults of new sessions, for as long as the context lasts."""
        with client(self.dsn) as connection:
            before = {name: ask(connection, f"SELECT @@GLOBAL.{name}")[0][0] for name in values}
            try:
                for name, value in values.items():
                    ask(connection, f"SET GLOBAL {name} = {value}")
                yield
            finally:
                for name, value in before.items():
                    ask(connection, f"SET GLOBAL {name} = %s", value)


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    account = server_account()
    with tempfile.TemporaryDirectory(prefix="rivet-") as name, ExitStack() as cleanup:
        folder = Path(name)
        folder.chmod(0o755)
        files = certificates(folder)
        for path in (files.ca, files.certificate, files.key):
            account.take(path)
        settings = {"ssl_ca": files.ca, "ssl_cert": files.certificate, "ssl_key": files.key}
        server = MariaServer(
            folder / "server",
            port=free_port(),
            password=PASSWORD,
            settings={**{name: str(path) for name, path in settings.items()}, "plugin_load_add": "auth_ed25519"},
        )
        cleanup.callback(shutil.rmtree, folder / "server", ignore_errors=True)
        with server:
            with server.connect() as admin:
                ask(admin, "CREATE DATABASE shop")
            with client(server.dsn("shop")) as connection:
                make_numbers(lambda statement: ask(connection, statement))
            yield Guarded(server, files, server.dsn("shop"))
        server.destroy()


@contextmanager
def user_of(guarded: Guarded, identified: str = "", limits: str = "") -> Iterator[str]:
    """A user who may SELECT from the table, and nothing else."""
    name = "narrow"
    guarded.sql(
        f"CREATE USER {name}@'%' {identified or f'IDENTIFIED BY {SECRET!r}'} {limits}",
        f"GRANT SELECT ON shop.t TO {name}@'%'",
    )
    try:
        yield name
    finally:
        guarded.sql(f"DROP USER {name}@'%'")


# ------------------------------------------------------------------------------------------ TLS


def cipher(dsn: str) -> str:
    with session_of(dsn) as session:
        return str(ask(session._connection, "SHOW SESSION STATUS LIKE 'Ssl_cipher'")[0][1])


def test_tls_is_made_as_it_is_asked_for(guarded: Guarded, tmp_path: Path) -> None:
    authority: Any = {"ssl_ca": guarded.files.ca}
    assert cipher(guarded.address()) == ""
    assert cipher(guarded.address(ssl_mode="DISABLED", **authority)) == ""
    for mode in ("REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"):
        assert cipher(guarded.address(ssl_mode=mode, **authority))
    assert cipher(guarded.address(ssl_mode="REQUIRED"))
    other = certificates(tmp_path)
    for mode in ("VERIFY_CA", "VERIFY_IDENTITY"):
        for dsn in (guarded.address(ssl_mode=mode, ssl_ca=other.ca), guarded.address(ssl_mode=mode)):
            assert kind(refused(dsn)) == ("RIVET_SOURCE_TLS", False)


def test_a_server_without_tls_is_not_trusted(mysql_dsn: str) -> None:
    assert kind(refused(f"{mysql_dsn}?ssl-mode=REQUIRED")) == ("RIVET_SOURCE_TLS", False)


def test_a_user_may_need_tls_and_a_certificate(guarded: Guarded, tmp_path: Path) -> None:
    files = guarded.files
    own = {"ssl_ca": files.ca, "ssl_cert": files.certificate, "ssl_key": files.key}
    with user_of(guarded, limits="REQUIRE SSL") as user:
        assert kind(refused(guarded.address(user))) == AUTH
        assert cipher(guarded.address(user, ssl_mode="VERIFY_IDENTITY", ssl_ca=files.ca))
    with user_of(guarded, limits="REQUIRE X509") as user:
        assert kind(refused(guarded.address(user, ssl_mode="VERIFY_IDENTITY", ssl_ca=files.ca))) == AUTH
        assert cipher(guarded.address(user, ssl_mode="VERIFY_IDENTITY", **own))
        # A certificate of an authority that the server does not know ends the handshake, or the first read after it.
        other = certificates(tmp_path)
        foreign = {**own, "ssl_cert": other.certificate, "ssl_key": other.key}
        error = refused(guarded.address(user, ssl_mode="VERIFY_IDENTITY", **foreign))
        assert error.code in ("RIVET_SOURCE_TLS", "RIVET_SOURCE_UNREACHABLE", "RIVET_SOURCE_AUTH")


def test_an_export_over_tls_and_a_unix_socket_has_the_same_bytes(guarded: Guarded, tmp_path: Path) -> None:
    roads = {
        "tcp": guarded.address(),
        "tls": guarded.address(ssl_mode="VERIFY_IDENTITY", ssl_ca=guarded.files.ca),
        "unix": guarded.address(socket=guarded.server.socket),
    }
    for name, dsn in roads.items():
        export_all(prepared(dsn, tmp_path / name, "shop.t", rows=2500, limits=SMALL_PAGES))
    check_whole(guarded.dsn, tmp_path / "tcp")
    expected = documents(tmp_path / "tcp")
    assert len(expected) > 5
    assert documents(tmp_path / "tls") == documents(tmp_path / "unix") == expected


# ------------------------------------------------------------------------------------------ users


@pytest.mark.parametrize("plugin", ["mysql_native_password", "ed25519"])
def test_a_user_comes_in_with_each_of_mariadb_s_plugins(guarded: Guarded, plugin: str) -> None:
    with user_of(guarded, f"IDENTIFIED VIA {plugin} USING PASSWORD('{SECRET}')") as user:
        for options in ({}, {"ssl_mode": "REQUIRED"}, {"socket": guarded.server.socket}):
            with session_of(guarded.address(user, **options)) as session:
                assert ask(session._connection, "SELECT current_user()") == [("narrow@%",)]
        wrong = guarded.server.dsn("shop", user=user, password="guess")
        assert kind(refused(wrong)) == AUTH
        assert kind(refused(guarded.server.dsn("shop", user="nobody", password=SECRET))) == AUTH


def test_databases_that_are_not_there_or_not_for_everybody(guarded: Guarded) -> None:
    assert kind(refused(guarded.server.dsn("nowhere"))) == ("RIVET_SOURCE_DATABASE_MISSING", False)
    with user_of(guarded) as user:
        assert kind(refused(guarded.server.dsn("mysql", user=user, password=SECRET))) == AUTH


def test_accounts_that_are_locked_or_expired(guarded: Guarded) -> None:
    with user_of(guarded, limits="ACCOUNT LOCK") as user:
        assert kind(refused(guarded.address(user))) == AUTH
    with user_of(guarded, limits="PASSWORD EXPIRE") as user:
        assert kind(refused(guarded.address(user))) == AUTH
        with guarded.set_globals(disconnect_on_expired_password="1"):
            assert kind(refused(guarded.address(user))) == AUTH


def attempted(dsn: str) -> Connection[Any] | pymysql.MySQLError:
    """A connection, or why there is none."""
    url = urlsplit(dsn)
    try:
        return pymysql.connect(host="127.0.0.1", port=url.port or 0, user=str(url.username), password=SECRET.encode())
    except pymysql.MySQLError as error:
        return error


def test_a_server_that_is_full_is_tried_again(guarded: Guarded) -> None:
    busy = ("RIVET_SOURCE_UNREACHABLE", True)
    with user_of(guarded, limits="WITH MAX_USER_CONNECTIONS 1") as user, session_of(guarded.address(user)):
        assert kind(refused(guarded.address(user))) == busy
    with user_of(guarded) as user, guarded.set_globals(max_connections="10"), ExitStack() as held:
        while not isinstance(taken := attempted(guarded.address(user)), pymysql.MySQLError):
            held.callback(taken.close)
        error = refused(guarded.address(user))
        assert kind(error) == busy
        assert "Too many connections" in error.what


ODD_DEFAULTS = {
    "time_zone": "'+05:45'",
    "sql_mode": "'ANSI_QUOTES,PIPES_AS_CONCAT,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH,STRICT_ALL_TABLES'",
    "max_statement_time": "5",
    "lock_wait_timeout": "1",
    "innodb_lock_wait_timeout": "1",
    "tx_isolation": "'READ-UNCOMMITTED'",
    "character_set_client": "'latin1'",
    "character_set_connection": "'latin1'",
    "character_set_results": "'latin1'",
    "collation_connection": "'latin1_bin'",
    "sql_select_limit": "3",
    "sql_big_selects": "0",
    "max_join_size": "2",
    "sql_auto_is_null": "1",
    "autocommit": "0",
    "net_write_timeout": "2",
    "wait_timeout": "9",
    "div_precision_increment": "0",
    "group_concat_max_len": "4",
    "default_week_format": "3",
    "optimizer_switch": "'mrr=on,mrr_sort_keys=on,index_merge=off'",
}


def test_a_narrow_user_with_odd_defaults_exports_the_owner_s_bytes(guarded: Guarded, tmp_path: Path) -> None:
    config = {"rows": 2500, "limits": SMALL_PAGES}
    export_all(prepared(guarded.dsn, tmp_path / "owner", "shop.t", **config))
    with user_of(guarded) as user:
        export_all(prepared(guarded.address(user), tmp_path / "narrow", "shop.t", **config))
        with guarded.set_globals(**ODD_DEFAULTS):
            with client(guarded.address(user), password=SECRET.encode()) as plain:
                with pytest.raises(pymysql.OperationalError, match="MAX_JOIN_SIZE"):
                    ask(plain, "SELECT id FROM t ORDER BY id")
                assert ask(plain, "SELECT @@sql_select_limit, @@tx_isolation") == [(3, "READ-UNCOMMITTED")]
            export_all(prepared(guarded.address(user), tmp_path / "odd", "shop.t", **config))
    check_whole(guarded.dsn, tmp_path / "owner")
    expected = documents(tmp_path / "owner")
    assert documents(tmp_path / "narrow") == documents(tmp_path / "odd") == expected


def test_a_session_has_its_settings_and_a_snapshot_its_own(guarded: Guarded) -> None:
    limits = SourceLimits(statement_timeout_s=31.5, lock_timeout_s=2, idle_in_transaction_timeout_s=61)
    with guarded.set_globals(**ODD_DEFAULTS), session_of(guarded.dsn, limits) as session:
        before = settings_of(session)
        table = session.describe("shop", "t")
        for key in table.keys:
            with session.open_window(table, key, BatchLimits()) as reader:
                assert reader.read_page(KeyRange(None, None), 5).rows == 5
                during = settings_of(session)
                with pytest.raises(pymysql.MySQLError, match="READ ONLY transaction"):
                    ask(session._connection, "DELETE FROM t")
        assert settings_of(session) == before
    assert {name: before[name] for name in SETTINGS} == SETTINGS
    changed = {name: value for name, value in during.items() if before[name] != value}
    assert changed == {"wait_timeout": "61", "net_write_timeout": "61"}


SETTINGS = {
    "time_zone": "+00:00",
    "sql_mode": "ALLOW_INVALID_DATES",
    "sql_select_limit": "18446744073709551615",
    "sql_big_selects": "ON",
    "sql_auto_is_null": "OFF",
    "character_set_client": "utf8mb4",
    "character_set_connection": "utf8mb4",
    "character_set_results": "utf8mb4",
    "autocommit": "ON",
    "tx_isolation": "REPEATABLE-READ",
    "max_statement_time": "31.500000",
    "lock_wait_timeout": "2",
    "innodb_lock_wait_timeout": "2",
    "wait_timeout": "9",
}


def settings_of(session: MysqlSession) -> dict[str, str]:
    rows = ask(session._connection, "SHOW SESSION VARIABLES")
    volatile = {"timestamp", "rand_seed1", "rand_seed2", "warning_count", "error_count", "in_transaction"}
    return {name: value for name, value in rows if name not in volatile and not name.startswith(("last_gtid", "gtid"))}


# ------------------------------------------------------------------------------------------ proxies and replicas


def through(proxy: TcpProxy, dsn: str, target: int) -> str:
    changed = dsn.replace(f":{target}/", f":{proxy.port}/")
    assert changed != dsn
    return changed


@pytest.mark.parametrize(
    ("shown", "note"),
    [
        ({"server_version": "8.0.30 (ProxySQL)"}, "behind ProxySQL"),
        ({"server_version": "8.0.30-maxscale"}, "behind MaxScale"),
        ({"server_version": "5.5.5-10.11.6-MariaDB MaxScale", "connection_id": 9}, "behind MaxScale"),
        ({"connection_id": 2**32 - 1}, "behind a proxy"),
        ({"server_version": "8.0.36"}, ""),
        ({}, ""),
    ],
)
def test_an_export_through_a_proxy_says_so(
    mariadb: MariaServer, numbers: str, lake: Path, monkeypatch: pytest.MonkeyPatch, shown: dict[str, Any], note: str
) -> None:
    with mariadb.connect() as connection:
        number = ask(connection, "SELECT regexp_substr(version(), '[0-9.]+')")[0][0]
    with TcpProxy(mariadb.port, **shown) as proxy:
        dsn = through(proxy, numbers, mariadb.port)
        export = prepared(dsn, lake, named(numbers), rows=2500, limits=SMALL_PAGES)
        export_all(export)
        monkeypatch.setenv("TEST_DSN", dsn)
        assets = build_rivet_assets(ExportConfig(table=named(numbers)))
        resources = {"rivet": RivetResource(source=dg.EnvVar("TEST_DSN"), destination=str(lake))}
        with dg.DagsterInstance.ephemeral() as instance:
            result = dg.materialize([assets[0]], instance=instance, resources=resources)
    check_whole(numbers, lake)
    assert str(export.server) == ", ".join(filter(None, [f"MariaDB {number}", note]))
    (event,) = result.get_asset_materialization_events()
    assert event.materialization.metadata["rivet/server"].value == str(export.server)


def test_a_read_only_server_serves_exports_and_is_noticed(guarded: Guarded, lake: Path) -> None:
    with user_of(guarded) as user, guarded.set_globals(read_only="1"):
        export = prepared(guarded.address(user), lake, "shop.t")
        export_all(export)
        assert export.server is not None
        assert export.server.notes == ("read-only server",)
    check_whole(guarded.dsn, lake)
    with session_of(guarded.dsn) as session:
        assert session.facts().notes == ()


# ------------------------------------------------------------------------------------------ round trips


def test_a_window_costs_a_round_trip_a_page_and_a_few(mariadb: MariaServer, numbers: str) -> None:
    with TcpProxy(mariadb.port) as proxy:
        dsn = through(proxy, numbers, mariadb.port)
        with session_of(dsn) as session:
            table = session.describe(*named(numbers).split("."))
            key = table.keys[0]
            walked = session.walk(table, key, None, 3000)
            assert walked is not None
            middle = walked.key
            for span, rows in ((KeyRange(None, middle), 3000), (KeyRange(middle, None), 3000)):
                before, pages, found = proxy.turns, 0, 0
                with session.open_window(table, key, BatchLimits()) as reader:
                    after: KeyText | None = span.lo
                    while True:
                        page = reader.read_page(KeyRange(after, span.hi), 250)
                        list(reader.decode_page())
                        pages += 1
                        found += page.rows
                        if page.rows < 250:
                            break
                        after = reader.last_key()
                assert found == rows
                assert pages == 13
                # Settings, begin, rollback, settings; a preparation for each shape of the bounds.
                assert proxy.turns - before == pages + 4 + (2 if span.lo is None else 1)


def test_an_export_costs_few_round_trips(mariadb: MariaServer, numbers: str, lake: Path) -> None:
    with TcpProxy(mariadb.port) as proxy:
        export = prepared(through(proxy, numbers, mariadb.port), lake, named(numbers), rows=1000, limits=SMALL_PAGES)
        plan, _ = export.plan()
        before = proxy.turns
        with export.run(plan, plan.windows, "work", 1) as run:
            outcomes = list(run)
        pages = sum(outcome.manifest.statistics.pages for outcome in outcomes if outcome.manifest)
        assert len(outcomes) == 6
        assert pages >= 12
        # Connections, the table's description, the windows; one of the connections looks how the server is.
        assert proxy.turns - before <= 30 + pages + 8 * len(outcomes)
        assert proxy.connections == 4


# ------------------------------------------------------------------------------------------ lost connections


@pytest.mark.parametrize("seed", range(12))
def test_an_export_whose_connections_are_cut_is_whole(
    mariadb: MariaServer, numbers: str, tmp_path: Path, seed: int
) -> None:
    """Three connections are cut somewhere; an undisturbed export through the same proxy says how much there is."""
    table = named(numbers)
    limits = {**SMALL_PAGES, "attempts": 6}
    with TcpProxy(mariadb.port) as proxy:
        dsn = through(proxy, numbers, mariadb.port)
        export_all(prepared(dsn, tmp_path / "whole", table, rows=2500, limits=limits))
        whole, connections = proxy.bytes_to_client, proxy.connections
        rnd = random.Random(seed)
        for number in range(3):
            proxy.cut_after(rnd.randrange(1, whole // 4), reset=bool((seed + number) % 2))
            lake = tmp_path / f"cut{number}"
            outcomes = export_all(prepared(dsn, lake, table, rows=2500, limits=limits))
            assert all(outcome.manifest is not None for outcome in outcomes)
            assert proxy.connections > connections
            connections = proxy.connections
            check_whole(numbers, lake)
            assert documents(lake) == documents(tmp_path / "whole")


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_server_that_is_restarted_between_windows(
    guarded: Guarded, lake: Path, mode: Literal["fast", "immediate"]
) -> None:
    limits = {"page_bytes": 65536, "retry_seconds": 0.5, "attempts": 9}
    export = prepared(guarded.dsn, lake, "shop.t", rows=1000, limits=limits)
    plan, _ = export.plan()
    assert len(plan.windows) == 6
    with export.run(plan, plan.windows, "work", 1) as run:
        outcomes = []
        for outcome in run:
            outcomes.append(outcome)
            if len(outcomes) in (1, 3):
                guarded.server.stop(mode)
                guarded.server.start()
    assert [outcome.error for outcome in outcomes] == [None] * 6
    assert max(outcome.manifest.statistics.attempts for outcome in outcomes if outcome.manifest) > 1
    export.seal(plan)
    check_whole(guarded.dsn, lake)
