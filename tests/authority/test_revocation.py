"""Revocation, hold and release as an operator sees them: what is recorded, what is refused and why."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import Deferred, gatherResults

from pkiserver.authority.revocation import ByCertificate, ByFingerprint, BySerial, Order
from pkiserver.authority.status.values import REASON_NAMES, parse_reason, reason_name
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.store import audit as audit_rows
from pkiserver.store import certificates
from pkiserver.store.authority import status as status_rows
from pkiserver.store.certificates import FINAL_REASONS, CertificateState, RevocationReason
from tests.authority.status_world import ORDER, StatusWorld
from tests.authority.world import fingerprint


async def test_every_reason_is_recorded_with_its_date(at: StatusWorld) -> None:
    for reason in sorted(FINAL_REASONS):
        issued = await at.certificate(f"device {reason}")
        since = at.clock.now() - timedelta(seconds=1)
        at.clock.advance(timedelta(minutes=1))
        change = await at.status.revocations.revoke(
            BySerial(issued.serial), reason, ORDER, invalidity_date=since if reason % 2 else None
        )
        after = change.after
        assert after.state is CertificateState.REVOKED
        assert after.revocation is not None
        assert (after.revocation.reason, after.revocation.at) == (reason, at.clock.now())
        assert after.revocation.invalidity_date == (since if reason % 2 else None)


async def test_serial_fingerprint_and_file_name_the_same_certificate(at: StatusWorld) -> None:
    issued = await at.certificate()
    selectors = [
        BySerial(issued.serial),
        BySerial(issued.serial, "issuing"),
        ByFingerprint(fingerprint(issued.der)),
        ByCertificate(issued.der),
    ]
    assert {(await at.status.revocations.find(one)).id for one in selectors} == {issued.certificate_id}


@pytest.mark.parametrize(
    "selector",
    [
        BySerial(12345),
        BySerial(12345, "issuing"),
        ByFingerprint(bytes(32)),
        ByCertificate(b"no certificate"),
        BySerial(0),
    ],
)
async def test_what_was_never_issued_cannot_be_revoked(at: StatusWorld, selector: Any) -> None:
    with pytest.raises(Rejected) as refused:
        await at.status.revocations.revoke(selector, RevocationReason.SUPERSEDED, ORDER)
    assert refused.value.has(Refusal.UNKNOWN_CERTIFICATE)


async def test_an_unknown_authority_is_named(at: StatusWorld) -> None:
    with pytest.raises(Rejected) as refused:
        await at.status.revocations.hold(BySerial(1, "nobody"), ORDER)
    assert refused.value.has(Refusal.UNKNOWN_AUTHORITY)


async def test_hold_and_release_and_hold_and_revoke(at: StatusWorld) -> None:
    issued = await at.certificate()
    selector = ByCertificate(issued.der)
    await at.status.revocations.revoke(selector, RevocationReason.CERTIFICATE_HOLD, ORDER)
    with pytest.raises(Rejected, match="on hold since"):
        await at.status.revocations.hold(selector, ORDER)
    released = await at.status.revocations.release(selector, ORDER)
    assert (released.before.state, released.after.state) == (CertificateState.HELD, CertificateState.ISSUED)
    assert released.after.revocation is None
    with pytest.raises(Rejected, match="not on hold"):
        await at.status.revocations.release(selector, ORDER)
    held = await at.status.revocations.hold(selector, ORDER)
    at.clock.advance(timedelta(hours=5))
    revoked = (await at.status.revocations.revoke(selector, RevocationReason.PRIVILEGE_WITHDRAWN, ORDER)).after
    assert revoked.revocation is not None
    assert held.after.revocation is not None
    assert revoked.revocation.at == held.after.revocation.at
    with pytest.raises(Rejected, match="revoked since"):
        await at.status.revocations.release(selector, ORDER)
    with pytest.raises(Rejected, match="revoked since"):
        await at.status.revocations.hold(selector, ORDER)


async def test_revoked_stays_revoked_but_a_compromise_may_be_learnt_later(at: StatusWorld) -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    issued = await at.certificate(key=key)
    await at.revoke(issued, RevocationReason.SUPERSEDED)
    at.clock.advance(timedelta(hours=1))
    for reason in (RevocationReason.SUPERSEDED, RevocationReason.UNSPECIFIED, RevocationReason.CERTIFICATE_HOLD):
        with pytest.raises(Rejected) as refused:
            await at.revoke(issued, reason)
        assert refused.value.has(Refusal.REVOKED)
    await at.revoke(issued, RevocationReason.KEY_COMPROMISE)
    found = await at.status.revocations.find(ByCertificate(issued.der))
    assert found.revocation is not None
    assert found.revocation.reason is RevocationReason.KEY_COMPROMISE
    assert found.revocation.at == at.clock.now() - timedelta(hours=1)
    with pytest.raises(Rejected) as refused:
        await at.certificate("somebody else", key=key)
    assert refused.value.has(Refusal.BAD_KEY)


async def test_remove_from_crl_is_no_reason_to_revoke(at: StatusWorld) -> None:
    issued = await at.certificate()
    with pytest.raises(Rejected, match="release"):
        await at.revoke(issued, RevocationReason.REMOVE_FROM_CRL)


async def test_all_reasons_against_it_are_told(at: StatusWorld) -> None:
    issued = await at.certificate()
    at.clock.advance(timedelta(days=91))
    future = at.clock.now() + timedelta(days=1)
    with pytest.raises(Rejected) as refused:
        await at.revoke(issued, RevocationReason.SUPERSEDED, invalidity_date=future)
    assert {reason.code for reason in refused.value.reasons} == {Refusal.BAD_VALIDITY, Refusal.CONFLICT}
    early = at.clock.now() - timedelta(days=1000)
    with pytest.raises(Rejected, match="before the certificate"):
        await at.revoke(issued, RevocationReason.KEY_COMPROMISE, invalidity_date=early)
    await at.revoke(issued, RevocationReason.KEY_COMPROMISE)


async def test_an_authoritys_own_certificate_needs_two_people(at: StatusWorld) -> None:
    own = ByCertificate(at.issuing.current.certificate.der)
    for order in (ORDER, Order(actor="tester", approved_by="tester")):
        with pytest.raises(Rejected, match="second person"):
            await at.status.revocations.revoke(own, RevocationReason.CESSATION_OF_OPERATION, order)
    both = Order(actor="tester", approved_by="somebody else")
    await at.status.revocations.revoke(own, RevocationReason.CESSATION_OF_OPERATION, both)
    root = ByCertificate(at.world.road.authorities.get("root").current.certificate.der)
    with pytest.raises(Rejected, match="self-signed"):
        await at.status.revocations.revoke(root, RevocationReason.CA_COMPROMISE, both)


async def test_state_feed_and_audit_log_say_the_same(at: StatusWorld) -> None:
    issued = await at.certificate()
    before = await at.world.database.read(status_rows.latest)
    await at.status.revocations.hold(ByCertificate(issued.der), Order("ann", request_id="r-1", comment="lost card"))
    await at.status.revocations.release(ByCertificate(issued.der), Order("bob"))
    logged = await at.world.database.read(lambda connection: audit_rows.newest_events(connection, limit=2))
    assert [(one.kind, one.actor, one.object, one.outcome) for one in sorted(logged, key=lambda one: one.seq)] == [
        ("revocation", "ann", f"certificate {issued.serial:x}", "ok"),
        ("release", "bob", f"certificate {issued.serial:x}", "ok"),
    ]
    changes = await at.world.database.read(lambda connection: status_rows.since(connection, before))
    assert [(one.serial, one.status) for one in changes] == [
        (issued.serial, CertificateState.HELD),
        (issued.serial, CertificateState.ISSUED),
    ]


async def test_of_twenty_at_once_one_revokes(at: StatusWorld) -> None:
    issued = await at.certificate()

    async def once() -> bool:
        try:
            await at.revoke(issued)
        except Rejected:
            return False
        return True

    outcomes: list[bool] = await gatherResults([Deferred.fromCoroutine(once()) for _ in range(20)])
    assert sum(outcomes) == 1


async def test_a_refusal_changes_nothing(at: StatusWorld) -> None:
    issued = await at.certificate()
    seq = await at.world.database.read(status_rows.latest)
    with pytest.raises(Rejected):
        await at.revoke(issued, invalidity_date=at.clock.now() + timedelta(days=2))
    found = await at.world.database.read(lambda c: certificates.get(c, issued.certificate_id))
    assert found is not None
    assert found.state is CertificateState.ISSUED
    assert await at.world.database.read(status_rows.latest) == seq


@pytest.mark.parametrize("text", [*REASON_NAMES, "key-compromise", "KEYCOMPROMISE", "1", "ca_compromise"])
def test_reasons_are_read_in_any_spelling(text: str) -> None:
    assert parse_reason(reason_name(parse_reason(text))) is parse_reason(text)


@pytest.mark.parametrize("text", ["", "7", "11", "stolen", "-1"])
def test_what_is_no_reason_is_refused_with_the_names(text: str) -> None:
    with pytest.raises(ValueError, match="keyCompromise"):
        parse_reason(text)


def test_names_agree_with_another_implementation() -> None:
    theirs = {flag.value for flag in x509.ReasonFlags}
    assert set(REASON_NAMES) == theirs
