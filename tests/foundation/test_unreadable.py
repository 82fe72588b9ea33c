"""Certificates and requests that cryptography cannot read, before everybody who is given some."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.authority.csr import parse_request
from pkiserver.authority.model import CaCertificate
from pkiserver.foundation.errors import Rejected
from pkiserver.foundation.unreadable import UNREADABLE
from protocols.addressbook.assertions import assertion_of
from tests.protocols.scep.wire import self_signed

KEY = rsa.generate_private_key(65537, 2048)
GOOD = self_signed(KEY, "wired")
BIT_STRING = (b"\x0c\x05wired", b"\x03\x05\x00ired")
UNKNOWN_KEY = (bytes.fromhex("06092a864886f70d010101"), bytes.fromhex("06092a864886f70d010163"))
VERSION = (b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x09")


def _request() -> bytes:
    subject = x509.load_der_x509_certificate(GOOD).subject
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return builder.sign(KEY, x509.load_der_x509_certificate(GOOD).signature_hash_algorithm).public_bytes(Encoding.DER)


def _all_of(data: bytes) -> None:
    found = x509.load_der_x509_certificate(data)
    assert found.subject
    assert found.public_key()


@pytest.mark.parametrize("change", [BIT_STRING, UNKNOWN_KEY, VERSION])
def test_what_cryptography_raises_is_known(change: tuple[bytes, bytes]) -> None:
    odd = GOOD.replace(*change)
    assert odd != GOOD
    with pytest.raises(UNREADABLE):
        _all_of(odd)


@pytest.mark.parametrize("change", [BIT_STRING, UNKNOWN_KEY])
def test_a_request_that_cannot_be_read_is_refused(change: tuple[bytes, bytes]) -> None:
    with pytest.raises(Rejected):
        parse_request(_request().replace(*change))


@pytest.mark.parametrize("change", [UNKNOWN_KEY, VERSION])
def test_a_ca_certificate_that_cannot_be_read_is_refused(change: tuple[bytes, bytes]) -> None:
    with pytest.raises(Rejected, match="not a usable certificate"):
        CaCertificate.load(GOOD.replace(*change))


@pytest.mark.parametrize("change", [BIT_STRING, VERSION])
def test_an_ldap_filter_with_a_certificate_that_cannot_be_read_matches_nothing(change: tuple[bytes, bytes]) -> None:
    assert assertion_of(GOOD) is not None
    assert assertion_of(GOOD.replace(*change)) is None
