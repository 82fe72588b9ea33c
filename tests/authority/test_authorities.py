"""CAs: tiers, imports, foreign and offline issuers, renewal and rekeying; verified by openssl."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pkiserver.authority import certparts
from pkiserver.authority.lifecycle.ceremonies import ExistingAuthority, KeyChoice, NewAuthority
from pkiserver.authority.lifecycle.profile import END_OF_TIME, CaProfile, Outlive, parse_name
from pkiserver.authority.model import Duty
from pkiserver.authority.settings import AuthoritySettings
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.keys.algorithms import KeyType
from pkiserver.store.authority.authorities import GenerationState
from tests.authority.world import ACTOR, SETTINGS, World, authorised, new_key, openssl_verify


def _extension(certificate: bytes, kind: type[x509.ExtensionType]) -> x509.ExtensionType:
    return x509.load_der_x509_certificate(certificate).extensions.get_extension_for_class(kind).value


async def test_four_tiers_verify(world: World, tmp_path: Path) -> None:
    await world.root(path_length=3)
    await world.subordinate("policy", "root", "CN=Policy,O=Example,C=CH")
    await world.subordinate("regional", "policy", "CN=Regional,O=Example,C=CH")
    await world.subordinate("issuing", "regional")
    lengths = [
        world.road.authorities.get(n).current.certificate.path_length for n in ("root", "policy", "regional", "issuing")
    ]
    assert lengths == [3, 2, 1, 0]
    await world.template()
    issued = await world.road.issue(await world.road.prepare(authorised()))
    assert len(issued.chain) == 4
    assert openssl_verify(tmp_path, issued.der, issued.chain).endswith(": OK")
    with pytest.raises(Rejected, match="path length is 0"):
        await world.subordinate("fifth", "issuing", "CN=Fifth,O=Example,C=CH")


async def test_what_a_ca_certificate_says(world: World) -> None:
    root = await world.root(
        path_length=1,
        permitted=("dns:example.com", "ip:192.0.2.0/24", "email:example.com", "dn:O=Example,C=CH"),
        policies=("1.3.6.1.4.1.99999.1 https://pki.example/cps",),
        not_after=END_OF_TIME,
    )
    certificate = root.current.certificate
    assert b"\x18\x0f99991231235959Z" in certificate.der
    names = _extension(certificate.der, x509.NameConstraints)
    assert isinstance(names, x509.NameConstraints)
    assert names.permitted_subtrees is not None
    assert len(names.permitted_subtrees) == 4
    ski = _extension(certificate.der, x509.SubjectKeyIdentifier)
    assert isinstance(ski, x509.SubjectKeyIdentifier)
    assert ski.digest == certparts.key_identifier(certificate.spki)
    child = (await world.subordinate()).current.certificate
    pointers = _extension(child.der, x509.CRLDistributionPoints)
    assert isinstance(pointers, x509.CRLDistributionPoints)
    full_name = pointers[0].full_name
    assert full_name is not None
    assert full_name[0].value == "http://pki.example/crl/root-1.crl"


async def test_a_child_never_outlives_its_issuer(world: World) -> None:
    root = await world.root(validity=timedelta(days=1000))
    clamped = await world.subordinate(validity=timedelta(days=5000))
    assert clamped.current.certificate.not_after == root.current.certificate.not_after
    with pytest.raises(Rejected) as refused:
        await world.subordinate("b", dn="CN=B", validity=timedelta(days=5000), outlive=Outlive.REFUSE)
    assert refused.value.has(Refusal.BAD_VALIDITY)


async def test_wishes_that_cannot_be_are_refused_with_all_reasons(world: World) -> None:
    await world.root(path_length=1)
    with pytest.raises(Rejected) as refused:
        await world.subordinate(path_length=4, permitted=("dns", "ip:300.1.1.1/8"), policies=("one.two",))
    assert len(refused.value.reasons) == 4
    # The ceremony broke off after the key was made: the same command with better wishes takes it up again.
    assert (await world.subordinate(path_length=0)).current.number == 1


async def test_names_and_dns_are_taken_once(world: World) -> None:
    await world.root()
    with pytest.raises(Rejected, match="exists already"):
        await world.root()
    with pytest.raises(Rejected, match="rekey it"):
        await world.root("other")


@pytest.mark.parametrize("kind", ["rsa-2048", "ec-p384", "ed25519", "ml-dsa-65"])
async def test_roots_of_every_kind(world: World, kind: str) -> None:
    store = "software" if kind.startswith("ml-dsa") else "softhsm"
    key = KeyChoice(name=f"{new_key().name}", key_type=KeyType.parse(kind), store=store)
    root = await world.road.ceremonies.create_root(NewAuthority("root", parse_name("CN=R"), CaProfile(), key), ACTOR)
    ca = root.current.certificate
    assert ca.signed_by(ca)


async def test_a_root_may_sign_with_rsa_pss(world: World) -> None:
    key = KeyChoice(name=new_key().name, key_type=KeyType.parse("rsa-2048"), store="softhsm")
    settings = AuthoritySettings(scheme="rsa-pss-sha256")
    new = NewAuthority("root", parse_name("CN=R"), CaProfile(), key, settings)
    ca = (await world.road.ceremonies.create_root(new, ACTOR)).current.certificate
    assert ca.certificate.signature_algorithm_oid == x509.SignatureAlgorithmOID.RSASSA_PSS
    assert ca.signed_by(ca)


async def test_subordinate_to_a_foreign_root(world: World, tmp_path: Path) -> None:
    """The foreign CA is openssl's."""
    foreign = _foreign_root(tmp_path)
    new = NewAuthority("issuing", parse_name("CN=Ours,O=Example,C=CH"), CaProfile(path_length=0), new_key(), SETTINGS)
    request = await world.road.ceremonies.create_requested(new, ACTOR)
    answer = _foreign_answer(tmp_path, request)
    with pytest.raises(Rejected, match="does not reach a root"):
        await world.road.ceremonies.install("issuing", answer, (), ACTOR)
    installed = await world.road.ceremonies.install("issuing", answer, (foreign,), ACTOR)
    assert installed.current.certificate.path_length == 0
    await world.template()
    issued = await world.road.issue(await world.road.prepare(authorised()))
    assert issued.chain == (answer, foreign)
    assert openssl_verify(tmp_path, issued.der, issued.chain).endswith(": OK")


async def test_a_foreign_answer_for_another_key_tells_every_fault(world: World) -> None:
    new = NewAuthority("issuing", parse_name("CN=Ours"), CaProfile(), new_key(), SETTINGS)
    await world.road.ceremonies.create_requested(new, ACTOR)
    with pytest.raises(Rejected) as refused:
        await world.road.ceremonies.install("issuing", _foreign_ca("CN=Theirs", days=-1), (), ACTOR)
    text = str(refused.value)
    assert "another key" in text
    assert "subject" in text
    assert "expired" in text
    assert not world.road.authorities.get("issuing").generations[0].ca


async def test_an_offline_root_signs_from_files(world: World, tmp_path: Path) -> None:
    """The air-gapped side and the server are one program; here one world plays both, with files between."""
    await world.root("root", path_length=1)
    new = NewAuthority("sub", parse_name("CN=Sub,O=Example"), CaProfile(path_length=0), new_key(), SETTINGS)
    request = await world.road.ceremonies.create_requested(new, ACTOR)
    answer = await world.road.ceremonies.sign_request("root", request, CaProfile(path_length=0), ACTOR)
    await world.road.ceremonies.install("sub", answer.der, (), ACTOR)
    assert openssl_verify(tmp_path, answer.der, answer.chain).endswith(": OK")
    own = await world.road.ceremonies.request("root")
    with pytest.raises(Rejected, match="own name"):
        await world.road.ceremonies.sign_request("root", own, CaProfile(), ACTOR)


async def test_a_root_without_its_key(world: World) -> None:
    certificate = _foreign_ca("CN=Kept in a safe")
    imported = await world.road.ceremonies.import_authority(ExistingAuthority("safe", certificate), ACTOR)
    assert imported.current.key_name is None
    with pytest.raises(Rejected, match="offline"):
        world.road.authorities.issuing("safe")
    keys = [one.name for one in world.keys.list()]
    for going_on in (
        world.road.succession.rekey("safe", new_key(), ACTOR),
        world.road.succession.renew("safe", ACTOR),
    ):
        with pytest.raises(Rejected, match="renew or rekey it where its key is"):
            await going_on
    assert [one.name for one in world.keys.list()] == keys
    assert len(world.road.authorities.get("safe").generations) == 1


async def test_an_imported_key_must_be_the_certificates(world: World) -> None:
    existing = ExistingAuthority("x", _foreign_ca("CN=Other"), key=new_key())
    with pytest.raises(Rejected, match="not the key of the certificate"):
        await world.road.ceremonies.import_authority(existing, ACTOR)


async def test_duties_follow_the_key_usage(world: World) -> None:
    key = new_key()
    assert key.name is not None
    root = await world.road.ceremonies.create_root(NewAuthority("a", parse_name("CN=A"), CaProfile(), key), ACTOR)
    assert root.current.duties == frozenset(Duty)
    crl_only = _foreign_ca("CN=No certificates", cert_sign=False)
    await world.road.ceremonies.import_authority(ExistingAuthority("no-certs", crl_only), ACTOR)
    assert world.road.authorities.get("no-certs").current.duties == {Duty.CRLS}
    with pytest.raises(Rejected, match="keyCertSign"):
        world.road.authorities.issuing("no-certs")
    problems = [one.text for one in world.road.authorities.problems() if one.authority == "no-certs"]
    assert problems == ["its certificate lacks keyCertSign: it issues no certificates"]


async def test_an_odd_issuer_is_copied_octet_for_octet(world: World, tmp_path: Path) -> None:
    """DN as TeletexString, an SKI of odd octets: certificates below carry what the certificate above says."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Alt CA", x509.name._ASN1Type.T61String)])
    signer = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "ca.p8").write_bytes(_pkcs8(signer))
    certificate = _certify(name, signer, ski=b"odd identifier")
    key_name = new_key().name
    assert key_name is not None
    await world.keys.import_pkcs8(key_name, _pkcs8(signer), None, store="softhsm", doors=KeyChoice().doors)
    existing = ExistingAuthority("issuing", certificate, key=KeyChoice(name=key_name), settings=SETTINGS)
    await world.road.ceremonies.import_authority(existing, ACTOR)
    await world.template()
    issued = await world.road.issue(await world.road.prepare(authorised()))
    assert certparts.issuer_octets(issued.der) == certparts.subject_octets(certificate)
    identifier = _extension(issued.der, x509.AuthorityKeyIdentifier)
    assert isinstance(identifier, x509.AuthorityKeyIdentifier)
    assert identifier.key_identifier == b"odd identifier"
    assert openssl_verify(tmp_path, issued.der, issued.chain, "-partial_chain").endswith(": OK")


async def test_renewal_keeps_key_name_and_serials_apart(world: World, tmp_path: Path) -> None:
    await world.root()
    await world.subordinate(permitted=("dns:example.com",), path_length=0)
    before = world.road.authorities.get("issuing").current.certificate
    root = (await world.road.succession.renew("root", ACTOR, validity=timedelta(days=7000))).authority
    after = (await world.road.succession.renew("issuing", ACTOR)).authority.current.certificate
    assert (after.spki, after.subject_der, after.key_identifier) == (
        before.spki,
        before.subject_der,
        before.key_identifier,
    )
    assert after.certificate.serial_number != before.certificate.serial_number
    assert _extension(after.der, x509.NameConstraints) == _extension(before.der, x509.NameConstraints)
    chain = world.road.authorities.chain(world.road.authorities.get("issuing").current)
    assert chain == (root.current.certificate.der,)
    assert openssl_verify(tmp_path, after.der, chain).endswith(": OK")
    assert openssl_verify(tmp_path, before.der, chain).endswith(": OK")  # the old one verifies under the new root


async def test_rekey_of_a_root_links_old_and_new(world: World, tmp_path: Path) -> None:
    old = (await world.root()).current
    await world.subordinate()
    await world.template()
    under_old = await world.road.issue(await world.road.prepare(authorised()))
    root = (await world.road.succession.rekey("root", new_key(), ACTOR)).authority
    new = root.current
    assert (new.number, new.crl_path, old.crl_path) == (2, "root-2", "root-1")
    assert new.certificate.subject_der == old.certificate.subject_der
    assert new.certificate.spki != old.certificate.spki
    assert [one.state for one in root.generations] == [GenerationState.PREVIOUS, GenerationState.ACTIVE]
    assert new.new_with_old is not None
    assert new.old_with_new is not None
    served = world.road.authorities.served("root")
    assert served == (new.certificate.der, new.new_with_old, new.old_with_new, old.certificate.der)
    sub = world.road.authorities.get("issuing").current.certificate.der
    # Whoever trusts only the new root verifies what the old one signed, by OldWithNew; and the other way round.
    assert openssl_verify(tmp_path, under_old.der, (sub, new.old_with_new, new.certificate.der)).endswith(": OK")
    # From the CA below, whose certificate is by the old key, clients learn of the new one all the same.
    below_it = world.road.authorities.served("issuing")
    assert below_it[:2] == (sub, old.certificate.der)
    assert set(below_it) == {sub, *served}
    fresh = await world.subordinate("b", dn="CN=B,O=Example")
    below = fresh.current.certificate.der
    assert openssl_verify(tmp_path, below, (new.new_with_old, old.certificate.der)).endswith(": OK")
    assert openssl_verify(tmp_path, below, (new.certificate.der,)).endswith(": OK")


async def test_rekey_of_an_issuing_ca(world: World, tmp_path: Path) -> None:
    await world.root()
    await world.subordinate()
    await world.template()
    first = await world.road.issue(await world.road.prepare(authorised()))
    issuing = (await world.road.succession.rekey("issuing", new_key(), ACTOR)).authority
    second = await world.road.issue(await world.road.prepare(authorised(common_name="second")))
    assert first.chain[0] != second.chain[0]
    for one in (first, second):
        assert openssl_verify(tmp_path, one.der, one.chain).endswith(": OK")
    pointers = _extension(second.der, x509.CRLDistributionPoints)
    assert "http://pki.example/crl/issuing-2.crl" in repr(pointers)
    assert len(world.road.authorities.served("issuing")) == 5
    retired = await world.road.succession.retire("issuing", 1, ACTOR)
    assert retired.generations[0].state is GenerationState.RETIRED
    with pytest.raises(Rejected, match="the one that issues"):
        await world.road.succession.retire("issuing", 2, ACTOR)
    with pytest.raises(Rejected, match="generation 1 of issuing is retired already"):
        await world.road.succession.retire("issuing", 1, ACTOR)
    assert issuing.issuer_id == retired.issuer_id


async def test_rekey_under_a_foreign_root_waits_for_the_answer(world: World, tmp_path: Path) -> None:
    foreign = _foreign_root(tmp_path)

    new = NewAuthority("issuing", parse_name("CN=Ours,O=Example,C=CH"), CaProfile(path_length=0), new_key(), SETTINGS)
    request = await world.road.ceremonies.create_requested(new, ACTOR)
    await world.road.ceremonies.install("issuing", _foreign_answer(tmp_path, request), (foreign,), ACTOR)
    waiting = await world.road.succession.rekey("issuing", new_key(), ACTOR)
    assert waiting.request is not None
    assert waiting.authority.current.number == 1  # the old key goes on issuing meanwhile
    await world.road.ceremonies.install("issuing", _foreign_answer(tmp_path, waiting.request), (foreign,), ACTOR)
    linked = await world.road.succession.link("issuing", ACTOR)
    assert linked.current.number == 2
    assert linked.current.new_with_old is not None
    assert linked.current.old_with_new is not None


def _openssl(directory: Path, line: str) -> None:
    subprocess.run(["openssl", *line.split()], cwd=directory, check=True, capture_output=True)


def _foreign_root(directory: Path) -> bytes:
    """A root of openssl's own, by its DER; its key stays in ``directory``."""
    usage = "-addext keyUsage=critical,keyCertSign,cRLSign"
    _openssl(directory, f"req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=Foreign {usage}")
    certificate = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
    return certificate.public_bytes(serialization.Encoding.DER)


def _foreign_answer(directory: Path, request: bytes) -> bytes:
    (directory / "csr").write_bytes(request)
    signing = "-CA ca.pem -CAkey ca.key -copy_extensions copy -days 20"
    _openssl(directory, f"x509 -req -inform DER -in csr {signing} -outform DER -out answer")
    return (directory / "answer").read_bytes()


def _pkcs8(key: ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.DER, form, serialization.NoEncryption())


def _foreign_ca(dn: str, *, days: int = 50, cert_sign: bool = True) -> bytes:
    return _certify(
        x509.Name.from_rfc4514_string(dn), ec.generate_private_key(ec.SECP256R1()), days=days, cert_sign=cert_sign
    )


def _certify(
    name: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    *,
    days: int = 50,
    cert_sign: bool = True,
    ski: bytes | None = None,
) -> bytes:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7).not_valid_before(now - timedelta(days=60))
    builder = builder.not_valid_after(now + timedelta(days=days))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    usage = x509.KeyUsage(True, False, False, False, False, cert_sign, True, False, False)
    builder = builder.add_extension(usage, critical=True)
    if ski is not None:
        builder = builder.add_extension(x509.SubjectKeyIdentifier(ski), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
