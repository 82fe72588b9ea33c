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

    def require(self, *, template: str | None = None, authority: str | None = None) -> None:
        """Refuse what lies outside the administrator's scope; a template lies where its issuer does.

        Raises:
            Rejected: NOT_AUTHORISED.
        """
        if not self.covers(template=template, authority=authority):
            what = f"template {template}" if template is not None else f"authority {authority}"
            raise Rejected.because(Refusal.NOT_AUTHORISED, f"{what} is not yours to manage")

    def covers(self, *, template: str | None = None, authority: str | None = None) -> bool:
        """Whether it lies within the administrator's scope."""
        if template is not None and authority is None:
            known = self.engine.templates.find(template)
            authority = None if known is None else known.issuer
            if known is None and self.who.authorities:
                return False
        return self.who.covers(template=template, authority=authority)

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
        return PREFIX + _PARAMETER.sub(lambda found: f"<{found[1]}>", self.path)


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
