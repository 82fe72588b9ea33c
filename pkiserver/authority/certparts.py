"""Finding parts of a certificate by octets, where an encoder's opinion is not wanted.

Names are compared and copied as octets (RFC 5280 section 7.1 lets implementations compare binary; a relying party
that does so must find the issuer's octets). cryptography re-encodes names from its own values, so this module finds
the octets in the encoding itself.
"""

from __future__ import annotations

import hashlib

import attrs

from pkiserver.foundation import der

_VERSION = der.context(0)


@attrs.frozen
class TbsParts:
    """Where the fields of a TBSCertificate lie (RFC 5280 section 4.1); ``tbs`` is the DER they lie in."""

    tbs: bytes
    serial: der.Element
    algorithm: der.Element
    issuer: der.Element
    subject: der.Element
    spki: der.Element

    def octets(self, element: der.Element) -> bytes:
        """The octets of one field, tag and length included."""
        return self.tbs[element.start : element.end]


def tbs_parts(tbs: bytes) -> TbsParts:
    """The fields of a DER TBSCertificate; raises :class:`der.NotDer` when it is not one."""
    fields = der.children(tbs, der.whole(tbs))
    if fields and fields[0].tag == _VERSION:
        fields = fields[1:]
    if len(fields) < 6 or fields[0].tag != der.INTEGER:
        raise der.NotDer("not a TBSCertificate")
    return TbsParts(tbs, fields[0], fields[1], fields[2], fields[4], fields[5])


def certificate_tbs(certificate: bytes) -> bytes:
    """The octets of the TBSCertificate inside a DER certificate."""
    outer = der.whole(certificate)
    inner = der.element(certificate, outer.body, outer.end)
    return certificate[inner.start : inner.end]


def signature_identifier(signed: bytes) -> bytes:
    """The signatureAlgorithm of a DER certificate or list as DER AlgorithmIdentifier; raises :class:`der.NotDer`."""
    fields = der.children(signed, der.element(signed))
    if len(fields) != 3:
        raise der.NotDer("not a signed structure")
    return signed[fields[1].start : fields[1].end]


def subject_octets(certificate: bytes) -> bytes:
    """The subject Name of a DER certificate, octet for octet."""
    parts = tbs_parts(certificate_tbs(certificate))
    return parts.octets(parts.subject)


def issuer_octets(certificate: bytes) -> bytes:
    """The issuer Name of a DER certificate, octet for octet."""
    parts = tbs_parts(certificate_tbs(certificate))
    return parts.octets(parts.issuer)


def subject_public_key(spki: bytes) -> bytes:
    """The octets of subjectPublicKey inside a DER SubjectPublicKeyInfo, without tag, length and unused bits."""
    fields = der.children(spki, der.element(spki))
    if len(fields) != 2 or fields[1].tag != der.BIT_STRING:
        raise der.NotDer("not a SubjectPublicKeyInfo")
    return spki[fields[1].body + 1 : fields[1].end]


def key_identifier(spki: bytes) -> bytes:
    """The subject key identifier by RFC 7093 section 2 method 1: leftmost 160 bits of SHA-256 of subjectPublicKey."""
    return hashlib.sha256(subject_public_key(spki)).digest()[:20]
