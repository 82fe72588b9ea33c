"""A certificate's states change one way only, and what changed is found."""

from __future__ import annotations

import hashlib
import os
from datetime import timedelta
from functools import partial

import pytest
from sqlalchemy import Connection

from pkiserver.foundation.errors import Defect, Refusal, Rejected
from pkiserver.store import certificates
from pkiserver.store.authority import status
from pkiserver.store.certificates import CertificateState, RevocationReason, blocked_keys
from pkiserver.store.names import San, SanKind
from tests.support.stored import NOW, issue, new_intent, new_serial, opened


async def test_the_road_keeps_what_was_prepared_and_what_was_signed(url: str) -> None:
    sans = (San(SanKind.DNS, "Device.Example"), San(SanKind.IP, "2001:db8:0::1"))
    intent = new_intent(sans=sans, subject="CN=a\x00b\r\nc,O=Ex")
    async with opened(url) as database:
        number = await database.write(lambda c: certificates.insert_prepared(c, intent))
        assert await database.read(lambda c: certificates.by_serial(c, 1, intent.serial)) is None
        assert await database.write(lambda c: certificates.mark_asked(c, number))
        (under_way,) = await database.read(certificates.open_intents)
        assert (under_way.id, under_way.state, under_way.tbs) == (number, CertificateState.ASKED, intent.tbs)
        assert await database.write(
            lambda c: certificates.store_issued(c, number, b"signed", serial=intent.serial, at=NOW)
        )
        found = await database.read(lambda c: certificates.by_fingerprint(c, hashlib.sha256(b"signed").digest()))
        assert found is not None
        assert found == await database.read(lambda c: certificates.by_serial(c, 1, intent.serial))
        assert found == await database.read(lambda c: certificates.get(c, number))
        assert (found.id, found.serial, found.state) == (number, intent.serial, CertificateState.ISSUED)
        assert (found.der, found.tbs, found.sans, found.not_after) == (b"signed", None, sans, intent.not_after)
        assert found.subject == "CN=a\\x00b\\r\\nc,O=Ex"
        assert await database.read(certificates.open_intents) == ()
        assert await database.read(status.latest) == 0


async def test_no_step_is_taken_twice_or_skipped(url: str) -> None:
    async with opened(url) as database:

        def steps(connection: Connection) -> list[bool]:
            serial = new_serial()
            number = certificates.insert_prepared(connection, new_intent(serial=serial))
            return [
                certificates.store_issued(connection, number, b"x", serial=serial, at=NOW),
                certificates.settle_asked(connection, number, at=NOW),
                certificates.mark_asked(connection, number),
                certificates.mark_asked(connection, number),
                certificates.burn(connection, number, at=NOW),
                certificates.store_issued(connection, number, b"x", serial=new_serial(), at=NOW),
                certificates.store_issued(connection, number, b"x", serial=serial, at=NOW),
                certificates.store_issued(connection, number, b"y", serial=serial, at=NOW),
                certificates.mark_asked(connection, number),
                certificates.release(connection, number, at=NOW),
            ]

        taken = await database.write(steps)
        assert taken == [False, False, True, False, False, False, True, False, False, False]


async def test_a_row_that_has_the_number_of_another_certificate_does_not_get_it(url: str) -> None:
    """A standby that took over without the last transactions gives their numbers out again."""
    lost, newer = new_intent(), new_intent()
    async with opened(url) as database:
        number = await database.write(lambda c: certificates.insert_prepared(c, newer))
        assert await database.write(lambda c: certificates.mark_asked(c, number))
        stored = partial(certificates.store_issued, intent_id=number, der=b"signed", at=NOW)
        assert not await database.write(lambda c: stored(c, serial=lost.serial))
        assert await database.read(lambda c: certificates.by_serial(c, 1, newer.serial)) is None
        assert await database.write(lambda c: stored(c, serial=newer.serial))


@pytest.mark.parametrize("settle", ["issued", "burnt", "revoked", "prepared"])
async def test_a_serial_is_used_once_for_an_issuer(url: str, settle: str) -> None:
    serial = new_serial()

    def first(connection: Connection) -> None:
        number = certificates.insert_prepared(connection, new_intent(serial=serial))
        if settle == "burnt":
            assert certificates.burn(connection, number, at=NOW)
        elif settle != "prepared":
            assert certificates.mark_asked(connection, number)
            if settle == "issued":
                assert certificates.store_issued(connection, number, b"x", serial=serial, at=NOW)
            else:
                assert certificates.settle_asked(connection, number, at=NOW)

    async with opened(url) as database:
        await database.write(first)
        with pytest.raises(Rejected) as refused:
            await database.write(lambda c: certificates.insert_prepared(c, new_intent(serial=serial)))
        assert refused.value.has(Refusal.CONFLICT)
        await database.write(lambda c: certificates.insert_prepared(c, new_intent(serial=serial, issuer_id=2)))


@pytest.mark.parametrize("serial", [0, -1, 1 << 159])
async def test_serials_that_rfc_5280_forbids_are_refused(url: str, serial: int) -> None:
    intent = new_intent()
    object.__setattr__(intent, "serial", serial)
    async with opened(url) as database:
        with pytest.raises(ValueError, match="20 octets"):
            await database.write(lambda c: certificates.insert_prepared(c, intent))
        assert await database.read(lambda c: certificates.status_by_serial(c, 1, serial)) is None


async def test_recovery_settles_what_a_crash_left(url: str) -> None:
    async with opened(url) as database:

        def leave(connection: Connection) -> tuple[int, int]:
            asked = certificates.insert_prepared(connection, new_intent(holder="dead"))
            certificates.mark_asked(connection, asked)
            prepared = certificates.insert_prepared(connection, new_intent(holder="dead"))
            certificates.insert_prepared(connection, new_intent(holder="alive", created=NOW + timedelta(hours=1)))
            return asked, prepared

        asked, prepared = await database.write(leave)
        for found in (
            await database.read(lambda c: certificates.open_intents(c, holder="dead")),
            await database.read(lambda c: certificates.open_intents(c, created_before=NOW + timedelta(minutes=1))),
        ):
            assert [intent.id for intent in found] == [prepared, asked]
        assert await database.write(lambda c: certificates.settle_asked(c, asked, at=NOW))
        assert await database.write(lambda c: certificates.burn(c, prepared, at=NOW))
        kept = await database.read(lambda c: certificates.get(c, asked))
        assert kept is not None
        assert (kept.state, kept.der, kept.tbs) == (CertificateState.REVOKED, None, b"to be signed")
        burnt = await database.read(lambda c: certificates.get(c, prepared))
        assert burnt is not None
        assert (burnt.state, burnt.revocation) == (CertificateState.BURNT, None)
        changes = await database.read(lambda c: status.since(c, 0))
        assert [(change.serial, change.status) for change in changes] == [(kept.serial, CertificateState.REVOKED)]
        later = await database.write(lambda c: certificates.insert_prepared(c, new_intent()))
        assert later > prepared + 1  # numbers are never given again


async def test_revocation_hold_and_release(url: str) -> None:
    compromise, unspecified = RevocationReason.KEY_COMPROMISE, RevocationReason.UNSPECIFIED
    async with opened(url) as database:

        def steps(connection: Connection) -> list[bool]:
            number = issue(connection)
            return [
                certificates.release(connection, number, at=NOW),
                certificates.hold(connection, number, at=NOW),
                certificates.hold(connection, number, at=NOW),
                certificates.release(connection, number, at=NOW),
                certificates.hold(connection, number, at=NOW),
                certificates.revoke(connection, number, reason=unspecified, at=NOW),
                certificates.revoke(connection, number, reason=compromise, at=NOW),
                certificates.hold(connection, number, at=NOW),
                certificates.release(connection, number, at=NOW),
            ]

        assert await database.write(steps) == [False, True, False, True, True, True, False, False, False]
        changes = await database.read(lambda c: status.since(c, 0))
        assert [change.status.value for change in changes] == ["held", "issued", "held", "revoked"]
        assert [change.seq for change in changes] == [1, 2, 3, 4]
        assert await database.read(lambda c: status.since(c, 3)) == changes[3:]


@pytest.mark.parametrize(
    ("before", "after", "amended"),
    [
        (RevocationReason.UNSPECIFIED, RevocationReason.SUPERSEDED, True),
        (RevocationReason.SUPERSEDED, RevocationReason.KEY_COMPROMISE, True),
        (RevocationReason.KEY_COMPROMISE, RevocationReason.SUPERSEDED, False),
        (RevocationReason.KEY_COMPROMISE, RevocationReason.CA_COMPROMISE, False),
        (RevocationReason.SUPERSEDED, RevocationReason.UNSPECIFIED, False),
        (RevocationReason.SUPERSEDED, RevocationReason.SUPERSEDED, False),
    ],
)
async def test_a_reason_only_becomes_clearer_or_graver(
    url: str, before: RevocationReason, after: RevocationReason, *, amended: bool
) -> None:
    later = NOW + timedelta(days=1)
    async with opened(url) as database:
        number = await database.write(issue)
        await database.write(lambda c: certificates.revoke(c, number, reason=before, at=NOW))
        assert await database.write(lambda c: certificates.amend_reason(c, number, reason=after, at=later)) is amended
        found = await database.read(lambda c: certificates.get(c, number))
        assert found is not None
        assert found.revocation is not None
        assert (found.revocation.reason, found.revocation.at) == (after if amended else before, NOW)


async def test_an_invalidity_date_is_added_and_moves_back_only(url: str) -> None:
    reason = RevocationReason.KEY_COMPROMISE
    days = [timedelta(days=2), timedelta(days=1), timedelta(days=3)]
    async with opened(url) as database:
        number = await database.write(issue)
        await database.write(lambda c: certificates.revoke(c, number, reason=reason, at=NOW))
        moved = [
            await database.write(
                lambda c, ago=ago: certificates.amend_reason(
                    c, number, reason=reason, at=NOW, invalidity_date=NOW - ago
                )
            )
            for ago in days
        ]
        assert moved == [True, False, True]


@pytest.mark.parametrize("reason", [RevocationReason.CERTIFICATE_HOLD, RevocationReason.REMOVE_FROM_CRL])
async def test_reasons_that_do_not_last_are_no_reasons_to_revoke(url: str, reason: RevocationReason) -> None:
    async with opened(url) as database:
        number = await database.write(issue)
        with pytest.raises(Defect):
            await database.write(lambda c: certificates.revoke(c, number, reason=reason, at=NOW))


async def test_a_crl_lists_the_revoked_and_held_of_one_generation(url: str) -> None:
    async with opened(url) as database:

        def fill(connection: Connection) -> dict[str, int]:
            numbers: dict[str, int] = {}
            for name, generation, days in [
                ("old", 1, -2),
                ("soon", 1, 1),
                ("late", 1, 9),
                ("other", 2, 9),
                ("fine", 1, 9),
            ]:
                intent = new_intent(generation_id=generation, not_after=NOW + timedelta(days=days))
                numbers[name] = issue(connection, intent)
                if name == "late":
                    certificates.hold(connection, numbers[name], at=NOW)
                elif name != "fine":
                    certificates.revoke(
                        connection,
                        numbers[name],
                        reason=RevocationReason.SUPERSEDED,
                        at=NOW,
                        invalidity_date=NOW - timedelta(days=1),
                    )
            return numbers

        numbers = await database.write(fill)
        for limit, names in [(NOW, ["soon", "late"]), (NOW - timedelta(days=3), ["old", "soon", "late"])]:
            entries = await database.read(lambda c, t=limit: list(certificates.revoked_for_crl(c, 1, not_expired_at=t)))
            kept = [await database.read(lambda c, n=numbers[name]: certificates.get(c, n)) for name in names]
            assert [entry.serial for entry in entries] == [one.serial for one in kept if one]
        assert entries[0].invalidity_date == NOW - timedelta(days=1)
        assert (entries[2].reason, entries[2].invalidity_date) == (RevocationReason.CERTIFICATE_HOLD, None)


async def test_duplicates_are_found_among_the_valid_and_those_under_way(url: str) -> None:
    key = bytes(32)
    async with opened(url) as database:

        def fill(connection: Connection) -> tuple[int, int]:
            valid = issue(connection, new_intent(subject="CN=Web,  O=Example", spki_sha256=key))
            expired = new_intent(subject="CN=web, O=Example", spki_sha256=key, not_after=NOW - timedelta(days=1))
            issue(connection, expired)
            revoked = issue(connection, new_intent(subject="CN=web, O=Example", spki_sha256=key))
            certificates.revoke(connection, revoked, reason=RevocationReason.SUPERSEDED, at=NOW)
            return valid, certificates.insert_prepared(connection, new_intent(subject="CN=WEB, o=example"))

        valid, rival = await database.write(fill)
        asked = {"now": NOW, "template": "device"}
        assert await database.read(lambda c: certificates.valid_of_subject(c, "cn=web, o=EXAMPLE", **asked)) == (valid,)
        found = await database.read(lambda c: certificates.valid_by_key(c, key, **asked))
        assert [one.id for one in found] == [valid]
        for template, besides, under_way in (("device", 0, True), ("device", rival, False), ("server", 0, False)):
            like = {"template": template, "besides": besides}
            found = await database.read(partial(certificates.is_subject_under_way, subject="CN=web, O=Example", **like))
            assert found is under_way
        assert not await database.read(lambda c: certificates.key_was_compromised(c, key))
        reason = RevocationReason.KEY_COMPROMISE
        await database.write(lambda c: certificates.revoke(c, valid, reason=reason, at=NOW))
        assert await database.read(lambda c: certificates.key_was_compromised(c, key))


@pytest.mark.parametrize(
    ("besides", "subject", "in_use"),
    [
        ({}, None, True),
        ({"valid"}, None, True),
        ({"valid", "rival"}, None, False),
        ({}, "cn=WEB", True),
        ({"rival"}, "cn=WEB", False),
        ({"valid"}, "CN=rival", False),
        ({"valid", "rival"}, "CN=someone else", False),
    ],
)
async def test_a_key_is_in_use_by_what_is_valid_or_under_way_but_for_what_is_put_aside(
    url: str, besides: set[str], subject: str | None, *, in_use: bool
) -> None:
    key = bytes(32)
    async with opened(url) as database:

        def fill(connection: Connection) -> dict[str, int]:
            over = new_intent(subject="CN=other", spki_sha256=key, not_after=NOW - timedelta(days=1))
            issue(connection, over)
            return {
                "valid": issue(connection, new_intent(subject="CN=web", spki_sha256=key)),
                "rival": certificates.insert_prepared(connection, new_intent(subject="CN=rival", spki_sha256=key)),
            }

        numbers = await database.write(fill)
        aside = {"renewed": numbers["valid"] if "valid" in besides else None}
        aside["besides"] = numbers["rival"] if "rival" in besides else 0
        asked = await database.read(
            lambda c: certificates.key_is_in_use(c, key, now=NOW, by_another_than=subject, **aside)
        )
        assert asked is in_use


async def test_statuses_are_told_for_settled_serials_only(url: str) -> None:
    serials = [new_serial() for _ in range(3)]
    async with opened(url) as database:

        def fill(connection: Connection) -> None:
            issue(connection, new_intent(serial=serials[0]))
            certificates.insert_prepared(connection, new_intent(serial=serials[1]))

        await database.write(fill)
        found = await database.read(lambda c: certificates.statuses_by_serial(c, 1, serials))
        assert {serial: one.state for serial, one in found.items()} == {serials[0]: CertificateState.ISSUED}


async def test_the_first_successor_stays(url: str) -> None:
    async with opened(url) as database:
        number = await database.write(issue)
        assert await database.write(lambda c: certificates.mark_replaced(c, number, 7))
        assert not await database.write(lambda c: certificates.mark_replaced(c, number, 8))


@pytest.mark.parametrize("how", ["under way", "issued", "burnt", "blocked"])
async def test_a_key_is_new_until_anything_is_known_of_it(url: str, how: str) -> None:
    key, another = os.urandom(32), os.urandom(32)

    def work(connection: Connection) -> None:
        assert certificates.key_is_new(connection, key)
        if how == "blocked":
            blocked_keys.add_many(connection, [key], why="weak", now=NOW)
            assert not certificates.key_is_new(connection, key)
            return
        intent = new_intent(spki_sha256=key)
        number = certificates.insert_prepared(connection, intent)
        assert certificates.key_is_new(connection, key, besides=number), "its own intent does not count"
        assert not certificates.key_is_new(connection, key)
        if how == "burnt":
            assert certificates.burn(connection, number, at=NOW)
        elif how == "issued":
            assert certificates.mark_asked(connection, number)
            assert certificates.store_issued(connection, number, b"x", serial=intent.serial, at=NOW)

    async with opened(url) as database:
        await database.write(work)
        assert not await database.read(lambda c: certificates.key_is_new(c, key))
        assert await database.read(lambda c: certificates.key_is_new(c, another))
