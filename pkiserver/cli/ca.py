"""``pkiserver ca``: create, import, renew and rekey certification authorities; sign others' requests offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pkiserver.cli.ca_options import (
    key_options,
    like,
    next_key_options,
    parse_subject,
    parse_validity,
    profile_options,
    with_store,
)
from pkiserver.cli.context import Session, async_command
from pkiserver.cli.options import IN_FILE, OUT_FILE
from pkiserver.cli.outfiles import write_file
from pkiserver.cli.selectors import load_certificates, pem
from pkiserver.cli.typing_in import require_yes

if TYPE_CHECKING:
    from pkiserver.authority.lifecycle.ceremonies import KeyChoice
    from pkiserver.authority.lifecycle.certify import Actor
    from pkiserver.authority.lifecycle.profile import CaProfile
    from pkiserver.authority.lifecycle.succession import Succeeded
    from pkiserver.authority.model import Authority, Generation
    from pkiserver.authority.settings import AuthoritySettings
    from pkiserver.runtime.engine import Engine

name_argument = click.argument("name", metavar="AUTHORITY")


@click.group()
def group() -> None:
    """Certification authorities: create, import, renew, rekey, sign offline.

    An offline root is the same program on a machine without network: there `ca create` makes the root, here
    `ca import` takes its certificate without a key, and requests, answers and CRLs go to and fro as files
    (`ca create --request`, `ca sign`, `ca install`; `crl sign`, `crl import`).
    """


def _actor() -> Actor:
    from pkiserver.authority.lifecycle.certify import Actor
    from pkiserver.cli.voting import who

    return Actor(who())


def _row(authority: Authority, generation: Generation) -> dict[str, object]:
    ca = generation.ca
    return {
        "name": authority.name,
        "key": generation.number,
        "state": generation.state.value,
        "subject": authority.subject.rfc4514_string(),
        "not_after": ca and ca.not_after,
        "key_name": generation.key_name or "offline",
        "duties": tuple(sorted(duty.value for duty in generation.duties)),
    }


def _told(session: Session, what: str, authority: Authority) -> None:
    current = authority.current
    row = _row(authority, current)
    until = f"{current.certificate.not_after:%Y-%m-%d %H:%M:%SZ}"
    session.output.done(f"authority {authority.name} {what}: key {current.number}, valid until {until}", **row)


def _requested(session: Session, name: str, request: bytes, out: Path | None) -> None:
    """Hand a request to the person who carries it to the issuer."""
    text = pem(request, "CERTIFICATE REQUEST")
    if out is None:
        session.output.raw(text)
        return
    write_file(session.output, out, text.encode())
    session.output.done(
        f"the request of {name} is in {out}: have it signed, then `pkiserver ca install {name} ANSWER`", file=out
    )


def _settings(base_url: str, scheme: str = "") -> AuthoritySettings:
    from pkiserver.authority.settings import AuthoritySettings, Publication

    try:
        return AuthoritySettings(scheme=scheme, publication=Publication(base_url=base_url))
    except ValueError as error:
        raise click.BadParameter(f"--base-url: {error}") from error


@group.command()
@name_argument
@click.option("--subject", required=True, metavar="DN", help="For instance 'CN=Example Root,O=Example,C=CH'.")
@click.option("--issuer", metavar="AUTHORITY", help="The authority above; without it this is a root.")
@click.option("--request", is_flag=True, help="Another server's CA will sign: write a request instead.")
@click.option("--out", type=OUT_FILE, metavar="FILE", help="Where the request goes; by default to the terminal.")
@click.option("--base-url", default="", metavar="URL", help="http://host of CRLs, CA certificates and OCSP.")
@click.option("--scheme", default="", help="The signature scheme, for instance rsa-pss-sha256.")
@key_options
@profile_options
@async_command
async def create(
    session: Session,
    engine: Engine,
    *,
    name: str,
    subject: str,
    issuer: str | None,
    request: bool,
    out: Path | None,
    base_url: str,
    scheme: str,
    key: KeyChoice,
    profile: CaProfile,
) -> None:
    """Create an authority: a root, one below an authority here, or one that another server's CA signs.

    A command that broke off is taken up again by repeating it.
    """
    from pkiserver.authority.lifecycle.ceremonies import NewAuthority

    if request and issuer is not None:
        raise click.UsageError("--request is for an issuer elsewhere, --issuer for one here")
    settings = _settings(base_url, scheme)
    new = NewAuthority(name, parse_subject(subject), profile, with_store(engine, key), settings)
    ceremonies = engine.road.ceremonies
    if request:
        _requested(session, name, await ceremonies.create_requested(new, _actor()), out)
    elif issuer is not None:
        _told(session, "created", await ceremonies.create_subordinate(new, _actor(), issuer=issuer))
    else:
        _told(session, "created", await ceremonies.create_root(new, _actor()))


@group.command("import")
@name_argument
@click.argument("certificate", type=IN_FILE)
@click.option("--chain", type=IN_FILE, multiple=True, help="Certificates above it (PEM or DER), in any order.")
@click.option("--key-name", metavar="KEY", help="Its key, if that is known here.")
@click.option("--key-uri", metavar="URI", help="Where its key lies: pkcs11:... or file:...")
@click.option("--base-url", default="", metavar="URL", help="http://host of CRLs, CA certificates and OCSP.")
@async_command
async def import_(
    session: Session,
    engine: Engine,
    *,
    name: str,
    certificate: Path,
    chain: tuple[Path, ...],
    key_name: str | None,
    key_uri: str | None,
    base_url: str,
) -> None:
    """Import an authority that exists: its certificate, and its key; without a key it is an offline CA."""
    from pkiserver.authority.lifecycle.ceremonies import ExistingAuthority, KeyChoice

    [first, *more] = load_certificates(certificate)
    existing = ExistingAuthority(
        name=name,
        certificate=first,
        chain=(*more, *_all(chain)),
        key=KeyChoice(name=key_name, uri=key_uri) if key_name or key_uri else None,
        settings=_settings(base_url),
    )
    _told(session, "imported", await engine.road.ceremonies.import_authority(existing, _actor()))
    for problem in engine.authorities.problems():
        if problem.authority == name:
            session.output.note(f"{name}: {problem.text}")


def _all(paths: tuple[Path, ...]) -> list[bytes]:
    return [one for path in paths for one in load_certificates(path)]


@group.command("list")
@async_command
async def list_(session: Session, engine: Engine) -> None:
    """All authorities with their key generations."""
    rows = [_row(authority, one) for authority in engine.authorities.list() for one in authority.generations]
    session.output.table(rows, empty="no authorities")


@group.command()
@name_argument
@async_command
async def show(session: Session, engine: Engine, name: str) -> None:
    """One authority: its newest key generation, chain, URLs and troubles."""
    authority = engine.authorities.get(name)
    generation = authority.pending or authority.current
    record = _row(authority, generation)
    if generation.ca is not None:
        view = engine.authorities.view(authority, generation)
        above = engine.authorities.chain(generation)
        record |= {
            "serial": f"{generation.ca.certificate.serial_number:x}",
            "not_before": generation.ca.certificate.not_valid_before_utc,
            "path_length": generation.ca.path_length,
            "key_identifier": generation.ca.key_identifier.hex(),
            "scheme": authority.scheme(generation).name,
            "issued_by": generation.ca.certificate.issuer.rfc4514_string(),
            "certificates_above": len(above),
            "crl": view.crl_urls,
            "ca_issuers": view.ca_issuer_urls,
            "ocsp": view.ocsp_urls,
        }
    record["troubles"] = tuple(one.text for one in engine.authorities.problems() if one.authority == name)
    session.output.record(record)


@group.command()
@name_argument
@click.option("--out", type=OUT_FILE, metavar="FILE", help="Where the request goes; by default to the terminal.")
@async_command
async def request(session: Session, engine: Engine, name: str, out: Path | None) -> None:
    """Write the request of an authority that another server's CA signs: for its first certificate, or a new one."""
    _requested(session, name, await engine.road.ceremonies.request(name), out)


@group.command()
@name_argument
@click.argument("answer", type=IN_FILE)
@click.option("--chain", type=IN_FILE, multiple=True, help="Certificates above it (PEM or DER), in any order.")
@async_command
async def install(session: Session, engine: Engine, *, name: str, answer: Path, chain: tuple[Path, ...]) -> None:
    """Install the certificate that another CA made from the request; after a rekey, link old and new."""
    [first, *more] = load_certificates(answer)
    await engine.road.ceremonies.install(name, first, (*more, *_all(chain)), _actor())
    _told(session, "installed", await engine.road.succession.link(name, _actor()))


@group.command()
@name_argument
@click.argument("file", metavar="REQUEST", type=IN_FILE)
@click.option("--out", type=OUT_FILE, metavar="FILE", help="Certificate and chain, PEM; by default to the terminal.")
@profile_options
@async_command
async def sign(
    session: Session, engine: Engine, *, name: str, file: Path, out: Path | None, profile: CaProfile
) -> None:
    """Certify another server's CA from its PKCS#10 request (PEM or DER): what an offline root does."""
    from pkiserver.authority.csr import MAXIMUM_OCTETS, decode_text

    with file.open("rb") as stream:
        data = stream.read(2 * MAXIMUM_OCTETS)
    issued = await engine.road.ceremonies.sign_request(name, decode_text(data), profile, _actor())
    text = "".join(pem(one) for one in (issued.der, *issued.chain))
    if out is None:
        session.output.raw(text)
        return
    write_file(session.output, out, text.encode())
    session.output.done(
        f"certificate {issued.serial:x} and its chain are in {out}", serial=f"{issued.serial:x}", file=out
    )


def _succeeded(session: Session, what: str, result: Succeeded, out: Path | None) -> None:
    if result.request is not None:
        _requested(session, result.authority.name, result.request, out)
    else:
        _told(session, what, result.authority)


@group.command()
@name_argument
@click.option("--validity", metavar="DURATION", help="For instance 10y; by default as long as the last one.")
@click.option("--out", type=OUT_FILE, metavar="FILE", help="Where the request goes if the issuer is elsewhere.")
@async_command
async def renew(session: Session, engine: Engine, *, name: str, validity: str | None, out: Path | None) -> None:
    """A new certificate for the same key."""
    lifetime = None if validity is None else parse_validity(validity)
    result = await engine.road.succession.renew(name, _actor(), validity=lifetime)
    _succeeded(session, "renewed", result, out)


@group.command()
@name_argument
@click.option("--validity", metavar="DURATION", help="For instance 10y; by default as long as the last one.")
@click.option("--out", type=OUT_FILE, metavar="FILE", help="Where the request goes if the issuer is elsewhere.")
@next_key_options
@async_command
async def rekey(
    session: Session, engine: Engine, *, name: str, validity: str | None, out: Path | None, key: KeyChoice
) -> None:
    """A new key under the same name, with link certificates both ways; the old key goes on telling status."""
    lifetime = None if validity is None else parse_validity(validity)
    result = await engine.road.succession.rekey(name, like(engine, name, key), _actor(), validity=lifetime)
    _succeeded(session, "rekeyed", result, out)


@group.command()
@name_argument
@async_command
async def link(session: Session, engine: Engine, name: str) -> None:
    """Issue the link certificates that the two newest keys still lack (RFC 4210 section 4.4)."""
    _told(session, "linked", await engine.road.succession.link(name, _actor()))


@group.command()
@name_argument
@click.argument("number", type=click.IntRange(1))
@click.option("--yes", is_flag=True, help="Do not ask.")
@async_command
async def retire(session: Session, engine: Engine, *, name: str, number: int, yes: bool) -> None:
    """End an earlier key: no CRL and no status by it from now on."""
    engine.road.succession.require_retirable(name, number)
    require_yes(f"Retire key {number} of {name}? Its CRLs and OCSP answers end, and nothing brings them back.", yes=yes)
    authority = await engine.road.succession.retire(name, number, _actor())
    session.output.done(f"key {number} of {name} is retired", **_row(authority, authority.generations[number - 1]))


@group.command("export-chain")
@name_argument
@click.option("--out", type=OUT_FILE, metavar="FILE", help="PEM; by default to the terminal.")
@click.option("--all", "everything", is_flag=True, help="Earlier keys and link certificates too, as they are served.")
@async_command
async def export_chain(session: Session, engine: Engine, *, name: str, out: Path | None, everything: bool) -> None:
    """The certificate of an authority and those above it."""
    generation = engine.authorities.get(name).current
    path = (generation.certificate.der, *engine.authorities.chain(generation))
    found = engine.authorities.served(name) if everything else path
    text = "".join(pem(one) for one in found)
    if out is None:
        session.output.raw(text)
        return
    write_file(session.output, out, text.encode())
    session.output.done(f"{len(found)} certificates are in {out}", certificates=len(found), file=out)
