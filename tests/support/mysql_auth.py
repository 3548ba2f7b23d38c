"""What a scripted MySQL server needs to let a client in: certificates, an RSA key, and the passwords' scrambles."""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import ipaddress
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

NATIVE, SHA2, CLEAR = "mysql_native_password", "caching_sha2_password", "mysql_clear_password"

_PEM = serialization.Encoding.PEM
_Signer: TypeAlias = "tuple[ec.EllipticCurvePrivateKey, x509.Certificate]"


def native_scramble(password: bytes, nonce: bytes) -> bytes:
    """SHA1(password) XOR SHA1(nonce + SHA1(SHA1(password))); nothing for no password."""
    if not password:
        return b""
    stage1 = hashlib.sha1(password).digest()
    return _xor(stage1, hashlib.sha1(nonce + hashlib.sha1(stage1).digest()).digest())


def sha2_scramble(password: bytes, nonce: bytes) -> bytes:
    """SHA256(password) XOR SHA256(SHA256(SHA256(password)) + nonce); nothing for no password."""
    if not password:
        return b""
    stage1 = hashlib.sha256(password).digest()
    return _xor(stage1, hashlib.sha256(hashlib.sha256(stage1).digest() + nonce).digest())


def _xor(data: bytes, mask: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(data, itertools.cycle(mask), strict=False))


def public_key() -> bytes:
    """The server's public key in PEM form."""
    return _rsa_key().public_key().public_bytes(_PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def decrypted(data: bytes, nonce: bytes) -> bytes | None:
    """What a client encrypted with the public key, its mask taken off; None where it is not encrypted like that."""
    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
    try:
        return _xor(_rsa_key().decrypt(data, oaep), nonce)
    except ValueError:
        return None


@functools.cache
def _rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@dataclass(frozen=True)
class Certificates:
    """Files in PEM form: a certificate authority of its own, a certificate by it, and that one's key."""

    ca: Path
    certificate: Path
    key: Path


def certificates(folder: Path, names: Sequence[str] = ("127.0.0.1", "localhost")) -> Certificates:
    """A certificate for `names`, by an authority that nobody else knows; valid for a day, in files in `folder`."""
    authority = _signed("authority", None, ())
    key, certificate = _signed("server", authority, names)
    files = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    files.ca.write_bytes(authority[1].public_bytes(_PEM))
    files.certificate.write_bytes(certificate.public_bytes(_PEM))
    files.key.write_bytes(
        key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    return files


def _signed(name: str, signer: _Signer | None, names: Sequence[str]) -> _Signer:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"scripted {name}")])
    signing_key, issuer = (signer[0], signer[1].subject) if signer else (key, subject)
    now = dt.datetime.now(dt.timezone.utc)
    builder = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
        .add_extension(_usage(authority=signer is None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
    return key, builder.sign(signing_key, hashes.SHA256())


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
