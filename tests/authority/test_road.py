"""The one road over SoftHSM and SQLite: what comes out, what is refused, what can be done only once."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, rsa
from sqlalchemy import select

from pkiserver.authority.checkpoints import Step
from pkiserver.authority.requests import PreparedCertificate, spki_der
from pkiserver.foundation.errors import Defect, PkiError, Refusal, Rejected
from pkiserver.keys.settings import ProviderSettings
from pkiserver.store import certificates
from pkiserver.store.certificates import CertificateState, Criteria, RevocationReason, blocked_keys
from pkiserver.store.migrate import migrate
from pkiserver.store.schema.audit import audit_event
from tests.authority.world import TEMPLATE, World, authorised, fingerprint, open_world, openssl_verify


async def _hierarchy(world: World) -> None:
    await world.root()
    await world.subordinate(path_length=0)
    await world.template()


async def test_a_certificate_comes_out_and_openssl_accepts_it(world: World, tmp_path: Path) -> None:
    await _hierarchy(world)
    names = [x509.DNSName("one.example")]
    issued = await world.road.issue(await world.road.prepare(authorised(names=names)))
    certificate = x509.load_der_x509_certificate(issued.der)
    issuer = x509.load_der_x509_certificate(issued.chain[0])
    assert certificate.serial_number == issued.serial
    assert certificate.issuer.public_bytes() == issuer.subject.public_bytes()
    own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == own
    assert openssl_verify(tmp_path, issued.der, issued.chain).endswith(": OK")
    row = await world.database.read(lambda c: certificates.by_fingerprint(c, fingerprint(issued.der)))
    assert row is not None
    assert (row.state, row.serial, row.requester) == (CertificateState.ISSUED, issued.serial, "tester")


async def test_who_makes_a_certificate_is_known_to_be_alive_before(
    tmp_path: Path, stores: tuple[ProviderSettings, ...]
) -> None:
    """Commands give signs of life only from their first certificate on."""
    url = f"sqlite:///{tmp_path / 'pki.db'}"
    migrate(url)
    steps: list[tuple[Step, int]] = []

    def note(step: Step) -> None:
        with contextlib.closing(sqlite3.connect(tmp_path / "pki.db")) as database:
            [(count,)] = database.execute("SELECT count(*) FROM lease WHERE name LIKE 'issuer:%'")
            steps.append((step, count))

    world = await open_world(url, stores, checkpoint=note)
    try:
        await world.road.start(serving=False)
        await world.root()
    finally:
        await world.close()
    assert dict(steps) == dict.fromkeys(Step, 1) | {Step.BUILT: 0}


async def test_a_prepared_certificate_is_used_once(world: World) -> None:
    await _hierarchy(world)
    prepared = await world.road.prepare(authorised())
    await world.road.issue(prepared)
    with pytest.raises(Rejected) as refused:
        await world.road.issue(prepared)
    assert refused.value.has(Refusal.CONFLICT)


async def test_fifty_uses_at_once_give_one_certificate(world: World) -> None:
    await _hierarchy(world)
    prepared = await world.road.prepare(authorised())
    outcomes = await _gather(50, world, prepared)
    assert sum(outcome is None for outcome in outcomes) == 49


async def _gather(count: int, world: World, prepared: PreparedCertificate) -> list[object]:
    from twisted.internet.defer import Deferred, gatherResults

    async def once() -> object:
        try:
            return await world.road.issue(prepared)
        except Rejected:
            return None

    found: list[object] = await gatherResults([Deferred.fromCoroutine(once()) for _ in range(count)])
    return found


async def test_the_key_signs_what_was_prepared_and_nothing_else(world: World) -> None:
    await _hierarchy(world)
    prepared = await world.road.prepare(authorised())
    other = await world.road.prepare(authorised(common_name="somebody else"))
    wrong = attrs.evolve(prepared, issuer_key=ec.generate_private_key(ec.SECP256R1()).public_key())
    with pytest.raises(Defect):
        await world.road.issue(wrong)
    record = await world.database.read(lambda c: certificates.get(c, prepared.certificate_id))
    assert record is not None
    assert (record.state, record.der, record.tbs) == (CertificateState.REVOKED, None, prepared.tbs)
    assert await world.road.issue(other)


async def test_every_reason_is_told(world: World) -> None:
    await _hierarchy(world)
    weak = rsa.RSAPublicNumbers(3, 3 * 2**1000 + 3).public_key()
    request = authorised(weak, names=[x509.RFC822Name("a@example")])
    with pytest.raises(Rejected) as refused:
        await world.road.prepare(request)
    texts = [reason.text for reason in refused.value.reasons]
    assert any("fewer than 2048" in text for text in texts)
    assert any("exponent" in text for text in texts)
    assert any("small factor" in text for text in texts)
    assert any("not allowed" in text for text in texts)
    assert len(texts) >= 5


async def test_keys_that_must_not_be_certified_again(world: World) -> None:
    await _hierarchy(world)
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    issued = await world.road.issue(await world.road.prepare(authorised(key)))
    now = world.clock.now()
    await world.database.write(
        lambda c: certificates.revoke(c, issued.certificate_id, reason=RevocationReason.KEY_COMPROMISE, at=now)
    )
    with pytest.raises(Rejected, match="key compromise"):
        await world.road.prepare(authorised(key))
    listed = ec.generate_private_key(ec.SECP256R1()).public_key()
    await world.database.write(
        lambda c: blocked_keys.add_many(c, [fingerprint(spki_der(listed))], why="found in the wild", now=now)
    )
    with pytest.raises(Rejected, match="blocked keys"):
        await world.road.prepare(authorised(listed))
    own = world.road.authorities.get("issuing").current.certificate.certificate.public_key()
    with pytest.raises(Rejected, match="authority's own"):
        await world.road.prepare(authorised(own))


async def test_duplicates_are_refused_or_revoke_the_old_as_the_template_says(world: World) -> None:
    await _hierarchy(world)
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    first = await world.road.issue(await world.road.prepare(authorised(key)))
    await world.road.issue(await world.road.prepare(authorised(key)))  # the same key for the same subject
    with pytest.raises(Rejected, match="this key and another subject"):
        await world.road.prepare(authorised(key, "another"))
    await world.template(TEMPLATE + '\n[duplicates]\nsame_subject = "refuse"\n', revision=1)
    with pytest.raises(Rejected, match="this subject"):
        await world.road.prepare(authorised())
    renewal = await world.road.prepare(authorised(common_name="other", renewal_of=first.der))
    await world.road.issue(renewal)
    replaced = await world.database.read(lambda c: certificates.get(c, first.certificate_id))
    assert replaced is not None
    assert replaced.replaced_by == renewal.certificate_id
    await world.template(TEMPLATE + '\n[duplicates]\nsame_subject = "supersede"\n', revision=2)
    await world.road.issue(await world.road.prepare(authorised()))
    old = await world.database.read(lambda c: certificates.get(c, first.certificate_id))
    assert old is not None
    assert old.state is CertificateState.REVOKED
    assert old.revocation is not None
    assert old.revocation.reason is RevocationReason.SUPERSEDED


async def test_rivals_of_one_moment_do_not_both_pass(world: World) -> None:
    await _hierarchy(world)
    await world.template(TEMPLATE + '\n[duplicates]\nsame_subject = "refuse"\n', revision=1)
    await world.road.prepare(authorised())
    with pytest.raises(Rejected, match="this subject"):
        await world.road.prepare(authorised())


async def test_serials_are_long_random_and_never_shared(world: World) -> None:
    await _hierarchy(world)
    serials = {(await world.road.prepare(authorised(common_name=f"d{n}"))).serial for n in range(20)}
    assert len(serials) == 20
    assert all(serial.bit_length() == 159 for serial in serials)


async def test_a_random_source_that_repeats_is_noticed_before_signing(world: World) -> None:
    await _hierarchy(world)
    world.road.preparer._rng = lambda count: b"\x55" * count
    await world.road.prepare(authorised())
    with pytest.raises(Rejected) as refused:
        await world.road.prepare(authorised(common_name="another"))
    assert refused.value.has(Refusal.CONFLICT)


async def test_post_quantum_and_rsa_subjects(world: World) -> None:
    await _hierarchy(world)
    for key in (mldsa.MLDSA65PrivateKey.generate(), rsa.generate_private_key(65537, 2048)):
        issued = await world.road.issue(await world.road.prepare(authorised(key.public_key(), type(key).__name__)))
        assert x509.load_der_x509_certificate(issued.der).public_key() == key.public_key()


async def test_what_the_linter_finds_refuses_by_the_templates_level(world: World) -> None:
    await _hierarchy(world)
    bad = TEMPLATE.replace('usages = ["digital_signature"]', 'usages = ["digital_signature"]\ncritical = false')
    await world.template(bad, revision=1)
    prepared = await world.road.prepare(authorised(names=[x509.DNSName("fine.example")]))
    assert prepared.warnings  # keyUsage SHOULD be critical


def test_only_the_gate_authorises() -> None:
    root = Path(__file__).parents[2]
    made = [
        path.relative_to(root).as_posix()
        for folder in ("pkiserver", "protocols")
        for path in (root / folder).rglob("*.py")
        if re.search(r"= Authorised\(|return Authorised\(", path.read_text())
    ]
    assert made
    assert all(path.startswith("pkiserver/registration/") for path in made), made


async def test_a_key_that_cannot_be_had_burns_the_serial(world: World) -> None:
    await _hierarchy(world)
    prepared = await world.road.prepare(authorised())
    await world.keys.close()
    with pytest.raises(PkiError):
        await world.road.issue(prepared)
    row = await world.database.read(lambda c: certificates.get(c, prepared.certificate_id))
    assert row is not None
    assert row.state is CertificateState.BURNT


async def test_a_key_that_is_away_costs_an_enrolment_no_serial(world: World) -> None:
    await _hierarchy(world)
    before = await world.database.read(lambda c: certificates.search(c, Criteria(), limit=100))
    await world.keys.close()
    with pytest.raises(PkiError):
        await world.road.prepare(authorised(), ask=True)
    assert await world.database.read(certificates.open_intents) == ()
    assert await world.database.read(lambda c: certificates.search(c, Criteria(), limit=100)) == before


async def test_the_audit_log_tells_of_every_certificate(world: World) -> None:
    await _hierarchy(world)
    issued = await world.road.issue(await world.road.prepare(authorised()))
    rows = await world.database.read(
        lambda c: c.execute(select(audit_event).where(audit_event.c.kind == "issue").order_by(audit_event.c.seq)).all()
    )
    assert len(rows) == 3  # the root's, the subordinate's, the device's
    assert rows[-1].object == f"certificate {issued.serial:x}"
    assert (rows[-1].actor, rows[-1].request_id, rows[-1].outcome) == ("tester", "test-1", "ok")


async def test_what_cannot_be_audited_is_not_issued(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await _hierarchy(world)
    prepared = await world.road.prepare(authorised())

    def refuse(*_arguments: object) -> None:
        raise Defect("the log is full")

    monkeypatch.setattr(world.audit, "append", refuse)
    with pytest.raises(Defect):
        await world.road.issue(prepared)
    assert await world.database.read(lambda c: certificates.get(c, prepared.certificate_id)) is None
    monkeypatch.undo()
    intent = await world.database.read(lambda c: certificates.get_intent(c, prepared.certificate_id))
    assert intent is not None
    assert intent.state is CertificateState.ASKED  # recovery keeps it as issued and revokes the serial
