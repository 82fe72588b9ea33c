"""CRLs and CA certificates over plain HTTP (RFC 2585, RFC 5280 sections 4.2.1.13 and 4.2.2.1).

What is served is looked up by the path that stands in certificates; there is no file system behind these URLs.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable
from datetime import timedelta

import attrs

from pkiserver.authority.status.source import PublicationSource, PublishedCertificates, PublishedCrl
from pkiserver.foundation.clock import Clock
from pkiserver.store.authority.crls import CrlKind
from protocols.cms.certs import build_certs_only
from protocols.web.conditional import PreparedRepresentation, Representation, respond
from protocols.web.errors import plain
from protocols.web.values import Answer, Method, Request, Response, Route

CRL_TYPE = "application/pkix-crl"
CERTIFICATE_TYPE = "application/pkix-cert"
CHAIN_TYPE = "application/pkcs7-mime; smime-type=certs-only"

HOT_SECONDS = 0.25
"""For how long an answer is given again as it is; what it says about freshness leaves a second."""
PREPARED_OCTETS = 64 * 1024 * 1024
"""Lists that are kept ready with their headers, all together; beyond that all are made ready anew."""
_SECOND = timedelta(seconds=1)
_PATH = re.compile(r"[A-Za-z0-9._~/-]{1,200}")
_NUMBERED = re.compile(r"(?P<path>.+)/(?P<number>[1-9][0-9]{0,18})(?P<delta>-delta)?")
_HIGHEST = (1 << 63) - 1
_DELTA = "/delta"


@attrs.frozen
class CrlSettings:
    """How long caches may keep what changes only when an authority is renewed."""

    certificate_max_age: timedelta = timedelta(hours=1)


@attrs.frozen
class _Prepared:
    crl: PublishedCrl
    fresh: int
    representation: PreparedRepresentation


@attrs.frozen
class _Hot:
    representation: PreparedRepresentation
    until: float


def _not_found() -> Response:
    return plain(404, "there is nothing here")


def _stem(request: Request, suffix: str) -> str | None:
    """The path before ``suffix``, or None when the request cannot name anything of ours."""
    tail = request.tail
    if not tail.endswith(suffix) or _PATH.fullmatch(tail) is None:
        return None
    return tail.removesuffix(suffix)


class CrlEdge:
    """The HTTP side of a :class:`PublicationSource`."""

    def __init__(self, source: PublicationSource, clock: Clock, settings: CrlSettings) -> None:
        self._source = source
        self._clock = clock
        self._settings = settings
        self._prepared: dict[str, _Prepared] = {}
        self._octets = 0
        self._hot: dict[str, _Hot] = {}

    def crl(self, request: Request) -> Answer | Awaitable[Answer]:
        """As :meth:`look_up`; what was asked for a moment ago is answered without looking again."""
        hot = self._hot.get(request.tail)
        if hot is not None and self._clock.monotonic() < hot.until:
            return hot.representation.answer(request.headers)
        return self.look_up(request)

    async def look_up(self, request: Request) -> Answer:
        """A CRL by its path.

        The newest of a distribution point at ``<path>.crl`` and its delta at ``<path>/delta.crl``, earlier ones at
        ``<path>/<number>.crl`` and ``<path>/<number>-delta.crl``.
        """
        path = _stem(request, ".crl")
        if path is None:
            return _not_found()
        found = None
        if path.endswith(_DELTA):
            found = await self._source.crl(path.removesuffix(_DELTA), CrlKind.DELTA)
        if found is None:  # or the list of a template of that name
            found = await self._source.crl(path)
        if found is not None:
            representation = self._prepare(path, found)
            if len(found.der) <= PREPARED_OCTETS:
                self._hot[request.tail] = _Hot(representation, self._clock.monotonic() + HOT_SECONDS)
            return representation.answer(request.headers)
        if (numbered := _NUMBERED.fullmatch(path)) is not None and (number := int(numbered["number"])) <= _HIGHEST:
            kind = CrlKind.DELTA if numbered["delta"] else CrlKind.COMPLETE
            found = await self._source.numbered_crl(numbered["path"], number, kind)
        return _not_found() if found is None else respond(request.headers, self._represent(found, self._fresh(found)))

    def _fresh(self, found: PublishedCrl) -> int:
        """For how many seconds a cache may keep it: never past its nextUpdate."""
        return max(0, min(found.max_age, found.next_update - self._clock.now() - _SECOND) // _SECOND)

    def _prepare(self, path: str, found: PublishedCrl) -> PreparedRepresentation:
        # The source knows the path, so there are no more entries here than there are lists; they may be long ones.
        fresh = self._fresh(found)
        before = self._prepared.get(path)
        if before is not None and (before.crl, before.fresh) == (found, fresh):
            return before.representation
        known = _Prepared(found, fresh, PreparedRepresentation(self._represent(found, fresh)))
        self._prepared[path] = known
        self._octets += len(found.der) - (0 if before is None else len(before.crl.der))
        if self._octets > PREPARED_OCTETS:
            self._prepared.clear()
            self._hot.clear()
            self._octets = 0
        return known.representation

    @staticmethod
    def _represent(found: PublishedCrl, fresh: int) -> Representation:
        return Representation(
            body=found.der,
            content_type=CRL_TYPE,
            modified=found.this_update,
            cache_control=f"max-age={fresh}, public, no-transform, must-revalidate",
            etag=f'"{found.digest}"',
            dated=found.dated,
        )

    async def certificates(self, request: Request) -> Response:
        """The CA certificate at ``<generation path>.cer``, or the chain at ``<authority>.p7c``."""
        if (path := _stem(request, ".cer")) is not None:
            found = await self._source.ca_certificate(path)
            return _not_found() if found is None else self._certificates(request, found, found.certificates[0])
        if (path := _stem(request, ".p7c")) is not None:
            found = await self._source.chain(path)
            if found is not None:
                return self._certificates(request, found, build_certs_only(found.certificates), CHAIN_TYPE)
        return _not_found()

    def _certificates(
        self, request: Request, found: PublishedCertificates, body: bytes, content_type: str = CERTIFICATE_TYPE
    ) -> Response:
        return respond(
            request.headers,
            Representation(
                body=body,
                content_type=content_type,
                modified=found.modified,
                cache_control=f"max-age={self._settings.certificate_max_age // _SECOND}, public, no-transform",
            ),
        )


def routes(source: PublicationSource, clock: Clock, settings: CrlSettings) -> list[Route]:
    """The routes below ``/crl/`` and ``/ca/``, GET and HEAD only."""
    edge = CrlEdge(source, clock, settings)
    get = frozenset({Method.GET})
    return [
        Route("crl", "/crl/", get, edge.crl, prefix=True, quiet=True),
        Route("ca-certificates", "/ca/", get, edge.certificates, prefix=True, quiet=True),
    ]
