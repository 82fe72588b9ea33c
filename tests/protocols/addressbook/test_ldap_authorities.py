"""The authorities' entries: certificates, lists of every kind, pairs."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import timedelta
from typing import Any

import attrs
from cryptography import x509
from twisted.internet import reactor as _reactor
from twisted.internet.task import deferLater

from pkiserver.authority.revocation import ByFingerprint, Order
from pkiserver.authority.settings import AuthoritySettings
from pkiserver.authority.status.points import DeltaPolicy, Point
from pkiserver.authority.status.policy import CrlPolicy
from pkiserver.foundation.tomlfile import dump
from pkiserver.store.authority import authorities as authority_rows
from pkiserver.store.authority.crls import Covers
from pkiserver.store.certificates import RevocationReason
from tests.protocols.addressbook.support import BASE, Site

reactor: Any = _reactor
ORDER = Order(actor="test", approved_by=None, comment="")


def test_authorities_show_their_certificates_and_lists(site: Site) -> None:
    site.do(site.engine.status.schedule.run_due)
    site.do(lambda: wait(0.6))  # what is shown may be half a second old
    text = site.search("(cn=issuing)", base=f"ou=CAs,{BASE}")
    assert "objectClass: pkiCA" in text
    assert "objectClass: applicationProcess" in text
    assert "cACertificate;binary::" in text
    assert "certificateRevocationList;binary::" in text
    assert "certificationAuthority" not in text
    assert "dn: cn=root" in site.search("(objectClass=pkiCA)", base=BASE)


async def wait(seconds: float) -> None:
    await deferLater(reactor, seconds)


def values(ldif: str, attribute: str) -> list[bytes]:
    """The values of a binary attribute that ldapsearch printed."""
    return [base64.b64decode(one) for one in re.findall(rf"^{attribute};binary:: (.*)$", ldif, re.MULTILINE)]


def test_pairs_of_certificates_between_authorities(site: Site) -> None:
    authorities = site.engine.authorities
    issuing, root = (authorities.get(name).current.certificate.der for name in ("issuing", "root"))
    (below,) = values(
        site.search("(cn=issuing)", "crossCertificatePair", base=f"ou=CAs,{BASE}"), "crossCertificatePair"
    )
    (above,) = values(site.search("(cn=root)", "crossCertificatePair", base=f"ou=CAs,{BASE}"), "crossCertificatePair")
    for pair, tag in ((below, "cont [ 0 ]"), (above, "cont [ 1 ]")):
        assert issuing in pair
        assert root not in pair
        (site.folder / "pair").write_bytes(pair)
        shown = site.run("openssl", "asn1parse", "-inform", "DER", "-in", "pair")
        assert tag in shown.splitlines()[1]


def test_lists_of_authorities_and_deltas_have_their_own_attributes(site: Site) -> None:
    engine = site.engine
    issuing = engine.authorities.get("issuing")
    policy = CrlPolicy(
        delta=DeltaPolicy(interval=timedelta(minutes=10), validity=timedelta(minutes=40)),
        points=(Point(), Point(covers=Covers.AUTHORITIES)),
    )

    async def configure(settings: AuthoritySettings) -> None:
        await engine.database.write(
            lambda c: authority_rows.update_authority(c, "issuing", config=dump(settings), state="active")
        )
        await engine.refresh()
        await engine.status.schedule.run_due()

    site.do(lambda: configure(attrs.evolve(issuing.settings, crl=policy)))
    bad = site.issue("Bad", "bad@example.com", template="private")
    site.do(
        lambda: engine.status.revocations.revoke(
            ByFingerprint(hashlib.sha256(bad.der).digest()), RevocationReason.SUPERSEDED, ORDER
        )
    )
    for _ in range(100):  # a delta is gathered for, and what is shown may be half a second old
        text = site.search("(cn=issuing)", base=f"ou=CAs,{BASE}")
        if "deltaRevocationList" in text and "authorityRevocationList" in text:
            break
        site.do(engine.status.schedule.run_due)
        site.do(lambda: wait(0.2))
    for name in ("pkiCA", "deltaCRL", "certificationAuthority", "applicationProcess"):
        assert f"objectClass: {name}" in text
    (whole,) = values(text, "certificateRevocationList")
    (authorities,) = values(text, "authorityRevocationList")
    deltas = [x509.load_der_x509_crl(one) for one in values(text, "deltaRevocationList")]
    point = x509.load_der_x509_crl(authorities).extensions.get_extension_for_class(x509.IssuingDistributionPoint).value
    assert point.only_contains_ca_certs
    assert not {one.oid for one in x509.load_der_x509_crl(whole).extensions if one.critical}
    assert deltas
    assert all(one.extensions.get_extension_for_class(x509.DeltaCRLIndicator) for one in deltas)
    site.do(lambda: configure(issuing.settings))
