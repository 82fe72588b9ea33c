"""A certificate that the address book may show is found, whatever else there is for its address, name or hash."""

from __future__ import annotations

import itertools
import urllib.parse
import urllib.request
from datetime import timedelta
from typing import Any

import attrs
import pytest
from sqlalchemy import Connection, insert, select

from pkiserver.authority import certparts
from pkiserver.authority.requests import IssuedCertificate
from pkiserver.publication.certificate import sha1
from pkiserver.store.certificates import CertificateState
from pkiserver.store.schema.addressbook import addressbook_key
from pkiserver.store.schema.certificates import certificate, certificate_san
from pkiserver.store.times import to_micros
from tests.protocols.addressbook.support import Site, certificates_in

MANY = 150
_numbers = itertools.count(10**6, MANY)


def beside(site: Site, like: IssuedCertificate, *, named: bool = False, **changes: Any) -> None:
    """As many newer certificates of the same names, but for these columns; ``named``: each with names of its own."""
    first = next(_numbers)

    def work(connection: Connection) -> None:
        number = like.certificate_id
        row = dict(connection.execute(select(certificate).where(certificate.c.id == number)).one()._mapping)
        row |= {"fingerprint": None, **changes}
        news = range(first, first + MANY)
        connection.execute(insert(certificate), [{**row, "id": new, "serial": new.to_bytes(20)} for new in news])
        for table in (certificate_san, addressbook_key):
            query = select(table.c.kind, table.c.value).where(table.c.certificate_id == number)
            for kind, value in connection.execute(query).all():
                names = [
                    {"kind": kind, "value": f"{value}{new}" if named else value, "certificate_id": new} for new in news
                ]
                connection.execute(insert(table), names)

    site.do(lambda: site.engine.database.write(work))
    site.settle()


@attrs.frozen
class Others:
    """What the other certificates are: in which state, ended or not, of which template."""

    state: CertificateState = CertificateState.ISSUED
    ended: bool = False
    template: str = "smime"


OTHERS = {
    "revoked": Others(state=CertificateState.REVOKED),
    "expired": Others(ended=True),
    "unpublished": Others(template="client"),
    "signing": Others(template="sign"),
}


def surrounded(site: Site, address: str, others: Others) -> IssuedCertificate:
    """A certificate for an address, with many others beside it."""
    issued = site.issue(address, address)
    changes: dict[str, Any] = {"state": others.state.value, "template": others.template}
    if others.ended:
        changes["not_after"] = to_micros(site.engine.clock.now() - timedelta(days=1))
    if others.template == "sign":
        changes["der"] = site.issue(address, address, template="sign").der
    beside(site, issued, **changes)
    return issued


def by_subject(site: Site, issued: IssuedCertificate) -> bytes:
    """What the HTTP look-up answers for the hash of a certificate's subject."""
    query = urllib.parse.urlencode({"sHash": sha1(certparts.subject_octets(issued.der))})
    url = f"http://127.0.0.1:{site.http}/certificates/search.cgi?{query}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        octets: bytes = answer.read()
    return octets


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("address", ["juergen-{}@example.com", "jürgen-{}@example.com"])
def test_a_valid_certificate_is_found_beside_many_newer_ones(site: Site, address: str, name: str) -> None:
    address = address.format(name)
    issued = surrounded(site, address, OTHERS[name])
    found = site.search(f"(mail={address})", "userCertificate;binary")
    assert certificates_in(found) == [issued.der]


@pytest.mark.parametrize("name", ["revoked", "expired"])
def test_it_is_found_by_the_hash_of_its_subject(site: Site, name: str) -> None:
    issued = surrounded(site, f"hash-{name}@example.com", OTHERS[name])
    assert by_subject(site, issued) == issued.der


def test_past_certificates_are_found_by_hash_too_where_they_are_shown(site: Site) -> None:
    issued = site.issue("Hanna", "hanna@example.com", template="history")
    beside(site, issued, not_after=to_micros(site.engine.clock.now() - timedelta(days=1)))
    assert by_subject(site, issued).count(issued.der) == 16, "the copies have the same octets"


@pytest.mark.parametrize("filter_", ["(cn=anna*)", "(mail=anna*)"])
def test_people_are_found_by_name_beside_many_who_are_not_published(site: Site, filter_: str) -> None:
    if not site.names("(mail=annaz@example.com)"):
        beside(site, site.issue("Anna", "anna@example.com", template="client"), named=True)
        site.issue("Annaz", "annaz@example.com")
    assert site.names(filter_) == ["annaz@example.com"]
