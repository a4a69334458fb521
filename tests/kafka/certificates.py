"""A certificate authority of a test's own, and certificates of it."""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
LOOPBACK = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")])


@dataclass(frozen=True)
class Authority:
    """Signs; `file` is its own certificate."""

    folder: Path
    name: str
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.pem"

    def sign(self, name: str, password: bytes | None = None) -> tuple[Path, Path]:
        """The files of a certificate and of its private key."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _built(name, key, self.name).add_extension(LOOPBACK, critical=False)
        signed = certificate.sign(self.key, hashes.SHA256())
        files = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        hiding = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        files[0].write_bytes(signed.public_bytes(PEM))
        files[1].write_bytes(key.private_bytes(PEM, PKCS8, hiding))
        return files


def authority(folder: Path, name: str) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    constraints = x509.BasicConstraints(ca=True, path_length=0)
    certificate = _built(name, key, name).add_extension(constraints, critical=True).sign(key, hashes.SHA256())
    made = Authority(folder, name, key, certificate)
    made.file.write_bytes(certificate.public_bytes(PEM))
    return made


def _built(name: str, key: ec.EllipticCurvePrivateKey, issuer: str) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
    )
