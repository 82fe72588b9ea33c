"""What the tests of distribution points and deltas share: other settings for an authority, and lists read back."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import attrs
from cryptography import x509

from pkiserver.authority.status.offline import read_crl
from pkiserver.authority.status.policy import CrlPolicy
from pkiserver.foundation.tomlfile import dump
from pkiserver.store.authority import authorities
from pkiserver.store.authority.crls import CrlKind
from tests.authority.status_world import StatusWorld, lint_crl

MINUTE = timedelta(minutes=1)


async def configure(
    at: StatusWorld, name: str = "issuing", *, base_url: str | None = None, urls: tuple[str, ...] = (), **crl: Any
) -> None:
    """Give an authority other CRL settings, as ``pkiserver apply`` does."""
    authority = at.world.road.authorities.get(name)
    settings = attrs.evolve(authority.settings, crl=CrlPolicy(**crl))
    if base_url is not None:
        settings = attrs.evolve(settings, publication=attrs.evolve(settings.publication, base_url=base_url))
    if urls:
        settings = attrs.evolve(settings, publication=attrs.evolve(settings.publication, crl=urls))
    text = dump(settings)
    await at.world.database.write(lambda c: authorities.update_authority(c, name, config=text, state="active"))
    await at.world.road.authorities.refresh()


async def published(at: StatusWorld, path: str, kind: CrlKind = CrlKind.COMPLETE, number: int | None = None) -> bytes:
    """The list that is served at a path."""
    at.clock.advance(timedelta(seconds=1))  # what is served is looked up twice a second
    source = at.status.publications
    found = await (source.crl(path, kind) if number is None else source.numbered_crl(path, number, kind))
    assert found is not None, path
    return found.der


def checked(at: StatusWorld, der: bytes, generation: int = -1) -> x509.CertificateRevocationList:
    """A list, linted, its signature verified."""
    assert lint_crl(der) == []
    return read_crl(der, at.issuing.generations[generation].certificate).crl


def serials(crl: x509.CertificateRevocationList) -> set[int]:
    return {one.serial_number for one in crl}


def number(crl: x509.CertificateRevocationList) -> int:
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def base_number(crl: x509.CertificateRevocationList) -> int:
    found = crl.extensions.get_extension_for_class(x509.DeltaCRLIndicator)
    assert found.critical
    return found.value.crl_number


def value(carrier: x509.CertificateRevocationList | x509.Certificate, kind: type[Any]) -> Any:
    """An extension's value; None where there is none."""
    try:
        return carrier.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def point_urls(certificate: bytes, kind: type[Any] = x509.CRLDistributionPoints) -> list[str]:
    """The URLs of a certificate's distribution points, or freshest ones."""
    found = value(x509.load_der_x509_certificate(certificate), kind)
    return [] if found is None else [name.value for point in found for name in point.full_name]


def path_of(url: str) -> str:
    """The path of a list behind a URL."""
    return url.removeprefix("http://pki.example/crl/").removesuffix(".crl")


def entries(crl: x509.CertificateRevocationList) -> dict[int, tuple[str, Any]]:
    """Reason and date of every entry."""
    return {one.serial_number: (reason_of(one), one.revocation_date_utc) for one in crl}


def reason_of(entry: x509.RevokedCertificate) -> str:
    try:
        return entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value
    except x509.ExtensionNotFound:
        return "unspecified"


def combine(base: x509.CertificateRevocationList, delta: x509.CertificateRevocationList) -> dict[int, tuple[str, Any]]:
    """What a client makes of a complete list and a delta (RFC 5280 section 5.2.4)."""
    assert base_number(delta) <= number(base)
    assert value(base, x509.IssuingDistributionPoint) == value(delta, x509.IssuingDistributionPoint)
    found = entries(base) | entries(delta)
    return {serial: entry for serial, entry in found.items() if entry[0] != "removeFromCRL"}
