"""Logins at MySQL and MariaDB: TLS, and what becomes of passwords."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from rivet_dagster.sources import SourceLimits
from rivet_dagster.sources.mysql.connect import connect, parse_dsn
from tests.support.mysql_auth import CLEAR, NATIVE, SHA2, Certificates, certificates
from tests.support.mysql_logins import (
    AUTH,
    PASSWORD,
    SECRET,
    TLS,
    address_of,
    kind,
    log_in,
    refused,
    scripted,
)

# ------------------------------------------------------------------------------------------ TLS


@pytest.mark.parametrize("mode", ["REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"])
def test_a_server_without_tls_learns_nothing(mode: str) -> None:
    with scripted() as server:
        error = refused(address_of(server, ssl_mode=mode))
    assert kind(error) == TLS
    assert server.logins == []
    assert server.commands == []


def test_a_server_that_wants_tls_is_told_so(tmp_path: Path) -> None:
    with scripted(tls=certificates(tmp_path), require_tls=True, cached=True) as server:
        assert "insecure transport" in refused(server.dsn()).what
        log_in(address_of(server, ssl_mode="REQUIRED"))
    assert [login.tls for login in server.logins] == [None, "TLSv1.3"]


def test_a_certificate_of_another_authority_or_name(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("good", "named", "other")]
    for folder in folders:
        folder.mkdir()
    good, named, other = certificates(folders[0]), certificates(folders[1], ["db.example"]), certificates(folders[2])
    accepted = {
        (good, good.ca): ("REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"),
        (named, named.ca): ("REQUIRED", "VERIFY_CA"),
        (good, other.ca): ("REQUIRED",),
    }
    for (files, authority), modes in accepted.items():
        with scripted(tls=files, cached=True) as server:
            for mode in ("REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"):
                dsn = address_of(server, ssl_mode=mode, ssl_ca=authority)
                if mode in modes:
                    log_in(dsn)
                else:
                    error = refused(dsn)
                    assert kind(error) == TLS
                    assert "certificate verify failed" in error.what
            # The system's authorities know none of them.
            assert kind(refused(address_of(server, ssl_mode="VERIFY_CA"))) == TLS
        assert [(login.tls, login.accepted) for login in server.logins] == [("TLSv1.3", True)] * len(modes)


def expired(folder: Path) -> Certificates:
    """A certificate that was good until yesterday, its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "expired")])
    now = dt.datetime.now(dt.timezone.utc)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=9))
        .not_valid_after(now - dt.timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    files = Certificates(folder / "e.pem", folder / "e.pem", folder / "e.key")
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    files.certificate.write_bytes(certificate.public_bytes(pem))
    files.key.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return files


def test_a_certificate_that_has_expired(tmp_path: Path) -> None:
    files = expired(tmp_path)
    with scripted(tls=files, cached=True) as server:
        for mode in ("VERIFY_CA", "VERIFY_IDENTITY"):
            error = refused(address_of(server, ssl_mode=mode, ssl_ca=files.ca))
            assert kind(error) == TLS
            assert "expired" in error.what
    assert server.logins == []


def test_files_of_certificates_that_cannot_be_read(tmp_path: Path) -> None:
    files = certificates(tmp_path)
    (tmp_path / "text.pem").write_text("no certificate")
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"passphrase"),
    )
    (tmp_path / "locked.key").write_bytes(locked)
    for options in (
        {"ssl_ca": tmp_path / "none.pem"},
        {"ssl_ca": tmp_path / "text.pem"},
        {"ssl_ca": files.ca, "ssl_cert": files.certificate, "ssl_key": tmp_path / "text.pem"},
        {"ssl_ca": files.ca, "ssl_cert": files.certificate},
        {"ssl_ca": files.ca, "ssl_cert": files.certificate, "ssl_key": tmp_path / "locked.key"},
    ):
        with scripted(tls=files) as server:
            error = refused(address_of(server, ssl_mode="VERIFY_CA", **options))
        assert kind(error) == TLS
        assert "cannot be read" in error.what
        assert server.logins == []


# ------------------------------------------------------------------------------------------ passwords on the wire


# Long enough not to stand in random bytes by chance.
@pytest.mark.parametrize("secret", [PASSWORD, "plain-as-it-is", "ÿ" * 12, "日本" * 6, "x" * 200])
@pytest.mark.parametrize("road", ["tcp", "tls", "unix"])
def test_caching_sha2_password_by_every_path(tmp_path: Path, road: str, secret: str) -> None:
    files = certificates(tmp_path)
    path = tmp_path / "s"
    roads: dict[str, Any] = {"tcp": {}, "tls": {"tls": files}, "unix": {"unix_socket": path}}
    with scripted(password=secret, **roads[road]) as server:
        dsn = {
            "tcp": server.dsn(),
            "tls": address_of(server, ssl_mode="VERIFY_IDENTITY", ssl_ca=files.ca),
            "unix": address_of(server, socket=path).replace(":0/", "/"),
        }[road]
        for _ in range(3):
            log_in(dsn)
    full = {"tcp": ["key", "full-rsa"], "tls": ["full-tls"], "unix": ["full-unix"]}[road]
    assert [login.steps for login in server.logins] == [full, ["fast"], ["fast"]]
    assert all(login.accepted for login in server.logins)
    readable = [secret.encode() in b"".join(login.packets) for login in server.logins]
    assert readable == [road != "tcp", False, False]


@pytest.mark.parametrize(("greeted", "needed"), [(NATIVE, NATIVE), (SHA2, NATIVE), (NATIVE, SHA2)])
def test_an_account_may_need_another_plugin(greeted: str, needed: str) -> None:
    with scripted(auth_plugin=greeted, account_plugin=needed) as server:
        log_in(server.dsn())
    steps = {NATIVE: ["native"], SHA2: ["key", "full-rsa"]}[needed]
    assert server.logins[0].steps == (["switch"] if greeted != needed else []) + steps
    assert SECRET not in b"".join(server.logins[0].packets)


def test_an_account_without_a_password() -> None:
    with scripted(password="") as server:
        log_in(server.dsn())
    assert [(login.packets, login.accepted) for login in server.logins] == [([b""], True)]


@pytest.mark.parametrize("greeted", [SHA2, CLEAR])
@pytest.mark.parametrize("plugin", [CLEAR, "dialog", "mysql_old_password"])
def test_a_password_is_not_sent_as_it_is_to_whoever_asks(tmp_path: Path, plugin: str, greeted: str) -> None:
    files = certificates(tmp_path)
    with scripted(auth_plugin=greeted, account_plugin=plugin, tls=files) as server:
        for dsn in (server.dsn(), address_of(server, ssl_mode="REQUIRED")):
            error = refused(dsn)
            assert kind(error) == AUTH
            assert "clear text" in error.what
    assert len(server.logins) == 2
    for login in server.logins:
        assert not login.accepted
        assert not any(SECRET in packet for packet in login.packets)
        assert login.packets[1:] == []


def test_a_password_goes_in_clear_text_through_verified_tls_and_unix_sockets(tmp_path: Path) -> None:
    files = certificates(tmp_path)
    with scripted(account_plugin=CLEAR, tls=files) as server:
        for mode in ("VERIFY_CA", "VERIFY_IDENTITY"):
            log_in(address_of(server, ssl_mode=mode, ssl_ca=files.ca))
    with scripted(account_plugin=CLEAR, unix_socket=tmp_path / "s") as local:
        log_in(address_of(local, socket=tmp_path / "s").replace(":0/", "/"))
    assert [login.steps for login in server.logins + local.logins] == [["switch", "clear"]] * 3
    assert all(login.accepted for login in server.logins + local.logins)


def test_an_old_password_is_refused_everywhere(tmp_path: Path) -> None:
    files = certificates(tmp_path)
    with scripted(account_plugin="mysql_old_password", tls=files) as server:
        error = refused(address_of(server, ssl_mode="VERIFY_IDENTITY", ssl_ca=files.ca))
    assert kind(error) == AUTH
    assert server.logins[0].packets[1:] == []


def test_a_plugin_that_this_client_has_not() -> None:
    with scripted(account_plugin="auth_gssapi_client") as server:
        error = refused(server.dsn())
    assert kind(error) == AUTH
    assert "auth_gssapi_client" in error.what


def test_peers_that_die_are_noticed() -> None:
    with scripted(cached=True) as server:
        connection: Any = connect(parse_dsn(server.dsn()), SourceLimits())
        with closing(connection):
            options = [connection._sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in KEEPALIVE]
            assert connection._sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert options == [30, 10, 3]


KEEPALIVE = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
