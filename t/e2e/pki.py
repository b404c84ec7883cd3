"""Certificates made when a test wants them: authorities, servers, clients."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)


@dataclass
class Pair:
    """A certificate and its key, as files."""

    cert: Path
    key: Path
    x509: x509.Certificate

    @property
    def words(self) -> str:
        return f"{self.cert} {self.key}"

    @property
    def sha256(self) -> bytes:
        return self.x509.fingerprint(hashes.SHA256())

    def replace(self, other: Pair) -> None:
        """Puts another pair in the place of this one, file by file."""
        for mine, new in ((self.key, other.key), (self.cert, other.cert)):
            fresh = mine.with_suffix(".new")
            fresh.write_bytes(new.read_bytes())
            fresh.rename(mine)
        self.x509 = other.x509


def alternative(name: str) -> x509.GeneralName:
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class Authority:
    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.dir = folder
        self.name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name(
            [x509.NameAttribute(NameOID.COMMON_NAME, f"{name} authority")])
        self._n = 0
        now = datetime.datetime.now(datetime.timezone.utc)
        cert = (x509.CertificateBuilder().subject_name(self._subject)
                .issuer_name(self._subject)
                .public_key(self._key.public_key())
                .serial_number(x509.random_serial_number())
                .not_valid_before(now - 10 * DAY)
                .not_valid_after(now + 10 * DAY)
                .add_extension(x509.BasicConstraints(True, None), True)
                .sign(self._key, hashes.SHA256()))
        self.pem = folder / f"{name}.pem"
        self.pem.write_bytes(cert.public_bytes(serialization.Encoding.PEM))

    def issue(self, *names: str, cn: str = "somebody",
              begins: float = -1, ends: float = 1,
              client: bool = False) -> Pair:
        """A certificate for these alternative names; begins and ends are in
        days from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.timezone.utc)
        usage = (ExtendedKeyUsageOID.CLIENT_AUTH if client
                 else ExtendedKeyUsageOID.SERVER_AUTH)
        builder = (x509.CertificateBuilder()
                   .subject_name(x509.Name([x509.NameAttribute(
                       NameOID.COMMON_NAME, cn)]))
                   .issuer_name(self._subject)
                   .public_key(key.public_key())
                   .serial_number(x509.random_serial_number())
                   .not_valid_before(now + begins * DAY)
                   .not_valid_after(now + ends * DAY)
                   .add_extension(x509.ExtendedKeyUsage([usage]), False))
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(
                [alternative(n) for n in names]), False)
        cert = builder.sign(self._key, hashes.SHA256())
        self._n += 1
        stem = self.dir / f"{self.name}-{self._n}"
        pair = Pair(stem.with_suffix(".crt"), stem.with_suffix(".key"), cert)
        pair.cert.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        pair.key.write_bytes(key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption()))
        pair.key.chmod(0o600)
        return pair


def server_context(pair: Pair, client_ca: Authority | None = None,
                   version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """Of a server that plays an upstream."""
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    c.load_cert_chain(pair.cert, pair.key)
    c.set_alpn_protocols(["http/1.1"])
    if client_ca is not None:
        c.load_verify_locations(client_ca.pem)
        c.verify_mode = ssl.CERT_REQUIRED
    if version is not None:
        c.minimum_version = c.maximum_version = version
    return c
