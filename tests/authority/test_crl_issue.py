"""CRLs as issued: what is on them, their numbers, when they come, and that one process issues each."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography import x509
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import LogLevel, capturedLogs, formatEvent

from pkiserver.authority import crl as crl_module
from pkiserver.authority.crl import Cause
from pkiserver.authority.lifecycle.ceremonies import KeyChoice
from pkiserver.authority.revocation import ByCertificate
from pkiserver.authority.status.offline import OfflineCrl, encode_offline, read_crl
from pkiserver.authority.status.policy import CrlPolicy
from pkiserver.foundation.errors import Defect, Rejected, Unavailable
from pkiserver.keys.algorithms import KeyType, SignatureScheme
from pkiserver.keys.settings import ProviderSettings
from pkiserver.keys.signers import CrlSigner
from pkiserver.store import leases
from pkiserver.store.certificates import RevocationReason
from tests.authority.crl_world import configure
from tests.authority.status_world import HOUR, ORDER, StatusWorld, lint_crl, openssl_crl_check
from tests.authority.world import ACTOR
from tests.support.keys import lose_and_miss


def number_of(crl: x509.CertificateRevocationList) -> int:
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def serials(crl: x509.CertificateRevocationList) -> set[int]:
    return {one.serial_number for one in crl}


async def test_openssl_believes_the_lists_and_pkilint_is_content(at: StatusWorld, tmp_path: Path) -> None:
    good, bad = await at.certificate("good"), await at.certificate("bad")
    await at.revoke(bad, RevocationReason.KEY_COMPROMISE, invalidity_date=at.clock.now() - timedelta(seconds=60))
    issued = await at.status.schedule.run_due()
    assert [one.number for one in issued] == [1, 1]
    lists = [one.der for one in issued]
    assert [finding for one in lists for finding in lint_crl(one)] == []
    assert openssl_crl_check(tmp_path, good.der, good.chain, lists).endswith(": OK")
    assert "certificate revoked" in openssl_crl_check(tmp_path, bad.der, bad.chain, lists)


async def test_a_list_says_what_is_revoked_and_who_signed(at: StatusWorld) -> None:
    plain, held, other = await at.certificate("plain"), await at.certificate("held"), await at.certificate("other")
    await at.revoke(plain, RevocationReason.UNSPECIFIED)
    await at.status.revocations.hold(ByCertificate(held.der), ORDER)
    await at.status.schedule.run_due()
    crl = await at.crl()
    ca = at.issuing.current.certificate
    assert crl.issuer.public_bytes() == ca.subject_der
    assert crl.is_signature_valid(ca.certificate.public_key())  # type: ignore[arg-type]
    assert crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == ca.key_identifier
    assert crl.last_update_utc == at.clock.now()
    assert crl.next_update_utc == at.clock.now() + timedelta(hours=24)
    assert serials(crl) == {plain.serial, held.serial}
    assert other.serial not in serials(crl)
    found = crl.get_revoked_certificate_by_serial_number(plain.serial)
    assert found is not None
    assert list(found.extensions) == []
    found = crl.get_revoked_certificate_by_serial_number(held.serial)
    assert found is not None
    assert found.extensions.get_extension_for_class(x509.CRLReason).value.reason is x509.ReasonFlags.certificate_hold


async def test_a_released_certificate_leaves_the_list(at: StatusWorld) -> None:
    held = await at.certificate()
    await at.status.revocations.hold(ByCertificate(held.der), ORDER)
    await at.status.schedule.run_due()
    assert serials(await at.crl()) == {held.serial}
    await at.status.revocations.release(ByCertificate(held.der), ORDER)
    at.clock.advance(timedelta(seconds=10))
    await at.status.schedule.run_due()
    crl = await at.crl()
    assert serials(crl) == set()
    assert number_of(crl) == 2


async def test_lists_come_on_schedule_and_after_gathered_revocations(at: StatusWorld) -> None:
    assert len(await at.status.schedule.run_due()) == 2
    assert await at.status.schedule.run_due() == ()
    at.clock.advance(timedelta(minutes=59, seconds=59))
    assert await at.status.schedule.run_due() == ()
    at.clock.advance(timedelta(seconds=1))
    assert {one.number for one in await at.status.schedule.run_due()} == {2}
    first, second = await at.certificate("first"), await at.certificate("second")
    await at.revoke(first)
    at.clock.advance(timedelta(seconds=6))
    await at.revoke(second)
    assert await at.status.schedule.run_due() == ()
    at.clock.advance(timedelta(seconds=4))
    [gathered] = await at.status.schedule.run_due()
    assert gathered.number == 3
    assert serials(await at.crl()) == {first.serial, second.serial}
    assert await at.status.schedule.run_due() == ()


async def test_where_revocations_bring_no_list_the_next_comes_on_schedule(at: StatusWorld) -> None:
    await configure(at, on_revocation=False)
    await at.status.schedule.run_due()
    revoked = await at.certificate()
    await at.revoke(revoked)
    at.clock.advance(timedelta(minutes=59))
    assert await at.status.schedule.run_due() == ()
    at.clock.advance(timedelta(minutes=1))
    await at.status.schedule.run_due()
    assert serials(await at.crl()) == {revoked.serial}


async def test_of_two_processes_one_issues(at: StatusWorld) -> None:
    others = [at.another_process() if n else at.status for n in range(2)]
    outcomes: list[tuple[object, ...]] = await gatherResults(
        [Deferred.fromCoroutine(one.schedule.run_due()) for one in others]
    )
    assert sum(len(one) for one in outcomes) == 2
    assert number_of(await at.crl()) == 1


async def test_a_process_that_slept_through_its_turn_writes_nothing(at: StatusWorld) -> None:
    held = await at.world.database.write(
        lambda c: leases.acquire(c, "crl", "sleeper", now=at.clock.now(), lasting=timedelta(seconds=1))
    )
    assert held is not None
    at.clock.advance(timedelta(seconds=2))
    with pytest.raises(Unavailable):
        await at.status.crls.issue(
            at.issuing,
            at.issuing.current,
            actor="tester",
            cause=Cause.SCHEDULE,
            guard=lambda c: leases.guard(c, held, now=at.clock.now()),
        )
    assert await at.status.crls.kept(at.issuing.current) is None


async def test_a_turn_that_ends_while_a_list_is_signed_writes_nothing(
    at: StatusWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = await at.world.database.write(
        lambda c: leases.acquire(c, "crl", "sleeper", now=at.clock.now(), lasting=timedelta(seconds=1))
    )
    assert held is not None
    sign = CrlSigner.sign

    async def slow(self: CrlSigner, *args: Any, **more: Any) -> bytes:
        at.clock.advance(timedelta(seconds=2))
        return await sign(self, *args, **more)

    monkeypatch.setattr(CrlSigner, "sign", slow)
    guard = lambda c: leases.guard(c, held, now=at.clock.now())  # noqa: E731
    with pytest.raises(Unavailable):
        await at.status.crls.issue(at.issuing, at.issuing.current, actor="tester", cause=Cause.SCHEDULE, guard=guard)
    assert await at.status.crls.kept(at.issuing.current) is None


async def test_numbers_rise_whoever_issues_and_a_late_one_is_dropped(at: StatusWorld) -> None:
    current = at.issuing.current
    numbers = [
        (await at.status.crls.issue(at.issuing, current, actor="tester", cause=Cause.DEMAND)).number for _ in range(3)
    ]
    assert numbers == [1, 2, 3]
    outcomes: list[object] = await gatherResults(
        [Deferred.fromCoroutine(_issue(at)) for _ in range(5)], consumeErrors=True
    )
    got = [one for one in outcomes if one is not None]
    newest = await at.status.crls.kept(current)
    assert newest is not None
    assert newest.number == max(got)  # type: ignore[type-var]
    assert len(set(got)) == len(got)


async def _issue(at: StatusWorld) -> int | None:
    try:
        issued = await at.status.crls.issue(at.issuing, at.issuing.current, actor="tester", cause=Cause.DEMAND)
    except Rejected:
        return None
    return issued.number


async def test_an_entry_stays_until_it_has_been_on_a_list_after_expiry(at: StatusWorld) -> None:
    issued = await at.certificate()
    await at.revoke(issued)
    end = x509.load_der_x509_certificate(issued.der).not_valid_after_utc
    await at.status.schedule.run_due()
    at.clock.advance(end - at.clock.now() - timedelta(minutes=30))
    await at.status.schedule.run_due()
    assert serials(await at.crl()) == {issued.serial}
    at.clock.advance(HOUR)  # now expired for half an hour: the first list after its end
    await at.status.schedule.run_due()
    assert serials(await at.crl()) == {issued.serial}
    at.clock.advance(2 * HOUR)
    await at.status.schedule.run_due()
    at.clock.advance(2 * HOUR)
    await at.status.schedule.run_due()
    assert serials(await at.crl()) == set()


async def test_lists_that_follow_each_other_quickly_let_no_entry_go(at: StatusWorld) -> None:
    """Only a list that was in force for a whole interval after the expiry has been seen by everybody (section 3.3)."""
    issued = await at.certificate()
    await at.revoke(issued)
    end = x509.load_der_x509_certificate(issued.der).not_valid_after_utc
    at.clock.advance(end - at.clock.now() - timedelta(minutes=1))
    await at.status.schedule.run_due()
    for _ in range(3):
        at.clock.advance(timedelta(minutes=10))
        await _issue(at)
        assert serials(await at.crl()) == {issued.serial}
    at.clock.advance(HOUR)
    await at.status.schedule.run_due()
    assert serials(await at.crl()) == set()


async def test_a_list_that_was_overtaken_while_it_was_signed_is_dropped(
    at: StatusWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await at.status.schedule.run_due()
    signing: Deferred[None] = Deferred()
    waiting: list[Deferred[None]] = []
    sign = CrlSigner.sign

    async def slow_at_first(self: CrlSigner, *args: Any, **more: Any) -> bytes:
        if not waiting:
            waiting.append(Deferred())
            signing.callback(None)
            await waiting[0]
        return await sign(self, *args, **more)

    monkeypatch.setattr(CrlSigner, "sign", slow_at_first)
    late = Deferred.fromCoroutine(_issue(at))
    await signing
    assert await _issue(at) == 3
    waiting[0].callback(None)
    assert await late is None
    kept = await at.status.crls.history(at.issuing.current, limit=9)
    assert [one.number for one in kept] == [3, 1]


async def test_after_a_rekey_each_key_signs_a_list_of_its_own(at: StatusWorld, tmp_path: Path) -> None:
    old = await at.certificate("old")
    await at.world.road.succession.rekey(
        "issuing", KeyChoice(key_type=KeyType.parse("ec-p256"), store="softhsm"), ACTOR
    )
    new = await at.certificate("new")
    await at.revoke(old)
    await at.status.schedule.run_due()
    generations = at.issuing.generations
    assert len(generations) == 2
    lists = []
    for generation in generations:
        found = await at.status.publications.crl(generation.crl_path)
        assert found is not None
        lists.append(found.der)
    views = [read_crl(one, generation.certificate) for one, generation in zip(lists, generations, strict=True)]
    assert views[0].is_complete
    assert serials(views[0].crl) == {old.serial}
    bounded = views[1].crl.extensions.get_extension_for_class(x509.IssuingDistributionPoint)
    assert bounded.critical
    assert serials(views[1].crl) == set(), "the new key's list is about what it signed itself"
    numbers = [number_of(x509.load_der_x509_crl(one)) for one in lists]
    assert len(set(numbers)) == 2, "two lists of one issuer name never share a number"
    assert len({generation.crl_path for generation in generations}) == 2
    root = await at.status.publications.crl(at.world.road.authorities.get("root").current.crl_path)
    assert root is not None
    assert openssl_crl_check(tmp_path, new.der, new.chain, [*lists, root.der]).endswith(": OK")
    assert "certificate revoked" in openssl_crl_check(tmp_path, old.der, old.chain, [*lists, root.der])


async def test_an_offline_roots_list_is_signed_elsewhere_and_served_here(at: StatusWorld) -> None:
    root = at.world.road.authorities.get("root")
    signer = at.world.keys.crl_signer(root.current.key_name or "")
    scheme = SignatureScheme.default_for(signer.public_key)
    ca = root.current.certificate

    async def sign(number: int, later: timedelta = timedelta()) -> bytes:
        wanted = OfflineCrl(ca, scheme, at.clock.now() + later, timedelta(days=90), number=number)
        return await signer.sign(encode_offline(wanted).der, scheme)

    await at.status.crls.install(root, root.current, await sign(50), actor="tester")
    assert number_of(await at.crl(root)) == 50
    for number in (50, 49, 1):
        with pytest.raises(Rejected, match="does not rise"):
            await at.status.crls.install(root, root.current, await sign(number), actor="tester")
    with pytest.raises(Rejected, match="another issuer"):
        await at.status.crls.install(at.issuing, at.issuing.current, await sign(51), actor="tester")
    for later, why in ((timedelta(hours=1), "from the future"), (-timedelta(seconds=1), "older than the one")):
        with pytest.raises(Rejected, match=why):
            await at.status.crls.install(root, root.current, await sign(51, later), actor="tester")
    issued = await at.status.crls.issue(root, root.current, actor="tester", cause=Cause.DEMAND)
    assert issued.number == 51


async def test_an_authority_without_its_key_says_so(at: StatusWorld) -> None:
    elsewhere = at.world.road.authorities.get("root").current
    gone = attrs.evolve(elsewhere, key_name=None)
    with pytest.raises(Rejected, match="offline"):
        await at.status.crls.issue(at.issuing, gone, actor="tester", cause=Cause.DEMAND)


def test_a_policy_whose_lists_would_end_before_the_next_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than interval"):
        CrlPolicy(interval=timedelta(hours=2), validity=timedelta(hours=2))
    with pytest.raises(ValueError, match="gather"):
        CrlPolicy(gather=timedelta(seconds=-1))


async def test_a_key_that_is_away_costs_no_numbers_and_is_told_once(
    at: StatusWorld, stores: tuple[ProviderSettings, ...]
) -> None:
    assert len(await at.status.schedule.run_due()) == 2
    key, turn = at.issuing.current.key_name, f"crl:{at.issuing.current.id}"
    assert key is not None
    await lose_and_miss(at.world.keys, stores[0], key)
    at.clock.advance(HOUR)
    before = await at.world.database.read(lambda c: leases.get(c, turn))
    with capturedLogs() as captured:
        for _ in range(3):
            assert [one.number for one in await at.status.schedule.run_due()] in ([2], [])
            at.clock.advance(timedelta(seconds=1))
    told = [formatEvent(event) or "" for event in captured if event["log_level"] is LogLevel.warn]
    assert len(told) == 1
    assert told[0].startswith("issuing: no CRL: ")
    assert [one.authority for one in at.status.schedule.problems()] == ["issuing"]
    numbers, _floor = await at.status.crls.last_numbers(at.issuing)
    assert max(numbers.values()) == 1
    assert await at.world.database.read(lambda c: leases.get(c, turn)) == before, "others may have the turn"


@pytest.mark.parametrize("inline", [1 << 20, 0], ids=["short", "long"])
async def test_what_the_token_signed_is_read_back_before_anybody_sees_it(
    at: StatusWorld, monkeypatch: pytest.MonkeyPatch, inline: int
) -> None:
    monkeypatch.setattr(crl_module, "_VERIFY_INLINE", inline)
    [first, *_] = await at.status.schedule.run_due()
    assert first.number == 1
    right = CrlSigner.sign

    async def wrong(self: CrlSigner, data: bytes, scheme: SignatureScheme) -> bytes:
        octets = await right(self, data, scheme)
        return octets[:-1] + bytes((octets[-1] ^ 1,))

    monkeypatch.setattr(CrlSigner, "sign", wrong)
    with pytest.raises(Defect, match="just signed"):
        await at.status.crls.issue(at.issuing, at.issuing.current, actor="tester", cause=Cause.DEMAND)
    monkeypatch.undo()
    assert number_of(await at.crl()) == 1
    again = await at.status.crls.issue(at.issuing, at.issuing.current, actor="tester", cause=Cause.DEMAND)
    assert again.number == 3, "the bad one's number is a gap"
