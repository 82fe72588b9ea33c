"""The server as its own client: reads its CRLs and OCSP answers back from the URLs in its certificates.

What is looked at is what a relying party looks at: that there is an answer, who signed it, whether it is fresh, that
CRL numbers do not fall back, that both say what the records say. One process of each node looks; all of them tell.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial
from urllib.parse import urlsplit

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from sqlalchemy import Connection
from twisted.internet.defer import CancelledError
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from pkiserver.authority import certparts
from pkiserver.authority.authorities import Authorities
from pkiserver.authority.crl import issues_crls
from pkiserver.authority.distribution import DistributionPoint
from pkiserver.authority.model import Authority, CaCertificate, Generation, GenerationState
from pkiserver.authority.status.answersigner import WrongAnswerError, check_signer
from pkiserver.authority.status.directory import responders
from pkiserver.authority.status.policy import NoncePolicy
from pkiserver.authority.status.turns import Turns
from pkiserver.authority.validation.lists import read_head
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import PkiError, Rejected
from pkiserver.foundation.tomlfile import Invalid
from pkiserver.outbound.addresses import Timeouts, WebAddress
from pkiserver.outbound.http import Answer, fetch
from pkiserver.outbound.problems import OutboundError, Trouble
from pkiserver.store import certificates
from pkiserver.store.authority import crl_history, crls, deliveries
from pkiserver.store.authority.crls import CrlKind
from pkiserver.store.authority.deliveries import Finding
from pkiserver.store.authority.foreign import ListKind
from pkiserver.store.database import Database

_LARGEST = 512 * 1024 * 1024
_TIMEOUTS = Timeouts(connect=timedelta(seconds=3), answer=timedelta(seconds=20))
_SKEW = timedelta(seconds=5)
_OK = 200
_NOT_MODIFIED = 304
_NO_ANSWER = frozenset({Trouble.CONNECT, Trouble.SILENT})
_SILENT = 2
"""A host that did not answer so many times is asked no more in this look: one that hangs must not hold up the rest."""
_READ = "http://"
"""What is read back. For https nothing says whom a client trusts; a directory is told of as a target."""
_NONCE = 32
"""Octets of a nonce, where answers are given to requests with one only."""
_BIG = 1 << 20
"""A list from this length on is verified in a thread."""


@attrs.frozen
class _Seen:
    """A list that was read and found right."""

    tag: str
    number: int
    this_update: datetime
    next_update: datetime


class SelfCheck:
    """Looks at everything once in each ``interval``, in one process of the node."""

    _log = Logger()

    def __init__(
        self,
        *,
        node: str,
        database: Database,
        authorities: Authorities,
        turns: Turns,
        clock: Clock,
        interval: timedelta,
    ) -> None:
        self._node = node
        self._database = database
        self._authorities = authorities
        self._turns = turns
        self._clock = clock
        self._interval = interval
        self._seen: dict[str, _Seen] = {}
        self._silent: Counter[str] = Counter()

    async def run_due(self) -> tuple[Finding, ...]:
        """Look, unless a process of this node did within the interval; what was found, empty where nothing was due.

        Raises:
            Unavailable: The database is away.
        """
        if not await self._is_due():
            return ()
        async with self._turns.turn(f"self-check:{self._node}") as turn:
            if turn is None or not await self._is_due():
                return ()
            found = tuple([one async for one in self._look()])
            await self._database.write(lambda c: deliveries.replace_findings(c, self._node, found))
        return found

    async def findings(self) -> tuple[Finding, ...]:
        """What was last found, by whichever process."""
        return await self._database.read(lambda connection: deliveries.findings(connection, self._node))

    async def _is_due(self) -> bool:
        found = await self.findings()
        newest = max((one.at for one in found), default=None)
        # one from the future was made before the clock was set back
        return newest is None or not newest <= self._clock.now() < newest + self._interval

    async def _look(self) -> AsyncIterator[Finding]:
        self._silent.clear()
        for authority in self._authorities.list():
            for generation in authority.generations:
                if generation.ca is None or generation.state is GenerationState.RETIRED:
                    continue
                if issues_crls(authority, generation):
                    async for finding in self._look_at_lists(authority, generation):
                        yield finding
                if authority.settings.ocsp.enabled:
                    async for finding in self._look_at_ocsp(authority, generation):
                        yield finding

    async def _look_at_lists(self, authority: Authority, generation: Generation) -> AsyncIterator[Finding]:
        distribution = self._authorities.distribution(authority, generation)
        scopes = await self._database.read(lambda connection: crls.scopes_of(connection, generation.id))
        for scope in scopes:
            if not distribution.is_kept_up(scope):
                continue
            point = distribution.of_scope(scope)
            for kind, urls in ((CrlKind.COMPLETE, point.urls), (CrlKind.DELTA, point.delta_urls)):
                for url in urls:
                    if url.startswith(_READ):
                        yield await self._finding(
                            url, partial(self._list_problem, authority, generation, point, kind, url)
                        )

    async def _finding(self, subject: str, look: Callable[[], Awaitable[None]]) -> Finding:
        problem: str | None = None
        host = urlsplit(subject).netloc
        try:
            if self._silent[host] >= _SILENT:
                raise OutboundError(Trouble.SILENT, host, "it did not answer twice just now and is not asked again")
            await look()
        except WrongAnswerError as error:
            problem = str(error)
        except (OutboundError, Invalid) as error:
            problem = f"cannot be read: {error}"
            self._silent[host] += isinstance(error, OutboundError) and error.trouble in _NO_ANSWER
        except (Rejected, ValueError, x509.ExtensionNotFound) as error:
            problem = f"cannot be understood: {error}"
        except (PkiError, CancelledError):  # of our own database; of a process that ends
            raise
        except Exception as error:  # noqa: BLE001  # whatever one answer does to us, the others are looked at
            self._log.failure("{subject} cannot be checked", subject=subject)
            problem = f"cannot be checked: {type(error).__name__}: {error}"
        return Finding(self._node, subject, self._clock.now(), problem)

    async def _list_problem(
        self, authority: Authority, generation: Generation, point: DistributionPoint, kind: CrlKind, url: str
    ) -> None:
        """Raises where a client would not be content."""
        expected = await self._database.read(lambda connection: _issued(connection, point, kind))
        if expected is None:
            return
        seen = self._seen.get(url)
        headers = {} if seen is None else {"If-None-Match": seen.tag}
        answer = await fetch(WebAddress.parse(url), trust=None, timeouts=_TIMEOUTS, headers=headers, limit=_LARGEST)
        if answer.status == _NOT_MODIFIED and seen is not None:
            now = seen
        else:
            now = await self._read_list(answer, generation.certificate, kind)
            await self._ours(point, kind, now.number, answer.body)
        if seen is not None and now.number < seen.number:
            raise WrongAnswerError(f"the CRL number fell back from {seen.number} to {now.number}")
        # What a cache on the way may keep, and the moment in which a process looks whether there is a newer list.
        late = authority.settings.crl.max_age + _SKEW
        number, issued = expected
        if now.number < number and self._clock.now() - issued > late:
            raise WrongAnswerError(
                f"number {now.number} is served, but {number} was issued at {issued:%Y-%m-%d %H:%M:%SZ}"
            )
        if now.this_update > self._clock.now() + _SKEW:
            raise WrongAnswerError(f"it is from the future ({now.this_update:%Y-%m-%d %H:%M:%SZ})")
        await self._known_here(authority.name, point, now.number)
        if now.next_update <= self._clock.now():
            raise WrongAnswerError(f"it ended at {now.next_update:%Y-%m-%d %H:%M:%SZ}")
        self._seen[url] = now

    async def _ours(self, point: DistributionPoint, kind: CrlKind, number: int, octets: bytes) -> None:
        """Raises where it is another list than the one of that number and scope that is kept here."""

        def differs(connection: Connection) -> bool:
            scope = crl_history.find_scope(connection, point.generation_id, point.scope)
            kept = None if scope is None else crls.get(connection, scope, number, kind)
            return kept is not None and kept.der != octets

        if await self._database.read(differs):
            raise WrongAnswerError(f"it is not the list that was issued here with the number {number}")

    async def _known_here(self, authority: str, point: DistributionPoint, number: int) -> None:
        """Raises where a list is out that this database did not issue: it is older than the list."""
        found = await self._database.read(lambda connection: crls.find(connection, point.generation_id, point.scope))
        if found is not None and number > found.last_number:
            raise WrongAnswerError(
                f"number {number} is served, but here {found.last_number} is the last: the database is older than that "
                f"list; move the numbers forward (pkiserver crl advance {authority} --to {number}) and issue a new one"
            )

    async def _read_list(self, answer: Answer, ca: CaCertificate, kind: CrlKind) -> _Seen:
        if answer.status != _OK:
            raise WrongAnswerError(f"answered with status {answer.status}")
        try:
            big = len(answer.body) >= _BIG
            head = await deferToThread(read_head, answer.body, ca) if big else read_head(answer.body, ca)
        except Rejected as error:
            raise WrongAnswerError(str(error)) from error
        wanted = ListKind.DELTA if kind is CrlKind.DELTA else ListKind.COMPLETE
        if not head.number or head.next_update is None or head.kind is not wanted:
            raise WrongAnswerError("it is another kind of list")
        return _Seen(answer.header("ETag") or "", head.number, head.this_update, head.next_update)

    async def _look_at_ocsp(self, authority: Authority, generation: Generation) -> AsyncIterator[Finding]:
        publication = authority.settings.publication
        now = self._clock.now()
        asked = await self._database.read(lambda c: certificates.newest_serial(c, generation.id, now=now))
        if asked is None:
            return
        for url in publication.urls(publication.ocsp, generation.crl_path):
            if url.startswith(_READ):
                yield await self._finding(
                    f"{url} {generation.crl_path}", partial(self._ocsp_problem, authority, generation, asked, url)
                )

    async def _ocsp_problem(self, authority: Authority, generation: Generation, asked: int, url: str) -> None:
        """Raises where a client would not be content."""
        ca = generation.certificate
        policy = authority.settings.ocsp
        nonce = x509.OCSPNonce(secrets.token_bytes(_NONCE)) if policy.nonce is NoncePolicy.REQUIRE else None
        request = _ocsp_request(ca, asked, nonce)
        headers = {"Content-Type": "application/ocsp-request"}
        answer = await fetch(WebAddress.parse(url), trust=None, timeouts=_TIMEOUTS, body=request, headers=headers)
        if answer.status != _OK:
            raise WrongAnswerError(f"answered with status {answer.status}")
        try:
            response = ocsp.load_der_ocsp_response(answer.body)
            status = response.response_status
        except ValueError as error:
            raise WrongAnswerError(f"no OCSP answer: {error}") from error
        if status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise WrongAnswerError(f"answered {status.name.lower()}")
        now = self._clock.now()
        if response.this_update_utc > now + _SKEW or (response.next_update_utc or now + _SKEW) <= now:
            raise WrongAnswerError("the answer is not fresh")
        if response.serial_number != asked:
            raise WrongAnswerError("the answer is about another certificate")
        if nonce is not None and response.extensions.get_extension_for_class(x509.OCSPNonce).value != nonce:
            raise WrongAnswerError("the answer has another nonce")
        known = () if policy.include_certificate else await self._responders(authority, ca, now)
        check_signer(response, answer.body, ca.certificate, now, known=known)
        # Read after the answer: a status that changed meanwhile is not held against it.
        issuer_id = self._authorities.get(generation.authority).issuer_id
        record = await self._database.read(lambda connection: certificates.by_serial(connection, issuer_id, asked))
        revocation = None if record is None else record.revocation
        expected = ocsp.OCSPCertStatus.GOOD if revocation is None else ocsp.OCSPCertStatus.REVOKED
        lately = revocation is not None and now - revocation.at < _SKEW
        if response.certificate_status is not expected and not lately:
            raise WrongAnswerError(
                f"it says {response.certificate_status.name.lower()}, the records {expected.name.lower()}"
            )

    async def _responders(self, authority: Authority, ca: CaCertificate, now: datetime) -> list[x509.Certificate]:
        """The certificates that answers without any leave to be had elsewhere: of all who sign for this key."""
        numbers = [one.id for one in authority.generations if one.ca is not None and one.ca.spki == ca.spki]
        found = await self._database.read(lambda connection: responders(connection, numbers, now))
        return [x509.load_der_x509_certificate(one.certificate) for some in found.values() for one in some]


def _issued(connection: Connection, point: DistributionPoint, kind: CrlKind) -> tuple[int, datetime] | None:
    """Number and time of the newest list."""
    scope = crl_history.find_scope(connection, point.generation_id, point.scope)
    newest = None if scope is None else crl_history.newest(connection, scope, kind)
    return None if newest is None else (newest.number, newest.this_update)


def _ocsp_request(ca: CaCertificate, serial: int, nonce: x509.OCSPNonce | None) -> bytes:
    name = hashlib.sha1(ca.subject_der, usedforsecurity=False).digest()
    key = hashlib.sha1(certparts.subject_public_key(ca.spki), usedforsecurity=False).digest()
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(name, key, serial, hashes.SHA1())  # noqa: S303
    if nonce is not None:
        builder = builder.add_extension(nonce, critical=False)
    return builder.build().public_bytes(Encoding.DER)
