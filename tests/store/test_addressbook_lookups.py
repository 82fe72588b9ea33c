"""Look-ups of the address book on either engine: what may be shown is found, newest first, beside what may not."""

from __future__ import annotations

import itertools
from datetime import timedelta

from sqlalchemy import Connection

from pkiserver.store import certificates
from pkiserver.store.certificates import RevocationReason
from pkiserver.store.names import San, SanKind
from pkiserver.store.publication import addressbook, addressbook_lookups
from tests.support.stored import NOW, issue, new_intent, opened

ALICE, AENNE = "alice@example.com", "änne@example.com"
SHOWN = ["mail", "kept"]


async def test_certificates_are_found_by_address_name_and_hash(url: str) -> None:
    def fill(connection: Connection) -> dict[str, list[int]]:
        numbers: dict[str, list[int]] = {}
        for kind in ("mail", *["vpn"] * 70, "ended", "revoked", "mail"):
            template = {"ended": "kept", "revoked": "mail"}.get(kind, kind)
            end = NOW - timedelta(days=1) if kind == "ended" else NOW + timedelta(days=9)
            intent = new_intent(template=template, sans=(San(SanKind.EMAIL, ALICE),), not_after=end)
            number = issue(connection, intent)
            keys = (("mail", AENNE), ("cn", "alice"), ("shash", "s"))
            addressbook.put_keys(connection, number, keys)
            if kind == "revoked":
                certificates.revoke(connection, number, reason=RevocationReason.SUPERSEDED, at=NOW)
            numbers.setdefault(kind, []).append(number)
        return numbers

    async with opened(url) as database:
        numbers = await database.write(fill)
        shown = numbers["mail"][::-1]

        def look(connection: Connection) -> None:
            for address in (ALICE, AENNE):
                found = addressbook_lookups.certificates_of(connection, address, templates=SHOWN, now=NOW)
                assert [one.id for one in itertools.islice(found, 200) if one.template in SHOWN] == shown
            by_key = addressbook_lookups.certificates_by_key
            for past, expected in (((), shown), (("kept",), sorted([*shown, *numbers["ended"]], reverse=True))):
                rows = by_key(connection, "shash", "s", templates=SHOWN, past=past, now=NOW, limit=9)
                assert [one.id for one in rows] == expected
            for templates, expected_address in ((SHOWN, (ALICE,)), (["other"], ())):
                more = {"templates": templates, "now": NOW, "limit": 1}
                assert addressbook_lookups.addresses_beginning(connection, "al", **more) == expected_address
                for exact, name in ((True, "alice"), (False, "al")):
                    named = addressbook_lookups.addresses_named(connection, "cn", name, exact=exact, **more)
                    assert named == expected_address

        await database.read(look)
