"""EST over the real engine: SoftHSM, SQLite, the gate with accounts, codes and approvals, and every rule of renewal."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key
from sqlalchemy import select, update

from pkiserver.authority.revocation import ByFingerprint, Order
from pkiserver.keys.algorithms import KeyType
from pkiserver.runtime.protocolsettings import EstNodeSettings
from pkiserver.runtime.services.estservice import Est
from pkiserver.store.certificates import CertificateState, RevocationReason
from pkiserver.store.schema.certificates import certificate as certificate_table
from protocols.cms import oids
from protocols.cms.ber import header, only_child
from protocols.cms.certs import parse_certs_only
from protocols.cms.signing import attribute
from protocols.est import keygen
from tests.protocols.est.requests import csr, oid, sequence
from tests.protocols.est.support import Site
from tests.protocols.est.world import World

ME = ("-u", "me:a long password")


def chain(world: World) -> None:
    der = base64.b64decode(world.site.curl("cacerts"))
    (world.site.folder / "chain.crt").write_bytes(
        world.site.openssl("pkcs7", "-inform", "DER", "-print_certs", data=der)
    )


def test_crls_of_the_whole_line_and_an_authoritys_name_as_label(world: World) -> None:
    site = world.site
    chain(world)
    request = site.request("listed")
    listed = site.certificate(site.post("device/simpleenroll", request, *ME), "listed")
    world.one(world.engine.status.schedule.run_due())
    revoke = world.engine.status.revocations.revoke(
        ByFingerprint(listed.fingerprint(hashes.SHA256())), RevocationReason.SUPERSEDED, Order("tester")
    )
    world.one(revoke)
    issuing = world.engine.authorities.get("issuing")
    world.one(world.engine.status.schedule.issue_now(issuing, issuing.current, actor="tester"))
    for label in ("device/", "issuing/", ""):
        body = base64.b64decode(site.curl(f"{label}crls"))
        pem = site.openssl("pkcs7", "-inform", "DER", "-print_certs", data=body).decode()
        assert "CERTIFICATE-----" not in pem
        bag = parse_certs_only(body)
        (site.folder / "lists.pem").write_bytes(b"".join(_pem(one) for one in bag.crls))
        assert {x509.load_der_x509_crl(one).issuer.rfc4514_string() for one in bag.crls} == {
            "CN=Walk root,O=Example,C=CH", "CN=Walk issuing,O=Example,C=CH"
        }  # fmt: skip
        checked = ("verify", "-crl_check_all", "-CAfile", "chain.crt", "-CRLfile", "lists.pem", "listed.crt")
        done = subprocess.run(["openssl", *checked], capture_output=True, cwd=site.folder, check=False)
        assert b"certificate revoked" in done.stdout + done.stderr
    head = site.curl("device/crls", "-I")
    assert b"smime-type=crls-only" in head
    # "issuing" has several templates, of which the default one is meant
    own = site.request("by-authority")
    assert site.certificate(site.post("issuing/simpleenroll", own, *ME), "by-authority").issuer == listed.issuer
    assert b"no such" in site.curl("eecerts", status=404)
    site.curl("nowhere/crls", status=404)


def _pem(der: bytes) -> bytes:
    return x509.load_der_x509_crl(der).public_bytes(Encoding.PEM)


def test_walk_cacerts_enrol_verify_renew(world: World) -> None:
    site = world.site
    chain(world)
    request = site.request("walker", "-addext", "subjectAltName=DNS:walker.example")
    first = site.certificate(site.post("simpleenroll", request, *ME), "walker")
    assert b"OK" in site.openssl("verify", "-CAfile", "chain.crt", "walker.crt")
    assert first.subject.rfc4514_string() == "CN=walker"
    shown = ("--cert", "walker.crt", "--key", "walker.key")
    second = site.certificate(site.post("simplereenroll", site.again("walker"), *shown), "walker2")
    san = x509.SubjectAlternativeName
    assert second.extensions.get_extension_for_class(san) == first.extensions.get_extension_for_class(san)
    assert second.serial_number != first.serial_number
    rekeyed = site.certificate(site.post("simplereenroll", _renamed(site, "walker", "walker-new"), *shown), "walker3")
    assert rekeyed.public_key() != first.public_key()
    assert b"subject" in site.post("simplereenroll", site.request("somebody-else"), *shown, status=400)


def _renamed(site: Site, subject: str, key: str) -> bytes:
    """A request for ``subject`` with a fresh key in ``key``.key."""
    site.request(key)
    return site.openssl("req", "-new", "-key", f"{key}.key", "-subj", f"/CN={subject}", "-outform", "DER")


def test_who_may_not(world: World) -> None:
    site = world.site
    der = site.request("nobody")
    assert b"password" in site.post("device/simpleenroll", der, status=401)
    wrong = site.post("device/simpleenroll", der, "-u", "me:wrong", status=401)
    unknown = site.post("device/simpleenroll", der, "-u", "nobody:wrong", status=401)
    assert wrong == unknown, "an unknown name looks like a wrong password"
    assert b"groups" in site.post("device/simpleenroll", der, "-u", "stranger:a long password", status=401)
    ca_csr = site.again("nobody", "-addext", "basicConstraints=critical,CA:TRUE")
    site.post("device/simpleenroll", ca_csr, *ME, status=400)


def test_renewal_outside_its_window_is_refused(world: World) -> None:
    site = world.site
    site.certificate(site.post("early/simpleenroll", site.request("early"), *ME), "early")
    shown = ("--cert", "early.crt", "--key", "early.key")
    assert b"renewed from" in site.post("early/simplereenroll", site.again("early"), *shown, status=403)


@pytest.mark.parametrize("state", [CertificateState.REVOKED, CertificateState.HELD])
def test_anchor_7_a_revoked_certificate_renews_nothing(world: World, state: CertificateState) -> None:
    site, name = world.site, f"was-{state.name.lower()}"
    issued = site.certificate(site.post("device/simpleenroll", site.request(name), *ME), name)
    fingerprint = issued.fingerprint(hashes.SHA256())
    table = certificate_table

    def revoke(connection: Any) -> int:
        found = connection.execute(select(table.c.id).where(table.c.fingerprint == fingerprint)).scalar_one()
        done = connection.execute(update(table).where(table.c.id == found).values(state=state.value))
        return int(done.rowcount)

    assert world.one(world.engine.database.write(revoke)) == 1
    shown = ("--cert", f"{name}.crt", "--key", f"{name}.key")
    refused = site.post("device/simplereenroll", site.again(name), *shown, status=403)
    assert b"revoked" in refused or b"hold" in refused


def test_anchor_7_a_foreign_certificate_renews_nothing(world: World) -> None:
    site = world.site
    der = site.request("foreign")
    site.openssl("req", "-x509", "-key", "foreign.key", "-subj", "/CN=foreign", "-days", "9", "-out", "foreign.crt")
    shown = ("--cert", "foreign.crt", "--key", "foreign.key")
    assert b"not issued here" in site.post("device/simplereenroll", der, *shown, status=403)


def test_fifty_uses_of_one_code_bring_one_certificate(world: World) -> None:
    site = world.site
    made = world.engine.codes.create(
        template="device",
        subject=x509.Name.from_rfc4514_string("CN=promised"),
        sans=(),
        lifetime=dt.timedelta(hours=1),
        by="tester",
    )
    _, code = world.one(made)
    der = base64.encodebytes(site.request("promised"))
    (site.folder / "fifty.b64").write_bytes(der)

    def enrol(_number: int) -> str:
        command = ["curl", "-sS", "--cacert", "ca.crt", "-o", "/dev/null", "-w", "%{http_code}"]
        command += ["-u", f":{code.reveal_text()}", "-H", "Content-Type: application/pkcs10"]
        command += ["--data-binary", "@fifty.b64", f"{site.base}/device/simpleenroll"]
        return subprocess.run(command, capture_output=True, check=True, cwd=site.folder, text=True).stdout

    with ThreadPoolExecutor(16) as pool:
        codes = list(pool.map(enrol, range(50)))
    assert codes.count("200") == 1
    assert set(codes) <= {"200", "401", "403", "409"}


def pending(world: World) -> Any:
    (found,) = world.one(world.engine.approvals.list_page())
    return found


def test_approval_is_awaited_and_found_again(world: World) -> None:
    site = world.site
    der = site.request("waiting")
    head = site.post("approved/simpleenroll", der, *ME, "-D", "-", status=202).decode()
    assert "Retry-After: " in head
    again = site.again("waiting")
    assert again != der, "signed anew, as a client does that links its request"
    site.post("approved/simpleenroll", again, *ME, status=202)
    world.one(world.engine.approvals.decide(pending(world).id, approved=True, by="officer"))
    first = site.certificate(site.post("approved/simpleenroll", der, *ME), "waiting")
    second = site.certificate(site.post("approved/simpleenroll", again, *ME), "waiting")
    assert first == second


def test_who_shows_nothing_waits_while_there_is_room_for_their_address(world: World) -> None:
    site = world.site
    der = site.request("first-of-many")
    site.post("crowded/simpleenroll", der, status=202)
    turned_away = site.post("crowded/simpleenroll", site.request("second-of-many"), "-D", "-", status=503).decode()
    assert "Retry-After: 600" in turned_away
    assert "too many requests of this address wait for approval: come again later" in turned_away
    site.post("crowded/simpleenroll", der, status=202)
    world.one(world.engine.approvals.decide(pending(world).id, approved=False, by="officer"))
    site.post("crowded/simpleenroll", site.again("second-of-many"), status=202)
    world.one(world.engine.approvals.decide(pending(world).id, approved=False, by="officer"))


def test_a_generated_key_is_approved_once_and_given_out_once(world: World) -> None:
    site = world.site
    der = site.request("made-here")
    site.post("approved/serverkeygen", der, *ME, status=202)
    site.post("approved/serverkeygen", der, *ME, status=202)
    world.one(world.engine.approvals.decide(pending(world).id, approved=True, by="officer"))
    body = site.post("approved/serverkeygen", der, *ME)
    texts = [part.split(b"\r\n\r\n", 1)[1] for part in body.split(b"\r\n--est-") if b"base64" in part]
    key = load_der_private_key(base64.b64decode(texts[0]), None)
    certificate = site.certificate(texts[1].split(b"\r\n--")[0], "made-here")
    assert certificate.public_key() == key.public_key()
    assert b"earlier request" in site.post("approved/serverkeygen", der, *ME, status=409)


def test_a_denied_request_says_why(world: World) -> None:
    site = world.site
    der = site.request("denied")
    site.post("approved/simpleenroll", der, *ME, status=202)
    decision = world.engine.approvals.decide(pending(world).id, approved=False, by="officer", reason="not this one")
    world.one(decision)
    assert b"not this one" in site.post("approved/simpleenroll", der, *ME, status=403)


def test_password_and_certificate_together(world: World) -> None:
    site = world.site
    der = site.request("second")
    no_help = site.post("both/simpleenroll", der, *ME, "-D", "-", status=403).decode()
    assert "WWW-Authenticate" not in no_help
    site.certificate(site.post("device/simpleenroll", site.request("bearer"), *ME), "bearer")
    shown = ("--cert", "bearer.crt", "--key", "bearer.key")
    assert b"password" in site.post("both/simpleenroll", der, *shown, status=401)
    site.certificate(site.post("both/simpleenroll", der, *shown, *ME), "second")


def test_an_encrypted_key_is_signed_by_the_authoritys_key_generation_certificate(world: World) -> None:
    site = world.site
    certificate = site.certificate(site.post("device/simpleenroll", site.request("asker"), *ME), "asker")
    ski = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    named = attribute(oids.ASYMM_DECRYPT_KEY_ID, b"\x04\x14" + ski)
    listed = sequence(*(sequence(oid(one)) for one in (oids.AES256_CBC, oids.AES256_WRAP)))
    der = csr(named, attribute(oids.SMIME_CAPABILITIES, listed), name="asked")
    shown = ("--cert", "asker.crt", "--key", "asker.key")
    # The key usage of an authentication certificate does not allow it to be encrypted to.
    assert b"neither" in site.post("device/serverkeygen", der, *ME, *shown, status=400)
    certificate = site.certificate(site.post("agreeing/simpleenroll", site.request("agreer"), *ME), "agreer")
    ski = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    named = attribute(oids.ASYMM_DECRYPT_KEY_ID, b"\x04\x14" + ski)
    der = csr(named, attribute(oids.SMIME_CAPABILITIES, listed), name="asked")
    body = site.post("device/serverkeygen", der, *ME, "--cert", "agreer.crt", "--key", "agreer.key")
    texts = [part.split(b"\r\n\r\n", 1)[1] for part in body.split(b"\r\n--est-") if b"base64" in part]
    where = ("-recip", "agreer.crt", "-inkey", "agreer.key")
    sealed = base64.b64decode(texts[0])
    bare = site.openssl("cms", "-decrypt", "-inform", "DER", "-binary", *where, data=sealed)
    wrapped = sequence(oid(oids.SIGNED_DATA), header(b"\xa0", len(bare)) + bare)
    chain(world)
    verified = ("cms", "-verify", "-inform", "DER", "-binary", "-CAfile", "chain.crt", "-purpose", "any")
    package = site.openssl(*verified, data=wrapped)
    key = load_der_private_key(only_child(package).content, None)
    assert key.public_key() == site.certificate(texts[1].split(b"\r\n--")[0], "asked").public_key()
    again = site.post("device/serverkeygen", der, *ME, "--cert", "agreer.crt", "--key", "agreer.key")
    assert again != body
    names = [one.name for one in world.engine.keys.list() if one.name.startswith("kga-")]
    assert len(names) == 1, "one signer serves until it ends"


def test_labels_that_the_settings_name_and_that_are_not_there_are_told(world: World) -> None:
    def found(**settings: Any) -> set[str]:
        checked = Est(world.engine, EstNodeSettings(**settings)).check()
        return {one.text for one in world.run(checked.run)}

    assert found(default_template="device", base64_by_label={"issuing": "wrapped", "both": "wrapped"}) == {
        "6 templates"
    }
    allowed = "(allowed: agreeing, approved, both, crowded, device, early)"
    assert found(default_template="devise", base64_by_label={"bot": "wrapped"}) == {
        f"[est] default_template: 'devise' is no template that EST may use {allowed}",
        "[est] base64_by_label: 'bot' is no template that EST may use, and no authority",
    }


def test_no_key_is_made_for_strangers_and_guessers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[KeyType] = []
    generate = keygen.generate
    monkeypatch.setattr(keygen, "generate", lambda kind: (made.append(kind), generate(kind))[1])
    site, der = world.site, csr(name="stranger")
    assert b"password is needed" in site.post("device/serverkeygen", der, status=401)
    assert made == []
    guess = ("-u", "me:wrong")
    with contextlib.suppress(AssertionError):  # which is the 503, after as many guesses as are left
        for _ in range(world.engine.settings.guesses.free + 1):
            site.post("device/serverkeygen", der, *guess, status=401)
    before = len(made)
    assert b"too many" in site.post("device/serverkeygen", der, *guess, status=503)
    assert len(made) == before
