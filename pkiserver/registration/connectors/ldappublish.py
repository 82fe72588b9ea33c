"""Write issued certificates to their holders' entries, and take replaced ones away."""

from __future__ import annotations

from cryptography import x509

from pkiserver.outbound.ldap import ATTRIBUTE_EXISTS, NO_SUCH_ATTRIBUTE, LdapConnection, LdapError
from pkiserver.outbound.ldapattributes import certificate_attribute
from pkiserver.outbound.ldapwire import Change, ChangeKind
from pkiserver.registration.connectors.ldapsettings import AltSecurity, LdapSettings

USER_CERTIFICATE = "userCertificate"
ALT_SECURITY = "altSecurityIdentities"
_SHORT = {
    "2.5.4.3": "CN", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "S", "2.5.4.10": "O", "2.5.4.11": "OU", "2.5.4.4": "SN",
    "2.5.4.42": "G", "0.9.2342.19200300.100.1.25": "DC", "1.2.840.113549.1.9.1": "E",
}  # fmt: skip


async def publish(
    connection: LdapConnection, dn: str, settings: LdapSettings, certificate: bytes, replaced: tuple[bytes, ...]
) -> None:
    """Add the DER certificate to the entry and remove ``replaced``; what is as it should be already is fine.

    Raises:
        LdapError: the directory refuses.
        OutboundError: the connection was lost.
    """
    rules = settings.publish
    if rules is None:
        return
    gone = replaced if rules.remove_replaced else ()
    if rules.user_certificate:
        attribute = certificate_attribute(USER_CERTIFICATE, active_directory=settings.active_directory)
        await _set(connection, dn, attribute, certificate, gone)
    if rules.alt_security_identities is not AltSecurity.NONE:
        kind = rules.alt_security_identities
        new = alt_security(certificate, kind)
        old = tuple(text for one in gone if (text := alt_security(one, kind)) != new)
        await _set(connection, dn, ALT_SECURITY, new, old)


async def _set(connection: LdapConnection, dn: str, attribute: str, new: bytes, gone: tuple[bytes, ...]) -> None:
    changes = [(Change(ChangeKind.ADD, attribute, (new,)), ATTRIBUTE_EXISTS)]
    changes += [(Change(ChangeKind.DELETE, attribute, (one,)), NO_SUCH_ATTRIBUTE) for one in gone]
    for change, harmless in changes:
        try:
            await connection.modify(dn, (change,))
        except LdapError as error:
            if error.code != harmless:
                raise


def alt_security(certificate: bytes, kind: AltSecurity) -> bytes:
    """The mapping of a DER certificate as Active Directory writes it.

    ``issuer_serial`` is the strong form of Microsoft's KB5014754: the serial number's octets in reverse.
    """
    parsed = x509.load_der_x509_certificate(certificate)
    issuer = _windows_name(parsed.issuer)
    if kind is AltSecurity.ISSUER_SUBJECT:
        return f"X509:<I>{issuer}<S>{_windows_name(parsed.subject)}".encode()
    number = parsed.serial_number
    serial = number.to_bytes((number.bit_length() + 8) // 8, "big")
    return f"X509:<I>{issuer}<SR>{serial[::-1].hex()}".encode()


def _windows_name(name: x509.Name) -> str:
    """The RDNs in the order of the certificate, with the short names of Windows."""
    return ",".join(
        f"{_SHORT.get(one.oid.dotted_string, f'OID.{one.oid.dotted_string}')}={one.value!s}" for one in name
    )
