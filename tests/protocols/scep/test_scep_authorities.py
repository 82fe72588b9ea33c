"""Authorities of every kind: RSA ones that serve SCEP with their own key, two keys, rekeyed ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import attrs
import pytest
from asn1crypto import cms
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pkiserver.authority.delegates.ra_policy import RaKeys, ScepPolicy
from pkiserver.authority.status.points import Partition, Point
from pkiserver.authority.status.policy import CrlPolicy
from pkiserver.foundation.extensionvalue import extension_value
from pkiserver.foundation.tomldump import dump
from pkiserver.runtime.protocolsettings import ScepNodeSettings
from pkiserver.runtime.services.scepport import ScepPort
from pkiserver.runtime.services.scepservice import Scep
from pkiserver.store.authority import authorities
from pkiserver.store.authority.crls import Covers
from protocols.scep.metrics import ScepMetrics
from protocols.scep.ports import ScepSettings
from tests.authority.world import new_key
from tests.protocols.scep.device import (
    BAD_CERT_ID,
    BAD_CHECK,
    FAIL_INFO,
    FAILURE,
    GET_CRL,
    PKCS_REQ,
    PKI_STATUS,
    SUCCESS,
    Device,
)
from tests.protocols.scep.support import SCEP_CA_DOORS, World, authority, listening, template, world
from tests.protocols.scep.test_scep_walk import identifier
from tests.support.clock import FakeClock
from tests.support.engines import ACTOR, SETTINGS
from tests.support.keys import lose_and_miss


async def own(engine: Any, store: str) -> None:
    policy = ScepPolicy(ra=RaKeys.AUTHORITY)
    await authority(engine, "own", None, "rsa-2048", store, doors=SCEP_CA_DOORS, scep=policy)


async def pair(engine: Any, store: str) -> None:
    await authority(engine, "pair", "root", "rsa-2048", store, scep=ScepPolicy(ra=RaKeys.TWO))


async def rekeyed(engine: Any, store: str) -> None:
    await authority(engine, "rekeyed", "root", "ec-p256", store)


async def rolled(engine: Any, store: str) -> None:
    await authority(engine, "rolled", "root", "ec-p256", store)


async def lost(engine: Any, store: str) -> None:
    await authority(engine, "lost", "root", "ec-p256", store)


async def parted(engine: Any, store: str) -> None:
    points = (Point(partition=Partition.SHARDS, shards=3), Point(covers=Covers.AUTHORITIES))
    await authority(engine, "parted", "root", "ec-p256", store, crl=CrlPolicy(points=points))


@pytest.fixture(scope="module")
def scep(tmp_path_factory: pytest.TempPathFactory, on_reactor: Callable[[Any], Any]) -> Iterator[World]:
    names = ("own", "pair", "rekeyed", "rolled", "lost", "parted")
    texts = dict(template(f"by-{name}", issuer=name) for name in names)
    with world(tmp_path_factory.mktemp("kinds"), on_reactor, texts, (own, pair, rekeyed, rolled, lost, parted)) as made:
        yield made


def test_an_rsa_root_serves_with_its_own_key_and_gives_out_one_certificate(scep: World) -> None:
    head = scep.curl(f"{scep.base}/by-own?operation=GetCACert", "-D", "-", "-o", "/dev/null").decode()
    assert "Content-Type: application/x-x509-ca-cert\r\n" in head
    device = scep.device("alone", at="own/by-own")
    (ca,) = device.ca()
    (certificate,) = device.certificates(device.enroll(scep.code("by-own")))
    assert certificate.issuer == ca.subject
    certificate.verify_directly_issued_by(ca)


def test_one_key_signs_and_another_opens(scep: World) -> None:
    device = scep.device("two", at="by-pair")
    usages = [device._usage(one) for one in device.ca()[:2]]
    assert [(one.digital_signature, one.key_encipherment) for one in usages] == [(True, False), (False, True)]
    answer = device.enroll(scep.code("by-pair"))
    assert answer.status == SUCCESS
    signer = cms.ContentInfo.load(answer.raw)["content"]["certificates"][0].chosen.serial_number
    assert signer == device.ca()[0].serial_number
    assert len(device.certificates(answer)) == 1


def test_the_next_ca_certificate_is_vouched_for_by_the_key_before_it(scep: World) -> None:
    device = scep.device("patient", at="by-rekeyed")
    before = device.ca()
    old = next(one for one in before if "SCEP rekeyed" in one.subject.rfc4514_string())
    assert b"GetNextCACert" not in scep.curl(f"{device.url}?operation=GetCACaps")
    scep.curl(f"{device.url}?operation=GetNextCACert", status=404)
    key = attrs.evolve(new_key(), store="softhsm")
    scep.one(scep.engine.road.succession.rekey("rekeyed", key, ACTOR))
    assert b"GetNextCACert" in scep.curl(f"{device.url}?operation=GetCACaps")
    head = scep.curl(f"{device.url}?operation=GetNextCACert", "-D", "-", "-o", "/dev/null").decode()
    assert "Content-Type: application/x-x509-next-ca-cert\r\n" in head
    (device.folder / "next").write_bytes(scep.curl(f"{device.url}?operation=GetNextCACert"))
    (device.folder / "old.pem").write_bytes(old.public_bytes(serialization.Encoding.PEM))
    how = ("-inform", "DER", "-in", "next", "-binary", "-CAfile", "old.pem", "-partial_chain", "-purpose", "any")
    inner = device.openssl("cms", "-verify", *how)
    coming = x509.load_pem_x509_certificates(device.openssl("pkcs7", "-inform", "DER", "-print_certs", data=inner))
    assert isinstance(coming[0].public_key(), ec.EllipticCurvePublicKey)
    assert (coming[0].subject, coming[0].public_key() == old.public_key()) == (old.subject, False)
    # The registration authority that the client has kept still opens and signs.
    answer = device.enroll(scep.code("by-rekeyed"))
    assert answer.status == SUCCESS
    (certificate,) = device.certificates(answer)
    certificate.verify_directly_issued_by(coming[0])
    # Who comes before the registration authority has rolled over gets what both chains need.
    early = scep.device("early", at="by-rekeyed")
    assert early.ca() == [before[0], coming[0], *before[1:]]
    (brought,) = early.certificates(early.enroll(scep.code("by-rekeyed")))
    brought.verify_directly_issued_by(early.ca()[1])
    scep.one(scep.port.keep())
    later = scep.device("later", at="by-rekeyed")
    assert later.ca()[0] != before[0]
    assert later.ca()[1:] == [coming[0], *before[2:]]
    assert later.enroll(scep.code("by-rekeyed")).status == SUCCESS
    # It is there for whoever holds the old certificate to the last second of that, and no longer.
    clock = FakeClock(old.not_valid_after_utc)
    port = ScepPort(attrs.evolve(scep.engine, clock=clock))
    with listening(port, ScepSettings(), ScepMetrics(), scep.run) as number:
        url = f"http://127.0.0.1:{number}/scep/by-rekeyed?operation="
        assert b"GetNextCACert" in scep.curl(f"{url}GetCACaps")
        scep.curl(f"{url}GetNextCACert")
        clock.advance(timedelta(seconds=1))
        assert b"GetNextCACert" not in scep.curl(f"{url}GetCACaps")
        scep.curl(f"{url}GetNextCACert", status=404)


def test_another_process_opens_what_is_for_a_registration_authority_that_was_made_a_moment_ago(scep: World) -> None:
    settings, metrics, run = ScepSettings(), ScepMetrics(), scep.run
    with listening(ScepPort(scep.engine), settings, metrics, run) as number:
        elsewhere = f"http://127.0.0.1:{number}/scep/by-rolled"
        first = Device(scep, "first", elsewhere)
        assert first.enroll(scep.code("by-rolled")).status == SUCCESS
        second = scep.device("second", at="by-rolled")
        text = dump(attrs.evolve(SETTINGS, scep=ScepPolicy(ra=RaKeys.TWO)))
        write = scep.engine.database.write
        scep.one(write(lambda c: authorities.update_authority(c, "rolled", config=text, state="enabled")))
        scep.one(scep.engine.refresh())
        again = first.message(PKCS_REQ, first.envelope(first.csr(scep.code("by-rolled"))), transaction="2")
        first.post(again)  # whoever is elsewhere has looked a moment ago
        scep.one(scep.port.keep())
        assert second.ca()[0] not in first.ca()
        second.url = elsewhere
        assert second.enroll(scep.code("by-rolled")).status == SUCCESS
        stranger = scep.device("stranger", at="by-pair")
        stranger.ca()
        stranger.url = elsewhere
        sent = stranger.message(PKCS_REQ, stranger.envelope(stranger.csr("x")))
        (refusal,) = cms.ContentInfo.load(stranger.post(sent))["content"]["signer_infos"]
        values = {one["type"].dotted: one["values"][0].native for one in refusal["signed_attrs"]}
        assert (values[PKI_STATUS], values[FAIL_INFO]) == (str(FAILURE), str(BAD_CHECK))


def test_where_its_key_is_missing_nobody_is_told_to_encrypt_for_it(scep: World) -> None:
    device = scep.device("unlucky", at="by-lost")
    assert len(device.ca()) == 3
    [found] = scep.one(scep.port.ra.get("lost"))
    [token] = scep.engine.settings.key_store
    scep.one(lose_and_miss(scep.engine.keys, token, found.signing.key_name))
    answer = scep.curl(f"{device.url}?operation=GetCACert", "-D", "-", status=503).decode()
    assert "Retry-After: " in answer
    assert found.signing.key_name not in answer
    [told] = [one.text for one in scep.port.problems() if one.authority == "lost"]
    assert "nobody can enrol by SCEP at this node: there is no private key" in told


def test_get_crl_gives_the_part_that_the_certificate_is_in_where_there_is_no_complete_list(scep: World) -> None:
    device = scep.device("sharded", at="by-parted")
    (certificate,) = device.certificates(device.enroll(scep.code("by-parted")))
    scep.one(scep.engine.status.schedule.run_due())
    answer = device.ask(GET_CRL, device.envelope(identifier(certificate)))
    (found,) = cms.ContentInfo.load(device.opened(answer))["content"]["crls"]
    listed = x509.load_der_x509_crl(found.chosen.dump())
    point = extension_value(listed, x509.IssuingDistributionPoint)
    named = extension_value(certificate, x509.CRLDistributionPoints)
    assert point is not None
    assert named is not None
    assert [one.full_name for one in named] == [point.full_name]
    unknown = cms.IssuerAndSerialNumber.load(identifier(certificate))
    unknown["serial_number"] = 4711
    assert device.ask(GET_CRL, device.envelope(unknown.dump())).fail_info == BAD_CERT_ID


def test_a_default_template_that_is_not_there_is_told(scep: World) -> None:
    def found(default: str) -> str:
        checked = Scep(scep.engine, ScepNodeSettings(default_template=default)).check()
        return "; ".join(one.text for one in scep.run(checked.run))

    assert found("by-own") == "6 templates"
    allowed = "by-lost, by-own, by-pair, by-parted, by-rekeyed, by-rolled"
    expected = f"'by-onw' is no template that SCEP may use (allowed: {allowed})"
    assert found("by-onw") == f"[scep] default_template: {expected}"
