"""``pkiserver cert``: find certificates and change their status."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pkiserver.cli.context import Session, async_command, sleep
from pkiserver.cli.options import OUT_FILE
from pkiserver.cli.outfiles import write_file
from pkiserver.cli.selectors import MOMENT, REASON, parse_digest, parse_hex, parse_selector, pem
from pkiserver.cli.voting import voter, voter_options, who

if TYPE_CHECKING:
    from pkiserver.authority.revocation import Order, Selector, StatusChange
    from pkiserver.registration.votes import Person
    from pkiserver.runtime.engine import Engine
    from pkiserver.store.certificates import Certificate, CertificateState, Criteria, RevocationReason
    from pkiserver.store.names import San

STATES = ("issued", "revoked", "held", "burnt")


@click.group()
def group() -> None:
    """Certificates: search, show, revoke, hold, release.

    A CERTIFICATE is a file (PEM or DER), the SHA-256 fingerprint of one, or a serial number in hexadecimal.
    """


def _row(one: Certificate) -> dict[str, object]:
    return {
        "serial": f"{one.serial:x}",
        "subject": one.subject,
        "state": one.state.value,
        "template": one.template,
        "not_after": one.not_after,
        "requester": one.requester,
    }


def _record(one: Certificate, authority: str) -> dict[str, object]:
    from pkiserver.authority.status.values import reason_name

    revocation = one.revocation
    return {
        "serial": f"{one.serial:x}",
        "authority": authority,
        "subject": one.subject,
        "names": tuple(f"{san.kind}:{san.value}" for san in one.sans),
        "state": one.state.value,
        "not_before": one.not_before,
        "not_after": one.not_after,
        "template": one.template,
        "requester": one.requester,
        "protocol": one.protocol,
        "request_id": one.request_id,
        "fingerprint": None if one.fingerprint is None else one.fingerprint.hex(),
        "key": one.spki_sha256.hex(),
        "revoked_at": revocation and revocation.at,
        "reason": revocation and reason_name(revocation.reason),
        "invalidity_date": revocation and revocation.invalidity_date,
    }


def _authority_name(engine: Engine, one: Certificate) -> str:
    generation = engine.authorities.generation(one.generation_id)
    return "" if generation is None else f"{generation.authority} (key {generation.number})"


def _selected(selected: str, authority: str | None) -> Selector:
    return parse_selector(selected, authority)


authority_option = click.option("--authority", metavar="NAME", help="Whose serial number it is.")
certificate_argument = click.argument("selected", metavar="CERTIFICATE")


async def _page(session: Session, engine: Engine, criteria: Criteria, limit: int, after: str | None) -> None:
    from pkiserver.store import certificates

    page = await certificates.search_on(engine.database.read, criteria, limit=limit, cursor=after)
    session.output.table([_row(one) for one in page.certificates], empty="no certificates")
    if page.cursor is not None:
        session.output.note(f"More: --after {page.cursor}")


limit_option = click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="Rows.")
after_option = click.option("--after", metavar="CURSOR", help="Go on where the last page ended.")


@group.command("list")
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@limit_option
@after_option
@async_command
async def list_(session: Session, engine: Engine, state: str | None, limit: int, after: str | None) -> None:
    """The newest certificates first."""
    from pkiserver.store.certificates import Criteria

    await _page(session, engine, Criteria(state=_state(state)), limit, after)


def _state(text: str | None) -> CertificateState | None:
    from pkiserver.store.certificates import CertificateState

    return None if text is None else CertificateState(text)


def _san(text: str | None) -> San | None:
    from pkiserver.store.names import San, SanKind

    if text is None:
        return None
    kind, colon, value = text.partition(":")
    try:
        return San(SanKind.named(kind if colon else ""), value)
    except ValueError:
        allowed = ", ".join(SanKind)
        raise click.BadParameter(f"write it as KIND:VALUE, KIND one of {allowed}", param_hint="--name") from None


@group.command()
@click.option("--serial", metavar="HEX", help="The serial number.")
@click.option("--fingerprint", metavar="HEX", help="SHA-256 of the certificate.")
@click.option("--subject", metavar="DN", help="The whole subject, as RFC 4514 text.")
@click.option("--subject-prefix", metavar="TEXT", help="How the subject begins.")
@click.option("--name", metavar="KIND:VALUE", help="An alternative name, for instance dns:www.example.com.")
@click.option("--template", help="The template's name.")
@click.option("--requester", help="Who asked for it.")
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@click.option("--expires-from", type=MOMENT, help="End of validity at or after this time.")
@click.option("--expires-before", type=MOMENT, help="End of validity before this time.")
@limit_option
@after_option
@async_command
async def search(
    session: Session,
    engine: Engine,
    *,
    serial: str | None,
    fingerprint: str | None,
    subject: str | None,
    subject_prefix: str | None,
    name: str | None,
    template: str | None,
    requester: str | None,
    state: str | None,
    expires_from: datetime | None,
    expires_before: datetime | None,
    limit: int,
    after: str | None,
) -> None:
    """Search; every condition given must hold."""
    from pkiserver.store.certificates import Criteria

    criteria = Criteria(
        serial=None if serial is None else int(parse_hex(serial), 16),
        fingerprint=None if fingerprint is None else parse_digest(fingerprint),
        subject=subject,
        subject_prefix=subject_prefix,
        san=_san(name),
        template=template,
        requester=requester,
        state=_state(state),
        expires_from=expires_from,
        expires_before=expires_before,
    )
    await _page(session, engine, criteria, limit, after)


@group.command()
@certificate_argument
@authority_option
@async_command
async def show(session: Session, engine: Engine, selected: str, authority: str | None) -> None:
    """All that is known about a certificate."""
    found = await engine.status.revocations.find(_selected(selected, authority))
    session.output.record(_record(found, _authority_name(engine, found)))


@group.command()
@certificate_argument
@authority_option
@click.option("--chain", is_flag=True, help="Its issuers after it (PEM only).")
@click.option(
    "--format", "form", type=click.Choice(("pem", "der")), default="pem", show_default=True, help="What is written."
)
@click.option("--out", type=OUT_FILE, metavar="FILE", help="Write to a file.")
@async_command
async def export(
    session: Session, engine: Engine, *, selected: str, authority: str | None, chain: bool, form: str, out: Path | None
) -> None:
    """Write a certificate as PEM or DER."""
    if form == "der" and (chain or out is None):
        raise click.UsageError("--format der writes one certificate to --out FILE")
    found = await engine.status.revocations.find(_selected(selected, authority))
    if found.der is None:
        raise click.ClickException("no signed certificate is known for this serial number")
    certificates = [found.der]
    generation = engine.authorities.generation(found.generation_id)
    if chain and generation is not None:
        certificates += [generation.certificate.der, *engine.authorities.chain(generation)]
    text = "".join(pem(one) for one in certificates)
    if out is None:
        session.output.raw(text)
        return
    write_file(session.output, out, found.der if form == "der" else text.encode())
    session.output.done(f"Written to {out}", file=out, certificates=len(certificates))


def _order(comment: str) -> Order:
    from pkiserver.authority.revocation import Order

    return Order(actor=who(), comment=comment)


async def _asked(
    session: Session, engine: Engine, selector: Selector, reason: str | None, *, comment: str, by: Person
) -> bool:
    """Whether the certificate is an authority's own, so that its revocation was asked for and not done.

    ``reason`` None: its release.
    """
    found = await engine.status.revocations.find(selector)
    authority = engine.dual_control.authority_of(found)
    if authority is None:
        return False
    if not comment.strip():
        from pkiserver.foundation.errors import Refusal, Rejected

        text = f"it is the certificate of authority {authority}: give a reason for those who vote with --comment"
        raise Rejected.because(Refusal.MALFORMED, text)
    desk = engine.dual_control
    if reason is None:
        made = await desk.ask_to_release(authority, found, why=comment, by=by)
    else:
        made = await desk.ask_to_revoke(authority, found, reason, why=comment, by=by)
    text = f"It is the certificate of authority {authority}: operation {made.number} waits for approval"
    session.output.done(f"{text} (pkiserver operation approve {made.number})", number=made.number)
    return True


async def _changed(session: Session, engine: Engine, change: StatusChange, word: str) -> None:
    """Tell of it, and end when every process knows: who asks OCSP next is not told what was."""
    from pkiserver.authority.status.cache import TRUSTED_SECONDS

    after = change.after
    record = _record(after, _authority_name(engine, after))
    session.output.done(f"{word}: serial {after.serial:x}, {after.subject}", **record)
    await sleep(TRUSTED_SECONDS)


comment_option = click.option(
    "--comment", default="", help="One line for the audit log, and for those who vote where it is an authority's."
)


@group.command()
@certificate_argument
@authority_option
@click.option("--reason", type=REASON, default="unspecified", show_default=True, help="As in RFC 5280, 5.3.1.")
@click.option("--invalidity-date", type=MOMENT, help="Since when the key is suspected.")
@comment_option
@voter_options
@async_command
async def revoke(
    session: Session,
    engine: Engine,
    *,
    selected: str,
    authority: str | None,
    reason: RevocationReason,
    invalidity_date: datetime | None,
    comment: str,
    credential: Path | None,
    password_file: Path | None,
) -> None:
    """Revoke a certificate for good (reason certificateHold: put it on hold).

    An authority's own certificate is revoked by nobody alone: an operation is asked for (``pkiserver operation``).
    """
    from pkiserver.authority.status.values import reason_name

    selector = _selected(selected, authority)
    by = await voter(engine, credential, password_file)
    if await _asked(session, engine, selector, reason_name(reason), comment=comment, by=by):
        return
    order = _order(comment)
    change = await engine.status.revocations.revoke(selector, reason, order, invalidity_date=invalidity_date)
    await _changed(session, engine, change, "Revoked" if change.after.state.value == "revoked" else "On hold")


@group.command()
@certificate_argument
@authority_option
@comment_option
@voter_options
@async_command
async def hold(
    session: Session,
    engine: Engine,
    *,
    selected: str,
    authority: str | None,
    comment: str,
    credential: Path | None,
    password_file: Path | None,
) -> None:
    """Put a certificate on hold: revoked until it is released. An authority's own: by an operation."""
    selector = _selected(selected, authority)
    by = await voter(engine, credential, password_file)
    if await _asked(session, engine, selector, "certificateHold", comment=comment, by=by):
        return
    change = await engine.status.revocations.hold(selector, _order(comment))
    await _changed(session, engine, change, "On hold")


@group.command()
@certificate_argument
@authority_option
@comment_option
@voter_options
@async_command
async def release(
    session: Session,
    engine: Engine,
    *,
    selected: str,
    authority: str | None,
    comment: str,
    credential: Path | None,
    password_file: Path | None,
) -> None:
    """End a hold: the certificate is good again. An authority's own: by an operation."""
    selector = _selected(selected, authority)
    by = await voter(engine, credential, password_file)
    if await _asked(session, engine, selector, None, comment=comment, by=by):
        return
    change = await engine.status.revocations.release(selector, _order(comment))
    await _changed(session, engine, change, "Released")
