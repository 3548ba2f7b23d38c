"""The work of others: transactions that come at a fixed rate, whatever the server does, and how long each took.

A transaction's time runs from the moment that it should have begun, so that one that waits for a free session is as
slow as its user finds it. On PostgreSQL it is pgbench's own script and rate; MariaDB gets the same statements from
processes of this module, because no benchmark in its packages keeps every latency.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg
import pymysql

from demo.mariadb import MariaServer
from demo.postgres import EmbeddedPostgres
from tests.benchmarks.measure import ContenderError
from tests.support.debian import debian_programs

DATABASE = "foreground"
_ACCOUNTS_A_SCALE = 100_000
_GRACE_S = 60.0
# Until every process is there.
_START_S = 4.0


@dataclass(frozen=True)
class Load:
    """Transactions of others.

    Attributes:
        rate: transactions a second.
        sessions: that run them.
        scale: size of their tables, in hundreds of thousands of accounts.
    """

    rate: int
    sessions: int = 8
    scale: int = 20


@dataclass(frozen=True)
class Transaction:
    """One transaction.

    Attributes:
        at: when it should have begun, in seconds of the system's clock.
        seconds: from then to its end.
    """

    at: float
    seconds: float


def percentile(transactions: Sequence[Transaction], share: float) -> float:
    """The time that this share of transactions did not exceed, in seconds."""
    if not transactions:
        raise ContenderError("no transaction of the foreground ended")
    times = sorted(each.seconds for each in transactions)
    return times[min(len(times) - 1, int(share * len(times)))]


class PostgresForeground:
    """pgbench at a fixed rate."""

    def __init__(self, server: EmbeddedPostgres, load: Load, folder: Path) -> None:
        self._server = server
        self._load = load
        self._folder = folder
        self._program = str(debian_programs() / "pgbench")

    def prepare(self) -> None:
        """Make its tables."""
        with psycopg.connect(self._server.dsn(), autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {DATABASE}")
        self._run("-i", "-q", "-s", str(self._load.scale), self._server.dsn(DATABASE))
        with psycopg.connect(self._server.dsn(DATABASE), autocommit=True) as admin:
            admin.execute("CHECKPOINT")

    @contextmanager
    def running(self, seconds: float) -> Iterator[list[Transaction]]:
        """Run for so long; the list that is given is filled when the context ends."""
        prefix = self._folder / f"pgbench-{time.monotonic_ns()}"
        load = self._load
        arguments = ["-n", "-R", str(load.rate), "-c", str(load.sessions), "-j", "2", "-T", f"{seconds:.0f}", "-l"]
        found: list[Transaction] = []
        command = [self._program, *arguments, f"--log-prefix={prefix}", self._server.dsn(DATABASE)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            try:
                yield found
                _, said = process.communicate(timeout=seconds + _GRACE_S)
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise ContenderError(f"pgbench failed: {said.strip().splitlines()[-1:]}")
        for path in sorted(self._folder.glob(f"{prefix.name}*")):
            found += map(_logged, path.read_text().splitlines())
            path.unlink()

    def _run(self, *arguments: str) -> None:
        subprocess.run([self._program, *arguments], check=True, capture_output=True)


def _logged(line: str) -> Transaction:
    """A line of pgbench's log; its time includes the lag behind the schedule."""
    fields = line.split()
    ended, taken = int(fields[4]) + int(fields[5]) / 1e6, int(fields[2]) / 1e6
    return Transaction(ended - taken, taken)


class MariaForeground:
    """The statements of pgbench's transaction, from a process of this module."""

    def __init__(self, server: MariaServer, load: Load, folder: Path) -> None:
        self._server = server
        self._load = load
        self._folder = folder

    def prepare(self) -> None:
        """Make its tables."""
        accounts = self._load.scale * _ACCOUNTS_A_SCALE
        with self._server.connect() as admin, admin.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {DATABASE}")
            cursor.execute(f"USE {DATABASE}")
            for statement in (
                "CREATE TABLE accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84))",
                f"INSERT INTO accounts SELECT seq, seq % 100, 0, '' FROM seq_1_to_{accounts}",
                "CREATE TABLE tellers (tid int PRIMARY KEY, bid int, tbalance int, filler char(84))",
                f"INSERT INTO tellers SELECT seq, seq % 10, 0, '' FROM seq_1_to_{10 * self._load.scale}",
                "CREATE TABLE branches (bid int PRIMARY KEY, bbalance int, filler char(88))",
                f"INSERT INTO branches SELECT seq, 0, '' FROM seq_1_to_{self._load.scale}",
                "CREATE TABLE history (tid int, bid int, aid int, delta int, mtime datetime, filler char(22))",
            ):
                cursor.execute(statement)
            admin.commit()

    @contextmanager
    def running(self, seconds: float) -> Iterator[list[Transaction]]:
        """Run for so long; the list that is given is filled when the context ends."""
        found: list[Transaction] = []
        load = self._load
        # A process a session: threads of one would wait for one another.
        shared = {**asdict(load), "seconds": seconds, "begin": time.time() + _START_S, **self._place()}
        command = [sys.executable, "-m", "tests.benchmarks.foreground"]
        processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(load.sessions)
        ]
        try:
            for number, process in enumerate(processes):
                assert process.stdin is not None
                process.stdin.write(json.dumps({**shared, "number": number}))
                process.stdin.close()
                process.stdin = None
            yield found
            for process in processes:
                said, _ = process.communicate(timeout=seconds + _GRACE_S)
                if process.returncode:
                    raise ContenderError("the foreground of MariaDB failed")
                found += [Transaction(*each) for each in json.loads(said)]
        finally:
            for process in processes:
                process.kill()

    def _place(self) -> dict[str, Any]:
        with self._server.connect() as connection:
            user = connection.user.decode() if isinstance(connection.user, bytes) else connection.user
            return {"host": connection.host, "port": connection.port, "user": user, "password": self._server.password}


def _transactions(task: dict[str, Any]) -> Iterator[tuple[float, float]]:
    """One session's transactions, at its part of the rate."""
    connection = pymysql.connect(
        host=task["host"], port=task["port"], user=task["user"], password=task["password"], database=DATABASE
    )
    accounts, scale = task["scale"] * _ACCOUNTS_A_SCALE, task["scale"]
    draw = random.Random(task["number"])
    pause = task["sessions"] / task["rate"]
    at = task["begin"] + pause * task["number"] / task["sessions"]
    with connection, connection.cursor() as cursor:
        while at < task["begin"] + task["seconds"]:
            time.sleep(max(0.0, at - time.time()))
            account, teller, branch = draw.randint(1, accounts), draw.randint(1, 10 * scale), draw.randint(1, scale)
            delta = draw.randint(-5000, 5000)
            cursor.execute("UPDATE accounts SET abalance = abalance + %s WHERE aid = %s", (delta, account))
            cursor.execute("SELECT abalance FROM accounts WHERE aid = %s", (account,))
            cursor.execute("UPDATE tellers SET tbalance = tbalance + %s WHERE tid = %s", (delta, teller))
            cursor.execute("UPDATE branches SET bbalance = bbalance + %s WHERE bid = %s", (delta, branch))
            cursor.execute("INSERT INTO history VALUES (%s, %s, %s, %s, now(), '')", (teller, branch, account, delta))
            connection.commit()
            yield at, time.time() - at
            # As pgbench: arrivals are random, their rate is not.
            at += draw.expovariate(1 / pause)


if __name__ == "__main__":
    json.dump(list(_transactions(json.load(sys.stdin))), sys.stdout)
