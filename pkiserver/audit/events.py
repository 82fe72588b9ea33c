"""What the audit log can say: kinds of events, and the details that each kind may carry.

Details go by an allow-list of names, so that a secret does not reach the log by being part of something larger.
All text is made printable and bounded when the event is made: no client's name forges a line or fills the disk.
"""

from __future__ import annotations

import enum
import re

import attrs

from pkiserver.foundation.errors import Defect
from pkiserver.store.names import printable

TEXT_LIMIT = 2048
"""Characters of one text in an event; what is longer is cut and says so."""
OUTCOMES = frozenset({"ok", "refused", "failed"})


class AuditKind(enum.StrEnum):
    """What an event is about."""

    REQUEST = "request"
    APPROVAL = "approval"
    REFUSAL = "refusal"
    ISSUE = "issue"
    REVOCATION = "revocation"
    RELEASE = "release"
    KEY_OPERATION = "key-operation"
    CONFIGURATION = "configuration"
    ACCOUNT = "account"
    CODE = "code"
    LOGIN = "login"
    EXPORT = "export"
    CRL = "crl"
    RESPONDER = "responder"
    START = "start"
    STOP = "stop"
    CHECKPOINT = "checkpoint"
    RECOVERY = "recovery"
    HOUSEKEEPING = "housekeeping"
    TIME = "time"


_ANYWHERE = frozenset(
    {
        "authority", "issuer", "template", "protocol", "source", "subject", "serial", "fingerprint", "reason", "why",
        "comment", "count", "detail", "operation", "change", "approved_by", "decided_by", "via", "key",
    }
)  # fmt: skip
_CERTIFICATE = frozenset(
    {"sans", "not_before", "not_after", "replaces", "profile", "generation", "key_type", "evidence"}
)
_REVOCATION = frozenset({"was", "invalidity_date", "replaced_by", "on_hold_since"})
_ALLOWED: dict[AuditKind, frozenset[str]] = {
    AuditKind.REQUEST: _CERTIFICATE | {"request", "transaction", "expires"},
    AuditKind.APPROVAL: _CERTIFICATE | {"request", "rule"},
    AuditKind.REFUSAL: _CERTIFICATE | {"request", "rule", "reasons", "step"},
    AuditKind.ISSUE: _CERTIFICATE | {"settled", "holder", "code", "request"},
    AuditKind.REVOCATION: _REVOCATION,
    AuditKind.RELEASE: _REVOCATION,
    AuditKind.KEY_OPERATION: frozenset({"uri", "doors", "type", "store", "token", "spki_sha256"}),
    AuditKind.CONFIGURATION: frozenset(
        {"kind", "name", "revision", "added", "removed", "changed", "number", "ski", "state", "file"}
    ),
    AuditKind.ACCOUNT: frozenset({"groups", "disabled", "attributes", "changed", "digest"}),
    AuditKind.CODE: frozenset({"code", "expires", "sans", "to"}),
    AuditKind.LOGIN: frozenset({"method", "account"}),
    AuditKind.EXPORT: frozenset({"what", "from", "until", "file"}),
    AuditKind.CRL: frozenset(
        {
            *("number", "base_number", "entries", "cause", "next_update", "this_update", "scope", "generation", "kind"),
            "before",
        }
    ),
    AuditKind.RESPONDER: _CERTIFICATE,
    AuditKind.START: frozenset({"version", "pid", "listeners", "workers", "database"}),
    AuditKind.STOP: frozenset({"pid", "uptime"}),
    AuditKind.CHECKPOINT: frozenset({"number", "hash", "chains", "scheme"}),
    AuditKind.RECOVERY: _CERTIFICATE | {"settled", "holder", "state"},
    AuditKind.HOUSEKEEPING: frozenset({"what", "before"}),
    AuditKind.TIME: frozenset({"trouble", "offset", "error", "accuracy"}),
}
_PIN = re.compile(r"(?i)(pin-value=)[^;&?\s]*")


def allowed_details(kind: AuditKind) -> frozenset[str]:
    """The names of details that an event of this kind may carry."""
    return _ANYWHERE | _ALLOWED[kind]


def plain(text: str) -> str:
    """Text as the log keeps it: printable, bounded, without a PIN that somebody wrote into a key's URI."""
    if "pin-value" in text.lower():
        text = _PIN.sub(r"\1***", text)
    text = printable(text)
    if len(text) > TEXT_LIMIT:
        return f"{text[:TEXT_LIMIT]}... ({len(text) - TEXT_LIMIT} more characters)"
    return text


def _plain_details(details: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple((name, plain(value)) for name, value in details)


@attrs.frozen
class AuditEvent:
    """Something that happened.

    Attributes:
        kind: What it is about.
        actor: Who did it: an account, a certificate's subject, an operator, the server itself.
        object: What it was done to, such as ``certificate 1f3a...``.
        outcome: ``ok``, ``refused`` or ``failed``.
        request_id: The request's number in the operational log.
        details: More, by names of :func:`allowed_details`.
    """

    kind: AuditKind
    actor: str = attrs.field(converter=plain)
    object: str = attrs.field(converter=plain)
    outcome: str = "ok"
    request_id: str | None = attrs.field(default=None, converter=attrs.converters.optional(plain))
    details: tuple[tuple[str, str], ...] = attrs.field(default=(), converter=_plain_details)

    def __attrs_post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise Defect(f"{self.outcome!r} is not an outcome")
        if self.details:
            unknown = {name for name, _ in self.details} - allowed_details(self.kind)
            if unknown:
                raise Defect(f"an audit event of kind {self.kind} has no details {sorted(unknown)}")
