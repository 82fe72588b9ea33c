"""The connector for client certificates of other authorities: a device's factory certificate (RFC 9483's IDevID) first.

The chain is built and verified by OpenSSL, with CRLs; what the certificate then says is mapped.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import attrs
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL.crypto import X509, X509Store, X509StoreContext, X509StoreContextError, X509StoreFlags
from OpenSSL.crypto import Error as CryptoError
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorThreads
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.foundation.tomlfile import Invalid
from pkiserver.foundation.unreadable import UNREADABLE
from pkiserver.outbound.addresses import Timeouts, WebAddress
from pkiserver.outbound.http import fetch
from pkiserver.outbound.problems import OutboundError, Trouble
from pkiserver.registration.connectors import certfields
from pkiserver.registration.connectors.certsettings import CertificateSettings, CrlSource, Revocation
from pkiserver.registration.connectors.credentials import finding
from pkiserver.registration.connectors.crlkeeping import KeptLists, OlderListError
from pkiserver.registration.connectors.mapping import mapped
from pkiserver.registration.connectors.ocspstatus import OcspStatus
from pkiserver.registration.connectors.values import MAX_NAME, Denied, Finding, Outcome, Shown, Step

MAX_CHAIN = 8
MAX_CRL = 64 * 1024 * 1024
_ABOUT_CRLS = frozenset({3, 5, 8, 11, 12, 15, 16, 33, 35, 36, 44})
"""OpenSSL's X509_V_ERR values that are about our CRLs, not about the client.

There is none; it cannot be read, or another key signed it; it is not (yet) in force, or its times are none; its
issuer is unknown, or may sign none; an extension or its scope is not understood.
"""
T = TypeVar("T")
_log = Logger(namespace="pkiserver.connectors")


@attrs.frozen
class _Material:
    """What chains are verified against, as of a moment (monotonic seconds)."""

    store: X509Store
    crls: tuple[x509.CertificateRevocationList, ...]
    read: float
    failures: tuple[OutboundError, ...]


class ForeignCertificates:
    """Identifies the holders of certificates that other authorities issued."""

    def __init__(self, name: str, settings: CertificateSettings, clock: Clock) -> None:
        self.name = name
        self.settings = settings
        self._clock = clock
        self._material: _Material | None = None
        self._ocsp: OcspStatus | None = None
        if settings.ocsp is not None:
            self._ocsp = OcspStatus(settings.ocsp, Timeouts(answer=settings.answer_timeout), settings.refresh, clock)
        self._reading: list[Deferred[None]] | None = None
        self._lists = KeptLists()
        self._told: tuple[str, ...] = ()
        # large CRLs take their time to be read, and to be looked into
        self._pool = ThreadPool(0, 1, f"connector {name}")
        self._pool.start()

    async def identify(self, certificate: x509.Certificate, chain: tuple[x509.Certificate, ...]) -> Outcome:
        """Whose it is; raises :class:`Unavailable` where CRLs are missing."""
        material = await self._current()
        if len(chain) > MAX_CHAIN:
            return Denied(Step.USER, f"the chain has more than {MAX_CHAIN} certificates")
        if problem := use_problem(certificate):
            return Denied(Step.USER, problem)
        if problem := _form_problem((certificate, *chain)):
            return Denied(Step.USER, problem)
        verified = await self._in_thread(partial(self._verified, material.store, certificate, chain))
        if isinstance(verified, str):
            return Denied(Step.USER, verified)
        if problem := await self._revocation_problem(verified):
            return Denied(Step.USER, problem)
        if problem := self._rule_problem(certificate):
            return Denied(Step.USER, problem)
        names = certfields.values(certificate, self.settings.name)
        if len(names) != 1 or not 0 < len(names[0]) <= MAX_NAME or not names[0].isprintable():
            return Denied(Step.USER, f"{self.settings.name} does not give exactly one usable name")
        attributes = mapped(self.settings.attributes, lambda field: certfields.values(certificate, field))
        return attributes if isinstance(attributes, Denied) else Shown(names[0], frozenset(), attributes)

    async def check(self, name: str | None, password: Secret | None) -> tuple[Finding, ...]:  # noqa: ARG002
        """Read anchors and CRLs anew, and say what is there."""
        try:
            self._material = None
            material = await self._current()
        except Unavailable as error:
            return (Finding(Step.SETTINGS, self.name, error.text),)
        found = [finding(error) for error in material.failures]
        anchors = self.settings.anchors.load()
        names = ", ".join(one.subject.rfc4514_string() for one in anchors)
        found.append(Finding(Step.FINE, self.name, f"anchors: {names}"))
        found += await self._responder_findings(anchors[0])
        for crl in material.crls:
            end = crl.next_update_utc
            text = f"CRL of {crl.issuer.rfc4514_string()}, until {end:%Y-%m-%dT%H:%M:%SZ}" if end else "CRL without end"
            late = end is not None and end < self._clock.now()
            found.append(
                Finding(Step.ANSWER if late else Step.FINE, self.name, f"{text}{' (too old)' if late else ''}")
            )
        return tuple(found)

    async def _responder_findings(self, anchor: x509.Certificate) -> list[Finding]:
        if self._ocsp is None or self.settings.revocation is Revocation.OFF:
            return []
        try:
            said = await self._ocsp.reach(anchor)
        except OutboundError as error:
            return [finding(error)]
        return [Finding(Step.FINE, str(self.settings.ocsp), f"the OCSP responder answers ({said})")]

    def close(self) -> None:
        """End the thread."""
        if self._pool.joined:
            return
        reactor: Any = _reactor
        if self._pool.workers:
            reactor.callInThread(self._pool.stop)
        else:
            self._pool.stop()

    def _rule_problem(self, certificate: x509.Certificate) -> str | None:
        settings = self.settings
        for what, pattern, name in (
            ("subject", settings.subject, certificate.subject),
            ("issuer", settings.issuer, certificate.issuer),
        ):
            if pattern is not None and pattern.take(name.rfc4514_string()) is None:
                return f"the {what} {name.rfc4514_string()!r} does not match {pattern}"
        wanted = {str(oid) for oid in settings.policies}
        if wanted and not wanted.intersection(certfields.policies(certificate)):
            return f"it asserts none of the policies {', '.join(sorted(wanted))}"
        return None

    async def _revocation_problem(self, verified: tuple[x509.Certificate, ...]) -> str | None:
        """What the OCSP responder says of the chain, or of its first certificate, the client's."""
        if self._ocsp is None or self.settings.revocation is Revocation.OFF:
            return None
        pairs = list(pairwise(verified))
        try:
            for certificate, issuer in pairs if self.settings.revocation is Revocation.CHAIN else pairs[:1]:
                if problem := await self._ocsp.problem(certificate, issuer):
                    return f"{certificate.subject.rfc4514_string()!r} {problem}"
        except OutboundError as error:
            raise Unavailable(f"connector {self.name}: {error}", retry_after=60) from error
        return None

    def _verified(
        self, store: X509Store, certificate: x509.Certificate, chain: tuple[x509.Certificate, ...]
    ) -> tuple[x509.Certificate, ...] | str:
        """The chain up to its anchor, the client's first; or why there is none. In the thread: CRLs may be large."""
        store.set_time(self._clock.now().astimezone(UTC).replace(tzinfo=None))
        between = [X509.from_cryptography(one) for one in chain]
        try:
            found = X509StoreContext(store, X509.from_cryptography(certificate), between).get_verified_chain()
        except X509StoreContextError as error:
            number = error.errors[0] if error.errors else 0
            subject = error.certificate.to_cryptography().subject.rfc4514_string()
            if number in _ABOUT_CRLS:
                text = f"connector {self.name}: no CRL in force says whether {subject!r} is revoked ({error})"
                raise Unavailable(text, retry_after=60) from error
            return f"{subject!r}: {error}"
        verified = tuple(one.to_cryptography() for one in found)
        self._lists.note_issuers(verified[1:])
        return verified

    async def _current(self) -> _Material:
        """What to verify against; read again when it is old. Those who come meanwhile wait for the same reading.

        Nobody waits again for a server that did not answer the last time, as long as what is here is in force.
        """
        found = self._material
        if found is not None and not self._is_old(found):
            return found
        reading = self._reread()
        if found is not None and found.failures and self._is_in_force(found):
            reading.addErrback(self._log_unread)
            return found
        await reading
        if self._material is None:
            raise Unavailable(f"connector {self.name}: its anchors or CRLs cannot be read", retry_after=30)
        return self._material

    def _reread(self) -> Deferred[None]:
        """The end of the reading that is under way, or begins now; fails with :class:`Unavailable`."""
        waiting: Deferred[None] = Deferred()
        if self._reading is not None:
            self._reading.append(waiting)
            return waiting
        self._reading = [waiting]

        def ended(result: _Material | Failure) -> None:
            waiters, self._reading = self._reading or [], None
            if not isinstance(result, Failure):
                self._material = result
            for one in waiters:
                if isinstance(result, Failure):
                    one.errback(result)
                else:
                    one.callback(None)

        Deferred.fromCoroutine(self._read()).addBoth(ended)
        return waiting

    def _log_unread(self, failure: Failure) -> None:
        _log.warn("connector {connector}: {why}", connector=self.name, why=failure.getErrorMessage())

    def _is_in_force(self, material: _Material) -> bool:
        """Whether there is a list from every place, and none of them has ended."""
        now = self._clock.now()
        ends = [crl.next_update_utc for crl in material.crls]
        return len(ends) == len(self.settings.crls) and all(end is None or end >= now for end in ends)

    def _is_old(self, material: _Material) -> bool:
        age = self._clock.monotonic() - material.read
        now = self._clock.now()
        ended = any(crl.next_update_utc is not None and crl.next_update_utc < now for crl in material.crls)
        # a CRL that has ended is asked for again soon, but not by every request
        return age > self.settings.refresh.total_seconds() or ((ended or bool(material.failures)) and age > 10)

    async def _read(self) -> _Material:
        try:
            anchors = await self._in_thread(self.settings.anchors.load)
        except Invalid as error:
            raise Unavailable(f"connector {self.name}: anchors: {error}", retry_after=60) from error
        failures = []
        if self.settings.revocation is not Revocation.OFF:
            for source in self.settings.crls:
                try:
                    octets = await self._octets(source)
                    now = self._clock.now()
                    await self._in_thread(partial(self._lists.take, source, octets, anchors, now))
                except OutboundError as error:
                    failures.append(error)
                except OlderListError as error:
                    failures.append(OutboundError(Trouble.ANSWER, str(source), str(error)))
                except ValueError as error:
                    failures.append(OutboundError(Trouble.ANSWER, str(source), f"is no CRL: {error}"))
        self._tell(failures)
        crls = tuple(crl for source in self.settings.crls if (crl := self._lists.get(source)) is not None)
        store = await self._in_thread(partial(_store, self.settings, anchors, crls))
        return _Material(store, crls, self._clock.monotonic(), tuple(failures))

    def _tell(self, failures: list[OutboundError]) -> None:
        """Into the log, what was not told at the last reading."""
        texts = tuple(map(str, failures))
        for text in texts:
            if text not in self._told:
                _log.warn("connector {connector}: {why}", connector=self.name, why=text)
        self._told = texts

    async def _octets(self, source: CrlSource) -> bytes:
        path = source.path
        if path is None:
            timeouts = Timeouts(answer=self.settings.answer_timeout)
            answer = await fetch(WebAddress.parse(source.text), trust=None, timeouts=timeouts, limit=MAX_CRL)
            if answer.status != 200:
                raise OutboundError(Trouble.ANSWER, str(source), f"status {answer.status}")
            return answer.body
        try:
            return await self._in_thread(path.read_bytes)
        except OSError as error:
            raise OutboundError(Trouble.SETTINGS, str(source), f"cannot be read: {error.strerror}") from error

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._pool.joined:  # which would take the work, and never do it
            raise Unavailable(f"connector {self.name}: its settings have just changed", retry_after=1)
        running: Deferred[T] = deferToThreadPool(IReactorThreads(_reactor), self._pool, work)
        return await running


def use_problem(certificate: x509.Certificate) -> str | None:
    """Why a certificate may not show a client, whoever issued it."""
    extensions = _extensions(certificate)
    if extensions is None:
        return "its extensions cannot be read"
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints) and value.ca:
            return "it is a CA's certificate"
        if isinstance(value, x509.KeyUsage) and not value.digital_signature:
            return "its key usage lacks digitalSignature"
        if isinstance(value, x509.ExtendedKeyUsage) and not {
            ExtendedKeyUsageOID.CLIENT_AUTH,
            ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
        }.intersection(value):
            return "its extended key usage lacks clientAuth"
    return None


def _form_problem(certificates: tuple[x509.Certificate, ...]) -> str | None:
    """Why one of them cannot be looked at; what OpenSSL does not read verifies nothing either."""
    for one in certificates:
        try:
            one.subject.rfc4514_string(), one.issuer.rfc4514_string()
            X509.from_cryptography(one)
        except (ValueError, CryptoError):
            return "it, or one of its chain, cannot be read"
    return None


def _extensions(certificate: x509.Certificate) -> x509.Extensions | None:
    try:
        return certificate.extensions
    except UNREADABLE:
        return None


def _store(
    settings: CertificateSettings,
    anchors: tuple[x509.Certificate, ...],
    crls: tuple[x509.CertificateRevocationList, ...],
) -> X509Store:
    store = X509Store()
    for anchor in anchors:
        store.add_cert(X509.from_cryptography(anchor))
    for crl in crls:
        store.add_crl(crl)
    flags = X509StoreFlags.PARTIAL_CHAIN
    by_lists = bool(settings.crls)  # else OCSP says what there is to say
    if settings.revocation is not Revocation.OFF and by_lists:
        flags |= X509StoreFlags.CRL_CHECK
    if settings.revocation is Revocation.CHAIN and by_lists:
        flags |= X509StoreFlags.CRL_CHECK_ALL
    store.set_flags(flags)
    return store
