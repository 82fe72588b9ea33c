"""PKCS#10 requests with attributes as no builder writes them."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from protocols.cms.ber import header
from protocols.cms.signing import attribute
from protocols.est import keygen

KEY = ec.generate_private_key(ec.SECP256R1())


def csr(*attributes: bytes, name: str = "device", sans: tuple[str, ...] = ()) -> bytes:
    """A request signed by KEY with any attributes at all, which builders would not write."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    wanted = list(attributes)
    if sans:
        value = x509.SubjectAlternativeName([x509.DNSName(one) for one in sans]).public_bytes()
        extension = sequence(oid("2.5.29.17"), header(b"\x04", len(value)) + value)
        wanted.append(attribute("1.2.840.113549.1.9.14", sequence(extension)))
    spki = KEY.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    body = b"".join(sorted(wanted))
    info = sequence(b"\x02\x01\x00", subject.public_bytes(), spki, header(b"\xa0", len(body)) + body)
    signature = b"\x00" + KEY.sign(info, ec.ECDSA(hashes.SHA256()))
    return sequence(info, sequence(oid("1.2.840.10045.4.3.2")), header(b"\x03", len(signature)) + signature)


def sequence(*items: bytes) -> bytes:
    content = b"".join(items)
    return header(b"\x30", len(content)) + content


def oid(dotted: str) -> bytes:
    return keygen.octets(x509.ObjectIdentifier(dotted))
