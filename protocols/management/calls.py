"""What a call of the API is: method, path, permission, what it takes and gives. The routes and the document follow."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import attrs

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.registration.administrators import Administrator, Permission
from pkiserver.runtime.engine import Engine
from protocols.management.codec import whole

PREFIX = "/api/v1"
Q_co = TypeVar("Q_co", covariant=True)
B_co = TypeVar("B_co", covariant=True)
_PARAMETER = re.compile(r"\{(\w+)\}")


@attrs.frozen
class Nothing:
    """No query parameters, or no body."""


@attrs.frozen
class Ask(Generic[Q_co, B_co]):
    """One call as it came, checked: who asks, the parameters of the path, the query and the body."""

    engine: Engine
    who: Administrator
    request_id: str
    path: dict[str, str]
    query: Q_co
    body: B_co

    @property
    def number(self) -> int:
        """The number in the path."""
        return int(self.path["number"])

    def require(self, template: str) -> None:
        """Refuse what lies outside the administrator's scope; a template lies where its issuer does.

        For what the caller names, and before it is looked for: what is out of scope and what is not there get the same
        answer.

        Raises:
            Rejected: NOT_AUTHORISED.
        """
        if not self.covers(template):
            raise Rejected.because(Refusal.NOT_AUTHORISED, f"template {template} is not yours to manage")

    def covers(self, template: str) -> bool:
        """Whether a template lies within the administrator's scope, and so does its issuer."""
        known = self.engine.templates.find(template)
        if known is None:
            return not self.who.authorities and self.who.covers(template=template)
        return self.who.covers(template=template, authority=known.issuer)

    @property
    def templates(self) -> frozenset[str] | None:
        """The names of the templates in scope, to look for nothing else; None: all, those that are gone too."""
        if not self.who.authorities:
            return self.who.templates or None
        known = (one.template for one in self.engine.templates.list())
        return frozenset(one.name for one in known if self.who.covers(template=one.name, authority=one.issuer))

    @property
    def authorities(self) -> frozenset[str] | None:
        """The names of the authorities in scope, or which issue for templates in scope; None: all."""
        if not self.who.templates:
            return self.who.authorities or None
        found = (self.engine.templates.find(name) for name in self.templates or ())
        return frozenset(one.issuer for one in found if one is not None)

    @property
    def generations(self) -> frozenset[int] | None:
        """The numbers of the authorities' keys whose certificates are in scope; None: all."""
        if not self.who.authorities:
            return None
        mine = (one for one in self.engine.authorities.list() if one.name in self.who.authorities)
        return frozenset(generation.id for one in mine for generation in one.generations)

    def require_authority(self, name: str) -> None:
        """Refuse an authority that is not theirs, all of it; raises :class:`Rejected`."""
        if self.who.templates or not self.who.covers(authority=name):
            raise Rejected.because(Refusal.NOT_AUTHORISED, f"authority {name} is not yours to manage")

    def require_everything(self) -> None:
        """Refuse an administrator of some authorities or templates only; raises :class:`Rejected`."""
        if self.who.scoped:
            text = "this concerns all authorities and templates, and you manage only some"
            raise Rejected.because(Refusal.NOT_AUTHORISED, text)


@attrs.frozen
class Call:
    """One operation of the API. ``permission`` None: every administrator may. ``answer`` None: 204 without a body."""

    name: str
    method: str
    path: str
    permission: Permission | None
    summary: str
    handler: Callable[[Ask[Any, Any]], Awaitable[object]]
    answer: type | None = None
    body: type = Nothing
    query: type = Nothing
    status: int = 200

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names in the path."""
        return tuple(_PARAMETER.findall(self.path))

    @property
    def changes(self) -> bool:
        """Whether something is different afterwards."""
        return self.method != "GET"

    @property
    def route(self) -> str:
        """The path as Klein (Werkzeug) writes it."""
        # a name may have slashes (host/www.example.org), which come as %2F and reach us as slashes
        return PREFIX + _PARAMETER.sub(lambda found: f"<{'path:' if found[1] == 'name' else ''}{found[1]}>", self.path)


def parameter_schema(name: str) -> dict[str, object]:
    """What a parameter of a path looks like."""
    if name in {"number", "slot"}:
        return {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
    if name == "fingerprint":
        return {"type": "string", "pattern": "^[0-9a-f]{64}$"}
    return {"type": "string", "minLength": 1, "maxLength": 256}


_FORMS = {
    "number": re.compile(r"[0-9]{1,18}"),
    "slot": re.compile(r"[0-9]{1,18}"),
    "fingerprint": re.compile(r"[0-9a-f]{64}"),
}


def check_path(path: dict[str, str]) -> None:
    """Raises :class:`Rejected` (UNKNOWN_REQUEST) where a parameter has not its form: nothing is found there."""
    for name, value in path.items():
        form = _FORMS.get(name)
        if (form is not None and not form.fullmatch(value)) or len(value) > 256:
            raise Rejected.because(Refusal.UNKNOWN_REQUEST, f"there is no such {name}")


@attrs.frozen
class PageByNumber:
    """Where a page begins and how much it holds."""

    before: int | None = whole(None)
    limit: int = whole(100, least=1, most=1000)


@attrs.frozen
class PageByName:
    """Where a page begins and how much it holds."""

    after: str = ""
    limit: int = whole(100, least=1, most=1000)


def next_before(numbers: list[int], limit: int) -> int | None:
    """Where the next page begins; None after the last."""
    return numbers[-1] if len(numbers) == limit else None
