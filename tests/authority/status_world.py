"""A world whose time the tests move, with everything about certificate status over it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pkilint import loader, pkix
from pkilint.document import Document
from pkilint.pkix import crl as pkilint_crl
from pkilint.pkix import extension, name
from pkilint.pkix import ocsp as pkilint_ocsp
from pkilint.validation import DecodingValidator, ValidationFindingSeverity

from pkiserver.authority.model import Authority
from pkiserver.authority.requests import IssuedCertificate
from pkiserver.authority.revocation import ByCertificate, Order
from pkiserver.authority.status.services import StatusServices, status_services
from pkiserver.foundation.errors import Unavailable
from pkiserver.keys.settings import ProviderSettings
from pkiserver.store.certificates import RevocationReason
from pkiserver.store.migrate import migrate
from tests.authority.world import World, authorised, open_world, pem
from tests.support.clock import FakeClock

ORDER = Order(actor="tester")


@attrs.frozen
class Parts:
    """Of an engine, what the services around lists need: those that bring them somewhere, or read them back."""

    database: Any
    authorities: Any
    clock: Any
    settings: Any


@attrs.frozen
class StatusWorld:
    """A world with a root ``root``, an issuing CA ``issuing`` and the template ``device``."""

    world: World
    status: StatusServices
    clock: FakeClock

    def another_process(self) -> StatusServices:
        """The status services of a second process over the same database."""
        return build(self.world, self.clock, "another")

    @property
    def issuing(self) -> Authority:
        return self.world.road.authorities.get("issuing")

    async def certificate(self, common_name: str = "device 1", **more: object) -> IssuedCertificate:
        request = authorised(common_name=common_name, **more)
        return await self.world.road.issue(await self.world.road.prepare(request))

    async def revoke(
        self, issued: IssuedCertificate, reason: RevocationReason = RevocationReason.SUPERSEDED, **more: Any
    ) -> None:
        await self.status.revocations.revoke(ByCertificate(issued.der), reason, ORDER, **more)
        # Of what its own process changes the cache learns a moment later; time stands still here, so wait for it.
        await self.status.directory.cache.poll()

    async def crl(self, authority: Authority | None = None) -> x509.CertificateRevocationList:
        """The newest list of an authority's issuing key, as served."""
        chosen = authority or self.issuing
        found = await self.status.publications.crl(chosen.current.crl_path)
        assert found is not None
        return x509.load_der_x509_crl(found.der)


def build(world: World, clock: FakeClock, holder: str, *, numbers: Path | None = None) -> StatusServices:
    return status_services(
        database=world.database,
        audit=world.audit,
        keys=world.keys,
        authorities=world.road.authorities,
        preparer=world.road.preparer,
        issuer=world.road.issuer,
        clock=clock,
        holder=holder,
        numbers=numbers,
    )


@contextmanager
def status_world(
    directory: Path, stores: tuple[ProviderSettings, ...], on_reactor: Callable[[Any], Any], url: str = ""
) -> Iterator[StatusWorld]:
    """A started world, on SQLite unless told; its clock begins now, so that tools that look at the machine's agree."""
    url = url or f"sqlite:///{directory / 'pki.db'}"
    migrate(url)
    clock = FakeClock(datetime.now(UTC).replace(microsecond=0))

    async def start() -> StatusWorld:
        world = await open_world(url, stores, clock)
        await world.road.start()
        await world.root()
        await world.subordinate(path_length=0)
        await world.template()
        return StatusWorld(world, build(world, clock, "test"), clock)

    opened: StatusWorld = on_reactor(start)
    yield opened

    async def close() -> None:
        try:
            await opened.world.close()
        except Unavailable:  # the test closed the database; the token must be left all the same
            await opened.world.keys.close()

    on_reactor(close)


def _findings(validator: DecodingValidator, document: Document) -> list[str]:
    return [
        f"{found.finding.code}: {found.message}"
        for result in validator.validate(document.root)
        for found in result.finding_descriptions
        if found.finding.severity >= ValidationFindingSeverity.NOTICE
    ]


def _decoders() -> list[Any]:
    return [
        pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
        pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
    ]


def lint_crl(crl: bytes) -> list[str]:
    """What pkilint has against a CRL."""
    validator = pkilint_crl.create_pkix_crl_validator_container(
        _decoders(),
        [
            pkilint_crl.create_issuer_validator_container([]),
            pkilint_crl.create_validity_validator_container([]),
            pkilint_crl.create_extensions_validator_container([]),
        ],
    )
    return _findings(validator, loader.RFC5280CertificateListDocumentLoader().load_der_document(crl, "crl"))


def lint_ocsp(answer: bytes) -> list[str]:
    """What pkilint has against an OCSP answer."""
    validator = pkilint_ocsp.create_pkix_ocsp_response_validator_container(
        [pkilint_ocsp.create_response_decoder(), *_decoders()], []
    )
    return _findings(validator, loader.RFC6960OCSPResponseDocumentLoader().load_der_document(answer, "ocsp"))


def openssl_crl_check(
    directory: Path, leaf: bytes, above: Iterable[bytes], crls: Iterable[bytes], *options: str
) -> str:
    """What ``openssl verify -crl_check_all`` says of a certificate with these issuers (root last) and DER lists."""
    chain = list(above)
    (directory / "leaf.pem").write_bytes(pem([leaf]))
    (directory / "root.pem").write_bytes(pem(chain[-1:]))
    (directory / "helpers.pem").write_bytes(pem(chain[:-1]))
    lists = b"".join(x509.load_der_x509_crl(one).public_bytes(Encoding.PEM) for one in crls)
    (directory / "crls.pem").write_bytes(lists)
    files = ["-CAfile", str(directory / "root.pem"), "-untrusted", str(directory / "helpers.pem")]
    lists_file = str(directory / "crls.pem")
    command = ["openssl", "verify", "-x509_strict", "-crl_check_all", *options, "-CRLfile", lists_file]
    done = subprocess.run([*command, *files, str(directory / "leaf.pem")], capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip()


HOUR = timedelta(hours=1)
