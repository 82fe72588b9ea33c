"""``pkiserver admin``: administrators of the management API."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from pkiserver.cli.agreement import Agreement, agreement_options
from pkiserver.cli.context import Session, async_command
from pkiserver.cli.options import IN_FILE, after_option, limit_option
from pkiserver.cli.outfiles import new_file
from pkiserver.cli.selectors import load_certificates, parse_digest
from pkiserver.cli.voting import who

if TYPE_CHECKING:
    from datetime import timedelta

    from pkiserver.authority.consent import Consent
    from pkiserver.registration.admincertificates import Credential
    from pkiserver.registration.administrators import Administrator
    from pkiserver.registration.operations import OperationKind
    from pkiserver.runtime.engine import Engine

ROLES = ("administrator", "ra-officer", "operator", "auditor")
role_option = click.option("--role", "roles", type=click.Choice(ROLES), multiple=True, help="Repeatable.")
authority_scope = click.option("--only-authority", "authorities", multiple=True, metavar="CA", help="Repeatable.")
template_scope = click.option("--only-template", "templates", multiple=True, metavar="NAME", help="Repeatable.")
group_option = click.option(
    "--group", "groups", multiple=True, metavar="NAME", help="For approvals; repeatable; '': none."
)
account_option = click.option("--account", metavar="NAME", help="Their own account, where it has another name.")
issuer_option = click.option("--authority", required=True, metavar="CA", help="Which authority certifies them.")
out_option = click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="By default NAME.p12.")
validity_option = click.option(
    "--validity", default="1y", show_default=True, metavar="DURATION", help="Of the certificate."
)


@click.group()
def group() -> None:
    """Administrators of the management API, each known by a client certificate.

    Who configures does not issue: administrator goes neither with ra-officer nor with operator; auditor stands alone.
    """


def _row(one: Administrator) -> dict[str, object]:
    return {
        "name": one.name,
        "roles": tuple(sorted(one.roles)),
        "authorities": tuple(sorted(one.authorities)) or ("all",),
        "templates": tuple(sorted(one.templates)) or ("all",),
        "groups": tuple(sorted(one.groups)),
        "disabled": one.disabled,
    }


def _validity(text: str) -> timedelta:
    from pkiserver.foundation.durations import parse_duration
    from pkiserver.registration.admincertificates import require_validity

    try:
        lasting = parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--validity") from error
    require_validity(lasting)
    return lasting


def _note_unknown(session: Session, engine: Engine, one: Administrator) -> None:
    """A scope may name what is made later; a slip of the hand should be seen all the same."""
    known = {authority.name for authority in engine.authorities.list()}
    missing = [f"authority {name}" for name in sorted(one.authorities - known)]
    missing += [f"template {name}" for name in sorted(one.templates) if engine.templates.find(name) is None]
    for what in missing:
        session.output.note(f"there is no {what} yet: the scope of {one.name} is for when there is one")


def described(one: Administrator) -> str:
    """All that an administrator may do, for those who vote."""
    from pkiserver.registration.administrators import describe

    account = f"; account {one.account}" if one.account else ""
    return describe(one) + account


def exporting(name: str, detail: str) -> tuple[OperationKind, str, dict[str, str]]:
    """Handing out a key that shows an administrator, as an operation."""
    from pkiserver.registration.operations import OperationKind

    return OperationKind.EXPORT_SECRET, f"administrator {name}", {"detail": detail}


def changing(name: str, detail: str) -> tuple[OperationKind, str, dict[str, str]]:
    """Giving an administrator more, as an operation."""
    from pkiserver.registration.operations import OperationKind

    return OperationKind.CHANGE_ADMINISTRATOR, f"administrator {name}", {"detail": detail}


async def _certified(engine: Engine, name: str, *, authority: str, validity: timedelta) -> Credential:
    from pkiserver.registration.admincertificates import AdministratorCertificates

    road = engine.road
    maker = AdministratorCertificates(road.authorities, road.preparer, road.issuer, engine.clock)
    return await maker.issue(name, authority, validity=validity, by=who())


def _keep(file: BinaryIO, made: Credential) -> None:
    """Make the file durable before its certificate shows anybody: it is worth nothing until then.

    An approval is spent with that, and the password is told after it. Who is left with a file and no password, since
    the process ended in between, asks anew; nobody has two files for one approval that open anything.
    """
    file.write(made.pkcs12)
    file.flush()
    os.fsync(file.fileno())


def _handed_out(session: Session, name: str, made: Credential, path: Path) -> None:
    session.output.done(
        f"{path} holds the key and certificate {made.serial:x} of {name}; neither is kept here.\n"
        f"Its password, told this once: {made.password.reveal_text()}",
        name=name,
        file=path,
        password=made.password.reveal_text(),
        serial=f"{made.serial:x}",
        fingerprint=hashlib.sha256(made.certificate).hexdigest(),
    )


@group.command()
@click.argument("name")
@role_option
@authority_scope
@template_scope
@group_option
@account_option
@issuer_option
@validity_option
@out_option
@agreement_options
@async_command
async def create(
    session: Session,
    engine: Engine,
    *,
    name: str,
    roles: tuple[str, ...],
    authorities: tuple[str, ...],
    templates: tuple[str, ...],
    groups: tuple[str, ...],
    account: str | None,
    authority: str,
    validity: str,
    out: Path | None,
    agreement: Agreement,
) -> None:
    """Make an administrator, and a PKCS#12 file with a key and a certificate, under a password that is shown once."""
    from pkiserver.registration.administrators import Administrator, Role

    lasting = _validity(validity)
    engine.authorities.issuing(authority)
    new = Administrator(
        name=name,
        roles=frozenset(map(Role, roles)),
        authorities=frozenset(authorities),
        templates=frozenset(templates),
        groups=frozenset(groups) - {""},
        account=account,
    )
    await engine.administrators.check_new(new)
    _note_unknown(session, engine, new)
    path = out or Path(f"{name}.p12")
    detail = f"made, and a PKCS#12 file for {validity} by {authority}: {described(new)}"
    with new_file(path) as file:
        if (consent := await agreement.reached(session, engine, *exporting(name, detail))) is not None:
            made = await _certified(engine, name, authority=authority, validity=lasting)
            _keep(file, made)
            await engine.administrators.create(new, by=who(), shown_by=made.certificate, consent=consent)
            _handed_out(session, name, made, path)


@group.command()
@click.argument("name")
@issuer_option
@validity_option
@out_option
@agreement_options
@async_command
async def certify(
    session: Session,
    engine: Engine,
    *,
    name: str,
    authority: str,
    validity: str,
    out: Path | None,
    agreement: Agreement,
) -> None:
    """Another certificate for an administrator; those before go on until they end, are revoked or unbound."""
    lasting = _validity(validity)
    one = await engine.administrators.get(name)
    engine.authorities.issuing(authority)
    path = out or Path(f"{name}.p12")
    detail = f"a further PKCS#12 file for {validity} by {authority}: {described(one)}"
    with new_file(path) as file:
        if (consent := await agreement.reached(session, engine, *exporting(name, detail))) is not None:
            made = await _certified(engine, name, authority=authority, validity=lasting)
            _keep(file, made)
            await engine.administrators.bind(name, made.certificate, by=who(), consent=consent)
            _handed_out(session, name, made, path)


@group.command("list")
@after_option
@limit_option
@async_command
async def list_(session: Session, engine: Engine, after: str, limit: int) -> None:
    """Administrators by name."""
    page = await engine.administrators.list_page(after=after, limit=limit)
    session.output.page([_row(one) for one in page], limit=limit, onward="--after", empty="no administrators")


@group.command()
@click.argument("name")
@async_command
async def show(session: Session, engine: Engine, name: str) -> None:
    """One administrator, with the fingerprints of the certificates."""
    one = await engine.administrators.get(name)
    known = await engine.administrators.certificates(name)
    session.output.record(
        {
            **_row(one),
            "account": one.account,
            "created": one.created,
            "created_by": one.created_by,
            "certificates": tuple(f"{c.fingerprint.hex()} until {c.not_after:%Y-%m-%d}" for c in known),
        }
    )


@group.command("set")
@click.argument("name")
@role_option
@authority_scope
@template_scope
@group_option
@account_option
@click.option("--everything", is_flag=True, help="No scope: all authorities and templates.")
@agreement_options
@async_command
async def set_(
    session: Session,
    engine: Engine,
    *,
    name: str,
    roles: tuple[str, ...],
    authorities: tuple[str, ...],
    templates: tuple[str, ...],
    groups: tuple[str, ...],
    account: str | None,
    everything: bool,
    agreement: Agreement,
) -> None:
    """Replace roles, scope, groups or account; what is not given stays."""
    import attrs

    from pkiserver.registration.administrators import Role

    def change(one: Administrator) -> Administrator:
        kept = attrs.evolve(one, authorities=frozenset(), templates=frozenset()) if everything else one
        return attrs.evolve(
            kept,
            roles=frozenset(map(Role, roles)) or one.roles,
            authorities=frozenset(authorities) or kept.authorities,
            templates=frozenset(templates) or kept.templates,
            groups=frozenset(groups) - {""} if groups else one.groups,
            account=one.account if account is None else account or None,
        )

    wanted = change(await engine.administrators.get(name))
    _note_unknown(session, engine, wanted)
    consent = await agreement.reached(session, engine, *changing(name, f"becomes: {described(wanted)}"))
    if consent is None:
        return
    changed = await engine.administrators.change(name, who(), change, consent=consent)
    session.output.done(f"Administrator {name} changed", **_row(changed))


async def _set_disabled(session: Session, engine: Engine, name: str, disabled: bool, consent: Consent) -> None:
    import attrs

    what = "disabled" if disabled else "enabled"
    await engine.administrators.change(
        name, who(), lambda one: attrs.evolve(one, disabled=disabled), what=what, consent=consent
    )
    session.output.done(f"Administrator {name} {what}", name=name)


@group.command()
@click.argument("name")
@async_command
async def disable(session: Session, engine: Engine, name: str) -> None:
    """Turn an administrator away, from the next request on."""
    from pkiserver.authority.consent import UNASKED

    await _set_disabled(session, engine, name, True, UNASKED)


@group.command()
@click.argument("name")
@agreement_options
@async_command
async def enable(session: Session, engine: Engine, *, name: str, agreement: Agreement) -> None:
    """Undo disable."""
    one = await engine.administrators.get(name)
    if (consent := await agreement.reached(session, engine, *changing(name, f"enabled: {described(one)}"))) is not None:
        await _set_disabled(session, engine, name, False, consent)


@group.command()
@click.argument("name")
@async_command
async def delete(session: Session, engine: Engine, name: str) -> None:
    """Remove an administrator; the certificates show nobody then."""
    await engine.administrators.delete(name, by=who())
    session.output.done(f"Administrator {name} deleted", name=name)


@group.command()
@click.argument("name")
@click.argument("certificate", type=IN_FILE)
@agreement_options
@async_command
async def bind(session: Session, engine: Engine, *, name: str, certificate: Path, agreement: Agreement) -> None:
    """Let a certificate that exists (PEM or DER, of any authority, on a smart card for instance) show an administrator.

    Of a certificate that was not issued here only the validity is looked at: unbind it when it is revoked.
    """
    der = load_certificates(certificate)[0]
    one = await engine.administrators.get(name)
    detail = f"shown by the certificate {hashlib.sha256(der).hexdigest()}: {described(one)}"
    if (consent := await agreement.reached(session, engine, *changing(name, detail))) is None:
        return
    fingerprint = await engine.administrators.bind(name, der, by=who(), consent=consent)
    session.output.done(f"{certificate} shows {name} now", name=name, fingerprint=fingerprint.hex())


@group.command()
@click.argument("name")
@click.argument("fingerprint")
@async_command
async def unbind(session: Session, engine: Engine, name: str, fingerprint: str) -> None:
    """Let a certificate, by its SHA-256 fingerprint, show an administrator no more."""
    await engine.administrators.unbind(name, parse_digest(fingerprint), by=who())
    session.output.done(f"The certificate shows {name} no more", name=name)
