"""The fields of a certificate as texts, by the names that settings use."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from pkiserver.authority.templates.attributes import DnAttribute
from pkiserver.foundation import der

_UPN = x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3")
_HARDWARE_MODULE = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.4")


def values(certificate: x509.Certificate, field: str) -> tuple[str, ...]:
    """All values of a field, in the certificate's order."""
    head, _, rest = field.partition(".")
    if head == "san":
        return _san(certificate, rest)
    if head in {"subject", "issuer"}:
        name = certificate.subject if head == "subject" else certificate.issuer
        return _attribute(name, rest) if rest else (name.rfc4514_string(),)
    if head == "serial":
        return (f"{certificate.serial_number:x}",)
    if head == "fingerprint":
        return (certificate.fingerprint(hashes.SHA256()).hex(),)
    return policies(certificate)


def policies(certificate: x509.Certificate) -> tuple[str, ...]:
    """The certificate policies that are asserted."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.CertificatePolicies).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    return tuple(one.policy_identifier.dotted_string for one in found)


def _attribute(name: x509.Name, attribute: str) -> tuple[str, ...]:
    oid = DnAttribute(attribute).rule.oid if attribute in set(DnAttribute) else x509.ObjectIdentifier(attribute)
    return tuple(text for one in name.get_attributes_for_oid(oid) if isinstance(text := one.value, str))


def _san(certificate: x509.Certificate, kind: str) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    match kind:
        case "dns":
            return tuple(names.get_values_for_type(x509.DNSName))
        case "mail":
            return tuple(names.get_values_for_type(x509.RFC822Name))
        case "uri":
            return tuple(names.get_values_for_type(x509.UniformResourceIdentifier))
        case "ip":
            return tuple(map(str, names.get_values_for_type(x509.IPAddress)))
    others = names.get_values_for_type(x509.OtherName)
    if kind == "upn":
        return tuple(text for one in others if one.type_id == _UPN and (text := _utf8(one.value)))
    return tuple(text for one in others if one.type_id == _HARDWARE_MODULE and (text := _serial_number(one.value)))


def _utf8(value: bytes) -> str | None:
    try:
        return der.read_utf8_string(value)
    except der.NotDer:
        return None


def _serial_number(value: bytes) -> str | None:
    """HwSerialNum of a HardwareModuleName (RFC 4108 section 5), as text where it is printable ASCII, else in hex."""
    try:
        parts = der.children(value, der.whole(value))
    except der.NotDer:
        return None
    if [part.tag for part in parts] != [der.OBJECT_IDENTIFIER, der.OCTET_STRING]:
        return None
    serial = value[parts[1].body : parts[1].end]
    if not serial:
        return None
    text = serial.decode("ascii", "replace")
    return text if text.isascii() and text.isprintable() else serial.hex()
