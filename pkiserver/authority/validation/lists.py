"""A CRL from outside, read entry by entry into an index (RFC 5280 section 5), in about a microsecond for each.

Everything that would change the meaning of an entry and is not understood refuses the list: an unknown critical
extension, an indirect list, a list for some reasons only.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import attrs
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from pkiserver.authority.model import CaCertificate, Duty
from pkiserver.authority.validation import index
from pkiserver.foundation import der
from pkiserver.foundation.errors import Reason, Refusal, Rejected
from pkiserver.foundation.unreadable import UNREADABLE
from pkiserver.keys.algorithms import SignatureScheme
from pkiserver.store.authority.foreign import ListHead, ListKind

MOST_OCTETS = 512 * 1024 * 1024
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_REASON, _INVALIDITY = "2.5.29.21", "2.5.29.24"
_REASONS = frozenset((0, 1, 2, 3, 4, 5, 6, 8, 9, 10))
_UNDERSTOOD = frozenset(
    (
        x509.CRLNumber.oid,
        x509.DeltaCRLIndicator.oid,
        x509.IssuingDistributionPoint.oid,
        x509.AuthorityKeyIdentifier.oid,
    )
)
_CACHED = 100_000


@attrs.frozen
class ReadList:
    """A list whose signature verified, and its entries as an index's parts."""

    head: ListHead
    parts: tuple[bytes, ...] = attrs.field(repr=False)


@attrs.frozen
class _Fields:
    """Where the fields of a CertificateList lie; ``revoked`` and ``extensions`` are None where there are none."""

    tbs: der.Element
    signature_algorithm: bytes
    signature: bytes
    issuer: bytes
    this_update: datetime
    next_update: datetime | None
    revoked: der.Element | None
    extensions: der.Element | None


def read_list(data: bytes, ca: CaCertificate) -> ReadList:
    """Read a DER CRL and verify that it is this authority's. A million entries take seconds: not for the reactor.

    Raises:
        Rejected: with every reason.
    """
    fields, head = _verified(data, ca)
    try:
        records = _records(data, fields.revoked)
    except (ValueError, OverflowError, IndexError) as error:
        raise Rejected.because(Refusal.MALFORMED, f"the list's entries cannot be read: {error}") from error
    return ReadList(attrs.evolve(head, entries=len(records)), tuple(index.parts_of(records)))


def read_head(data: bytes, ca: CaCertificate) -> ListHead:
    """Everything but the entries, whose number is not counted, with the signature verified: 0.1 s for 50 MB.

    For the most part it lets other threads run. Raises as :func:`read_list`.
    """
    return _verified(data, ca)[1]


def _verified(data: bytes, ca: CaCertificate) -> tuple[_Fields, ListHead]:
    if len(data) > MOST_OCTETS:
        raise Rejected.because(Refusal.LIMIT, f"the list has more than {MOST_OCTETS} octets")
    try:
        fields = _fields(data)
        scheme = SignatureScheme.of_identifier(fields.signature_algorithm)
        head = _head(data, fields)
    except UNREADABLE as error:
        raise Rejected.because(Refusal.MALFORMED, f"not a certificate revocation list: {error}") from error
    reasons = []
    if fields.issuer != ca.subject_der:
        reasons.append(Reason(Refusal.CONFLICT, "the list names another issuer than the certificate's subject"))
    if Duty.CRLS not in ca.duties:
        reasons.append(Reason(Refusal.CONFIGURATION, "the issuer's certificate does not permit signing CRLs (cRLSign)"))
    tbs = memoryview(data)[fields.tbs.start : fields.tbs.end]
    if not reasons and not verifies(scheme, ca, fields.signature, tbs):
        reasons.append(Reason(Refusal.CONFLICT, "the list's signature is not the issuer's"))
    if head.next_update is None:
        reasons.append(Reason(Refusal.UNSUPPORTED, "the list has no nextUpdate: nobody could say when it is too old"))
    if reasons:
        raise Rejected(reasons)
    return fields, head


def verifies(scheme: SignatureScheme, ca: CaCertificate, signature: bytes, tbs: memoryview) -> bool:
    """Whether the signature over a long text is the authority's; hashing lets other threads run."""
    public_key = ca.certificate.public_key()
    algorithm = scheme.hash_algorithm
    if algorithm is None or scheme.hash_name is None:
        return scheme.verify(public_key, signature, bytes(tbs))
    digest, hashed = hashlib.new(scheme.hash_name, tbs).digest(), Prehashed(algorithm)
    try:
        if isinstance(public_key, rsa.RSAPublicKey) and scheme.rsa_padding is not None:
            public_key.verify(signature, digest, scheme.rsa_padding, hashed)
        elif isinstance(public_key, ec.EllipticCurvePublicKey) and scheme.rsa_padding is None:
            public_key.verify(signature, digest, ec.ECDSA(hashed))
        else:
            return False
    except InvalidSignature:
        return False
    return True


def _fields(data: bytes) -> _Fields:
    outer = der.element(data)
    if outer.tag != der.SEQUENCE or outer.end != len(data):
        raise der.NotDer("not one SEQUENCE")
    tbs, algorithm, signature = der.children(data, outer)
    if signature.tag != der.BIT_STRING or data[signature.body] != 0:
        raise der.NotDer("no signature")
    fields = der.children(data, tbs)
    if fields[0].tag == der.INTEGER:
        fields = fields[1:]
    inner, issuer, this_update, *rest = fields
    identifier = data[algorithm.start : algorithm.end]
    if data[inner.start : inner.end] != identifier:
        raise der.NotDer("two different signature algorithms")
    next_update = revoked = extensions = None
    if rest and rest[0].tag in {der.UTC_TIME, der.GENERALIZED_TIME}:
        next_update = _time(data[rest[0].start : rest[0].end])
        rest = rest[1:]
    if rest and rest[0].tag == der.SEQUENCE:
        revoked = rest[0]
        rest = rest[1:]
    if rest and rest[0].tag == der.context(0):
        extensions = rest[0]
        rest = rest[1:]
    if rest:
        raise der.NotDer("unexpected fields")
    return _Fields(
        tbs=tbs,
        signature_algorithm=identifier,
        signature=data[signature.body + 1 : signature.end],
        issuer=data[issuer.start : issuer.end],
        this_update=_time(data[this_update.start : this_update.end]),
        next_update=next_update,
        revoked=revoked,
        extensions=extensions,
    )


def _time(encoded: bytes) -> datetime:
    """UTCTime or GeneralizedTime as RFC 5280 section 4.1.2.5 has them: to the second, in UTC."""
    text = encoded[2:].decode("ascii")
    if encoded[0] == der.UTC_TIME and len(text) == 13:
        text = ("19" if text >= "50" else "20") + text
    elif encoded[0] != der.GENERALIZED_TIME or len(text) != 15:
        raise ValueError("not a time of RFC 5280")
    if not text[:14].isdigit() or text[14] != "Z":
        raise ValueError("not a time of RFC 5280")
    year, *rest = int(text[:4]), *(int(text[at : at + 2]) for at in range(4, 14, 2))
    month, day, hour, minute, second = rest
    return datetime(year, month, day, hour, minute, second, tzinfo=UTC)


def _head(data: bytes, fields: _Fields) -> ListHead:
    small = _without_entries(data, fields)
    extensions = small.extensions
    values = {one.oid: one.value for one in extensions}
    unknown = [one.oid.dotted_string for one in extensions if one.critical and one.oid not in _UNDERSTOOD]
    if unknown:
        raise Rejected.because(Refusal.UNSUPPORTED, f"critical extensions are not understood: {', '.join(unknown)}")
    scope = b""
    point = values.get(x509.IssuingDistributionPoint.oid)
    if isinstance(point, x509.IssuingDistributionPoint):
        if point.indirect_crl or point.only_some_reasons or point.only_contains_attribute_certs:
            text = "indirect lists, lists for some reasons only and lists of attribute certificates are not read"
            raise Rejected.because(Refusal.UNSUPPORTED, text)
        scope = point.public_bytes()
    number, base = values.get(x509.CRLNumber.oid), values.get(x509.DeltaCRLIndicator.oid)
    is_delta = isinstance(base, x509.DeltaCRLIndicator)
    if is_delta and not isinstance(number, x509.CRLNumber):
        raise ValueError("a delta without a number")
    return ListHead(
        kind=ListKind.DELTA if is_delta else ListKind.COMPLETE,
        number=number.crl_number if isinstance(number, x509.CRLNumber) else 0,
        base_number=base.crl_number if isinstance(base, x509.DeltaCRLIndicator) else None,
        scope=scope,
        this_update=fields.this_update,
        next_update=fields.next_update,
        entries=0,
        digest=hashlib.sha256(data).digest(),
    )


def _without_entries(data: bytes, fields: _Fields) -> x509.CertificateRevocationList:
    """The same list without its entries (and so with a wrong signature), whose extensions cryptography reads."""
    tbs, revoked = fields.tbs, fields.revoked
    body = data[tbs.body : tbs.end]
    if revoked is not None:
        body = data[tbs.body : revoked.start] + data[revoked.end : tbs.end]
    signature = der.bit_string(fields.signature)
    whole = der.sequence(der.sequence(body), fields.signature_algorithm, signature)
    return x509.load_der_x509_crl(whole)


def _records(data: bytes, revoked: der.Element | None) -> list[bytes]:
    """The entries as records, sorted by serial number; of two for one serial number the later one counts."""
    if revoked is None:
        return []
    found: dict[bytes, bytes] = {}
    at, end = revoked.body, revoked.end
    while at < end:
        if data[at] != der.SEQUENCE:
            raise ValueError("an entry is no SEQUENCE")
        body, stop = at + 2, at + 2 + data[at + 1]
        if data[at + 1] & 0x80:
            entry = der.element(data, at, end)
            body, stop = entry.body, entry.end
        time_at = body + 2 + data[body + 1]
        if data[body] != der.INTEGER or time_at >= stop or stop > end or data[body + 2] & 0x80:
            raise ValueError("an entry has no serial number, or a negative one")
        serial = data[body + 2 : time_at].lstrip(b"\0")
        if len(serial) > index.SERIAL_OCTETS:
            raise ValueError("a serial number of more than 20 octets")
        rest_at = time_at + 2 + data[time_at + 1]
        if rest_at > stop:
            raise ValueError("an entry is too short")
        known = _date(data[time_at:rest_at]) + _details(data[rest_at:stop])
        found[serial.rjust(index.SERIAL_OCTETS, b"\0")] = known
        at = stop
    return [serial + found[serial] for serial in sorted(found)]


@lru_cache(maxsize=_CACHED)
def _date(encoded: bytes) -> bytes:
    """A revocation date as records have it."""
    return index.time_octets(_seconds(encoded))


def _seconds(encoded: bytes) -> int:
    return (_time(encoded) - _EPOCH) // timedelta(seconds=1)


@lru_cache(maxsize=_CACHED)
def _details(encoded: bytes) -> bytes:
    """The crlEntryExtensions of an entry, or nothing, as records have them."""
    reason, invalidity = 0, None
    if encoded:
        extensions = der.element(encoded)
        if extensions.end != len(encoded) or extensions.tag != der.SEQUENCE:
            raise ValueError("an entry has unexpected fields")
        for element in der.children(encoded, extensions):
            parts = der.children(encoded, element)
            oid = der.read_object_identifier(encoded[parts[0].body : parts[0].end])
            value = encoded[parts[-1].body : parts[-1].end]
            if oid == _REASON:
                reason = _reason(value)
            elif oid == _INVALIDITY:
                invalidity = _seconds(value)
            elif len(parts) == 3 and encoded[parts[1].body] != 0:
                raise ValueError(f"an entry has a critical extension {oid}")
    return index.details(reason, invalidity)


def _reason(value: bytes) -> int:
    if value[:2] != b"\x0a\x01" or len(value) != 3 or value[2] not in _REASONS:
        raise ValueError("an entry has an unknown reason")
    return value[2]


def read_issued(data: bytes, now: datetime) -> ReadList:
    """A list of issued serial numbers: one in hexadecimal a line, with or without colons.

    Raises:
        Rejected: with the first line that is none.
    """
    found = set()
    for number, line in enumerate(data.decode("ascii", "replace").splitlines(), 1):
        text = line.partition("#")[0].strip().replace(":", "")
        if not text:
            continue
        try:
            key = index.serial_key(int(text, 16))
        except ValueError:
            key = None
        if key is None:
            raise Rejected.because(Refusal.MALFORMED, f"line {number} is no serial number in hexadecimal")
        found.add(key)
    records = [key + index.NOTHING for key in sorted(found)]
    head = ListHead(
        kind=ListKind.ISSUED,
        number=0,
        base_number=None,
        scope=b"",
        this_update=now,
        next_update=None,
        entries=len(records),
        digest=hashlib.sha256(data).digest(),
    )
    return ReadList(head, tuple(index.parts_of(records)))
