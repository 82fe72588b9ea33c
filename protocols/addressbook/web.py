"""The address book over HTTP: exact mail look-ups, and certificate and CRL stores of RFC 4387.

The same rates as over LDAP hold, and by them nobody can tell who exists: what is not there, not shown, or not to be
asked for is 404 alike, after a look-up.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qsl

import attrs
from cryptography import x509

from pkiserver.foundation.errors import Unavailable
from pkiserver.foundation.extensionvalue import extension_value
from pkiserver.publication.certificate import issuer_and_serial, sha1
from pkiserver.publication.values import NameKind
from pkiserver.store.publication.addressbook import address_key
from protocols.addressbook.callers import Abuse, Caller
from protocols.addressbook.entries import USER_CERTIFICATE
from protocols.addressbook.errors import LdapError, ResultCode
from protocols.addressbook.metrics import LdapMetrics
from protocols.addressbook.pacing import Pace
from protocols.addressbook.ports import Book, CaSource, ListKind
from protocols.web.errors import plain, retry_after
from protocols.web.factory import address_key as caller_key
from protocols.web.values import Answer, Method, Request, Response, Route

CERTIFICATE_TYPE = "application/pkix-cert"
CRL_TYPE = "application/pkix-crl"
PEM_TYPE = "application/x-pem-file"
_NO_STORE = (("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"))
_KEY = re.compile(r"[A-Za-z0-9+/]{27}=?")
_HASHES = {
    "certHash": NameKind.HASH,
    "iAndSHash": NameKind.ISSUER_SERIAL,
    "sHash": NameKind.SUBJECT,
    "sKIDHash": NameKind.SUBJECT_KEY,
}
_KNOWN = frozenset({*_HASHES, "iHash", "uri", "email", "name"})
_MOST_RESULTS = 16
_LONGEST_QUERY = 2048


_Work = Callable[[dict[str, str], Caller], Awaitable[Response]]


class _Refused(Exception):  # carries an answer
    def __init__(self, answer: Response) -> None:
        super().__init__(answer.status)
        self.answer = answer


@attrs.frozen
class _Keys:
    """An authority's certificate under each of its search keys."""

    der: bytes
    keys: frozenset[tuple[str, str]]


class WebLookup:
    """The HTTP side of the address book."""

    def __init__(self, book: Book, authorities: CaSource, abuse: Abuse, metrics: LdapMetrics, pace: Pace) -> None:
        self._book = book
        self._authorities = authorities
        self._abuse = abuse
        self._metrics = metrics
        self._pace = pace
        self._clock = pace.clock

    async def lookup(self, request: Request) -> Answer:
        """``/addressbook/certificate?mail=ADDRESS[&format=der|pem]``: the certificates of exactly that address."""
        return await self._guarded(request, self._lookup)

    async def certificates(self, request: Request) -> Answer:
        """``/certificates/search.cgi`` of RFC 4387 section 2."""
        return await self._guarded(request, self._certificates)

    async def crls(self, request: Request) -> Answer:
        """``/crls/search.cgi`` of RFC 4387 section 2.2: the latest list of the issuer, or of the key."""
        return await self._guarded(request, self._crls)

    async def _guarded(self, request: Request, work: _Work) -> Answer:
        self._metrics.lookups += 1
        caller = Caller(caller_key(request.peer.address), trusted=self._abuse.is_trusted(request.peer.address))
        begun = self._pace.begin()
        try:
            if len(request.query) > _LONGEST_QUERY:
                raise _Refused(plain(414, "the query is too long"))
            self._abuse.searching(caller, self._clock.monotonic())
            answer = await work(dict(parse_qsl(request.query, max_num_fields=16)), caller)
        except _Refused as refused:
            if refused.answer.status == 404:
                await self._pace.nobody(begun)
            return refused.answer
        except ValueError:
            return plain(400, "the query is not well formed")
        except LdapError as error:
            if error.limit is not None:
                self._metrics.limit(error.limit)
            status = 429 if error.code in {ResultCode.BUSY, ResultCode.ADMIN_LIMIT_EXCEEDED} else 400
            return plain(status, error.text, headers=(("Retry-After", "60"),))
        except Unavailable as error:
            return plain(503, error.shown, headers=(retry_after(error),))
        return answer

    async def _lookup(self, query: dict[str, str], caller: Caller) -> Response:
        mail, form = query.get("mail", ""), query.get("format", "pem")
        if not mail or form not in {"pem", "der"}:
            raise _Refused(plain(400, "say mail=ADDRESS, and format=pem or format=der"))
        found = await self._of_address(mail)
        if not found:
            raise _Refused(_not_found())
        self._gave(caller, 1)
        if form == "der":
            return Response(200, found[0], CERTIFICATE_TYPE, _NO_STORE)
        return Response(200, b"".join(map(_pem, found)), PEM_TYPE, _NO_STORE)

    async def _of_address(self, mail: str) -> list[bytes]:
        entries = await self._book.find(address_key(mail))
        return [der for one in entries for der in one.values(USER_CERTIFICATE)]

    async def _certificates(self, query: dict[str, str], caller: Caller) -> Response:
        attribute, value = _asked(query)
        if attribute in {"uri", "email"}:
            found = await self._of_address(value)
            own = False
        elif attribute == "name":  # a way to harvest: it finds nobody
            await self._book.find(secrets.token_hex(12))
            found, own = [], False
        else:
            key = _search_key(value)
            found = [one.der for one in self._ca_certificates() if (attribute, key) in one.keys]
            own = bool(found)
            if not found and attribute in _HASHES:
                found = list(await self._book.by_hash(_HASHES[attribute], key, _MOST_RESULTS))
        if not found:
            raise _Refused(_not_found())
        if not own:
            self._gave(caller, len(found))
        return _several(found[:_MOST_RESULTS], CERTIFICATE_TYPE)

    async def _crls(self, query: dict[str, str], caller: Caller) -> Response:
        del caller
        attribute, value = _asked(query)
        if attribute not in {"iHash", "sKIDHash"}:
            raise _Refused(plain(400, "CRLs are found by iHash and sKIDHash"))
        key = _search_key(value)
        found = [
            one
            for listing in self._authorities.authorities()
            if attribute == "sKIDHash" or sha1(listing.subject_der) == key
            for one in await self._authorities.lists(listing.name)
            if one.kind is ListKind.COMPLETE and (attribute == "iHash" or sha1(one.key) == key)
        ]
        newest = max(found, key=lambda one: one.this_update, default=None)
        der = None if newest is None else newest.der or await self._authorities.crl(newest.path)
        if der is None:
            raise _Refused(_not_found())
        return Response(200, der, CRL_TYPE, _NO_STORE)

    def _ca_certificates(self) -> list[_Keys]:
        return [_Keys(der, _keys_of(der)) for one in self._authorities.authorities() for der in one.certificates]

    def _gave(self, caller: Caller, number: int) -> None:
        self._metrics.people += number
        self._abuse.gave(caller, number, self._clock.monotonic())


def _keys_of(der: bytes) -> frozenset[tuple[str, str]]:
    certificate = x509.load_der_x509_certificate(der)
    keys = {
        ("certHash", sha1(der)),
        ("iAndSHash", sha1(issuer_and_serial(der))),
        ("iHash", sha1(certificate.issuer.public_bytes())),
        ("sHash", sha1(certificate.subject.public_bytes())),
    }
    identifier = extension_value(certificate, x509.SubjectKeyIdentifier)
    if identifier is not None:
        keys.add(("sKIDHash", sha1(identifier.digest)))
    return frozenset(keys)


def _asked(query: dict[str, str]) -> tuple[str, str]:
    """The one attribute of RFC 4387 section 2.2 in a query; others are ignored, as it says."""
    found = [(name, value) for name, value in query.items() if name in _KNOWN and value]
    if len(found) != 1:
        raise _Refused(plain(400, f"ask for one of {', '.join(sorted(_KNOWN))}"))
    return found[0]


def _search_key(value: str) -> str:
    key = value.replace(" ", "+")  # a plus sign that was not encoded
    if _KEY.fullmatch(key) is None:
        raise _Refused(plain(400, "a search key is 27 characters of base64"))
    return key.rstrip("=")


def _several(found: list[bytes], kind: str) -> Response:
    """One as itself, several as multipart/mixed, all octets as they are (RFC 4387 section 2)."""
    if len(found) == 1:
        return Response(200, found[0], kind, _NO_STORE)
    boundary = "part-" + hashlib.sha256(b"".join(found)).hexdigest()[:32]
    parts = b"".join(f"--{boundary}\r\nContent-Type: {kind}\r\n\r\n".encode() + one + b"\r\n" for one in found)
    return Response(200, parts + f"--{boundary}--\r\n".encode(), f'multipart/mixed; boundary="{boundary}"', _NO_STORE)


def _pem(der: bytes) -> bytes:
    text = base64.b64encode(der)
    lines = b"".join(text[at : at + 64] + b"\n" for at in range(0, len(text), 64))
    return b"-----BEGIN CERTIFICATE-----\n" + lines + b"-----END CERTIFICATE-----\n"


def _not_found() -> Response:
    return plain(404, "there is no certificate here for that")


def routes(lookup: WebLookup) -> list[Route]:
    """The routes of the address book, for plain HTTP and for TLS."""
    get = frozenset({Method.GET})
    return [
        Route("addressbook", "/addressbook/certificate", get, lookup.lookup),
        Route("certificate-store", "/certificates/search.cgi", get, lookup.certificates),
        Route("crl-store", "/crls/search.cgi", get, lookup.crls),
    ]
