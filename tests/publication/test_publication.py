"""What administrators do with the address book: SignedData, index, contacts, zone records."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, delete

from pkiserver.cli.addressbook import smimea_name
from pkiserver.foundation.errors import Rejected
from pkiserver.publication.contacts import ContactWriter
from pkiserver.publication.resync import Difference, Resync
from pkiserver.store.publication import addressbook as rows
from pkiserver.store.schema.addressbook import addressbook_key
from tests.protocols.addressbook.support import Site


async def _differences(resync: Resync) -> list[Difference]:
    return [one async for one in resync.differences()]


def test_the_index_is_compared_and_repaired(site: Site) -> None:
    issued = site.issue("Uwe Unger", "uwe@example.com")
    resync = Resync(site.engine.database, site.engine.templates)
    assert site.do(lambda: _differences(resync)) == []

    def spoil(connection: Connection) -> None:
        held = addressbook_key.c
        connection.execute(
            delete(addressbook_key).where(held.certificate_id == issued.certificate_id, held.kind == "cn")
        )
        rows.put_keys(connection, issued.certificate_id, [("cn", "somebody else")])

    site.do(lambda: site.engine.database.write(spoil))
    (found,) = site.do(lambda: _differences(resync))
    assert (found.missing, found.surplus) == ({("cn", "uwe unger")}, {("cn", "somebody else")})
    site.do(lambda: resync.repair(found))
    assert site.do(lambda: _differences(resync)) == []
    assert site.names("(cn=uwe unger)") == ["uwe@example.com"]


def test_contacts_are_checked(site: Site) -> None:
    writer = ContactWriter(site.engine.database, site.engine.audit, site.engine.clock)
    good = site.issue("Vera", "vera@partner.example", template="private").der
    signing = site.issue("Vera", "vera@partner.example", template="sign").der

    def put(address: str, *certificates: bytes, replace: bool = False, **texts: tuple[str, ...]) -> None:
        site.do(lambda: writer.put(address, tuple(texts.items()), certificates, replace=replace, by="test"))

    for wrong in ((), (b"x",), (signing,), (good,) * 17):
        with pytest.raises(Rejected):
            put("vera@partner.example", *wrong)
    with pytest.raises(Rejected, match="is not for"):
        put("other@partner.example", good)
    with pytest.raises(Rejected, match="a contact has no"):
        put("vera@partner.example", good, userPassword=("x",))
    with pytest.raises(Rejected, match="there is no contact"):
        put("vera@partner.example", good, replace=True)
    put("Vera@Partner.example", good, cn=("Vera Partner",))
    with pytest.raises(Rejected, match="already"):
        put("vera@partner.example", good)
    site.settle()
    assert site.search("(cn=vera partner)", "1.1").startswith("dn: uid=vera@partner.example,ou=Contacts")
    assert site.search("(mail=vera@partner.example)", "1.1", base="ou=People,dc=example,dc=com") == ""


def test_names_of_smimea_records() -> None:
    # the example of RFC 8162 section 3
    wanted = "c93f1e400f26708f98cb19d936620da35eec8f72e57f9eec01c1afd6._smimecert.example.com."
    assert smimea_name("hugh@example.com") == wanted


def test_the_feed_tells_who_changed_and_is_pruned(site: Site) -> None:
    database = site.engine.database
    before = site.do(lambda: database.read(lambda connection: rows.changes_since(connection, -1))).latest
    site.issue("Wim", "wim@example.com", "w@example.com")
    changed = site.do(lambda: database.read(lambda connection: rows.changes_since(connection, before)))
    assert set(changed.addresses) == {"wim@example.com", "w@example.com"}
    site.do(lambda: database.write(lambda connection: rows.prune_changes(connection, keep=0)))
    lost = site.do(lambda: database.read(lambda connection: rows.changes_since(connection, before)))
    assert lost.addresses is None
