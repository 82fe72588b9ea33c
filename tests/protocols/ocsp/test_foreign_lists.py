"""Lists of other CAs, octet by octet: what may change the meaning of an entry and is unknown refuses the list."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.authority.model import CaCertificate
from pkiserver.authority.validation.index import Index, Listed
from pkiserver.authority.validation.lists import read_head, read_list
from pkiserver.foundation import der
from pkiserver.foundation.errors import Rejected

KEY = ec.derive_private_key(0xC0FFEE, ec.SECP256R1())
NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Other CA")])
NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
ECDSA_SHA256 = der.sequence(der.object_identifier("1.2.840.10045.4.3.2"))
ECDSA_SHA384 = der.sequence(der.object_identifier("1.2.840.10045.4.3.3"))
REASON, INVALIDITY, HOLD_INSTRUCTION, CERTIFICATE_ISSUER = "2.5.29.21", "2.5.29.24", "2.5.29.23", "2.5.29.29"
NUMBER = der.extension("2.5.29.20", der.integer(7))
YESTERDAY = b"\x17\x0d261120120000Z"


def authority(*, may_sign_lists: bool = True) -> CaCertificate:
    usage = x509.KeyUsage(False, False, False, False, False, True, may_sign_lists, False, False)
    built = (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.BasicConstraints(True, None), True)
        .add_extension(usage, True)
        .sign(KEY, hashes.SHA256())
    )
    return CaCertificate.load(built.public_bytes(Encoding.DER))


def entry(serial: bytes = b"\x02\x01\x05", *extensions: bytes, date: bytes = YESTERDAY, after: bytes = b"") -> bytes:
    return der.sequence(serial, date, der.sequence(*extensions) if extensions else b"", after)


def scope(**fields: bool) -> bytes:
    """A critical issuing distribution point; its flags by their context tags (RFC 5280 section 5.2.5)."""
    tags = {"users": 0x81, "authorities": 0x82, "reasons": 0x83, "indirect": 0x84, "attributes": 0x85}
    values = {name: b"\x06\x40" if name == "reasons" else b"\xff" for name in fields}
    flags = [der.tlv(tags[name], value) for name, value in values.items()]
    return der.extension("2.5.29.28", der.sequence(*flags), critical=True)


@attrs.frozen
class Crl:
    """A list as it is to be; signed as it stands, whatever stands there."""

    entries: Sequence[bytes] = (entry(),)
    extensions: Sequence[bytes] = (NUMBER,)
    this_update: bytes = b"\x17\x0d261121110000Z"
    next_update: bytes = b"\x17\x0d261122110000Z"
    inner: bytes = ECDSA_SHA256
    outer: bytes = ECDSA_SHA256
    after: bytes = b""

    def octets(self) -> bytes:
        tbs = der.sequence(
            der.integer(1),
            self.inner,
            NAME.public_bytes(),
            self.this_update,
            self.next_update,
            der.sequence(*self.entries) if self.entries else b"",
            der.explicit(0, der.sequence(*self.extensions)) if self.extensions else b"",
        )
        signature = der.bit_string(KEY.sign(tbs, ec.ECDSA(hashes.SHA256())))
        return der.sequence(tbs, self.outer, signature) + self.after


def test_what_is_as_it_should_be_is_read() -> None:
    reason = der.extension(REASON, b"\x0a\x01\x01")
    invalidity = der.extension(INVALIDITY, b"\x18\x0f20261101000000Z")
    unknown = der.extension("1.2.3.4", b"\x05\x00")
    longest = b"\x02\x14\x7f" + bytes(19)
    crl = Crl((entry(b"\x02\x01\x05", reason, invalidity, unknown), entry(longest)), (NUMBER, scope(users=True)))
    read = read_list(crl.octets(), authority())
    assert (read.head.number, read.head.entries) == (7, 2)
    assert read.head.next_update == NOW + timedelta(hours=23)
    index = Index(read.parts)
    yesterday = int((NOW - timedelta(days=1)).timestamp())
    assert index.find(5) == Listed(yesterday, 1, int(datetime(2026, 11, 1, tzinfo=UTC).timestamp()))
    assert index.find(0x7F << 152) == Listed(yesterday, 0, None)
    assert index.find(6) is None


HOSTILE: dict[str, tuple[Crl, str]] = {
    "indirect": (Crl(extensions=(NUMBER, scope(indirect=True))), "indirect lists"),
    "for some reasons": (Crl(extensions=(NUMBER, scope(reasons=True))), "for some reasons only"),
    "of attribute certificates": (Crl(extensions=(NUMBER, scope(attributes=True))), "attribute certificates"),
    "unknown critical extension": (
        Crl(extensions=(NUMBER, der.extension("1.2.3.4", b"\x05\x00", critical=True))),
        "not understood: 1.2.3.4",
    ),
    "entry of another issuer": (
        Crl((entry(b"\x02\x01\x05", der.extension(CERTIFICATE_ISSUER, b"\x30\x00", critical=True)),)),
        f"critical extension {CERTIFICATE_ISSUER}",
    ),
    "critical hold instruction": (
        Crl((entry(b"\x02\x01\x05", der.extension(HOLD_INSTRUCTION, b"\x06\x01\x2a", critical=True)),)),
        f"critical extension {HOLD_INSTRUCTION}",
    ),
    "reason unheard of": (Crl((entry(b"\x02\x01\x05", der.extension(REASON, b"\x0a\x01\x07")),)), "unknown reason"),
    "reason of another type": (Crl((entry(b"\x02\x01\x05", der.extension(REASON, b"\x02\x01\x01")),)), "reason"),
    "negative serial number": (Crl((entry(b"\x02\x01\x85"),)), "negative"),
    "serial number too long": (Crl((entry(b"\x02\x15\x01" + bytes(20)),)), "more than 20 octets"),
    "entry without date": (Crl((der.sequence(b"\x02\x01\x05"),)), "no serial number|too short"),
    "entry with more": (Crl((entry(after=b"\x05\x00"),)), "unexpected fields|cannot be read"),
    "entry that is no sequence": (Crl((b"\x05\x00",)), "no SEQUENCE"),
    "local time": (Crl((entry(date=b"\x17\x11261120120000+0100"),)), "not a time"),
    "no nextUpdate": (Crl(next_update=b""), "no nextUpdate"),
    "two algorithms": (Crl(inner=ECDSA_SHA384), "two different signature algorithms"),
    "another algorithm than signed": (Crl(inner=ECDSA_SHA384, outer=ECDSA_SHA384), "signature is not the issuer's"),
    "octets behind it": (Crl(after=b"\0"), "not one SEQUENCE"),
    "a delta without number": (Crl(extensions=(der.extension("2.5.29.27", der.integer(1), critical=True),)), "delta"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_not_understood_refuses_the_list(what: str) -> None:
    crl, why = HOSTILE[what]
    with pytest.raises(Rejected, match=why):
        read_list(crl.octets(), authority())


def test_a_certificate_that_permits_no_lists_has_none() -> None:
    for read in (read_list, read_head):
        with pytest.raises(Rejected, match="does not permit signing CRLs"):
            read(Crl().octets(), authority(may_sign_lists=False))


@pytest.mark.parametrize("cut", [1, 2, 10, 60, 100])
def test_what_was_cut_off_is_no_list(cut: int) -> None:
    octets: Any = Crl().octets()
    for some in (octets[:-cut], octets[:cut]):
        with pytest.raises(Rejected):
            read_list(some, authority())
