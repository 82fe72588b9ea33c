"""``pkiserver crl``: issue, list and show CRLs, import those signed elsewhere, and sign one from files alone."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pkiserver.cli.context import Session, async_command, reactor_command
from pkiserver.cli.options import IN_FILE, NUMBER, OUT_FILE, file_argument
from pkiserver.cli.outfiles import write_file
from pkiserver.cli.selectors import load_certificates, load_crl, parse_hex, pem

if TYPE_CHECKING:
    from pkiserver.authority.model import Authority, CaCertificate, Generation
    from pkiserver.authority.status.crlder import CrlEntry
    from pkiserver.runtime.engine import Engine
    from pkiserver.store.authority.crls import CrlKind


@click.group()
def group() -> None:
    """Certificate revocation lists: issue, list, show, import, sign from files."""


authority_argument = click.argument("name", metavar="AUTHORITY")
point_option = click.option(
    "--point", default="full", show_default=True, metavar="NAME", help="The distribution point, as `crl list` shows it."
)
delta_option = click.option("--delta", is_flag=True, help="The delta, and not the complete list.")
key_option = click.option(
    "--key", "number", type=click.IntRange(1), help="The key generation; by default the one that issues."
)


def _generation(engine: Engine, name: str, number: int | None) -> tuple[Authority, Generation]:
    authority = engine.authorities.get(name)
    if number is None:
        return authority, authority.current
    for generation in authority.generations:
        if generation.number == number:
            return authority, generation
    raise click.BadParameter(f"authority {name} has no key {number}")


@group.command()
@authority_argument
@key_option
@point_option
@delta_option
@async_command
async def issue(session: Session, engine: Engine, *, name: str, number: int | None, point: str, delta: bool) -> None:
    """Issue a CRL now, whatever the schedule says; with it its delta, where the authority has deltas."""
    from pkiserver.authority.crl import Parts
    from pkiserver.cli.voting import who

    authority, generation = _generation(engine, name, number)
    if delta and authority.settings.crl.delta is None:
        raise click.BadParameter(f"authority {name} has no deltas")
    parts = Parts.DELTA if delta else Parts.COMPLETE
    issued = await engine.status.schedule.issue_now(authority, generation, actor=who(), scope=point, parts=parts)
    session.output.done(
        f"CRL {issued.number} of {name}: {issued.entries} entries, next update {issued.next_update:%Y-%m-%d %H:%M:%SZ}",
        authority=name,
        key=generation.number,
        point=point,
        kind=issued.kind.value,
        number=issued.number,
        entries=issued.entries,
        this_update=issued.this_update,
        next_update=issued.next_update,
    )


@group.command("list")
@click.argument("name", metavar="[AUTHORITY]", required=False)
@click.option("--all", "everything", is_flag=True, help="Earlier lists too, as far as they are kept.")
@async_command
async def list_(session: Session, engine: Engine, name: str | None, everything: bool) -> None:
    """The newest CRL of every distribution point of every key, or all that are kept."""
    from pkiserver.authority.distribution import covers_text
    from pkiserver.store.authority.crls import CrlKind

    rows = [
        {
            "authority": authority.name,
            "key": generation.number,
            "point": scope.scope,
            "covers": covers_text(scope.cover),
            "kind": kind.value,
            "number": one.number,
            "this_update": one.this_update,
            "next_update": one.next_update,
            "entries": one.entries,
            "octets": one.octets,
            "path": _path(generation, scope.scope, kind),
        }
        for authority in (engine.authorities.list() if name is None else (engine.authorities.get(name),))
        for generation in authority.generations
        for scope in await engine.status.crls.scopes(generation)
        for kind in CrlKind
        for one in await engine.status.crls.history(
            generation, limit=1000 if everything else 1, scope=scope.scope, kind=kind
        )
    ]
    session.output.table(rows, empty="no CRLs")


def _path(generation: Generation, scope: str, kind: CrlKind) -> str:
    """Where the newest list is served."""
    from pkiserver.authority.distribution import scope_path

    path = scope_path(generation.crl_path, scope)
    return f"/crl/{path}/delta.crl" if kind.value == "delta" else f"/crl/{path}.crl"


@group.command()
@authority_argument
@key_option
@point_option
@delta_option
@click.option("--number", "crl_number", type=NUMBER, help="An earlier list, by its CRL number.")
@click.option("--out", type=OUT_FILE, metavar="FILE", help="Write it to a file (DER).")
@click.option("--pem", "as_pem", is_flag=True, help="Print it as PEM.")
@async_command
async def show(
    session: Session,
    engine: Engine,
    *,
    name: str,
    number: int | None,
    point: str,
    delta: bool,
    crl_number: int | None,
    out: Path | None,
    as_pem: bool,
) -> None:
    """Show a CRL, or write it out."""
    from pkiserver.store.authority.crls import CrlKind

    _, generation = _generation(engine, name, number)
    kind = CrlKind.DELTA if delta else CrlKind.COMPLETE
    found = await engine.status.crls.kept(generation, crl_number, scope=point, kind=kind)
    if found is None:
        raise click.ClickException(f"there is no such CRL of {name}")
    if out is not None:
        write_file(session.output, out, found.der)
    if as_pem:
        session.output.raw(pem(found.der, "X509 CRL"))
        return
    session.output.record(
        {
            "authority": name,
            "key": generation.number,
            "point": point,
            "kind": kind.value,
            "number": found.number,
            "base_number": found.base_number,
            "this_update": found.this_update,
            "next_update": found.next_update,
            "entries": found.entries,
            "octets": len(found.der),
            "path": _path(generation, point, kind),
        }
    )


@group.command("import")
@authority_argument
@file_argument
@key_option
@async_command
async def import_(session: Session, engine: Engine, *, name: str, file: Path, number: int | None) -> None:
    """Serve a CRL that was signed elsewhere, as an offline root's is."""
    from pkiserver.cli.voting import who

    authority, generation = _generation(engine, name, number)
    issued = await engine.status.crls.install(authority, generation, load_crl(file), actor=who())
    session.output.done(
        f"CRL {issued.number} of {name} is served from now on, next update {issued.next_update:%Y-%m-%d %H:%M:%SZ}",
        authority=name,
        key=generation.number,
        number=issued.number,
        entries=issued.entries,
        next_update=issued.next_update,
    )


@group.command()
@authority_argument
@click.option("--to", "number", type=click.IntRange(1), metavar="NUMBER", help="Above this number.")
@click.option("--by", type=click.IntRange(1), metavar="COUNT", help="By so many, from the highest that is known here.")
@click.option("--past", type=IN_FILE, multiple=True, metavar="FILE", help="Above the number of a list that is out.")
@async_command
async def advance(
    session: Session, engine: Engine, *, name: str, number: int | None, by: int | None, past: tuple[Path, ...]
) -> None:
    """Move the CRL numbers of an authority forward, of all its lists: after an older database was restored."""
    from pkiserver.authority.status.offline import number_of
    from pkiserver.cli.voting import who

    if sum(map(bool, (number, by, past))) != 1:
        raise click.UsageError("say one of --to, --by and --past")
    authority = engine.authorities.get(name)
    crls = engine.status.crls
    if by is not None:
        number = await crls.highest_number(authority) + by
    for file in past:
        number = max(number or 0, number_of(authority, load_crl(file)))
    last = await crls.advance(authority, number or 0, actor=who())
    session.output.done(f"Every new CRL of {name} has a number above {last}", authority=name, number=last)


@group.command("target-key")
@click.argument("name")
@reactor_command
async def target_key(session: Session, *, name: str) -> None:
    """Show the public key to allow at an SFTP target; the key is made where there is none."""
    from pkiserver.authority.delivery.settings import SftpTarget
    from pkiserver.authority.delivery.sftp import make_client_key, public_line

    for target in session.settings().crl_target:
        if target.name == name and isinstance(target, SftpTarget):
            if not target.key.exists():
                make_client_key(target.key)
            session.output.raw(f"{public_line(target.key)} pkiserver-{name}\n")
            return
    raise click.BadParameter(f"there is no SFTP target {name} in the settings")


def _revoked(text: str, issuer: CaCertificate, now: datetime) -> CrlEntry:
    """``CERTIFICATE[=REASON]``: a file or a serial number in hexadecimal, with a reason's name."""
    from cryptography import x509

    from pkiserver.authority.certparts import issuer_octets
    from pkiserver.authority.status.crlder import CrlEntry
    from pkiserver.authority.status.offline import seconds
    from pkiserver.authority.status.values import parse_reason

    what, _, why = text.partition("=")
    path = Path(what)
    if path.is_file():
        certificate = load_certificates(path)[0]
        # Of another name it would not be revoked by this list, and whatever has its number here would. An earlier key
        # of this name may have signed it.
        if issuer_octets(certificate) != issuer.subject_der:
            raise click.BadParameter(f"{path} was issued by another authority, whose list has to say so")
        serial = x509.load_der_x509_certificate(certificate).serial_number
    else:
        serial = int(parse_hex(what), 16)
    try:
        return CrlEntry(serial, seconds(now), int(parse_reason(why or "unspecified")))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@group.command()
@click.option("--certificate", type=IN_FILE, required=True, help="The issuer's own.")
@click.option("--key", "uri", metavar="URI", required=True, help="Its key: pkcs11:... or file:...")
@click.option("--previous", type=IN_FILE, help="The last CRL; its entries are kept.")
@click.option("--number", type=click.IntRange(0), help="The CRL number; by default one more than the last.")
@click.option("--revoke", multiple=True, metavar="CERT[=REASON]", help="Add a certificate: a file or a serial number.")
@click.option("--release", multiple=True, metavar="SERIAL", help="Take a certificate on hold off the list.")
@click.option("--days", type=click.IntRange(1, 3660), default=180, show_default=True, help="Until nextUpdate.")
@click.option("--scheme", help="The signature scheme, for instance rsa-pss-sha256.")
@click.option("--out", type=OUT_FILE, required=True, metavar="FILE", help="Where the list goes (DER).")
@reactor_command
async def sign(
    session: Session,
    *,
    certificate: Path,
    uri: str,
    previous: Path | None,
    number: int | None,
    revoke: tuple[str, ...],
    release: tuple[str, ...],
    days: int,
    scheme: str | None,
    out: Path,
) -> None:
    """Sign a CRL from files alone, on a machine without network and database.

    The configuration is read for its key stores only, and may have nothing else.
    """
    from pkiserver.authority.model import CaCertificate
    from pkiserver.authority.status.offline import OfflineCrl, read_crl, sign_offline
    from pkiserver.foundation.clock import SystemClock
    from pkiserver.keys.algorithms import SignatureScheme

    issuer = CaCertificate.load(load_certificates(certificate)[0])
    now = SystemClock().now().replace(microsecond=0)
    public_key = issuer.certificate.public_key()
    wanted = OfflineCrl(
        issuer=issuer,
        scheme=(
            SignatureScheme.parse(scheme).require(public_key) if scheme else SignatureScheme.default_for(public_key)
        ),
        this_update=now,
        validity=timedelta(days=days),
        previous=None if previous is None else read_crl(load_crl(previous), issuer),
        number=number,
        revoked=tuple(_revoked(text, issuer, now) for text in revoke),
        released=frozenset(int(parse_hex(text), 16) for text in release),
    )
    signed = await sign_offline(wanted, session.key_stores(), uri, SystemClock())
    write_file(session.output, out, signed.der)
    session.output.done(
        f"CRL {signed.number} with {signed.entries} entries is in {out}",
        number=signed.number,
        entries=signed.entries,
        next_update=wanted.this_update + wanted.validity,
        file=out,
    )
