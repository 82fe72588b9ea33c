"""A page for administrators with a browser that hands out one-time challenges, as NDES has one.

The same challenges, permissions, scopes and audit as ``POST /challenges``. A page is shown by GET and makes nothing: a
link in a mail must not spend anything. Every challenge is bound to a subject or to names, none of them a wildcard.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from urllib.parse import parse_qsl

import attrs
from cryptography.hazmat.primitives import hashes

from pkiserver.authority.templates.model import Template
from pkiserver.foundation.errors import Reason, Refusal, Rejected
from pkiserver.registration.administrators import Administrator
from pkiserver.registration.codes import takes_codes
from pkiserver.runtime.engine import Engine
from protocols.management import codec, views
from protocols.management.calls import Ask, Nothing
from protocols.management.registering import make_challenge

PATH = "/certsrv/mscep_admin"
"""Where NDES has it."""
FORM = "application/x-www-form-urlencoded"
MOST_FIELDS = 8
MOST_NAMES = 100
_HOUR = 3600
LIFETIMES = ((_HOUR, "an hour"), (24 * _HOUR, "a day"), (7 * 24 * _HOUR, "a week"))


@attrs.frozen
class Form:
    """What the page's form says; ``names`` one KIND:VALUE a line."""

    template: str
    subject: str
    names: tuple[str, ...]
    lifetime_seconds: int


def read_form(octets: bytes) -> Form:
    """The form's fields, each once and no others; raises :class:`Rejected`."""
    try:
        pairs = parse_qsl(
            octets.decode("ascii"), True, True, encoding="utf-8", errors="strict", max_num_fields=MOST_FIELDS
        )
    except ValueError as error:
        raise Rejected.because(Refusal.MALFORMED, "the form cannot be read") from error
    fields = dict(pairs)
    if len(fields) != len(pairs) or not fields.keys() <= {"template", "subject", "names", "lifetime"}:
        raise Rejected.because(Refusal.MALFORMED, "the form has fields that are not ours, or one twice")
    lifetime = fields.get("lifetime", "")
    if lifetime not in {str(seconds) for seconds, _ in LIFETIMES}:
        raise Rejected.because(Refusal.MALFORMED, "the form has no lifetime of ours")
    names = tuple(line.strip() for line in fields.get("names", "").splitlines() if line.strip())
    return Form(fields.get("template", ""), fields.get("subject", "").strip(), names, int(lifetime))


async def answer_form(engine: Engine, who: Administrator, request_id: str, octets: bytes) -> str:
    """The page with a new challenge.

    Raises:
        Rejected: with every reason; the challenge is bound to nobody, or the template is not one of the choices.
    """
    form = read_form(octets)
    reasons = []
    if form.template not in {one.name for one in choices(engine, who)}:
        reasons.append(Reason(Refusal.UNKNOWN_TEMPLATE, "choose a template from the list"))
    if not form.subject and not form.names:
        reasons.append(Reason(Refusal.BAD_SUBJECT, "say for whom: a subject, or names"))
    if len(form.names) > MOST_NAMES:
        reasons.append(Reason(Refusal.LIMIT, f"there are more than {MOST_NAMES} names"))
    if any("*" in name for name in form.names):
        reasons.append(Reason(Refusal.BAD_NAME, "a challenge for a wildcard is not handed out here"))
    if reasons:
        raise Rejected(reasons)
    body = {
        "template": form.template,
        "subject": form.subject or None,
        "names": list(form.names),
        "lifetime_seconds": form.lifetime_seconds,
    }
    wanted = codec.read(views.NewChallenge, json.dumps(body).encode())
    made = await make_challenge(Ask(engine, who, request_id, {}, Nothing(), wanted))
    return _page(engine, who, made)


def blank_page(engine: Engine, who: Administrator) -> str:
    """The page before anything is asked."""
    return _page(engine, who, None)


def refusal_page(reasons: Iterable[str]) -> str:
    """Why not."""
    listed = "".join(f"<li>{escape(one)}</li>" for one in reasons)
    return _frame(f'<h1>Refused</h1><ul>{listed}</ul><p><a href="{PATH}">Back</a></p>')


def choices(engine: Engine, who: Administrator) -> tuple[Template, ...]:
    """The templates in the administrator's scope for which one-time challenges count."""
    return tuple(
        one.template
        for one in engine.templates.list()
        if one.template.enabled
        and takes_codes(one.template)
        and who.covers(template=one.template.name, authority=one.template.issuer)
    )


def _page(engine: Engine, who: Administrator, made: views.MadeChallenge | None) -> str:
    templates = choices(engine, who)
    told = "" if made is None else _told(engine, made)
    if not templates:
        return _frame("<h1>Challenges</h1><p>No template that is yours to manage takes one-time challenges.</p>")
    options = "".join(f"<option>{escape(one.name)}</option>" for one in templates)
    lifetimes = "".join(f'<option value="{seconds}">{text}</option>' for seconds, text in LIFETIMES)
    return _frame(
        f"<h1>Challenges</h1>{told}<p>You are {escape(who.name)}. A challenge is good for one certificate.</p>"
        f'<form method="post" action="{PATH}" accept-charset="utf-8">'
        f'<p><label>Template <select name="template">{options}</select></label></p>'
        '<p><label>Subject <input name="subject" size="60" placeholder="CN=printer-7,O=Example"></label></p>'
        "<p><label>Names, one a line<br>"
        '<textarea name="names" rows="4" cols="60" placeholder="dns:printer-7.example.org"></textarea></label></p>'
        f'<p><label>Good for <select name="lifetime">{lifetimes}</select></label></p>'
        "<p><button>Hand out a challenge</button></p></form>"
    )


def _told(engine: Engine, made: views.MadeChallenge) -> str:
    template = engine.templates.get(made.template)
    generation = engine.authorities.get(template.issuer).current
    mark = generation.certificate.certificate.fingerprint(hashes.SHA256()).hex(":").upper()
    return (
        f"<p>The SHA-256 fingerprint of the CA certificate is: <b>{mark}</b></p>"
        f'<p>The enrollment challenge password is: <b id="challenge">{escape(made.code)}</b></p>'
        f"<p>It is for template {escape(made.template)}, is told this once, and expires at "
        f"{made.expires:%Y-%m-%d %H:%M} UTC.</p>"
    )


def _frame(body: str) -> str:
    head = '<meta charset="utf-8"><title>pkiserver</title>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'
