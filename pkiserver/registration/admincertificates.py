"""An administrator's certificate, made on the road like any other, and the PKCS#12 file that carries it once."""

from __future__ import annotations

import secrets
from datetime import timedelta

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates
from cryptography.x509.oid import ExtendedKeyUsageOID

from pkiserver.authority.authorities import Authorities
from pkiserver.authority.extensions import Extension, extension, key_usage, subject_key_identifier
from pkiserver.authority.issue import Issuer
from pkiserver.authority.order import Order
from pkiserver.authority.prepare import Preparer
from pkiserver.authority.templates.usages import Usage
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.foundation.secret import Secret

TEMPLATE = "administrator"
"""The template name that these certificates carry in the records."""
VALIDITY = timedelta(days=365)
MAXIMUM_VALIDITY = timedelta(days=5 * 366)
_BACKDATE = timedelta(minutes=5)
_ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz"
_GROUPS, _LETTERS = 5, 5
"""25 characters of 31: 123 bits."""


def new_password() -> Secret:
    """A password that can be read aloud and is used once."""
    groups = ("".join(secrets.choice(_ALPHABET) for _ in range(_LETTERS)) for _ in range(_GROUPS))
    return Secret("-".join(groups))


def require_validity(validity: timedelta) -> None:
    """Raises :class:`Rejected` where an administrator's certificate would live too short or too long."""
    if not timedelta(hours=1) <= validity <= MAXIMUM_VALIDITY:
        raise Rejected.because(Refusal.BAD_VALIDITY, "the validity is between an hour and five years")


@attrs.frozen
class Credential:
    """A certificate with its key in a PKCS#12 file, and the password of the file. Neither is kept here."""

    certificate: bytes
    serial: int
    pkcs12: bytes = attrs.field(repr=False)
    password: Secret


@attrs.frozen
class AdministratorCertificates:
    """Makes certificates by which administrators are known."""

    authorities: Authorities
    preparer: Preparer
    issuer: Issuer
    clock: Clock

    async def issue(self, name: str, authority: str, *, validity: timedelta = VALIDITY, by: str) -> Credential:
        """A new P-256 key, its certificate by ``authority``, both in a file under a password.

        Raises:
            Rejected: the validity is out of range, or the authority cannot issue.
            Unavailable: key or database are away.
        """
        require_validity(validity)
        key = ec.generate_private_key(ec.SECP256R1())
        order = self._order(name, authority, key.public_key(), validity, by)
        issued = await self.issuer.issue(await self.preparer.prepare_order(order))
        password = new_password()
        file = serialize_key_and_certificates(
            f"pkiserver administrator {name}".encode(),
            key,
            x509.load_der_x509_certificate(issued.der),
            [x509.load_der_x509_certificate(one) for one in issued.chain],
            BestAvailableEncryption(password.reveal()),
        )
        return Credential(issued.der, issued.serial, file, password)

    def _order(
        self, name: str, authority: str, public_key: ec.EllipticCurvePublicKey, validity: timedelta, by: str
    ) -> Order:
        generation = self.authorities.get(authority).current
        ca = generation.certificate
        now = self.clock.now().replace(microsecond=0)
        subject = [x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]
        return Order(
            issuing=self.authorities.issuing(authority),
            subject=x509.Name(subject),
            public_key=public_key,
            not_before=max(now - _BACKDATE, ca.certificate.not_valid_before_utc),
            not_after=min(now + validity, ca.not_after),
            extensions=(
                extension(x509.AuthorityKeyIdentifier(ca.key_identifier, None, None)),
                extension(subject_key_identifier(public_key)),
                key_usage(frozenset({Usage.DIGITAL_SIGNATURE}), critical=True),
                extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])),
                *self._urls(authority),
            ),
            template=TEMPLATE,
            requester=by,
            protocol="cli",
            request_id="",
        )

    def _urls(self, authority: str) -> tuple[Extension, ...]:
        found = self.authorities.get(authority)
        view = self.authorities.view(found, found.current)
        return tuple(view.url_extensions(crl=True, ocsp=True, ca_issuers=True))
