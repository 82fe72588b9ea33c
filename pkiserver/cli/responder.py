"""``pkiserver responder``: OCSP in the name of CAs that are not ours, or whose key is not here."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pkiserver.cli.context import Session, async_command
from pkiserver.cli.options import OUT_FILE, file_argument
from pkiserver.cli.outfiles import write_file
from pkiserver.cli.selectors import load_certificates, pem, read_octets

if TYPE_CHECKING:
    from pkiserver.authority.status.source import ServedIssuer
    from pkiserver.authority.validation.services import ValidationServices
    from pkiserver.runtime.engine import Engine


@click.group()
def group() -> None:
    """OCSP responders for CAs that are not ours; the CAs themselves are described by ``pkiserver apply``."""


name_argument = click.argument("name", metavar="CA")


async def _services(engine: Engine) -> ValidationServices:
    from pkiserver.runtime.services.validation import validation_of

    found = validation_of(engine, "cli")
    await found.authorities.refresh()
    return found


@group.command()
@name_argument
@click.option("--key-type", default="ec-p256", show_default=True, help="The type of the new key.")
@click.option("--store", help="The key store; by default the first of the configuration.")
@click.option("--out", type=OUT_FILE, metavar="FILE", help="Write it to a file (PEM).")
@async_command
async def csr(
    session: Session, engine: Engine, *, name: str, key_type: str, store: str | None, out: Path | None
) -> None:
    """Make a responder key and a request, which CA is to sign with the extended key usage OCSPSigning."""
    from pkiserver.cli.voting import who
    from pkiserver.keys.algorithms import KeyType

    services = await _services(engine)
    chosen = store or next(iter(engine.keys.stores), "")
    made = await services.responders.request(
        services.authorities.get(name), key_type=KeyType.parse(key_type), store=chosen, actor=who()
    )
    text = pem(made.der, "CERTIFICATE REQUEST")
    if out is None:
        session.output.raw(text)
        return
    write_file(session.output, out, text.encode())
    session.output.done(f"key {made.key_name}; the request is in {out}", key=made.key_name, file=out)


@group.command()
@name_argument
@file_argument
@async_command
async def install(session: Session, engine: Engine, *, name: str, file: Path) -> None:
    """Take the certificate that CA issued to a responder key here; it signs from now on."""
    from cryptography import x509

    from pkiserver.cli.voting import who

    services = await _services(engine)
    certificate = load_certificates(file)[0]
    made = await services.responders.install(services.authorities.get(name), certificate, actor=who())
    end = x509.load_der_x509_certificate(certificate).not_valid_after_utc
    session.output.done(
        f"{made.key_name} answers for {name} until {end:%Y-%m-%d %H:%M:%SZ}", key=made.key_name, not_after=end
    )


def _lists_until(issuer: ServedIssuer) -> datetime | None:
    """How far the lists of a CA reach; None where they say nothing yet."""
    standing = issuer.standing
    return standing.until if standing is not None and standing.until > standing.this_update else None


@group.command("list")
@async_command
async def list_(session: Session, engine: Engine) -> None:
    """Every CA that is not ours: its responder, how far its lists reach, and what is wrong."""
    services = await _services(engine)
    wrong: dict[str, list[str]] = {}
    for problem in services.authorities.problems():
        wrong.setdefault(problem.authority, []).append(problem.text)
    rows = []
    for ca in services.authorities.list():
        issuer = services.authorities.served(ca.name)
        rows.append(
            {
                "name": ca.name,
                "responder until": None if issuer.signer is None else issuer.signer.not_after,
                "lists until": _lists_until(issuer),
                "unlisted": ca.unlisted.value,
                "problems": "; ".join(wrong.get(ca.name, ())),
            }
        )
    session.output.table(rows, empty="no foreign CAs: describe one in a TOML file of kind foreign-ca and apply it")


@group.command()
@name_argument
@async_command
async def feeds(session: Session, engine: Engine, name: str) -> None:
    """The feeds of a CA: what each gave last, and how the last look went."""
    from pkiserver.authority.validation.importing import ISSUED

    services = await _services(engine)
    ca = services.authorities.get(name)
    rows = []
    for source in (*ca.feeds, ISSUED):
        state = services.authorities.state(name, source)
        head = None if state is None else state.head
        if source == ISSUED and head is None:
            continue
        rows.append(
            {
                "source": source,
                "kind": None if head is None else head.kind.value,
                "number": None if head is None else head.number,
                "entries": None if head is None else head.entries,
                "this_update": None if head is None else head.this_update,
                "next_update": None if head is None else head.next_update,
                "checked": None if state is None else state.checked,
                "problem": "" if state is None else state.problem,
            }
        )
    session.output.table(rows)


@group.command()
@name_argument
@async_command
async def fetch(session: Session, engine: Engine, name: str) -> None:
    """Look at all feeds of a CA now."""
    services = await _services(engine)
    ca = services.authorities.get(name)
    changed = await services.feeds.look_now(ca)
    wrong = [
        state.problem
        for url in ca.feeds
        if (state := services.authorities.state(name, url)) is not None and state.problem
    ]
    if wrong:
        raise click.ClickException("; ".join(wrong))
    session.output.done(f"{changed} of {len(ca.feeds)} feeds gave a new list", changed=changed, feeds=len(ca.feeds))


@group.command()
@name_argument
@click.option("--feed", "urls", multiple=True, metavar="URL", help="Only this feed; may be repeated.")
@async_command
async def reset(session: Session, engine: Engine, *, name: str, urls: tuple[str, ...]) -> None:
    """Take what the feeds of a CA give now, even if its CRL numbers began anew or a list became another kind."""
    from pkiserver.cli.voting import who

    services = await _services(engine)
    ca = services.authorities.get(name)
    chosen = tuple(dict.fromkeys(urls)) or ca.feeds
    changed = await services.feeds.reset(ca, chosen, actor=who())
    text = f"{changed} of {len(chosen)} feeds gave another list" + (", which counts from now on" if changed else "")
    session.output.done(text, changed=changed, feeds=len(chosen))


@group.command()
@name_argument
@file_argument
@async_command
async def issued(session: Session, engine: Engine, *, name: str, file: Path) -> None:
    """Replace the list of serial numbers that CA issued: FILE has one in hexadecimal a line."""
    from pkiserver.cli.voting import who

    services = await _services(engine)
    done = await services.importer.take_issued(services.authorities.get(name), read_octets(file), actor=who())
    session.output.done(f"{done.head.entries} serial numbers of {name} are known as issued", entries=done.head.entries)
