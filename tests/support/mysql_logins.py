"""Logins of the source at a scripted MySQL server."""

from __future__ import annotations

import pickle
import traceback
from typing import Any

import pytest

from rivet_dagster.errors import SourceError
from rivet_dagster.sources import SourceLimits
from rivet_dagster.sources.mysql.connect import connect, parse_dsn
from tests.support.mysql_packets import (
    Column,
    Result,
    Type,
)
from tests.support.mysql_wire import ScriptedServer

PASSWORD = "pä55 w/ord€@:?#%"
SECRET = PASSWORD.encode()


def version(shown: str = "8.0.36") -> Result:
    return Result([Column("VERSION()", Type.VAR_STRING)], [[shown]])


def scripted(**options: Any) -> ScriptedServer:
    """A server that answers what a new session asks."""
    server = ScriptedServer(**{"password": PASSWORD, **options})
    server.on(r"^SELECT VERSION\(\)$", version())
    return server


def address_of(server: ScriptedServer, **options: Any) -> str:
    """Its address with these options, written `ssl_mode` for `ssl-mode`."""
    told = "&".join(f"{name.replace('_', '-')}={value}" for name, value in options.items())
    return f"{server.dsn()}?{told}" if told else server.dsn()


def log_in(dsn: str, **limits: float) -> None:
    connect(parse_dsn(dsn), SourceLimits(**limits)).close()


def refused(dsn: str, **limits: float) -> SourceError:
    """Why no connection is made; the password is nowhere in it."""
    with pytest.raises(SourceError) as caught:
        log_in(dsn, **limits)
    error = caught.value
    shown = f"{error} {error!r} {error.to_json()} {''.join(traceback.format_exception(error))}"
    secret = parse_dsn(dsn).password
    assert not secret or secret not in shown
    assert not secret or repr(secret)[1:-1] not in shown
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    return error


def kind(error: SourceError) -> tuple[str, bool, bool]:
    return error.code, error.retryable, error.fatal


UNREACHABLE = ("RIVET_SOURCE_UNREACHABLE", True, False)
AUTH = ("RIVET_SOURCE_AUTH", False, True)
TLS = ("RIVET_SOURCE_TLS", False, True)
