"""What is known while one certificate's content is made: wishes, record, and the reasons against it so far."""

from __future__ import annotations

from itertools import islice, product

import attrs
from cryptography import x509

from pkiserver.authority.requests import Authorised, RegistrationRecord, Wishes
from pkiserver.authority.templates.attributes import BY_OID
from pkiserver.authority.templates.sankinds import SanError, SanKind, classify
from pkiserver.authority.templates.text import show
from pkiserver.authority.templates.values import TextValue, Variable
from pkiserver.foundation.errors import Reason, Refusal
from pkiserver.foundation.listing import listed

MAX_ATTRIBUTES = 64
MAX_REASONS = 50


@attrs.frozen
class AskedName:
    """A subject alternative name that the client, or an enrolment code, asks for. ``problem``: why it is none."""

    name: x509.GeneralName
    kind: SanKind | None
    text: str
    oid: str | None = None
    problem: str | None = None

    @classmethod
    def of(cls, name: x509.GeneralName) -> AskedName:
        """The name with its kind, or with why it has none."""
        try:
            kind, text, oid = classify(name)
        except SanError as error:
            return cls(name, None, show(getattr(name, "value", name)), problem=str(error))
        return cls(name, kind, text, oid)

    def __str__(self) -> str:
        return f"{self.kind or 'name'} {show(self.text) if self.problem is None else self.text}"


@attrs.frozen
class _Alike:
    """Names of which the same is said, and where that stands."""

    place: int
    names: list[str] = attrs.Factory(list)


@attrs.define
class Context:
    """One build. ``subject`` and ``names`` are what stands for the wish: the registration's own, else the client's."""

    wishes: Wishes
    record: RegistrationRecord
    subject: dict[str, list[str]] = attrs.Factory(dict)
    names: tuple[AskedName, ...] = ()
    reasons: list[Reason] = attrs.Factory(list)
    ignored: list[str] = attrs.Factory(list)
    dropped: int = 0
    _alike: dict[tuple[str, str], _Alike] = attrs.Factory(dict)
    _left_out: _Alike | None = None

    @classmethod
    def of(cls, authorised: Authorised, max_names: int) -> Context:
        """Collect the wishes; more attributes or names than are bearable are refused here and looked at no further."""
        record = authorised.record
        wishes = authorised.request.wishes
        context = cls(wishes, record)
        subject = record.subject if record.subject is not None else wishes.subject
        if subject is not None:
            context._collect(subject)
        names = record.sans if record.sans is not None else wishes.sans
        limit = max(max_names, len(record.sans or ()))
        if len(wishes.sans) > limit:
            context.refuse(Refusal.LIMIT, f"{len(wishes.sans)} alternative names asked for, at most {limit} allowed")
            context.wishes = attrs.evolve(wishes, sans=())
            names = () if record.sans is None else names
        context.names = tuple(AskedName.of(name) for name in names)
        return context

    def _collect(self, subject: x509.Name) -> None:
        for count, item in enumerate(subject):
            if count == MAX_ATTRIBUTES:
                self.refuse(Refusal.LIMIT, f"the subject has more than {MAX_ATTRIBUTES} attributes")
                return
            attribute = BY_OID.get(item.oid)
            if attribute is not None and isinstance(item.value, str):
                self.subject.setdefault(attribute, []).append(item.value)

    def refuse(self, code: Refusal, text: str) -> None:
        """Note a reason; beyond a bound they are only counted."""
        if len(self.reasons) < MAX_REASONS:
            self.reasons.append(Reason(code, text))
        else:
            self.dropped += 1

    def refuse_name(self, kind: str, name: str, why: str) -> None:
        """Note a reason against a name; names of a kind that have it in common share a line, which lists some."""
        known = self._alike.get((kind, why))
        if known is None:
            known = self._alike[kind, why] = _Alike(len(self.reasons))
            self.refuse(Refusal.BAD_NAME, "")
        known.names.append(name)
        if known.place < len(self.reasons):
            one = len(known.names) == 1
            text = f"{name} {why}" if one else f"{listed(known.names)}: each {why}"
            self.reasons[known.place] = Reason(Refusal.BAD_NAME, text)

    def ignore_name(self, name: str) -> None:
        """Note a name that was asked for and is left out; all of them share a line."""
        if self._left_out is None:
            self._left_out = _Alike(len(self.ignored))
            self.ignored.append("")
        self._left_out.names.append(name)
        plural = "" if len(self._left_out.names) == 1 else "s"
        self.ignored[self._left_out.place] = f"alternative name{plural} {listed(self._left_out.names)}"

    def expand(self, text: TextValue, limit: int) -> list[str]:
        """Every value of a text: one for each combination of its variables' values, none if a variable has none.

        At most ``limit`` + 1 come back, so that the caller sees that there were too many.
        """
        choices = [self._values(piece) if isinstance(piece, Variable) else (piece,) for piece in text.pieces]
        return ["".join(parts) for parts in islice(product(*choices), limit + 1)]

    def _values(self, variable: Variable) -> tuple[str, ...]:
        name = variable.name
        if variable.scope == "request":
            found = tuple(self.subject.get(name, ())) or tuple(asked.text for asked in self.names if asked.kind == name)
        else:
            found = (self.record.name,) if name == "name" else self.record.values(name)
        return tuple(value for value in map(variable.apply, found) if value)
