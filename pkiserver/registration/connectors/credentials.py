"""What all connectors for names and passwords share."""

from __future__ import annotations

from pkiserver.foundation.secret import Secret
from pkiserver.outbound.problems import AllServersFailed, OutboundError
from pkiserver.registration.connectors.values import (
    MAX_NAME,
    MAX_PASSWORD,
    Challenge,
    Denied,
    Finding,
    Outcome,
    Step,
    who,
)


def credential_problem(name: str, password: Secret) -> Denied | None:
    """What no server needs to be asked about. An empty password would be an unauthenticated bind (RFC 4513, 5.1.2)."""
    if not 0 < len(name) <= MAX_NAME or not name.isprintable() or name != name.strip():
        return Denied(Step.USER, "that is no user name")
    octets = password.reveal()
    if not octets:
        return Denied(Step.PASSWORD, "the password is empty")
    if len(octets) > MAX_PASSWORD or b"\x00" in octets:
        return Denied(Step.PASSWORD, "the password is too long or has a NUL")
    try:
        octets.decode()
    except UnicodeDecodeError:
        return Denied(Step.PASSWORD, "the password is not UTF-8")
    return None


def finding(error: OutboundError) -> Finding:
    """A connection's error as a line of a check."""
    if isinstance(error, AllServersFailed):
        error = error.errors[0]
    return Finding(Step(str(error.trouble)), error.server, error.text)


def outcome_finding(server: str, outcome: Outcome) -> Finding:
    """What a credential came to as a line of a check."""
    match outcome:
        case Denied():
            return Finding(outcome.step, server, outcome.text)
        case Challenge():
            return Finding(Step.FINE, server, f"asks for more: {outcome.prompt}")
    shown = who(outcome)
    parts = [f"{shown.name} is known"]
    parts += [f"groups: {', '.join(sorted(shown.groups))}"] if shown.groups else []
    parts += [f"{key} = {value}" for key, value in shown.attributes]
    return Finding(Step.FINE, server, "; ".join([*parts, *shown.notes]))
