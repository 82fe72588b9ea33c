"""``pkiserver scep``: registration authorities and static challenges."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from pkiserver.cli.context import Session, async_command
from pkiserver.cli.typing_in import typed

if TYPE_CHECKING:
    from cryptography import x509

    from pkiserver.runtime.engine import Engine


@click.group()
def group() -> None:
    """SCEP (RFC 8894): the templates that it may use, its registration authorities, static challenges."""


@group.command("list")
@async_command
async def list_(session: Session, engine: Engine) -> None:
    """Templates that SCEP may use, where they are found, and what is weak about them."""
    from pkiserver.authority.templates.weaknesses import weaknesses
    from pkiserver.runtime.services.scepport import ScepPort

    base = (engine.settings.public.http or "").rstrip("/")
    rows = [
        {
            "template": one.name,
            "authority": one.issuer,
            "url": f"{base}/scep/{one.name}",
            "weaknesses": tuple(weaknesses(one)),
        }
        for one in ScepPort(engine).templates()
    ]
    session.output.table(rows, empty="no template allows scep")


@group.command()
@click.argument("authority")
@async_command
async def ra(session: Session, engine: Engine, authority: str) -> None:
    """The registration authorities of AUTHORITY and its CA certificates, with the fingerprints that clients ask for.

    The one that is given out comes first, before its predecessors; it is made now where there is none.
    """
    from cryptography import x509

    from pkiserver.runtime.services.scepport import ScepPort

    keepers = await ScepPort(engine).ra.get(authority)
    rows = [
        _fingerprints("registration authority", key.certificate, key.key_name)
        for found in keepers
        for key in dict.fromkeys((found.signing, found.opening))
    ]
    for number, der in enumerate(keepers[0].chain):
        what = "issuing CA" if number == 0 else "CA above"
        rows.append(_fingerprints(what, x509.load_der_x509_certificate(der)))
    if session.json:
        session.output.table(rows)
        return
    for row in rows:
        session.output.record(row)
        session.output.message("")


def _fingerprints(what: str, certificate: x509.Certificate, key: str | None = None) -> dict[str, object]:
    """A certificate as a device shows it to whoever sets it up: many know nothing newer than SHA-1."""
    from cryptography.hazmat.primitives import hashes

    return {
        "what": what,
        "subject": certificate.subject.rfc4514_string(),
        "key": key,
        "serial": f"{certificate.serial_number:x}",
        "until": certificate.not_valid_after_utc,
        "sha256": certificate.fingerprint(hashes.SHA256()).hex(),
        "sha1": certificate.fingerprint(hashes.SHA1()).hex(),  # noqa: S303 - compared by eye, with what a device shows
    }


@group.command("hash-challenge")
@click.option("--stdin", is_flag=True, help="Read the challenge from standard input, up to the first line end.")
@async_command
async def hash_challenge(session: Session, engine: Engine, stdin: bool) -> None:
    """The argon2id hash of a static challenge, for scep.static_challenge of a template.

    A static challenge lets everybody who learns it enrol under any name that the template allows: prefer enroll-code.
    """
    from pkiserver.foundation.secret import Secret

    read = sys.stdin.readline().rstrip("\r\n") if stdin else None
    text = typed("Challenge", option="--stdin", confirm=True) if read is None else read
    if not text:
        raise click.UsageError("the challenge is empty")
    hashed = await engine.gate.identifier.hasher.hash(Secret(text))
    session.output.done(hashed, hash=hashed)
