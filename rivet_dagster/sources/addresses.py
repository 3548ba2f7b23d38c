"""What the engines' addresses have in common: URLs whose parts can be told apart, and hosts that are this machine."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from rivet_dagster.errors import ConfigError


def malformed(scheme: str, why: str) -> ConfigError:
    """`RIVET_CONFIG_DSN`; the message never quotes the address, which may hold a password."""
    return ConfigError(
        "RIVET_CONFIG_DSN",
        f"The source's address cannot be used: {why}.",
        f"Write {scheme}://user:password@host:port/database and percent-encode @ : / ? # % in user and password.",
        fatal=True,
    )


def refuse_ambiguous(scheme: str, dsn: str) -> None:
    """A password with @ / ? or # in it would be taken apart in the wrong place, and a piece of it shown as the host.

    Raises:
        ConfigError: RIVET_CONFIG_DSN.
    """
    if dsn.count("@") > urlsplit(dsn).netloc.count("@") or dsn.count("@") > 1:
        raise malformed(scheme, "there is an @ behind the host, or more than one")


def is_local(host: str) -> bool:
    """Whether a host is this machine: nothing, the folder of a Unix socket, or a loopback name or address."""
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def place(host: str, port: object) -> str:
    """`host:port`, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host and "," not in host else f"{host}:{port}"
