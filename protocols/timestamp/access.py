"""Who may ask a unit: by address, by HTTP Basic over TLS, by client certificate; and how often."""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import secrets
from collections import OrderedDict
from functools import lru_cache
from typing import Protocol

import attrs

from pkiserver.authority.requests import ClientCertificateEvidence, PasswordEvidence
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Rejected, Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.timestamping.unit import TimestampUnit, Who
from protocols.web.errors import retry_after
from protocols.web.values import Request, Response

ShownEvidence = PasswordEvidence | ClientCertificateEvidence
REMEMBERED_SECONDS = 60.0
"""How long a client that has shown who it is need not be looked up again: as long as a disabled account may go on."""
_MOST_REMEMBERED = 10_000
_MOST_COUNTED = 100_000
_MAX_CREDENTIALS = 4096
_MINUTE = 60.0


@attrs.frozen
class Client:
    """Who asks."""

    name: str
    groups: frozenset[str] = frozenset()


class Clients(Protocol):
    """Finds out who a client is."""

    async def identify(self, evidence: ShownEvidence, source: str) -> Client:
        """Whom the evidence shows; raises :class:`Rejected` (nobody), :class:`Unavailable`."""


class Denied(Exception):
    """No answer to the request itself: a status of HTTP."""

    def __init__(self, status: int, text: str, *headers: tuple[str, str]) -> None:
        super().__init__(text)
        self.response = Response(status, f"{text}\n".encode(), "text/plain", headers)


class AccessControl:
    """Decides before a request is read."""

    def __init__(self, clients: Clients, clock: Clock, *, realm: str = "time-stamps") -> None:
        self._clients = clients
        self._clock = clock
        self._realm = realm
        self._salt = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, tuple[float, Client]] = OrderedDict()
        self._minute = 0.0
        self._counts: dict[tuple[str, str], int] = {}

    @staticmethod
    def guards(unit: TimestampUnit) -> bool:
        """Whether :meth:`check` has anything to do."""
        access = unit.access
        return bool(access.addresses or access.per_minute) or access.who is not Who.ANYBODY

    async def check(self, unit: TimestampUnit, request: Request) -> None:
        """Let the request pass, or raise :class:`Denied`."""
        access = unit.access
        address = request.peer.address
        if access.addresses and not _within(address, access.addresses):
            raise Denied(403, "this unit does not serve your address")
        client = None if access.who is Who.ANYBODY else await self._client(access.who, request)
        if client is not None and access.groups and not access.groups & client.groups:
            raise Denied(403, f"{client.name} may not use this unit")
        if access.per_minute:
            self._count(unit, f"client {client.name}" if client is not None else f"address {address}")

    async def _client(self, who: Who, request: Request) -> Client:
        evidence, key = self._password(request) if who is Who.PASSWORD else self._certificate(request)
        digest = hashlib.blake2b(key, key=self._salt).digest()
        now = self._clock.monotonic()
        known = self._known.get(digest)
        if known is not None and known[0] > now:
            return known[1]
        try:
            client = await self._clients.identify(evidence, request.peer.address)
        except Rejected as error:
            if who is Who.PASSWORD:
                raise self._challenge("the name or the password is wrong") from error
            raise Denied(403, str(error)) from error
        except Unavailable as error:
            raise Denied(503, error.shown, retry_after(error)) from error
        self._known[digest] = (now + REMEMBERED_SECONDS, client)
        if len(self._known) > _MOST_REMEMBERED:
            self._known.popitem(last=False)
        return client

    def _challenge(self, text: str) -> Denied:
        return Denied(401, text, ("WWW-Authenticate", f'Basic realm="{self._realm}", charset="UTF-8"'))

    def _password(self, request: Request) -> tuple[ShownEvidence, bytes]:
        if request.peer.tls is None:
            raise Denied(403, "this unit wants a password, which is taken over TLS only")
        values = request.headers.get_all("authorization")
        scheme, _, packed = values[0].strip().partition(" ") if len(values) == 1 else ("", "", "")
        if scheme.lower() != "basic" or len(packed) > _MAX_CREDENTIALS:
            raise self._challenge("a name and password are needed")
        try:
            octets = base64.b64decode(packed.strip(), validate=True)
            name, colon, password = octets.partition(b":")
            decoded = name.decode()
        except (binascii.Error, UnicodeError):
            raise self._challenge("the name and password cannot be read") from None
        if not colon or b"\0" in octets:
            raise self._challenge("the name and password cannot be read")
        return PasswordEvidence(decoded, Secret(password)), b"basic " + octets

    @staticmethod
    def _certificate(request: Request) -> tuple[ShownEvidence, bytes]:
        tls = request.peer.tls
        if tls is None or tls.certificate_der is None:
            raise Denied(403, "this unit wants a client certificate")
        return ClientCertificateEvidence(tls.certificate_der, tls.chain), b"tls " + tls.certificate_der

    def _count(self, unit: TimestampUnit, who: str) -> None:
        now = self._clock.monotonic()
        if now - self._minute >= _MINUTE or len(self._counts) > _MOST_COUNTED:
            self._minute, self._counts = now, {}
        key = (unit.name, who)
        made = self._counts.get(key, 0) + 1
        if made > unit.access.per_minute:
            left = max(1, round(self._minute + _MINUTE - now))
            raise Denied(429, "too many requests in this minute", ("Retry-After", str(left)))
        self._counts[key] = made


@lru_cache(maxsize=1024)
def _networks(addresses: tuple[str, ...]) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(one) for one in addresses)


def _within(address: str, networks: tuple[str, ...]) -> bool:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False  # a UNIX socket has no address
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return any((mapped or found) in one for one in _networks(networks))
