"""Delegated OCSP responders: made, renewed with overlap, one by one process, for every key of an authority."""

from __future__ import annotations

import contextlib
import hashlib
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from pkiserver.authority import certparts
from pkiserver.authority.lifecycle.ceremonies import KeyChoice
from pkiserver.authority.model import Generation
from pkiserver.authority.revocation import ByCertificate
from pkiserver.authority.status.directory import HASH_NAMES, issuer_hashes
from pkiserver.authority.status.policy import OcspPolicy, OcspSigning
from pkiserver.authority.status.source import AnswerSigner, ServedIssuer
from pkiserver.keys.algorithms import KeyType
from pkiserver.keys.faults import FaultKind, KeyUnavailable
from pkiserver.keys.settings import ProviderSettings
from pkiserver.store.certificates import CertificateState, RevocationReason
from tests.authority.status_world import ORDER, StatusWorld
from tests.authority.world import ACTOR, openssl_verify
from tests.support.keys import lose


async def served(at: StatusWorld, generation: Generation, hash_name: str = "sha1") -> ServedIssuer | None:
    return await at.status.directory.issuer(hash_name, *issuer_hashes(generation.certificate, hash_name))


async def signer(at: StatusWorld) -> AnswerSigner:
    await at.status.directory.refresh()
    found = await served(at, at.issuing.current)
    assert found is not None
    assert found.signer is not None
    return found.signer


async def test_every_authority_gets_a_responder_certificate(at: StatusWorld, tmp_path: Path) -> None:
    assert len(await at.status.responders.run_due()) == 2
    assert await at.status.responders.run_due() == ()
    own = (await signer(at)).certificate
    assert own is not None
    certificate = x509.load_der_x509_certificate(own)
    extensions = certificate.extensions
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.OCSP_SIGNING]
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_cert_sign
    assert extensions.get_extension_for_class(x509.OCSPNoCheck)
    for absent in (x509.AuthorityInformationAccess, x509.CRLDistributionPoints):
        with pytest.raises(x509.ExtensionNotFound):
            extensions.get_extension_for_class(absent)
    assert certificate.not_valid_after_utc == at.clock.now() + timedelta(days=30)
    chain = (at.issuing.current.certificate.der, *at.world.road.authorities.chain(at.issuing.current))
    assert openssl_verify(tmp_path, own, chain, "-purpose", "ocsphelper").endswith(": OK")
    record = await at.status.revocations.find(ByCertificate(own))
    assert (record.state, record.template) == (CertificateState.ISSUED, "ocsp-signing")


async def test_renewal_overlaps_and_old_keys_go_in_the_end(at: StatusWorld) -> None:
    await at.status.responders.run_due()
    first = await signer(at)
    at.clock.advance(timedelta(days=19, hours=23))
    assert await at.status.responders.run_due() == ()
    at.clock.advance(timedelta(hours=1))
    assert len(await at.status.responders.run_due()) == 2
    second = await signer(at)
    assert second.key_hash != first.key_hash
    assert first.not_after > at.clock.now() + timedelta(days=9), "answers of the old one live on for a while"
    names = {key.name for key in at.world.keys.list() if key.name.startswith("ocsp-")}
    assert len(names) == 4
    at.clock.advance(timedelta(days=20))
    await at.status.responders.run_due()
    after = {key.name for key in at.world.keys.list() if key.name.startswith("ocsp-")}
    assert len(after) == 4
    assert len(names - after) == 2
    assert at.status.problems() == ()


async def test_of_two_tasks_of_a_process_one_makes_the_responder(at: StatusWorld) -> None:
    """The clock and a change of the configuration may call for it in the same moment."""
    keeper = at.status.responders
    made = await gatherResults([Deferred.fromCoroutine(keeper.run_due()) for _ in range(2)])
    assert sum(map(len, made)) == 2


async def test_of_two_processes_one_makes_the_responder(at: StatusWorld) -> None:
    both = (at.status, at.another_process())
    made: list[tuple[str, ...]] = await gatherResults(
        [Deferred.fromCoroutine(one.responders.run_due()) for one in both]
    )
    assert sum(len(one) for one in made) == 2


async def test_a_key_that_a_dead_process_left_without_certificate_is_used(at: StatusWorld) -> None:
    generation = at.issuing.current
    name = f"ocsp-g{generation.id}-20260101000000.left"
    await at.world.keys.generate(name, KeyType.parse("ec-p256"), store="softhsm", doors=_ocsp_door())
    assert name in await at.status.responders.run_due()


def _ocsp_door() -> tuple[Any, ...]:
    from pkiserver.keys.doors import Door

    return (Door.OCSP,)


async def test_a_revoked_responder_is_replaced_at_once(at: StatusWorld) -> None:
    await at.status.responders.run_due()
    first = await signer(at)
    assert first.certificate is not None
    await at.status.revocations.revoke(ByCertificate(first.certificate), RevocationReason.KEY_COMPROMISE, ORDER)
    assert (await signer(at)).certificate is None, "the authority's own key signs meanwhile"
    assert len(await at.status.responders.run_due()) == 1
    second = await signer(at)
    assert second.certificate is not None
    assert second.key_hash != first.key_hash


async def test_a_responder_on_hold_signs_nothing_until_it_is_released(at: StatusWorld) -> None:
    await at.status.responders.run_due()
    first = await signer(at)
    assert first.certificate is not None
    await at.status.revocations.hold(ByCertificate(first.certificate), ORDER)
    assert (await signer(at)).certificate is None
    await at.status.revocations.release(ByCertificate(first.certificate), ORDER)
    assert (await signer(at)).certificate == first.certificate


async def test_where_the_authority_signs_itself_no_responder_is_made(at: StatusWorld) -> None:
    at.world.road.authorities._all["issuing"] = attrs.evolve(
        at.issuing, settings=attrs.evolve(at.issuing.settings, ocsp=OcspPolicy(signing=OcspSigning.AUTHORITY))
    )
    assert len(await at.status.responders.run_due()) == 1, "the root's alone"
    assert (await signer(at)).certificate is None


async def test_issuers_are_found_by_every_hash_and_strangers_are_not(at: StatusWorld) -> None:
    await at.status.directory.refresh()
    for hash_name in HASH_NAMES:
        found = await served(at, at.issuing.current, hash_name)
        assert found is not None
        assert found.authority == "issuing"
    name_hash, key_hash = issuer_hashes(at.issuing.current.certificate, "sha1")
    assert await at.status.directory.issuer("sha1", key_hash, name_hash) is None
    assert await at.status.directory.issuer("sha256", name_hash, key_hash) is None


async def test_until_a_responder_exists_the_authority_signs_if_it_may(at: StatusWorld) -> None:
    found = await signer(at)
    assert found.certificate is None
    bits = certparts.subject_public_key(at.issuing.current.certificate.spki)
    assert found.key_hash == hashlib.sha1(bits).digest()
    at.world.road.authorities._all["issuing"] = attrs.evolve(
        at.issuing, settings=attrs.evolve(at.issuing.settings, ocsp=OcspPolicy(signing=OcspSigning.DELEGATED))
    )
    await at.status.directory.refresh()
    nobody = await served(at, at.issuing.current)
    assert nobody is not None
    assert nobody.signer is None


async def test_where_the_responders_key_is_missing_the_authority_signs_if_it_may(
    at: StatusWorld, stores: tuple[ProviderSettings, ...]
) -> None:
    """As on a machine whose token is a copy from before the responder was made."""
    made = await at.status.responders.run_due()
    assert (await signer(at)).certificate is not None
    for name in made:
        lose(stores[0], name)
    while {one.name for one in at.world.keys.problems() if one.kind is FaultKind.KEY_MISSING} != set(made):
        for name in made:  # looked for in the token once a second; what is lost is looked for in a token opened anew
            with contextlib.suppress(KeyUnavailable):
                await at.world.keys.test(name)
        await deferLater(reactor, 0.05)  # type: ignore[arg-type]
    found = await signer(at)
    assert found.certificate is None
    bits = certparts.subject_public_key(at.issuing.current.certificate.spki)
    assert found.key_hash == hashlib.sha1(bits).digest()


async def test_every_key_of_an_authority_has_a_responder_and_answers_for_its_own(at: StatusWorld) -> None:
    old = await at.certificate("old")
    await at.world.road.succession.rekey(
        "issuing", KeyChoice(key_type=KeyType.parse("ec-p256"), store="softhsm"), ACTOR
    )
    new = await at.certificate("new")
    assert len(await at.status.responders.run_due()) == 3
    await at.status.directory.refresh()
    first, second = [await served(at, one) for one in at.issuing.generations]
    assert first is not None
    assert second is not None
    assert first.signer is not None
    assert second.signer is not None
    assert first.signer.key_hash != second.signer.key_hash
    for issuer, mine, foreign in ((first, old, new), (second, new, old)):
        known, unknown = await at.status.directory.statuses(issuer, [mine.serial, foreign.serial])
        assert known is not None
        assert known.state is CertificateState.ISSUED
        assert unknown is None


async def test_near_the_authoritys_end_it_is_not_renewed_over_and_over(at: StatusWorld) -> None:
    await at.status.responders.run_due()
    end = at.issuing.current.certificate.not_after
    at.clock.advance(end - at.clock.now() - timedelta(days=2))
    made = await at.status.responders.run_due()
    assert len(made) == 2
    at.clock.advance(timedelta(hours=1))
    assert await at.status.responders.run_due() == ()


def test_a_policy_whose_answers_outlive_their_signer_is_refused() -> None:
    with pytest.raises(ValueError, match="outlive"):
        OcspPolicy(validity=timedelta(days=11))
    with pytest.raises(ValueError, match="within"):
        OcspPolicy(renew_before=timedelta(days=30))
