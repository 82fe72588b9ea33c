"""Paths to routes: one look-up for what was asked for lately and for exact paths, else one for each prefix length."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from pkiserver.foundation.bounded import keep
from protocols.web.errors import BadRequest, LimitHit
from protocols.web.values import Method, Route

RECENT = 1024
"""Paths below prefixes whose route is remembered; the one that was found first goes first."""
RECENT_CHARACTERS = 512
"""Longer paths are looked up each time: together with RECENT the bound on memory."""


@attrs.frozen
class Found:
    """The route for a request and what its prefix left over."""

    route: Route
    tail: str


@attrs.frozen
class NotAllowed:
    """The path exists, but not with this method."""

    allow: str
    """Value for the Allow header (RFC 9110 section 10.2.1)."""


_Methods = dict[str, Found]


class Router:
    """The routes of one listener. Immutable; another set of routes is another router.

    Paths are compared raw: ``/a%62`` is not ``/ab``, and doubled slashes stay doubled, so a room that cares about
    spellings sees what was sent. An exact route goes before a prefix, a longer prefix before a shorter one.

    Raises:
        ValueError: two routes claim the same path and method.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._exact: dict[str, _Methods] = {}
        self._prefixes: dict[str, _Methods] = {}
        for route in self.routes:
            table = self._prefixes if route.prefix else self._exact
            methods = table.setdefault(route.path, {})
            for method in route.methods:
                self._claim(methods, method.value, route)
                if method is Method.GET:
                    self._claim(methods, "HEAD", route)
        self._recent: dict[tuple[str, str], Found] = {}
        self._lengths = sorted({len(path) for path in self._prefixes}, reverse=True)

    @staticmethod
    def _claim(methods: _Methods, method: str, route: Route) -> None:
        if method in methods:
            raise ValueError(f"{method} {route.path} is claimed by {methods[method].route.name} and by {route.name}")
        methods[method] = Found(route, "")

    def find(self, method: str, path: str) -> Found | NotAllowed | None:
        """The route for ``method`` on the raw ``path``; None when no route has the path."""
        recent = self._recent.get((method, path))
        if recent is not None:
            return recent
        exact = self._exact.get(path)
        if exact is not None and (found := exact.get(method)) is not None:
            return found
        for length in self._lengths:
            methods = self._prefixes.get(path[:length])
            if methods is not None and (found := methods.get(method)) is not None:
                found = Found(found.route, path[length:])
                if len(path) <= RECENT_CHARACTERS:
                    keep(self._recent, (method, path), found, most=RECENT)
                return found
        return self._refusal(path)

    def _refusal(self, path: str) -> NotAllowed | None:
        tables = [self._exact.get(path), *(self._prefixes.get(path[:length]) for length in self._lengths)]
        allow = {method for methods in tables if methods is not None for method in methods}
        return NotAllowed(", ".join(sorted(allow))) if allow else None


def no_route(found: NotAllowed | None) -> BadRequest:
    """The refusal of a request for which there is no route."""
    if isinstance(found, NotAllowed):
        return BadRequest(405, LimitHit.METHOD, "method not allowed", headers=(("Allow", found.allow),))
    return BadRequest(404, LimitHit.NOT_FOUND, "not found")
