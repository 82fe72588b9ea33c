"""What an entry elsewhere should hold of ours, and what of that which it holds is ours.

The same rules as for our own address book decide. A certificate of ours that mail can be encrypted to is taken away
when it is not to be shown (any more); what others issued, or what of ours serves another purpose, is never touched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime

import attrs
from asn1crypto import cms
from cryptography import x509
from sqlalchemy import Connection

from pkiserver.authority.templates.library import TemplateLibrary
from pkiserver.publication import people
from pkiserver.publication.certificate import can_encrypt
from pkiserver.publication.people import Rules
from pkiserver.store import certificates


@attrs.frozen
class Wanted:
    """``surplus`` are those of the held values that must go; ``until`` is when this changes by itself, if it does."""

    certificates: tuple[bytes, ...] = ()
    smime: tuple[bytes, ...] = ()
    surplus: tuple[bytes, ...] = ()
    smime_surplus: tuple[bytes, ...] = ()
    until: datetime | None = None


def rules_for(templates: TemplateLibrary, chosen: tuple[str, ...]) -> Rules:
    """The publication rules by template name, of the templates that a directory is given."""
    return {
        one.template.name: one.template.publication
        for one in templates.list()
        if one.template.publication.addressbook and (not chosen or one.template.name in chosen)
    }


def read_wanted(
    connection: Connection,
    addresses: Iterable[str],
    held: tuple[bytes, ...],
    held_smime: tuple[bytes, ...],
    *,
    rules: Rules,
    now: datetime,
) -> Wanted:
    """For an entry with these address keys that holds these values."""
    found = [
        person
        for address in dict.fromkeys(addresses)
        for person in people.read_people(connection, address, rules, now)
        if not person.is_contact
    ]
    shown = tuple(dict.fromkeys(der for person in found for der in person.certificates))
    smime = tuple(dict.fromkeys(message for person in found for message in person.smime))
    return Wanted(
        certificates=shown,
        smime=smime,
        surplus=tuple(der for der in held if der not in shown and _is_ours(connection, der)),
        smime_surplus=tuple(
            message
            for message in held_smime
            if message not in smime and any(_is_ours(connection, der) for der in _inside(message))
        ),
        until=min((person.until for person in found), default=None),
    )


def _is_ours(connection: Connection, der: bytes) -> bool:
    if certificates.by_fingerprint(connection, hashlib.sha256(der).digest()) is None:
        return False
    return can_encrypt(x509.load_der_x509_certificate(der))


def _inside(message: bytes) -> tuple[bytes, ...]:
    """The certificates in somebody's SignedData; of what is none, none."""
    try:
        content = cms.ContentInfo.load(message, strict=True)["content"]
        return tuple(one.chosen.dump() for one in content["certificates"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return ()
