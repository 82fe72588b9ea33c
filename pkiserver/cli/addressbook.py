"""``pkiserver addressbook``: what mail clients find, partners' certificates, who opted out."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pkiserver.cli.addressbook_outward import compare_directory, resync_directory, show_targets
from pkiserver.cli.context import Session, async_command
from pkiserver.cli.options import IN_FILE, limit_option
from pkiserver.cli.selectors import load_certificates, read_octets, reading
from pkiserver.cli.voting import who

if TYPE_CHECKING:
    from pkiserver.publication.contacts import ContactWriter
    from pkiserver.publication.values import Person
    from pkiserver.runtime.engine import Engine

USAGES = {"ta": 2, "ee": 3}
_TRUNCATED = 28
"""Octets of the SHA-256 of a local part in an SMIMEA name (RFC 8162 section 3)."""


@click.group()
def group() -> None:
    """The S/MIME address book: what mail clients find over LDAP and HTTP."""


@group.group()
def contacts() -> None:
    """Certificates of partners outside, in a subtree of their own."""


def _writer(engine: Engine) -> ContactWriter:
    from pkiserver.publication.contacts import ContactWriter

    return ContactWriter(engine.database, engine.audit, engine.clock)


async def _people(engine: Engine, address: str) -> tuple[Person, ...]:
    from pkiserver.publication.people import read_people
    from pkiserver.store.publication.addressbook import address_key

    rules = {one.template.name: one.template.publication for one in engine.templates.list()}
    published = {name: one for name, one in rules.items() if one.addressbook}
    key, now = address_key(address), engine.clock.now()
    return await engine.database.read(lambda connection: read_people(connection, key, published, now))


@group.command()
@click.argument("address")
@async_command
async def show(session: Session, engine: Engine, address: str) -> None:
    """What is found under a mail address."""
    rows = [
        {
            "address": one.address,
            "tree": "contacts" if one.is_contact else "people",
            "names": tuple(f"{name}={value}" for name, values in one.names for value in values),
            "certificates": tuple(hashlib.sha256(der).hexdigest() for der in one.certificates),
            "until": one.until,
        }
        for one in await _people(engine, address)
    ]
    session.output.table(rows, empty="nobody is found under this address")


@group.command()
@click.argument("address")
@click.argument("message", type=IN_FILE)
@async_command
async def publish(session: Session, engine: Engine, address: str, message: Path) -> None:
    """Keep a person's userSMIMECertificate: a SignedData (DER) by their own key, with smimeCapabilities."""
    from pkiserver.publication.smime import SmimeWriter
    from protocols.addressbook.smime import read_announcement

    data = read_octets(message)
    with reading(message, "userSMIMECertificate"):
        found = read_announcement(data)
    writer = SmimeWriter(engine.database, engine.audit, engine.clock)
    await writer.put(address, data, found.signer, found.announced, by=who())
    session.output.done(f"Published for {address}", address=address)


@group.command()
@click.argument("address")
@click.option("--undo", is_flag=True, help="Let the person in again.")
@async_command
async def optout(session: Session, engine: Engine, address: str, undo: bool) -> None:
    """Leave a person out: their address finds nobody any more."""
    changed = await _writer(engine).opt_out(address, out=not undo, by=who())
    state = "shown again" if undo else "left out"
    session.output.done(
        f"{address} is {state}" if changed else f"{address}: as before", address=address, changed=changed
    )


@group.command()
@click.option("--after", default="", metavar="ADDRESS", help="Go on after this address.")
@limit_option
@async_command
async def optouts(session: Session, engine: Engine, after: str, limit: int) -> None:
    """Who opted out."""
    from pkiserver.store.publication import addressbook as rows

    found = await engine.database.read(lambda connection: rows.opt_outs(connection, after=after, limit=limit))
    table = [{"address": address, "by": author, "since": since} for address, author, since in found]
    session.output.page(table, limit=limit, onward="--after", empty="nobody opted out")


@group.command()
@click.argument("target", required=False)
@async_command
async def diff(session: Session, engine: Engine, target: str | None) -> None:
    """What of the directory TARGET, all of it, is not as it should be; exit code 1 if anything.

    Without TARGET: certificates whose names the index of this address book does not know, or knows although they are
    not shown.
    """
    from pkiserver.publication.resync import Resync

    if target is not None:
        await compare_directory(session, engine, target)
        return
    rows = [
        {
            "certificate": one.certificate_id,
            "addresses": one.addresses,
            "missing": len(one.missing),
            "surplus": len(one.surplus),
        }
        async for one in Resync(engine.database, engine.templates).differences()
    ]
    session.output.table(rows, empty="no differences")
    if rows:
        raise click.exceptions.Exit(1)


@group.command()
@click.argument("target", required=False)
@async_command
async def resync(session: Session, engine: Engine, target: str | None) -> None:
    """Make the directory TARGET, all of it, what it should be; the server need not run.

    Without TARGET: the index of names of this address book, after a template's [publication] was changed.
    """
    from pkiserver.publication.resync import Resync

    if target is not None:
        await resync_directory(session, engine, target)
        return
    worker = Resync(engine.database, engine.templates)
    changed = 0
    async for one in worker.differences():
        await worker.repair(one)
        changed += 1
    session.output.done(f"{changed} certificates indexed anew", changed=changed)


@group.command()
@async_command
async def targets(session: Session, engine: Engine) -> None:
    """The directories, and connectors, that certificates are published to, and how they stand."""
    await show_targets(session, engine)


@group.command()
@click.argument("address")
@click.option("--usage", type=click.Choice(tuple(USAGES)), default="ee", show_default=True, help="DANE-EE or DANE-TA.")
@click.option("--selector", type=click.IntRange(0, 1), default=0, show_default=True, help="Certificate or public key.")
@click.option("--matching", type=click.IntRange(0, 2), default=0, show_default=True, help="Whole, SHA-256, SHA-512.")
@async_command
async def smimea(session: Session, engine: Engine, *, address: str, usage: str, selector: int, matching: int) -> None:
    """Print SMIMEA records (RFC 8162) of an address's certificates, for a DNSSEC-signed zone."""
    people = await _people(engine, address)
    certificates = [der for one in people if not one.is_contact for der in one.certificates]
    if not certificates:
        raise click.ClickException("nobody is found under this address")
    name = smimea_name(address)
    if usage == "ta":
        certificates = _issuers(engine, certificates)
    for der in certificates:
        session.output.raw(
            f"{name} IN SMIMEA {USAGES[usage]} {selector} {matching} {_matched(der, selector, matching)}"
        )


def _issuers(engine: Engine, certificates: list[bytes]) -> list[bytes]:
    from cryptography import x509

    wanted = {x509.load_der_x509_certificate(der).issuer for der in certificates}
    return [one.current.certificate.der for one in engine.authorities.list() if one.subject in wanted]


def smimea_name(address: str) -> str:
    """The owner name: the truncated SHA-256 of the local part, as it is written, under ``_smimecert`` (section 3)."""
    import idna

    local, _, domain = address.rpartition("@")
    digest = hashlib.sha256(local.encode()).digest()[:_TRUNCATED].hex()
    return f"{digest}._smimecert.{idna.encode(domain, uts46=True).decode()}."


def _matched(der: bytes, selector: int, matching: int) -> str:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    data = der
    if selector:
        key = x509.load_der_x509_certificate(der).public_key()
        data = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return (data, hashlib.sha256(data).digest(), hashlib.sha512(data).digest())[matching].hex()


# Contacts


@contacts.command("list")
@click.option("--after", default="", metavar="ADDRESS", help="Go on after this address.")
@limit_option
@async_command
async def list_(session: Session, engine: Engine, after: str, limit: int) -> None:
    """Contacts by address."""
    from pkiserver.store.publication import addressbook as rows

    found = await engine.database.read(lambda connection: rows.list_contacts(connection, after=after, limit=limit))
    table = [
        {"address": one.address, "certificates": len(one.certificates), "by": one.author, "updated": one.updated}
        for one in found
    ]
    session.output.page(table, limit=limit, onward="--after", empty="no contacts")


@contacts.command("put")
@click.argument("address")
@click.argument("certificate", nargs=-1, required=True, type=IN_FILE)
@click.option("--name", help="Shown as cn and displayName.")
@click.option("--replace", is_flag=True, help="The contact is there already.")
@async_command
async def put_contact(
    session: Session, engine: Engine, *, address: str, certificate: tuple[Path, ...], name: str | None, replace: bool
) -> None:
    """Add a partner's certificates, which must be for this address."""
    ders = tuple(load_certificates(path)[0] for path in certificate)
    attributes = () if name is None else (("cn", (name,)), ("displayName", (name,)))
    await _writer(engine).put(address, attributes, ders, replace=replace, by=who())
    session.output.done(f"Contact {address} kept", address=address, certificates=len(ders))


@contacts.command("remove")
@click.argument("address")
@async_command
async def remove_contact(session: Session, engine: Engine, address: str) -> None:
    """Remove a contact."""
    await _writer(engine).delete(address, by=who())
    session.output.done(f"Contact {address} removed", address=address)
