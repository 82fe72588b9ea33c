"""Reads entries from the store. Everything here runs in a reader thread, in one snapshot."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import attrs
from cryptography import x509
from sqlalchemy import Connection

from pkiserver.authority.templates.model import PublicationRules
from pkiserver.publication.certificate import addresses_of, can_encrypt, key_family, subject_names
from pkiserver.publication.values import NameKind, NamePrefix, Person
from pkiserver.store.publication import addressbook as rows
from pkiserver.store.publication import addressbook_lookups as lookups
from pkiserver.store.publication import addressbook_smime
from pkiserver.store.publication.addressbook import BookCertificate, Contact, address_key

Rules = Mapping[str, PublicationRules]
"""The rules of each template that publishes, by its name."""
MOST_OF_ONE_ADDRESS = 64
"""Certificates of one address that are shown, the newest."""
_MOST_LOOKED_AT = 2048
"""Certificates of one address, in force and of templates that publish, among which those are looked for."""
_FAR = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


@attrs.frozen
class _Parsed:
    row: BookCertificate
    certificate: x509.Certificate
    rules: PublicationRules


def read_people(connection: Connection, address: str, rules: Rules, now: datetime) -> tuple[Person, ...]:
    """The entries of an address key: a person's, a contact's, both or none. The same statements whoever it is."""
    parsed = _shown(connection, address, rules, now)
    smime = addressbook_smime.smime_message(connection, address, now=now)
    contacts = rows.contacts_by(connection, NameKind.MAIL.value, address, exact=True, limit=1)
    mails = _mails(address, parsed)
    out = rows.opted_out(connection, [address, *map(address_key, mails)])
    people = [_contact(one, address, now) for one in contacts]
    if parsed and address not in out:
        shown = tuple(mail for mail in mails if address_key(mail) not in out)
        people.insert(0, _person(address, shown, parsed, smime))
    return tuple(one for one in people if one.certificates)


def read_addresses(
    connection: Connection, wanted: NamePrefix, rules: Rules, now: datetime, limit: int
) -> tuple[str, ...]:
    """Address keys of the entries under a name or the beginning of one, at most ``limit``."""
    if wanted.kind is NameKind.MAIL:
        found = lookups.addresses_beginning(connection, wanted.value, templates=rules, now=now, limit=limit)
    else:
        found = lookups.addresses_named(
            connection, wanted.kind.value, wanted.value, exact=wanted.exact, templates=rules, now=now, limit=4 * limit
        )
    contacts = rows.contacts_by(connection, wanted.kind.value, wanted.value, exact=wanted.exact, limit=limit)
    return tuple(dict.fromkeys([*found, *(one.address for one in contacts)]))[:limit]


def read_certificate(connection: Connection, row: BookCertificate | None, rules: Rules, now: datetime) -> Person | None:
    """The entry that holds exactly this certificate, where it may be shown; also one of the past, with ``history``."""
    if row is None or (parsed := _parse(row, rules)) is None:
        return None
    in_force = row.state == "issued" and row.not_after >= now
    mails = addresses_of(row, parsed.certificate)
    if not mails or not (in_force or parsed.rules.history):
        return None
    address = address_key(mails[0])
    out = rows.opted_out(connection, [address_key(one) for one in mails])
    if address in out:
        return None
    return _person(address, tuple(one for one in mails if address_key(one) not in out), [parsed], None)


def read_by_key(
    connection: Connection, kind: NameKind, value: str, *, rules: Rules, now: datetime, limit: int
) -> tuple[bytes, ...]:
    """Certificates under one of the hashes of RFC 4387, those that may be shown."""
    past = [name for name, one in rules.items() if one.history]
    found = lookups.certificates_by_key(connection, kind.value, value, templates=rules, past=past, now=now, limit=limit)
    people = (read_certificate(connection, one, rules, now) for one in found)
    return tuple(der for one in people if one is not None for der in one.certificates)


def _shown(connection: Connection, address: str, rules: Rules, now: datetime) -> list[_Parsed]:
    """An address's certificates in force that mail can be encrypted to, the newest first."""
    found: list[_Parsed] = []
    in_force = lookups.certificates_of(connection, address, templates=rules, now=now)
    for row in itertools.islice(in_force, _MOST_LOOKED_AT):
        one = _parse(row, rules)
        if one is not None:
            found.append(one)
            if len(found) == MOST_OF_ONE_ADDRESS:
                break
    return sorted(found, key=lambda one: -one.row.id)


def _parse(row: BookCertificate, rules: Rules) -> _Parsed | None:
    own = rules.get(row.template)
    if own is None:
        return None
    certificate = x509.load_der_x509_certificate(row.der)
    return _Parsed(row, certificate, own) if can_encrypt(certificate) else None


def _mails(address: str, parsed: Iterable[_Parsed]) -> tuple[str, ...]:
    """All addresses of those certificates, the one asked for first, each once, as the newest certificate writes it."""
    found: dict[str, str] = {}
    for one in parsed:
        for mail in addresses_of(one.row, one.certificate):
            found.setdefault(address_key(mail), mail)
    own = found.pop(address, address)
    return (own, *found.values())


def _person(address: str, mails: tuple[str, ...], parsed: list[_Parsed], smime: tuple[bytes, bytes] | None) -> Person:
    """An entry from certificates in force, the newest first."""
    newest = parsed[0]
    chosen = _chosen(parsed)
    names = subject_names(newest.certificate, newest.rules.attributes)
    cn = names.setdefault("cn", (mails[0] if mails else address,))
    names.setdefault("sn", cn[:1])
    if "displayName" in newest.rules.attributes:
        names["displayName"] = cn[:1]
    told = () if smime is None or smime[1] not in _fingerprints(chosen) else (smime[0],)
    return Person(
        address=address,
        mails=mails,
        names=tuple(names.items()),
        certificates=tuple(one.row.der for one in chosen),
        smime=told,
        modified=newest.row.settled,
        until=min(one.row.not_after for one in chosen),
    )


def _fingerprints(chosen: Iterable[_Parsed]) -> frozenset[bytes]:
    import hashlib

    return frozenset(hashlib.sha256(one.row.der).digest() for one in chosen)


def _chosen(parsed: list[_Parsed]) -> list[_Parsed]:
    """Of templates that say so all certificates, of the others the newest of each kind of key."""
    chosen = []
    families: set[str] = set()
    for one in parsed:
        family = key_family(one.certificate)
        if one.rules.certificates == "all" or family not in families:
            chosen.append(one)
        families.add(family)
    return chosen


def _contact(one: Contact, address: str, now: datetime) -> Person:
    in_force = []
    until = _FAR
    for data in one.certificates:
        certificate = x509.load_der_x509_certificate(data)
        if certificate.not_valid_after_utc >= now:
            in_force.append(data)
            until = min(until, certificate.not_valid_after_utc)
    mails = sorted(one.mails, key=lambda mail: address_key(mail) != address)
    return Person(
        address=address,
        mails=tuple(mails),
        names=one.details,
        certificates=tuple(in_force),
        smime=(),
        modified=one.updated,
        until=until,
        is_contact=True,
    )
