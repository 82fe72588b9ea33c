"""What a CA certificate says: the counterpart of an end entity's template (RFC 5280 section 4.2)."""

from __future__ import annotations

import enum
import hashlib
import ipaddress
import re
from datetime import UTC, datetime, timedelta

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from pkiserver.authority import certparts
from pkiserver.authority.extensions import Extension, extension, key_usage
from pkiserver.authority.requests import spki_der
from pkiserver.authority.templates.attributes import BY_OID, RULES
from pkiserver.authority.templates.build import IssuerView
from pkiserver.authority.templates.usages import Usage
from pkiserver.foundation.errors import Reason, Refusal, Rejected

END_OF_TIME = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""RFC 5280 section 4.1.2.5: the certificate has no well-defined end."""


class Outlive(enum.StrEnum):
    """What happens to a wish for a longer life than the issuer's."""

    CLAMP = "clamp"
    REFUSE = "refuse"


class KeyIdentifierMethod(enum.StrEnum):
    """How a subject key identifier is computed."""

    RFC7093 = "rfc7093"
    SHA1 = "sha1"


@attrs.frozen
class CaProfile:
    """A CA certificate's contents.

    Attributes:
        validity: From now; or None, and ``not_after`` says the end (up to :data:`END_OF_TIME`).
        backdate: How long before now the validity begins.
        path_length: How many CAs may follow below; None for any number that the issuer allows.
        permitted: Name constraints, ``kind:value`` (see :func:`parse_subtree`).
        excluded: The same, excluded.
        policies: Certificate policy OIDs, each with an optional CPS URI after a space.
        extended_key_usages: OIDs that limit what certificates below may be for.
        digital_signature: Whether the key may also sign other things than certificates and CRLs (OCSP, CMP, SCEP).
        outlive: What happens when more life is asked for than the issuer has.
        key_identifier: How the SKI is computed.
        extensions: Further extensions, as given.
    """

    validity: timedelta | None = timedelta(days=3650)
    not_after: datetime | None = None
    backdate: timedelta = timedelta(minutes=5)
    path_length: int | None = None
    permitted: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    extended_key_usages: tuple[str, ...] = ()
    digital_signature: bool = True
    outlive: Outlive = Outlive.CLAMP
    key_identifier: KeyIdentifierMethod = KeyIdentifierMethod.RFC7093
    extensions: tuple[Extension, ...] = ()


@attrs.frozen
class CaContent:
    """A CA certificate's validity (aware UTC) and extensions."""

    not_before: datetime
    not_after: datetime
    extensions: tuple[Extension, ...]


def ca_content(
    profile: CaProfile, public_key: CertificatePublicKeyTypes, issuer: IssuerView | None, now: datetime
) -> CaContent:
    """What a profile makes of a CA's public key under an issuer; None for a root.

    Raises:
        Rejected: with every reason, when the profile asks for what its issuer does not allow or what cannot be said.
    """
    reasons: list[Reason] = []
    not_before, not_after = _validity(profile, issuer, now, reasons)
    path_length = _path_length(profile, issuer, reasons)
    extensions = [extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)]
    extensions.append(_key_usage(profile))
    own = _key_identifier(profile, public_key)
    extensions.append(extension(x509.SubjectKeyIdentifier(own)))
    if issuer is not None:
        extensions.append(issuer.authority_key_identifier)
    else:  # a root may leave it out (RFC 5280 section 4.2.1.1); path builders find their way faster with it
        extensions.append(extension(x509.AuthorityKeyIdentifier(own, None, None)))
    extensions += _constraints(profile, reasons)
    if issuer is not None:
        extensions += issuer.url_extensions(crl=True, ocsp=True, ca_issuers=True)
    extensions += profile.extensions
    if len({one.oid for one in extensions}) != len(extensions):
        reasons.append(Reason(Refusal.BAD_EXTENSION, "the same extension is asked for twice"))
    if reasons:
        raise Rejected(reasons)
    return CaContent(not_before, not_after, tuple(extensions))


def request_extensions(profile: CaProfile, public_key: CertificatePublicKeyTypes) -> tuple[Extension, ...]:
    """What a request to a foreign CA asks for; that CA decides."""
    return (
        extension(x509.BasicConstraints(ca=True, path_length=profile.path_length), critical=True),
        _key_usage(profile),
        extension(x509.SubjectKeyIdentifier(_key_identifier(profile, public_key))),
    )


def _validity(
    profile: CaProfile, issuer: IssuerView | None, now: datetime, reasons: list[Reason]
) -> tuple[datetime, datetime]:
    not_before = (now - profile.backdate).replace(microsecond=0)
    wanted = profile.not_after
    if wanted is None:
        try:
            wanted = END_OF_TIME if profile.validity is None else now + profile.validity
        except OverflowError:
            wanted = END_OF_TIME
    not_after = min(wanted, END_OF_TIME).replace(microsecond=0)
    if issuer is not None:
        not_before = max(not_before, issuer.not_before)
        if not_after > issuer.not_after:
            if profile.outlive is Outlive.REFUSE:
                text = f"the certificate would outlive its issuer, which ends at {issuer.not_after:%Y-%m-%d %H:%M:%SZ}"
                reasons.append(Reason(Refusal.BAD_VALIDITY, text))
            not_after = issuer.not_after
    if not_after <= now:
        reasons.append(Reason(Refusal.BAD_VALIDITY, "the validity would have ended already"))
    return not_before, not_after


def _path_length(profile: CaProfile, issuer: IssuerView | None, reasons: list[Reason]) -> int | None:
    wanted = profile.path_length
    if wanted is not None and wanted < 0:
        reasons.append(Reason(Refusal.BAD_EXTENSION, "a path length is not negative"))
    if issuer is None or issuer.path_length is None:
        return wanted
    if issuer.path_length == 0:
        reasons.append(Reason(Refusal.BAD_EXTENSION, "the issuer's path length is 0: it may not issue to another CA"))
        return 0
    if wanted is None:
        return issuer.path_length - 1
    if wanted >= issuer.path_length:
        text = f"path length {wanted} is not less than the issuer's, which is {issuer.path_length}"
        reasons.append(Reason(Refusal.BAD_EXTENSION, text))
    return wanted


def _key_usage(profile: CaProfile) -> Extension:
    duties = {Usage.KEY_CERT_SIGN, Usage.CRL_SIGN}
    return key_usage(
        frozenset(duties | {Usage.DIGITAL_SIGNATURE} if profile.digital_signature else duties), critical=True
    )


def _key_identifier(profile: CaProfile, public_key: CertificatePublicKeyTypes) -> bytes:
    spki = spki_der(public_key)
    if profile.key_identifier is KeyIdentifierMethod.SHA1:
        return hashlib.sha1(certparts.subject_public_key(spki), usedforsecurity=False).digest()
    return certparts.key_identifier(spki)


def _constraints(profile: CaProfile, reasons: list[Reason]) -> list[Extension]:
    found: list[Extension] = []
    permitted = _subtrees(profile.permitted, reasons)
    excluded = _subtrees(profile.excluded, reasons)
    if permitted or excluded:
        found.append(extension(x509.NameConstraints(permitted or None, excluded or None), critical=True))
    policies = [policy for text in profile.policies if (policy := _policy(text, reasons)) is not None]
    if len({one.policy_identifier for one in policies}) != len(policies):
        reasons.append(Reason(Refusal.BAD_EXTENSION, "a certificate policy is named twice"))
    if policies:
        found.append(extension(x509.CertificatePolicies(policies)))
    usages = [oid for text in profile.extended_key_usages if (oid := _oid(text, reasons)) is not None]
    if usages:
        found.append(extension(x509.ExtendedKeyUsage(usages)))
    return found


def _subtrees(texts: tuple[str, ...], reasons: list[Reason]) -> list[x509.GeneralName]:
    found = []
    for text in texts:
        try:
            subtree = parse_subtree(text)
            x509.NameConstraints([subtree], None)  # it has rules of its own
            found.append(subtree)
        except ValueError as error:
            reasons.append(Reason(Refusal.BAD_EXTENSION, f"name constraint {text!r}: {error}"))
    return found


def parse_subtree(text: str) -> x509.GeneralName:
    """A name constraint (RFC 5280 section 4.2.1.10) from text; raises :class:`ValueError`.

    ``dns:example.com``, ``email:example.com`` (a mailbox, a host, or ``.domain``), ``uri:.example.com``,
    ``ip:192.0.2.0/24``, ``dn:O=Example,C=CH``.
    """
    kind, separator, value = text.partition(":")
    if not separator or not value:
        raise ValueError("not kind:value (kinds: dns, email, uri, ip, dn)")
    if kind == "ip":
        return x509.IPAddress(ipaddress.ip_network(value))
    if kind == "dn":
        return x509.DirectoryName(parse_name(value))
    if kind == "dns":
        return x509.DNSName(value)
    if kind == "email":
        return x509.RFC822Name(value)
    if kind == "uri":
        return x509.UniformResourceIdentifier(value)
    raise ValueError(f"unknown kind {kind!r} (kinds: dns, email, uri, ip, dn)")


def _policy(text: str, reasons: list[Reason]) -> x509.PolicyInformation | None:
    oid_text, _, uri = text.partition(" ")
    oid = _oid(oid_text, reasons)
    return None if oid is None else x509.PolicyInformation(oid, [uri.strip()] if uri.strip() else None)


def _oid(text: str, reasons: list[Reason]) -> x509.ObjectIdentifier | None:
    try:
        return x509.ObjectIdentifier(text)
    except ValueError:
        reasons.append(Reason(Refusal.BAD_EXTENSION, f"{text!r} is not an object identifier"))
        return None


def _attribute_names() -> dict[str, x509.ObjectIdentifier]:
    """RFC 4514's short names are built in; these are the long ones, in both spellings, and OpenSSL's habits."""
    names = {"emailAddress": x509.NameOID.EMAIL_ADDRESS, "E": x509.NameOID.EMAIL_ADDRESS, "SN": x509.NameOID.SURNAME}
    names |= {"GN": x509.NameOID.GIVEN_NAME, "T": x509.NameOID.TITLE}
    for attribute, rule in RULES.items():
        first, *rest = attribute.value.split("_")
        names[first + "".join(part.capitalize() for part in rest)] = rule.oid
    return names


def parse_name(text: str) -> x509.Name:
    """A DN from RFC 4514 text, its string types as the standards have them; raises :class:`ValueError`.

    Attributes by their short name, their X.520 name (``serialNumber``), or a dotted OID.
    """
    if not text.strip():
        raise ValueError("a CA needs a subject")
    try:
        name = x509.Name.from_rfc4514_string(text, _attribute_names())
    except ValueError as error:
        raise ValueError(str(error) or "is no distinguished name (RFC 4514): CN=Example,O=Example,C=CH") from error
    problems = []
    rdns = []
    for rdn in name.rdns:
        attributes = []
        for attribute in rdn:
            known = BY_OID.get(attribute.oid)
            value = attribute.value
            if known is None or not isinstance(value, str):
                attributes.append(attribute)
                continue
            rule = RULES[known]
            if not rule.least <= len(value) <= rule.limit:
                problems.append(f"{known.value} must have {rule.least} to {rule.limit} characters, not {len(value)}")
            if re.search(r"[\x00-\x1f\x7f]", value):
                problems.append(f"{known.value} has a control character")
            attributes.append(x509.NameAttribute(attribute.oid, value, rule.string_type, _validate=False))
        rdns.append(x509.RelativeDistinguishedName(attributes))
    if problems:
        raise ValueError("; ".join(problems))
    return x509.Name(rdns)
