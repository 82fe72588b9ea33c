"""The checks of ``pkiserver doctor`` that ask the open engine: keys, authorities, templates, CRLs, published URLs."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from twisted.internet.threads import deferToThread

from pkiserver.authority.requests import spki_der
from pkiserver.authority.tampering import alterations
from pkiserver.authority.templates.weaknesses import weaknesses
from pkiserver.cli.diagnosis import Result, bad, check_validity, fetch, good, warning
from pkiserver.foundation.errors import PkiError
from pkiserver.registration.adminalterations import administrator_alterations
from pkiserver.runtime.health import Health
from pkiserver.store.authority.authorities import GenerationState
from pkiserver.store.failures import told_in_full

if TYPE_CHECKING:
    from pkiserver.authority.model import Authority, Generation
    from pkiserver.runtime.engine import Engine

CA_WARNING = timedelta(days=30)
_MOST_NAMES = 5


async def check_engine(engine: Engine) -> AsyncIterator[Result]:
    """Everything that the engine can say about itself."""
    yield await _check_database(engine)
    async for result in _check_keys(engine):
        yield result
    for result in _check_objects(engine):
        yield result
    authorities = engine.authorities.list()
    if not authorities:
        yield warning("ca", "there is no authority yet", "`pkiserver ca create`, or `pkiserver quickstart`")
    now = engine.clock.now()
    for authority in authorities:
        for generation in authority.generations:
            if generation.state is not GenerationState.RETIRED:
                for result in _check_generation(engine, authority, generation, now):
                    yield result
        async for result in _check_urls(authority):
            yield result
    async for result in _check_shared(engine):
        yield result


async def _check_database(engine: Engine) -> Result:
    try:
        await engine.database.write(lambda _connection: None)
    except PkiError as error:
        advice = "is its disk full or read-only, does a process hold it, may this account write?"
        return bad("database", f"answers, but cannot be written: {told_in_full(error)}", advice)
    return good("database", "answers, can be written, and its schema is this program's")


async def _check_keys(engine: Engine) -> AsyncIterator[Result]:
    problems = engine.keys.problems()
    for problem in problems:
        yield bad(f"key:{problem.name}", problem.text, "see `pkiserver hsm info` and `pkiserver key show`")
    if not problems:
        yield good("keys", f"{len(engine.keys.list())} keys in {len(engine.keys.stores)} store(s), all usable")
    async for result in _check_unregistered(engine):
        yield result


async def _check_unregistered(engine: Engine) -> AsyncIterator[Result]:
    """What processes left in the stores that were killed between making a key and registering it."""
    try:
        found = await engine.keys.unregistered.find()
    except PkiError as error:
        yield bad("keys:unregistered", told_in_full(error), "see `pkiserver key list --unregistered`")
        return
    for store in dict.fromkeys(one.store for one in found):
        names = [one.name for one in found if one.store == store]
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        text = f"{len(names)} in no record: {', '.join(names[:_MOST_NAMES])}{more}"
        advice = (
            "`pkiserver key list --unregistered`; adopt or delete what is not another installation's (docs/keys.md)"
        )
        yield warning(f"keys:{store}", text, advice)


def _check_objects(engine: Engine) -> Iterator[Result]:
    for unusable in engine.templates.problems():
        yield bad(f"template:{unusable.template}", unusable.text, "correct it and `pkiserver apply` it again")
    for stored in engine.templates.list():
        for text in weaknesses(stored.template):
            yield warning(f"template:{stored.template.name}", text, "see docs/protocols/scep.md")
    problems = [(one.authority, one.text) for one in engine.authorities.problems()]
    problems += [(one.authority, one.text) for one in engine.status.problems()]
    for name, text in problems:
        yield bad(f"ca:{name}", text, "see `pkiserver ca show`")


async def _check_alterations(engine: Engine) -> AsyncIterator[Result]:
    """Whether the configuration is what was applied (the audit log knows)."""
    found = await engine.database.read(alterations)
    for one in found:
        if one.certain:
            yield bad(f"audit:{one.object}", one.text, "look (`pkiserver export`), then `pkiserver apply` it again")
        else:
            yield warning(f"audit:{one.object}", one.text, "change it by `pkiserver apply`, so that it can be compared")
    if not found:
        yield good("audit:configuration", "every object is as it was last applied")
    people = await engine.database.read(administrator_alterations)
    for one in people:
        if one.certain:
            yield bad(f"audit:{one.object}", one.text, "look (`pkiserver admin show`); `admin set` or `delete` it")
        else:
            yield warning(f"audit:{one.object}", one.text, "`pkiserver admin set` it, so that it can be compared")
    if not people:
        yield good("audit:administrators", "everybody is as last made")


async def _check_connectors(engine: Engine) -> AsyncIterator[Result]:
    for unusable in engine.connectors.problems():
        yield bad(f"connector:{unusable.connector}", unusable.text, "correct it and `pkiserver apply` it again")
    for connector in engine.connectors.list():
        if not connector.enabled:
            continue
        name = f"connector:{connector.name}"
        findings = await engine.connectors.check(connector.name, None, None)
        for one in findings:
            if not one.fine:
                yield bad(name, f"{one.server}: {one.step}: {one.text}", "see docs/registration.md, Connectors")
        if all(one.fine for one in findings):
            yield good(name, f"{connector.connects_to}: every server answers as it should")


async def _check_directories(engine: Engine) -> AsyncIterator[Result]:
    """Whether each directory that is published to lets us in, and what it has not taken."""
    from pkiserver.authority.delivery.queue import TargetDown
    from pkiserver.store.publication import outward

    for unusable in engine.directories.problems():
        yield bad(f"directory:{unusable.directory}", unusable.text, "correct it and `pkiserver apply` it again")
    for bearer in engine.directories.list():
        name = f"directory:{bearer.directory.name}"
        if not bearer.directory.enabled:
            continue
        try:
            async with bearer.entries():
                pass
        except TargetDown as error:
            yield bad(name, str(error), "see docs/protocols/addressbook.md, Publishing to other directories")
            continue
        standing = await engine.database.read(partial(outward.standing, target=bearer.key, now=engine.clock.now()))
        if standing.refused:
            yield warning(name, f"lets us in, but refused {standing.refused}", "see `pkiserver addressbook targets`")
        else:
            yield good(name, f"lets us in; changes waiting: {standing.waiting}")


def _check_generation(engine: Engine, authority: Authority, generation: Generation, now: datetime) -> Iterator[Result]:
    name = f"ca:{authority.name}" if len(authority.generations) == 1 else f"ca:{authority.name}/{generation.number}"
    if generation.ca is None:
        yield warning(name, "has no certificate yet", "have its request signed, then `pkiserver ca install`")
        return
    yield check_validity(f"{name}:validity", generation.ca.certificate, now, CA_WARNING, "`pkiserver ca renew`")
    yield from _check_own_key(engine, name, generation, generation.ca.spki)
    yield _check_chain(name, (generation.ca.der, *engine.authorities.chain(generation)))


def _check_own_key(engine: Engine, name: str, generation: Generation, spki: bytes) -> Iterator[Result]:
    if generation.key_name is None:
        yield good(f"{name}:key", "is kept elsewhere (offline)")
        return
    try:
        fits = spki_der(engine.keys.public_key(generation.key_name)) == spki
    except PkiError as error:
        yield bad(f"{name}:key", str(error), "bring the token back, or see `pkiserver key show`")
        return
    if fits:
        yield good(f"{name}:key", f"{generation.key_name} belongs to the certificate")
    else:
        advice = "import the certificate again with the key it was made for"
        yield bad(f"{name}:key", f"{generation.key_name} is not the certificate's key", advice)


def _check_chain(name: str, chain: Sequence[bytes]) -> Result:
    certificates = list(dict.fromkeys(x509.load_der_x509_certificate(der) for der in chain))
    for below, above in zip(certificates, [*certificates[1:], certificates[-1]], strict=True):
        if below is above and below.subject != below.issuer:
            text = f"ends at {below.subject.rfc4514_string()}, whose issuer is not here"
            return warning(f"{name}:chain", text, "import the certificates above it")
        try:
            below.verify_directly_issued_by(above)
        except Exception as error:  # noqa: BLE001  # cryptography raises several kinds; each says the same
            text = f"{below.subject.rfc4514_string()} was not issued by {above.subject.rfc4514_string()}: {error}"
            return bad(f"{name}:chain", text, "import the right certificates above it")
    return good(f"{name}:chain", f"{len(certificates)} certificate(s) up to the root")


async def _check_urls(authority: Authority) -> AsyncIterator[Result]:
    """Fetch every URL that this authority writes into certificates, as relying parties would."""
    generation = authority.current
    if generation is None or generation.ca is None:
        return
    publication = authority.settings.publication
    if not publication.base_url:
        advice = "set publication.base_url of the authority and `pkiserver apply` it"
        yield warning(f"url:{authority.name}", "certificates of this authority name no CRL and no OCSP", advice)
        return
    path = generation.crl_path
    for url in publication.urls(publication.crl, path):
        yield await _fetched(url, x509.load_der_x509_crl)
    for url in publication.urls(publication.ca_issuers, path):
        yield await _fetched(url, x509.load_der_x509_certificate)
    question = _ocsp_question(generation.ca.certificate)
    for url in publication.urls(publication.ocsp, path):
        yield await _fetched(url, _check_ocsp, question)


def _ocsp_question(issuer: x509.Certificate) -> bytes:
    """A request about a serial number that nobody has; any signed answer shows that the responder works."""
    key = x509.SubjectKeyIdentifier.from_public_key(issuer.public_key()).digest
    name = hashlib.sha1(issuer.subject.public_bytes(), usedforsecurity=False).digest()
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(name, key, 1, hashes.SHA1())  # noqa: S303
    return builder.build().public_bytes(Encoding.DER)


def _check_ocsp(octets: bytes) -> None:
    status = ocsp.load_der_ocsp_response(octets).response_status
    if status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        raise ValueError(f"OCSP status {status.name.lower()}: the responder may have no certificate yet")


async def _fetched(url: str, parse: Callable[[bytes], object], body: bytes | None = None) -> Result:
    name = f"url:{url}"
    advice = "is the server running, and does the name lead to it?"
    if not url.startswith("http"):
        return good(name, "not fetched: only http URLs are")
    try:
        status, octets = await deferToThread(fetch, url, body, "application/ocsp-request" if body else "")
    except OSError as error:
        return bad(name, f"no answer: {error}", advice)
    if status != 200:
        return bad(name, f"answers {status}", advice)
    try:
        parse(octets)
    except ValueError as error:
        return bad(name, f"not what it should be: {error}", "does another server listen there?")
    return good(name, f"answers ({len(octets)} octets)")


async def _check_shared(engine: Engine) -> AsyncIterator[Result]:
    """What readiness asks too: CRL age and clock."""
    async for result in _check_alterations(engine):
        yield result
    async for result in _check_connectors(engine):
        yield result
    async for result in _check_directories(engine):
        yield result
    from pkiserver.runtime.services.checks import clock_check, crl_check

    checks = (
        crl_check(engine.database, engine.authorities, engine.clock),
        clock_check(engine.database, engine.clock, is_sqlite=engine.settings.database.is_sqlite),
    )
    for check in checks:
        for finding in await check.run():
            advice = None if finding.health is Health.OK else "see `pkiserver crl issue` and the clock's source (NTP)"
            yield Result(finding.name, finding.health, finding.text, advice)
