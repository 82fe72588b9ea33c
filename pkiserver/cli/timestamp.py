"""``pkiserver timestamp``: units, their time and their log; requests and tokens."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pkiserver.cli.context import WORKER, Session, async_command, run_on_reactor
from pkiserver.cli.options import IN_FILE, OUT_FILE, file_argument
from pkiserver.cli.typing_in import require_yes
from pkiserver.foundation.errors import Unavailable

if TYPE_CHECKING:
    from cryptography import x509

    from pkiserver.runtime.engine import Engine
    from protocols.timestamp.verification import Verified

HASHES = ("sha256", "sha384", "sha512", "sha3-256", "sha3-384", "sha3-512", "sha224", "sha1")
LARGEST_TOKEN = 1024 * 1024
_CHUNK = 1024 * 1024
_SECONDS = 30


@click.group()
def group() -> None:
    """Time-stamps (RFC 3161): units, requests, tokens."""


@group.group()
def unit() -> None:
    """Time-stamping units: create, list, show, renew, remove. ``apply`` and ``export`` change everything else."""


unit_argument = click.argument("name", metavar="UNIT")


@unit.command()
@unit_argument
@click.option("--issuer", required=True, metavar="CA", help="The authority that certifies it.")
@click.option("--policy", "policies", required=True, multiple=True, metavar="OID", help="Policies; the default first.")
@click.option("--default", "is_default", is_flag=True, help="Serve /tsa without a name as well.")
@click.option("--key-type", default="ec-p256", show_default=True, help="rsa-2048 ..., ec-p256 ..., ed25519, ml-dsa-65.")
@click.option("--key-store", default="", metavar="STORE", help="Where its keys are made; default: the issuer's.")
@click.option("--scheme", default="", help="Such as rsa-pss-sha256; default: the key's usual one.")
@click.option("--subject", default="", metavar="DN", help="Of its certificates.")
@async_command
async def create(
    session: Session,
    engine: Engine,
    *,
    name: str,
    issuer: str,
    policies: tuple[str, ...],
    is_default: bool,
    key_type: str,
    key_store: str,
    scheme: str,
    subject: str,
) -> None:
    """Make a unit with a key and a certificate of its own. Everything else of it is changed by ``apply``."""
    from pkiserver.cli.voting import who
    from pkiserver.foundation.tomlfile import dump
    from pkiserver.runtime.services.timestamps import services_of
    from pkiserver.timestamping.administration import UnitAdministration
    from pkiserver.timestamping.unit import load_unit, make_unit

    engine.authorities.get(issuer)
    text = dump(
        make_unit(
            name=name,
            issuer=issuer,
            policies=policies,
            default=is_default,
            key_type=key_type,
            key_store=key_store,
            scheme=scheme,
            subject=subject,
        )
    )
    new = load_unit(text, name)
    await UnitAdministration(engine.database, engine.audit, engine.clock).save(text, by=who())
    services = services_of(engine, "cli")
    await services.library.refresh()
    key = await services.keeper.renew(new)
    session.output.done(f"unit {name} made, with key {key}", name=name, key=key)


@unit.command("list")
@async_command
async def list_(session: Session, engine: Engine) -> None:
    """Every unit, and until when its key signs."""
    rows = [await _row(engine, name) for name in await _names(engine)]
    session.output.table(rows, empty="no units")


@unit.command()
@unit_argument
@async_command
async def show(session: Session, engine: Engine, name: str) -> None:
    """One unit: its key, its certificate, its configuration."""
    from pkiserver.runtime.services.timestamps import services_of

    services = services_of(engine, "cli")
    await services.library.refresh()
    row = services.library.row(name)
    session.output.record({**await _row(engine, name), "revision": row.revision, "configuration": row.toml})


async def _names(engine: Engine) -> list[str]:
    from pkiserver.timestamping.library import UnitLibrary

    library = UnitLibrary(engine.database)
    await library.refresh()
    return [one.name for one in library.list()]


async def _row(engine: Engine, name: str) -> Mapping[str, object]:
    from pkiserver.timestamping.credentials import find, in_order
    from pkiserver.timestamping.library import UnitLibrary

    library = UnitLibrary(engine.database)
    await library.refresh()
    found = library.get(name)
    now = engine.clock.now()
    here = (await engine.database.read(lambda connection: find(connection, (found,), now)))[name]
    current = next(iter(in_order(here, found, engine.authorities.generation)), None)
    return {
        "name": name,
        "enabled": found.enabled,
        "default": found.default,
        "issuer": found.issuer,
        "policies": ", ".join(found.policies),
        "key": None if current is None else current.key_name,
        "signs_until": None if current is None else current.signs_until,
    }


@unit.command()
@unit_argument
@async_command
async def renew(session: Session, engine: Engine, name: str) -> None:
    """Give a unit a new key and certificate now; all processes take it up within seconds."""
    from pkiserver.runtime.services.timestamps import services_of

    services = services_of(engine, "cli")
    await services.library.refresh()
    key = await services.keeper.renew(services.library.get(name))
    session.output.done(f"unit {name} has the new key {key}", name=name, key=key)


@unit.command()
@unit_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@async_command
async def remove(session: Session, engine: Engine, name: str, *, yes: bool) -> None:
    """Forget a unit. Its keys and certificates stay: delete and revoke them as well where that is wanted."""
    from pkiserver.cli.voting import who
    from pkiserver.timestamping.administration import UnitAdministration
    from pkiserver.timestamping.library import UnitLibrary

    library = UnitLibrary(engine.database)
    await library.refresh()
    row = library.row(name)
    require_yes(f"Remove unit {name}?", yes=yes)
    administration = UnitAdministration(engine.database, engine.audit, engine.clock)
    await administration.remove(name, by=who(), expected=row.revision)
    session.output.done(f"unit {name} removed", name=name)


@group.command("time")
@async_command
async def time_(session: Session, engine: Engine) -> None:
    """Ask the time sources of this node now, and say by how much the clock may be wrong."""
    from pkiserver.foundation.errors import Refusal, Rejected
    from pkiserver.runtime.services.timestamps import services_of

    watch = services_of(engine, "cli").watch
    await watch.run_due()
    verdict = watch.verdict
    if verdict.trouble is not None:
        raise Rejected.because(Refusal.CONFIGURATION, f"no time can be told ({verdict.trouble}): {verdict.text}")
    session.output.record(
        {
            "offset_seconds": round(verdict.offset, 6),
            "error_seconds": round(verdict.error, 6),
            "leap_second_announced": verdict.leap,
            "trusted_without_asking": watch.is_trusting,
        }
    )


@group.command("log")
@click.option("--serial", metavar="HEX", help="Show what the log has about one token, instead of checking all.")
@async_command
async def log_(session: Session, engine: Engine, serial: str | None) -> None:
    """Check the chains of the time-stamp log, entry by entry."""
    from pkiserver.foundation.errors import Reason, Refusal, Rejected
    from pkiserver.store import timestamps
    from pkiserver.timestamping.archive import check_chain

    if serial is not None:
        await _show_entries(session, engine, serial)
        return
    chains = await engine.database.read(timestamps.chains)
    rows, broken = [], []
    for chain, count in chains:
        sound, problem = await engine.database.read(
            lambda connection, chain=chain: check_chain(timestamps.read_chain(connection, chain))  # type: ignore[misc]
        )
        rows.append({"chain": chain, "entries": count, "sound": sound, "problem": problem})
        if problem is not None:
            broken.append(Reason(Refusal.CONFLICT, f"chain {chain}: {problem}"))
    session.output.table(rows, empty="the log is empty")
    if broken:
        raise Rejected(broken)


async def _show_entries(session: Session, engine: Engine, serial: str) -> None:
    from pkiserver.cli.selectors import parse_hex
    from pkiserver.store import timestamps

    number = int(parse_hex(serial), 16)
    octets = number.to_bytes(number.bit_length() // 8 + 1, "big")  # the content of the INTEGER
    found = await engine.database.read(lambda connection: timestamps.by_serial(connection, octets))
    rows = [
        {
            "unit": one.unit,
            "at": one.at,
            "imprint": f"{one.imprint_hash}:{one.imprint.hex()}",
            "token_sha256": one.token_sha256.hex(),
            "chain": f"{one.chain}/{one.number}",
            "token": one.token,
        }
        for one in found
    ]
    session.output.table(rows, empty="the log knows no such token")


@group.command()
@file_argument
@click.option(
    "--hash", "hash_name", type=click.Choice(HASHES), default="sha256", show_default=True, help="Of the file."
)
@click.option("--policy", metavar="OID", help="The policy that is wanted.")
@click.option("--no-certificates", is_flag=True, help="Do not ask for the unit's certificates.")
@click.option("--url", help="Send it there (http://host/tsa) and write the answer instead of the request.")
@click.option("--out", type=OUT_FILE, help="Default: FILE.tsq, or FILE.tsr.")
@click.pass_obj
def request(  # noqa: PLR0917 - click calls it by name
    session: Session,
    file: Path,
    hash_name: str,
    policy: str | None,
    no_certificates: bool,
    url: str | None,
    out: Path | None,
) -> None:
    """Make a time-stamp request about FILE, and send it where --url is given."""
    from pkiserver.cli.outfiles import write_file
    from pkiserver.timestamping.unit import ImprintHash, check_oid
    from protocols.timestamp.messages import encode_request
    from protocols.timestamp.verification import digest_of, read_token

    if policy is not None:
        try:
            check_oid(policy)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
    nonce = secrets.randbits(63) | 1 << 62
    digest = digest_of(hash_name, _chunks(file))
    query = encode_request(ImprintHash(hash_name), digest, nonce=nonce, policy=policy, certificates=not no_certificates)
    target = out or Path(f"{file}.{'tsq' if url is None else 'tsr'}")
    if url is None:
        write_file(session.output, target, query)
        session.output.done(f"request written to {target}", file=target, nonce=f"{nonce:x}")
        return
    answer = _post(url, query)
    token = read_token(answer)
    if token.nonce != nonce or token.imprint.digest != digest:
        raise click.ClickException("the answer is not to our request")
    write_file(session.output, target, answer)
    session.output.done(
        f"token written to {target}: {token.at:%Y-%m-%d %H:%M:%S.%fZ}",
        file=target,
        at=token.at,
        serial=f"{token.serial:x}",
    )


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as source:
        while chunk := source.read(_CHUNK):
            yield chunk


def _post(url: str, query: bytes) -> bytes:
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    if not url.startswith(("http://", "https://")):
        raise click.UsageError("--url must be http:// or https://")
    try:
        wanted = Request(url, query, {"Content-Type": "application/timestamp-query"})  # noqa: S310 - looked at just above
        with urlopen(wanted, timeout=_SECONDS) as answer:  # noqa: S310
            octets: bytes = answer.read(LARGEST_TOKEN)
            return octets
    except (HTTPError, HTTPException, ValueError) as error:
        raise click.ClickException(f"{url}: {error}") from error
    except OSError as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise Unavailable(f"{url}: {reason}") from error


@group.command()
@click.argument("token", type=IN_FILE)
@click.option("--data", required=True, type=IN_FILE, help="What was time-stamped.")
@click.option("--ca", "cas", multiple=True, type=IN_FILE, help="Trusted roots (PEM, DER); default: this server's CAs.")
@click.option("--certificate", "helpers", multiple=True, type=IN_FILE, help="Certificates that the token lacks.")
@click.pass_obj
def verify(session: Session, token: Path, data: Path, cas: tuple[Path, ...], helpers: tuple[Path, ...]) -> None:
    """Check a token or answer (DER) against the data: imprint, signature, certificate, path to a root."""
    from cryptography import x509

    from pkiserver.cli.selectors import load_certificates, reading
    from protocols.timestamp.verification import digest_of, read_token, verify_token

    with token.open("rb") as source, reading(token, "time-stamp token"):
        found = read_token(source.read(LARGEST_TOKEN))
    ders = [der for file in cas for der in load_certificates(file)] if cas else _own_roots(session)
    roots = [x509.load_der_x509_certificate(one) for one in ders]
    more = [x509.load_der_x509_certificate(one) for file in helpers for one in load_certificates(file)]
    digest = digest_of(found.imprint.hash, _chunks(data))
    verified = verify_token(found, digest, roots=roots, helpers=more)
    session.output.record(_facts(verified))


def _own_roots(session: Session) -> list[bytes]:
    settings = session.settings()

    async def read() -> list[bytes]:
        from pkiserver.runtime.engine import open_engine

        async with open_engine(settings, worker=WORKER, serving=False) as engine:
            return [one.ca.der for each in engine.authorities.list() for one in each.generations if one.ca is not None]

    return run_on_reactor(read)


def _facts(verified: Verified) -> Mapping[str, object]:
    token = verified.token
    return {
        "verified": True,
        "at": token.at,
        "accuracy": None if token.accuracy is None else f"{token.accuracy.total_seconds():g} s",
        "policy": token.policy,
        "serial": f"{token.serial:x}",
        "imprint": f"{token.imprint.hash}:{token.imprint.digest.hex()}",
        "ordering": token.ordering,
        "nonce": None if token.nonce is None else f"{token.nonce:x}",
        "signer": _name(verified.path[0]),
        "root": _name(verified.path[-1]),
    }


def _name(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string()
