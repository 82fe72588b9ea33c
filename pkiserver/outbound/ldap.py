"""An LDAP client: LDAPS, StartTLS, bind, search, modify, password change; several servers; every wait has an end.

The wire format is ldaptor's; :mod:`pkiserver.outbound.ldapclient` bounds what comes in before ldaptor decodes it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

import attrs
from ldaptor.protocols import pureldap
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ITLSTransport
from twisted.python.failure import Failure

from pkiserver.foundation.secret import Secret
from pkiserver.foundation.tomlfile import Invalid
from pkiserver.outbound.addresses import LdapServer, Timeouts
from pkiserver.outbound.dial import Servers, connect, once, within
from pkiserver.outbound.ldapclient import Client
from pkiserver.outbound.ldapfilter import Filter
from pkiserver.outbound.ldapwire import (
    PAGED_RESULTS,
    Change,
    Entry,
    Scope,
    entry_of,
    page_cookie,
    paged_results,
    wire_attributes,
    wire_changes,
    wire_filter,
)
from pkiserver.outbound.problems import OutboundError, Trouble
from pkiserver.outbound.trust import TlsTrust, unusable

MAX_ENTRIES = 1000
SUCCESS, INVALID_CREDENTIALS, NO_SUCH_OBJECT = 0, 49, 32
NO_SUCH_ATTRIBUTE, ATTRIBUTE_EXISTS, SIZE_LIMIT = 16, 20, 4
NOT_NOW = frozenset({1, 51, 52, 80})
"""operationsError, busy, unavailable, other: another server may do it."""
NOT_THE_ENTRY = frozenset({2, 3, 7, 8, 9, 10, 11, 12, 13, 14, 54, *range(81, 119)}) | NOT_NOW
"""Results that say something about the server or about how it is asked, not about an entry (RFC 4511, appendix A.2):
protocolError, timeLimitExceeded, authMethodNotSupported, strongerAuthRequired, referral (9: LDAPv2's),
adminLimitExceeded, unavailableCriticalExtension, confidentialityRequired, saslBindInProgress, loopDetect; from 81 on
what client libraries of a proxy make up."""
PASSWORD_POLICY = b"1.3.6.1.4.1.42.2.27.8.5.1"
_NAMES = {
    1: "operations error", 2: "protocol error", 3: "time limit exceeded", 4: "size limit exceeded",
    8: "stronger authentication required", 9: "referral", 10: "referral", 13: "confidentiality required",
    16: "no such attribute",
    19: "constraint violation", 20: "attribute or value exists", 21: "invalid syntax", 32: "no such object",
    34: "invalid DN", 48: "inappropriate authentication", 49: "invalid credentials", 50: "insufficient access rights",
    51: "busy", 52: "unavailable", 53: "unwilling to perform", 65: "object class violation", 68: "entry exists",
}  # fmt: skip

T = TypeVar("T")


class LdapError(Exception):
    """The server said no. ``code`` is RFC 4511's resultCode, ``text`` what the server wrote."""

    def __init__(self, code: int, text: str, controls: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(f"{_NAMES.get(code, f'result {code}')}{f' ({text})' if text else ''}")
        self.code = code
        self.text = text
        self.controls = controls


@attrs.frozen
class BindResult:
    """A bind that succeeded; ``controls`` are the answer's (OID, value) pairs."""

    controls: tuple[tuple[bytes, bytes], ...] = ()


class LdapConnection:
    """One connection to one server; operations one after the other."""

    def __init__(self, client: Client, server: LdapServer, timeouts: Timeouts) -> None:
        self._client = client
        self._timeouts = timeouts
        self.server = server

    async def bind(self, name: str, password: Secret, *, policy: bool = False) -> BindResult:
        """Authenticate (simple bind); ``policy`` asks for the password policy's response control.

        Raises:
            ValueError: the password is empty: that would be an unauthenticated bind, which succeeds (RFC 4513, 5.1.2).
            LdapError: refused.
            OutboundError: the server cannot be talked to any more.
        """
        if not password.reveal() or not name:
            raise ValueError("a bind needs a name and a password")
        request = pureldap.LDAPBindRequest(dn=name.encode(), auth=password.reveal())
        asking = ((PASSWORD_POLICY, None, None),) if policy else None
        controls = await self._one(request, pureldap.LDAPBindResponse, asking)
        return BindResult(controls)

    async def search(
        self,
        base: str,
        scope: Scope,
        tree: Filter,
        attributes: tuple[str, ...],
        *,
        limit: int = MAX_ENTRIES,
        must_exist: bool = False,
    ) -> tuple[Entry, ...]:
        """Entries, at most ``limit``; referrals are not followed; no base entry is no entries, unless it must exist.

        Raises:
            LdapError, OutboundError: as :meth:`bind`; SIZE_LIMIT (4) where there are more. The base that ``must_exist``
                and does not is the server's trouble: a replica may have another part of the tree.
        """
        found, result, _ = await self._search(base, scope, tree, attributes, limit=limit, sent=limit)
        if self._has_no_base(result, base, must_exist):
            return ()
        _check(result)
        return found

    async def search_pages(
        self,
        base: str,
        scope: Scope,
        tree: Filter,
        attributes: tuple[str, ...],
        *,
        page: int = 200,
        at_once: int | None = None,
        must_exist: bool = False,
    ) -> AsyncIterator[tuple[Entry, ...]]:
        """All entries, so many at a time (RFC 2696); between pages the connection may be used for other things.

        A server that cannot do it gives all of them: ``at_once`` says how many of those are borne, by default no more
        than a page.

        Raises:
            LdapError, OutboundError: as :meth:`bind`; a server that cannot do it may have a limit on all entries.
        """
        cookie = b""
        while True:
            control = (PAGED_RESULTS, None, paged_results(page, cookie))
            found, result, answered = await self._search(
                base, scope, tree, attributes, limit=max(page, at_once or 0), sent=0, controls=(control,)
            )
            if self._has_no_base(result, base, must_exist):
                return
            _check(result)
            yield found
            cookie = next((page_cookie(value) for oid, value in answered if oid == PAGED_RESULTS), b"")
            if not cookie:
                return

    def _has_no_base(self, result: pureldap.LDAPResult, base: str, must_exist: bool) -> bool:
        if result.resultCode != NO_SUCH_OBJECT:
            return False
        if must_exist:
            text = f"there is no entry {base!r} to search below, or whoever searches may not see it"
            raise OutboundError(Trouble.ANSWER, str(self.server), text)
        return True

    async def _search(
        self,
        base: str,
        scope: Scope,
        tree: Filter,
        attributes: tuple[str, ...],
        *,
        limit: int,
        sent: int,
        controls: tuple[tuple[bytes, None, bytes], ...] | None = None,
    ) -> tuple[tuple[Entry, ...], pureldap.LDAPResult, tuple[tuple[bytes, bytes], ...]]:
        request = pureldap.LDAPSearchRequest(
            baseObject=base.encode(),
            scope=int(scope),
            sizeLimit=sent,
            timeLimit=max(1, int(self._timeouts.answer.total_seconds())),
            filter=wire_filter(tree),
            attributes=[name.encode() for name in (attributes or ("1.1",))],
        )
        found: list[Entry] = []
        done: Deferred[tuple[pureldap.LDAPSearchResultDone, Any]] = Deferred()

        def take(answer: object, answered: Any) -> bool:
            if isinstance(answer, pureldap.LDAPSearchResultEntry):
                found.append(entry_of(answer))
                if len(found) > limit + 1 and not done.called:
                    done.errback(OutboundError(Trouble.ANSWER, str(self.server), "more entries than were asked for"))
            elif isinstance(answer, pureldap.LDAPSearchResultDone) and not done.called:
                done.callback((answer, answered))
                return True
            return False

        def lost(why: Failure) -> None:
            if not done.called:
                done.errback(why)

        try:
            self._client.send_multiResponse_ex(request, controls, take).addErrback(lost)
        except Exception as error:
            raise self._lost(error) from error
        result, answered = await self._answer(done)
        return tuple(found), result, _controls(answered)

    async def modify(self, dn: str, changes: tuple[Change, ...]) -> None:
        """Change one entry, all or nothing; raises as :meth:`bind`."""
        request = pureldap.LDAPModifyRequest(object=dn.encode(), modification=wire_changes(changes))
        await self._one(request, pureldap.LDAPModifyResponse)

    async def add(self, dn: str, attributes: tuple[tuple[str, tuple[bytes, ...]], ...]) -> None:
        """Add an entry; raises as :meth:`bind`."""
        request = pureldap.LDAPAddRequest(entry=dn.encode(), attributes=wire_attributes(attributes))
        await self._one(request, pureldap.LDAPAddResponse)

    async def delete(self, dn: str) -> None:
        """Remove an entry; raises as :meth:`bind`."""
        await self._one(pureldap.LDAPDelRequest(value=dn.encode()), pureldap.LDAPDelResponse)

    async def change_password(self, dn: str, old: Secret | None, new: Secret) -> None:
        """The password modify operation (RFC 3062); raises as :meth:`bind`."""
        request = pureldap.LDAPPasswordModifyRequest(
            userIdentity=dn.encode(), oldPasswd=None if old is None else old.reveal(), newPasswd=new.reveal()
        )
        await self._one(request, pureldap.LDAPExtendedResponse)

    async def close(self) -> None:
        """Say good-bye; never waits."""
        if self._client.connected:
            self._client.unbind()

    async def start_tls(self) -> None:
        """Ask for TLS on this connection (RFC 4511 section 4.14); raises as :meth:`bind`."""
        await self._one(pureldap.LDAPStartTLSRequest(), pureldap.LDAPExtendedResponse)

    def abort(self) -> None:
        """Drop the connection."""
        if self._client.connected:
            self._client.transport.abortConnection()

    async def _one(
        self, request: object, wanted: type, controls: tuple[tuple[bytes, None, None], ...] | None = None
    ) -> tuple[tuple[bytes, bytes], ...]:
        try:
            sent: Deferred[Any] = self._client.send_multiResponse_ex(request, controls)
        except Exception as error:
            raise self._lost(error) from error
        result, answered = await self._answer(sent)
        if not isinstance(result, wanted):
            self.abort()
            raise OutboundError(Trouble.ANSWER, str(self.server), "it answers another question")
        found = _controls(answered)
        _check(result, found)
        return found

    async def _answer(self, waiting: Deferred[Any]) -> Any:
        silent = OutboundError(Trouble.SILENT, str(self.server), f"no answer within {self._timeouts.answer}")
        try:
            return await within(waiting, self._timeouts.answer.total_seconds(), lambda: silent)
        except OutboundError:
            self.abort()
            raise
        except Exception as error:  # the connection was lost: twisted.internet.error classes and SSL errors
            raise self._lost(error) from error

    def _lost(self, error: Exception) -> OutboundError:
        return OutboundError(Trouble.ANSWER, str(self.server), f"the connection was lost: {error}".rstrip("."))


def _controls(answered: Any) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((_octets(oid), _octets(value)) for oid, _, value in answered or ())


def _octets(value: object) -> bytes:
    inner = getattr(value, "value", value)
    return inner if isinstance(inner, bytes) else b""


def _check(result: pureldap.LDAPResult, controls: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    if result.resultCode != SUCCESS:
        text = result.errorMessage
        shown = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
        raise LdapError(int(result.resultCode), " ".join(shown.replace("\x00", "").split())[:200], controls)


@attrs.frozen
class LdapService:
    """Where a directory is and how it is reached. ``trust`` None: without TLS (loopback, or a tunnel of one's own)."""

    servers: tuple[LdapServer, ...]
    trust: TlsTrust | None
    start_tls: bool = False
    timeouts: Timeouts = attrs.field(factory=Timeouts)


async def open_server(service: LdapService, server: LdapServer) -> LdapConnection:
    """A connection to one server, with TLS where the service has it.

    Raises:
        OutboundError: told apart by its ``trouble``.
    """
    made = Client()
    await connect(once(lambda: made), server.host, server.port, service.timeouts.connect)
    connection = LdapConnection(made, server, service.timeouts)
    if server.scheme == "ldap" and not service.start_tls:
        made.shaken.addErrback(lambda _: None)
        return connection
    try:
        if server.scheme == "ldap":
            await connection.start_tls()
        await _secure(made, service, server)
    except (LdapError, OutboundError) as error:
        made.shaken.addErrback(lambda _: None)
        connection.abort()
        if isinstance(error, LdapError):
            raise OutboundError(Trouble.TLS, str(server), f"StartTLS is refused: {error}") from error
        raise
    return connection


async def _secure(client: Client, service: LdapService, server: LdapServer) -> None:
    if service.trust is None:
        raise OutboundError(Trouble.TLS, str(server), "no trust anchors are set")
    try:
        creator = service.trust.creator(server.host)
    except (Invalid, OSError, SSL.Error) as error:
        raise unusable(str(server), error) from error
    cast("ITLSTransport", client.transport).startTLS(creator)
    silent = OutboundError(Trouble.SILENT, str(server), "the TLS handshake does not end")
    try:
        await within(client.shaken, service.timeouts.connect.total_seconds(), lambda: silent)
    except OutboundError:
        raise
    except Exception as error:
        why = creator.check.problem or f"the handshake failed: {error}".rstrip(".")
        raise OutboundError(Trouble.TLS, str(server), why) from error


async def asked(service: LdapService, servers: Servers, work: Callable[[LdapConnection], Awaitable[T]]) -> T:
    """What ``work`` finds out over a connection to the first server that answers it to the end.

    For questions only: ``work`` runs again with the next server where one is away, hangs, is busy or out of order.

    Raises:
        OutboundError: none could be talked to.
    """

    async def attempt(server: LdapServer) -> T:
        connection = await open_server(service, server)
        try:
            return await work(connection)
        except LdapError as error:
            if error.code in NOT_NOW:
                raise OutboundError(Trouble.ANSWER, str(server), str(error)) from error
            raise
        finally:
            await connection.close()

    return await servers.first(service.servers, attempt)


@asynccontextmanager
async def opened(service: LdapService, servers: Servers) -> AsyncIterator[LdapConnection]:
    """A connection to the first server that takes one, closed afterwards; raises :class:`OutboundError`.

    For changes, which are not begun anew elsewhere; a server that was lost meanwhile is asked last the next time.
    """
    connection = await servers.first(service.servers, lambda server: open_server(service, server))
    talks = False
    try:
        yield connection
        talks = True
    except LdapError:
        talks = True
        raise
    except OutboundError:
        servers.failed(connection.server)
        raise
    finally:
        if talks:
            await connection.close()
        else:
            connection.abort()  # what it has not taken would wait in our memory for as long as it likes
