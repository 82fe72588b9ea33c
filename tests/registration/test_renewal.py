"""Renewals whose answer was lost: whoever asks again for the same gets the same, and nobody gets more."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import Deferred, DeferredList

from pkiserver.authority.requests import (
    Authorised,
    ClientCertificateEvidence,
    EnrollmentRequest,
    IssuedCertificate,
    PasswordEvidence,
)
from pkiserver.authority.revocation import ByCertificate, Order
from pkiserver.foundation.errors import Refusal, Rejected, Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.runtime.engine import Engine
from pkiserver.store.certificates import RevocationReason
from tests.support.engines import engine_with, enrollment, template_text

RULE = '[[evidence]]\nall = ["password"]\n'
TEXTS = {
    "once": template_text("once", RULE).replace('window = "120d"', 'window = "120d"\nrevoke_old = true'),
    "kept": template_text("kept", RULE),
    "closed": template_text("closed", RULE).replace('window = "120d"', 'window = "1d"\nallowed = false'),
}
GOOD = Secret("a long password")


async def first(engine: Engine, template: str, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    """A certificate to be renewed."""
    made = await engine.enroll(enrollment(template, PasswordEvidence("alice", GOOD), name="alice", key=key))
    assert isinstance(made, IssuedCertificate)
    return made.der


def again(template: str, old: bytes, key: ec.EllipticCurvePrivateKey, name: str = "alice") -> EnrollmentRequest:
    shown = ClientCertificateEvidence(old)
    return enrollment(template, shown, name=name, key=key, renewal_of=old)


async def refused(engine: Engine, request: EnrollmentRequest) -> set[Refusal]:
    with pytest.raises(Rejected) as caught:
        await engine.enroll(request)
    return {reason.code for reason in caught.value.reasons}


@pytest.mark.parametrize("same_key", [True, False])
async def test_a_renewal_whose_answer_was_lost_is_answered_again(tmp_path: Path, url: str, same_key: bool) -> None:
    async with engine_with(tmp_path, TEXTS, url=url) as engine:
        await engine.accounts.create("alice", GOOD, by="tester")
        own, new = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        key = own if same_key else new
        old = await first(engine, "once", own)
        made = await engine.enroll(again("once", old, key))
        repeated = await engine.enroll(again("once", old, key))
        assert isinstance(made, IssuedCertificate)
        assert isinstance(repeated, IssuedCertificate)
        assert repeated.der == made.der != old
        # for nothing else it counts any more
        assert await refused(engine, again("once", old, ec.generate_private_key(ec.SECP256R1()))) == {Refusal.REVOKED}
        assert Refusal.BAD_SUBJECT in await refused(engine, again("once", old, key, "mallory"))
        unproved = enrollment("once", name="alice", key=key, renewal_of=old)
        assert Refusal.NOT_AUTHENTICATED in await refused(engine, unproved)
        # nor once what it brought is over
        what = ByCertificate(made.der)
        await engine.status.revocations.revoke(what, RevocationReason.CESSATION_OF_OPERATION, Order("cli:root"))
        assert await refused(engine, again("once", old, key)) == {Refusal.REVOKED}


async def test_anchor_7_a_certificate_that_was_revoked_by_itself_renews_nothing(tmp_path: Path) -> None:
    async with engine_with(tmp_path, TEXTS) as engine:
        await engine.accounts.create("alice", GOOD, by="tester")
        own = ec.generate_private_key(ec.SECP256R1())
        old = await first(engine, "kept", own)
        made = await engine.enroll(again("kept", old, own))
        assert isinstance(made, IssuedCertificate)
        reason = RevocationReason.KEY_COMPROMISE
        await engine.status.revocations.revoke(ByCertificate(old), reason, Order("cli:root"))
        assert Refusal.REVOKED in await refused(engine, again("kept", old, own))
        assert x509.load_der_x509_certificate(made.der).subject.rfc4514_string() == "CN=alice"


async def test_nobody_is_told_from_when_on_to_renew_what_is_not_renewed_at_all(tmp_path: Path) -> None:
    async with engine_with(tmp_path, TEXTS) as engine:
        await engine.accounts.create("alice", GOOD, by="tester")
        key = ec.generate_private_key(ec.SECP256R1())
        with pytest.raises(Rejected) as caught:
            await engine.enroll(again("closed", await first(engine, "closed"), key))
        assert str(caught.value) == "template closed does not allow renewal"


@pytest.mark.parametrize("reason", [RevocationReason.KEY_COMPROMISE, RevocationReason.CERTIFICATE_HOLD])
async def test_anchor_7_a_certificate_that_is_revoked_while_its_renewal_is_made_renews_nothing(
    tmp_path: Path, url: str, reason: RevocationReason
) -> None:
    async with engine_with(tmp_path, TEXTS, url=url) as engine:
        await engine.accounts.create("alice", GOOD, by="tester")
        own = ec.generate_private_key(ec.SECP256R1())
        old = await first(engine, "kept", own)
        decision = await engine.gate.decide(again("kept", old, own))
        assert isinstance(decision, Authorised)
        await engine.status.revocations.revoke(ByCertificate(old), reason, Order("cli:root"))
        with pytest.raises(Rejected) as caught:
            await engine.road.prepare(decision)
        assert {one.code for one in caught.value.reasons} <= {Refusal.REVOKED, Refusal.BAD_KEY}


async def test_of_many_renewals_at_once_that_replace_a_certificate_one_brings_another(tmp_path: Path, url: str) -> None:
    async with engine_with(tmp_path, TEXTS, url=url) as engine:
        await engine.accounts.create("alice", GOOD, by="tester")
        old = await first(engine, "once")
        keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(8)]
        tries = [Deferred.fromCoroutine(engine.enroll(again("once", old, key))) for key in keys]
        results = await DeferredList(tries, consumeErrors=True)
        assert sum(fine for fine, _ in results) == 1
        for fine, failure in results:
            # too late, or to come again, which is too late then
            assert fine or failure.check(Unavailable) or failure.value.has(Refusal.REVOKED), failure
        # whose answer was lost meanwhile asks again
        [key] = [key for key, (fine, _) in zip(keys, results, strict=True) if fine]
        [made] = [answer for fine, answer in results if fine]
        repeated = await engine.enroll(again("once", old, key))
        assert isinstance(repeated, IssuedCertificate)
        assert repeated.der == made.der
        # and the next renewal finds nothing in its way
        assert isinstance(await engine.enroll(again("once", made.der, keys[0])), IssuedCertificate)
