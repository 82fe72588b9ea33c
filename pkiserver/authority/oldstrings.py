"""Names in strings as old clients write them, where they are not what RFC 5280 section 4.1.2.4 has.

A PrintableString with an underscore or an at sign, which many encoders write, says what it says. A TeletexString
(T61String) is of ITU-T T.61 by the standard; OpenSSL before 1.0, for one, meant ISO 8859-1, and others put UTF-8 into
it. What is neither ASCII nor UTF-8 cannot be read unless somebody says what it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from cryptography import x509

from pkiserver.authority.templates.attributes import RULES
from pkiserver.foundation import der

_TELETEX_STRING = 0x14
_OF_OCTETS = frozenset({der.UTF8_STRING, 0x12, der.PRINTABLE_STRING, _TELETEX_STRING, der.IA5_STRING, 0x1A})
"""Universal tags of strings with a character an octet, or of UTF-8; 0x12 is a NumericString, 0x1A a VisibleString."""
_PRINTABLE = re.compile(rb"[A-Za-z0-9 '()+,\-./:=?]*")
_LABELS = {rule.oid.dotted_string: str(attribute) for attribute, rule in RULES.items()}


def retagged(data: bytes, *names: der.Element) -> bytes:
    """``data`` with names in it that cryptography loads: a PrintableString that is none is called a TeletexString.

    Raises:
        der.NotDer: one of the elements is no Name.
    """
    found = bytearray(data)
    for name in names:
        for _, value in (pair for rdn in der.children(data, name) for pair in _pairs(data, rdn)):
            if value.tag == der.PRINTABLE_STRING and not _PRINTABLE.fullmatch(data[value.body : value.end]):
                found[value.start] = _TELETEX_STRING
    return bytes(found)


def load_certificate(data: bytes) -> x509.Certificate:
    """A DER certificate, in spite of such strings in its names; then its octets, and its signature, are others.

    Raises:
        ValueError: it is none. And what else :data:`pkiserver.foundation.unreadable.UNREADABLE` names.
    """
    try:
        return x509.load_der_x509_certificate(data)
    except ValueError:
        tbs, _, _ = der.children(data, der.whole(data), at_most=3)
        fields = [one for one in der.children(data, tbs) if one.tag != der.context(0)]  # without the version
        issuer, _, subject = fields[2:5]
        mended = retagged(data, issuer, subject)
        if mended == data:
            raise
        return x509.load_der_x509_certificate(mended)


def read_name(octets: bytes, *, latin1: bool) -> x509.Name:
    """A DER Name.

    Args:
        octets: as it came.
        latin1: whether what is neither ASCII nor UTF-8 is ISO 8859-1.

    Raises:
        ValueError: it is none, or nobody has said how to read it. And what else
            :data:`pkiserver.foundation.unreadable.UNREADABLE` names.
    """
    sets = []
    for rdn in der.children(octets, der.whole(octets)):
        pairs = []
        for kind, value in _pairs(octets, rdn):
            said = _in_utf8(octets, kind, value, latin1=latin1)
            pairs.append(der.sequence(octets[kind.start : kind.end], said))
        sets.append(der.tlv(rdn.tag, *sorted(pairs)))
    return x509.Name.from_bytes(der.sequence(*sets))


def _in_utf8(octets: bytes, kind: der.Element, value: der.Element, *, latin1: bool) -> bytes:
    """A value, as a UTF8String where it is of octets that may have been meant so."""
    text = octets[value.body : value.end]
    if value.tag not in _OF_OCTETS:
        return octets[value.start : value.end]
    if not _is_utf8(text):
        if not latin1:
            oid = der.read_object_identifier(octets[kind.body : kind.end])
            raise ValueError(f"the {_LABELS.get(oid, oid)} is neither ASCII nor UTF-8")
        text = text.decode("latin-1").encode()
    return der.tlv(der.UTF8_STRING, text)


def _is_utf8(octets: bytes) -> bool:
    try:
        octets.decode()
    except UnicodeDecodeError:
        return False
    return True


def _pairs(data: bytes, rdn: der.Element) -> Iterator[tuple[der.Element, der.Element]]:
    """Type and value of each AttributeTypeAndValue."""
    for pair in der.children(data, rdn):
        found = der.children(data, pair, at_most=2)
        if len(found) != 2:
            raise der.NotDer("not an AttributeTypeAndValue")
        yield found[0], found[1]
