"""Issuers (one row for each distinguished name), authorities, and their key generations.

Serial numbers and CRL numbers are unique over an issuer's name, not over a key (RFC 5280 sections 4.1.2.2, 5.2.3).
"""

from __future__ import annotations

import base64
import enum
import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import attrs
from sqlalchemy import Connection, Row, bindparam, func, insert, or_, select, text, update

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.store.constraints import conflicts_as
from pkiserver.store.names import printable
from pkiserver.store.outbox import touch_configuration
from pkiserver.store.ready import Ready
from pkiserver.store.schema.authorities import authority, authority_generation, issuer
from pkiserver.store.times import from_micros, to_micros


class GenerationState(enum.StrEnum):
    """Where a key generation stands."""

    PENDING = "pending"
    """Its certificate has been asked for and is not there yet."""
    ACTIVE = "active"
    PREVIOUS = "previous"
    """Issues no more; signs its CRL until its last certificate and the archive time have passed."""
    RETIRED = "retired"


@attrs.frozen
class Issuer:
    """A distinguished name under which serials are unique; ``dn_der`` is the Name's DER, compared by octets."""

    id: int
    dn_der: bytes
    dn_text: str


@attrs.frozen
class AuthorityRow:
    """An authority: ``config`` is its TOML text, ``state`` the authority room's own word."""

    name: str
    issuer_id: int
    config: str
    state: str
    created: datetime


@attrs.frozen
class Generation:
    """A key of an authority with its certificate. Certificates are DER; ``chain`` runs from the issuer's upwards.

    ``certificate`` is None while PENDING, ``key_name`` None where the key is kept off this server.
    """

    id: int
    authority: str
    number: int
    certificate: bytes | None
    key_name: str | None
    chain: tuple[bytes, ...]
    ski: bytes | None
    state: GenerationState
    crl_path: str | None
    new_with_old: bytes | None
    old_with_new: bytes | None
    created: datetime


_BY_NAME = select(authority).where(authority.c.name == bindparam("name"))
_AUTHORITY, _AUTHORITY_TO_CHANGE = Ready(_BY_NAME), Ready(_BY_NAME.with_for_update())
_OWN_CERTIFICATES = Ready(
    select(authority_generation.c.authority, authority_generation.c.certificate)
    .where(
        authority_generation.c.certificate.is_not(None),
        or_(
            *(
                authority_generation.c.state == state.value
                for state in (GenerationState.ACTIVE, GenerationState.PREVIOUS)
            )
        ),
    )
    .order_by(authority_generation.c.authority, authority_generation.c.number)
)
_ISSUER = text(
    "INSERT INTO issuer (dn_der, dn_text, created) VALUES (:dn_der, :dn_text, :created) ON CONFLICT (dn_der) DO NOTHING"
)


def issuer_for(connection: Connection, dn_der: bytes, dn_text: str, *, now: datetime) -> Issuer:
    """The issuer of that name, made if it is new. The same octets always give the same row."""
    values = {"dn_der": dn_der, "dn_text": printable(dn_text), "created": to_micros(now)}
    connection.execute(_ISSUER, values)
    found = issuer_by_dn(connection, dn_der)
    assert found is not None
    return found


def issuer_by_dn(connection: Connection, dn_der: bytes) -> Issuer | None:
    """The issuer whose Name has exactly these octets."""
    row = connection.execute(select(issuer).where(issuer.c.dn_der == dn_der)).one_or_none()
    return None if row is None else Issuer(row.id, row.dn_der, row.dn_text)


def get_issuer(connection: Connection, issuer_id: int) -> Issuer | None:
    """The issuer of that number."""
    row = connection.execute(select(issuer).where(issuer.c.id == issuer_id)).one_or_none()
    return None if row is None else Issuer(row.id, row.dn_der, row.dn_text)


def insert_authority(connection: Connection, row: AuthorityRow) -> None:
    """Record a new authority.

    Raises:
        Rejected: the name is taken.
    """
    with conflicts_as(f"an authority named {row.name!r} exists already"):
        connection.execute(insert(authority), attrs.asdict(row) | {"created": to_micros(row.created)})
    touch_configuration(connection)


def update_authority(connection: Connection, name: str, *, config: str, state: str) -> None:
    """Replace an authority's configuration and state.

    Raises:
        Rejected: there is no such authority.
    """
    change = update(authority).where(authority.c.name == name).values(config=config, state=state)
    if connection.execute(change).rowcount != 1:
        raise Rejected.because(Refusal.UNKNOWN_AUTHORITY, f"there is no authority named {name!r}")
    touch_configuration(connection)


def get(connection: Connection, name: str, *, to_change: bool = False) -> AuthorityRow | None:
    """The authority of that name; ``to_change``, inside a write: no other process changes it meanwhile."""
    row = (_AUTHORITY_TO_CHANGE if to_change else _AUTHORITY).one(connection, {"name": name})
    return None if row is None else _authority(row)


def list_all(connection: Connection) -> tuple[AuthorityRow, ...]:
    """Every authority, by name."""
    return tuple(_authority(row) for row in connection.execute(select(authority).order_by(authority.c.name)))


def add_generation(
    connection: Connection,
    *,
    authority_name: str,
    certificate: bytes | None,
    key_name: str | None,
    chain: Iterable[bytes],
    ski: bytes | None,
    state: GenerationState,
    now: datetime,
) -> Generation:
    """Add the next key generation of an authority; :func:`update_generation` adds CRL path and links.

    Raises:
        Rejected: another process added a generation at the same moment.
    """
    column = authority_generation.c
    last = connection.execute(select(func.max(column.number)).where(column.authority == authority_name)).scalar()
    number = (last or 0) + 1
    certificates = tuple(chain)
    with conflicts_as(f"authority {authority_name!r} is being changed elsewhere; look at it again"):
        generation_id = connection.execute(
            insert(authority_generation)
            .values(
                authority=authority_name,
                number=number,
                certificate=certificate,
                key_name=key_name,
                chain=_chain_text(certificates),
                ski=ski,
                state=state.value,
                created=to_micros(now),
            )
            .returning(column.id)
        ).scalar_one()
    touch_configuration(connection)
    return Generation(
        id=generation_id,
        authority=authority_name,
        number=number,
        certificate=certificate,
        key_name=key_name,
        chain=certificates,
        ski=ski,
        state=state,
        crl_path=None,
        new_with_old=None,
        old_with_new=None,
        created=now,
    )


def update_generation(connection: Connection, generation: Generation) -> None:
    """Write back everything but a generation's number, authority and time.

    Raises:
        Rejected: there is no such generation.
    """
    change = (
        update(authority_generation)
        .where(authority_generation.c.id == generation.id)
        .values(
            certificate=generation.certificate,
            key_name=generation.key_name,
            chain=_chain_text(generation.chain),
            ski=generation.ski,
            state=generation.state.value,
            crl_path=generation.crl_path,
            new_with_old=generation.new_with_old,
            old_with_new=generation.old_with_new,
        )
    )
    if connection.execute(change).rowcount != 1:
        raise Rejected.because(Refusal.UNKNOWN_AUTHORITY, f"there is no key generation {generation.id}")
    touch_configuration(connection)


def lock_generation(connection: Connection, generation_id: int) -> Generation | None:
    """The generation of that number, whose row nobody else changes until this write ends."""
    row = connection.execute(
        select(authority_generation).where(authority_generation.c.id == generation_id).with_for_update()
    ).one_or_none()
    return None if row is None else _generation(row)


def generations(connection: Connection, authority_name: str | None = None) -> tuple[Generation, ...]:
    """The generations of one authority, or of all, by authority and number."""
    query = select(authority_generation).order_by(authority_generation.c.authority, authority_generation.c.number)
    if authority_name is not None:
        query = query.where(authority_generation.c.authority == authority_name)
    return tuple(_generation(row) for row in connection.execute(query))


def own_certificates(connection: Connection) -> tuple[tuple[str, bytes], ...]:
    """Authority and DER certificate of every key generation that is not retired; asked before each revocation."""
    return tuple((row[0], bytes(row[1])) for row in _OWN_CERTIFICATES.rows(connection, {}))


def generations_using_key(connection: Connection, key_name: str) -> tuple[Generation, ...]:
    """The generations that sign with that key: a key in use is not deleted."""
    query = select(authority_generation).where(authority_generation.c.key_name == key_name)
    return tuple(_generation(row) for row in connection.execute(query.order_by(authority_generation.c.id)))


def _chain_text(chain: Iterable[bytes]) -> str:
    return json.dumps([base64.b64encode(der).decode("ascii") for der in chain])


def _authority(row: Any) -> AuthorityRow:
    return AuthorityRow(row.name, row.issuer_id, row.config, row.state, from_micros(row.created))


def _generation(row: Row[Any]) -> Generation:
    return Generation(
        id=row.id,
        authority=row.authority,
        number=row.number,
        certificate=row.certificate,
        key_name=row.key_name,
        chain=tuple(base64.b64decode(der) for der in json.loads(row.chain)),
        ski=row.ski,
        state=GenerationState(row.state),
        crl_path=row.crl_path,
        new_with_old=row.new_with_old,
        old_with_new=row.old_with_new,
        created=from_micros(row.created),
    )
