"""``pkiserver key``: make, adopt, list, show, test, import and delete the keys that the server signs with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pkiserver.cli.blocked import block, blocked, unblock
from pkiserver.cli.context import Session, async_command
from pkiserver.cli.options import IN_FILE, file_argument
from pkiserver.cli.typing_in import require_yes, typed
from pkiserver.foundation.secret import Secret

if TYPE_CHECKING:
    from pkiserver.keys.records import KeyInfo
    from pkiserver.runtime.engine import Engine

LARGEST_FILE = 64 * 1024
"""Octets of a private-key file that is imported."""


@click.group()
def group() -> None:
    """Keys: generate, adopt, list, show, test, delete, import; and others' keys that are never certified."""


for _command in (block, unblock, blocked):
    group.add_command(_command)

name_argument = click.argument("name", metavar="KEY")
doors_option = click.option(
    "--doors",
    required=True,
    metavar="DOOR,...",
    help="What the key may sign, for good: certificate, crl, ocsp, timestamp, cms, cmp, checkpoint; open: decrypt.",
)
store_option = click.option("--store", metavar="STORE", help="The key store; the only one by default.")


def _store(engine: Engine, chosen: str | None) -> str:
    stores = engine.keys.stores
    if chosen is None and len(stores) == 1:
        return stores[0]
    if chosen is None:
        raise click.UsageError(f"say which key store by --store: {', '.join(stores) or 'none is configured'}")
    return chosen


def _row(info: KeyInfo) -> Mapping[str, object]:
    from pkiserver.keys.doors import format_doors

    return {
        "name": info.name,
        "type": str(info.key_type),
        "store": info.provider,
        "doors": format_doors(info.record.doors),
        "state": "ready" if info.problem is None else str(info.problem.kind),
    }


def _whole(info: KeyInfo) -> Mapping[str, object]:
    import hashlib

    from pkiserver.keys.algorithms import SignatureScheme, load_spki

    return {
        **_row(info),
        "problem": None if info.problem is None else info.problem.text,
        "location": info.record.uri,
        "scheme": SignatureScheme.default_for(load_spki(info.record.spki)).name,
        "signs_in_place": info.in_place,
        "public_key_sha256": hashlib.sha256(info.record.spki).hexdigest(),
        "public_key": info.record.spki,
        "created": info.record.created,
    }


def _made(session: Session, info: KeyInfo, how: str) -> None:
    session.output.done(f"key {info.name} ({info.key_type}) {how} {info.provider}: {info.record.uri}", **_whole(info))


@group.command()
@name_argument
@click.option(
    "--type",
    "key_type",
    default="ec-p256",
    show_default=True,
    help="rsa-2048 to rsa-8192, ec-p256, ec-p384, ec-p521, ed25519, ed448, ml-dsa-44, ml-dsa-65, ml-dsa-87.",
)
@doors_option
@store_option
@async_command
async def generate(
    session: Session, engine: Engine, *, name: str, key_type: str, doors: str, store: str | None
) -> None:
    """Make a key in a store; in a token it is born there and never leaves it."""
    from pkiserver.cli.voting import who
    from pkiserver.keys.algorithms import KeyType
    from pkiserver.keys.doors import parse_doors

    wanted, bound, place = KeyType.parse(key_type), parse_doors(doors), _store(engine, store)
    with session.output.progress(f"making {name}"):
        info = await engine.keys.generate(name, wanted, store=place, doors=bound, actor=who())
    _made(session, info, "made in")


@group.command()
@name_argument
@click.argument("uri", metavar="LOCATION")
@doors_option
@click.option(
    "--certificate",
    type=IN_FILE,
    help="Its certificate (PEM or DER): the key must be this one's.",
)
@async_command
async def adopt(session: Session, engine: Engine, *, name: str, uri: str, doors: str, certificate: Path | None) -> None:
    """Register a key that is in a store already, by its pkcs11: (RFC 7512) or file: location."""
    from cryptography.x509 import load_der_x509_certificate

    from pkiserver.cli.selectors import load_certificates
    from pkiserver.cli.voting import who
    from pkiserver.keys.algorithms import load_spki, spki
    from pkiserver.keys.doors import parse_doors

    public_key = None
    if certificate is not None:
        public_key = load_spki(spki(load_der_x509_certificate(load_certificates(certificate)[0]).public_key()))
    info = await engine.keys.adopt(name, uri, parse_doors(doors), public_key=public_key, actor=who())
    _made(session, info, "adopted in")


@group.command("import")
@name_argument
@file_argument
@doors_option
@store_option
@click.option(
    "--password-source", metavar="SOURCE", help="file:/PATH, env:NAME or credential:NAME; else it is asked for."
)
@async_command
async def import_(
    session: Session,
    engine: Engine,
    *,
    name: str,
    file: Path,
    doors: str,
    store: str | None,
    password_source: str | None,
) -> None:
    """Put a private key (PKCS#8, DER or PEM) into a store. The file itself is left as it is."""
    from pkiserver.cli.voting import who
    from pkiserver.keys.doors import parse_doors

    bound, place = parse_doors(doors), _store(engine, store)
    with file.open("rb") as source:
        data = source.read(LARGEST_FILE)
    password = _password(data, password_source)
    info = await engine.keys.import_pkcs8(name, data, password, store=place, doors=bound, actor=who())
    _made(session, info, "imported into")
    session.output.note(f"{file} still holds the private key: delete it safely when it is no longer needed")


def _password(data: bytes, source: str | None) -> Secret | None:
    from pkiserver.foundation.errors import Refusal, Rejected
    from pkiserver.keys.secrets_by_reference import SecretUnreadable, read_secret

    if source is not None:
        try:
            return read_secret(source)
        except (SecretUnreadable, ValueError) as error:
            raise Rejected.because(Refusal.CONFIGURATION, f"--password-source: {error}") from error
    from pkiserver.keys.software import is_encrypted

    return Secret(typed("Password of the key file", option="--password-source")) if is_encrypted(data) else None


@group.command("list")
@click.option("--unregistered", is_flag=True, help="Those in the stores that are in no record instead.")
@async_command
async def list_(session: Session, engine: Engine, unregistered: bool) -> None:
    """Every key, what it is bound to, and whether it can sign now."""
    if not unregistered:
        session.output.table([_row(info) for info in engine.keys.list()], empty="no keys")
        return
    found = await engine.keys.unregistered.find()
    rows = [{"store": one.store, "name": one.name, "parts": one.parts, "location": one.location} for one in found]
    session.output.table(rows, empty="every key in the stores is in a record")
    for problem in engine.keys.problems():
        if problem.name in engine.keys.stores:
            session.output.note(f"not looked into: {problem}")


@group.command()
@name_argument
@click.option("--pem", is_flag=True, help="Print the public half alone, as a PEM file.")
@async_command
async def show(session: Session, engine: Engine, name: str, pem: bool) -> None:
    """Everything about one key."""
    if not pem:
        session.output.record(_whole(engine.keys.show(name)))
        return
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = engine.keys.public_key(name)
    session.output.raw(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


@group.command()
@name_argument
@async_command
async def test(session: Session, engine: Engine, name: str) -> None:
    """Have a key sign a known text and verify it with the registered public half."""
    from pkiserver.cli.voting import who

    result = await engine.keys.test(name, actor=who())
    session.output.done(
        f"key {name} signs: {result.seconds * 1000:.3f} ms a signature",
        name=name,
        type=str(result.key_type),
        milliseconds=round(result.seconds * 1000, 4),
        signs_in_place=result.in_place,
    )


def _require_unused(engine: Engine, name: str) -> None:
    """An authority whose certificate is in force needs its key, for its last CRL at least; raises Rejected."""
    from pkiserver.foundation.errors import Refusal, Rejected
    from pkiserver.store.authority.authorities import GenerationState

    for authority in engine.authorities.list():
        for generation in authority.generations:
            ends = None if generation.ca is None else generation.ca.not_after
            retired = generation.state is GenerationState.RETIRED
            if generation.key_name == name and not retired and ends is not None and ends > engine.clock.now():
                text = (
                    f"key {name} is that of authority {authority.name}, key {generation.number}, until {ends:%Y-%m-%d}"
                )
                advice = "`pkiserver ca retire` it first, or destroy the key of one that is given up by other means"
                raise Rejected.because(Refusal.CONFLICT, f"{text}: {advice}")


async def _destroy_unregistered(session: Session, engine: Engine, location: str, *, yes: bool) -> None:
    from pkiserver.cli.voting import who

    require_yes(f"Destroy {location}, which another installation or program may use?", yes=yes)
    gone = await engine.keys.unregistered.destroy(location, actor=who())
    session.output.done(f"key {gone.name} destroyed in {gone.store}", name=gone.name, destroyed=True)


@group.command()
@name_argument
@click.option("--keep-object", is_flag=True, help="Forget the key here, but leave it in its token or file.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@async_command
async def delete(session: Session, engine: Engine, name: str, keep_object: bool, yes: bool) -> None:
    """Destroy a key. Nothing brings it back: what it signed can no longer be renewed, revoked or decrypted with it.

    A location that `key list --unregistered` shows, instead of a name, destroys a key that is in no record.
    """
    from pkiserver.cli.voting import who

    if name.startswith(("pkcs11:", "file:")):
        if keep_object:
            raise click.UsageError("--keep-object goes with a key's name: here there is nothing else to forget")
        await _destroy_unregistered(session, engine, name, yes=yes)
        return
    info = engine.keys.show(name)
    _require_unused(engine, name)
    what = "Forget" if keep_object else "Destroy"
    require_yes(f"{what} key {name} ({info.key_type}, {info.record.uri})?", yes=yes)
    await engine.keys.delete(name, keep_object=keep_object, actor=who())
    session.output.done(
        f"key {name} {'forgotten' if keep_object else 'destroyed'}", name=name, destroyed=not keep_object
    )
