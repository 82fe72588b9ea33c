"""userSMIMECertificate: made for a key that EST generates, and what of uploaded ones is taken."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pkiserver.authority.revocation import ByFingerprint, Order
from pkiserver.foundation.errors import Rejected
from pkiserver.foundation.secret import Secret
from pkiserver.publication.smime import SmimeWriter
from pkiserver.runtime.config import LdapSettings
from pkiserver.runtime.services.estport import EstPort
from pkiserver.store.authority import templates
from pkiserver.store.certificates import RevocationReason
from protocols.addressbook.smime import read_announcement
from protocols.cms.announcing import announce
from protocols.est.ports import EstSettings
from tests.protocols.addressbook.conftest import ldap_settings
from tests.protocols.addressbook.support import TEMPLATES, Site, certificates_in, site_with
from tests.protocols.est.support import Site as EstSite
from tests.protocols.est.support import listener_identity, serve

__all__ = ["ldap_settings"]
GENERATED = (
    TEMPLATES["smime"]
    .replace('name = "smime"', 'name = "generated"')
    .replace('all = ["operator"]', 'all = ["password"]')
)
EST = '\n[est]\nserver_keygen = true\nserver_keygen_key = "{kind}"\n'
OnReactor = Callable[[Callable[[], Any]], Any]


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, on_reactor: OnReactor, ldap_settings: LdapSettings
) -> Iterator[Site]:
    folder: Path = tmp_path_factory.mktemp("announcements")
    opened = site_with(folder, ldap_settings, on_reactor)
    made: Site = on_reactor(opened.__aenter__)

    async def fill() -> None:
        engine, now = made.engine, made.engine.clock.now()
        for name, kind in (("generated", "rsa-2048"), ("curves", "ec-p256")):
            text = GENERATED.replace('"generated"', f'"{name}"') + EST.format(kind=kind)
            await engine.database.write(lambda c, n=name, t=text: templates.put(c, n, t, now=now, expected=None))
        await engine.refresh()
        assert engine.templates.problems() == ()
        await engine.accounts.create("me", Secret("a long password"), groups=frozenset(), by="test")
        made.service.book.refresh()

    on_reactor(fill)
    yield made
    on_reactor(lambda: opened.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def est(site: Site, on_reactor: OnReactor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EstSite]:
    identity, ca = listener_identity()
    folder: Path = tmp_path_factory.mktemp("est")
    (folder / "ca.crt").write_bytes(ca)
    with serve(EstPort(site.engine), EstSettings(), identity, on_reactor) as port:
        yield EstSite(site.engine, port, folder)


def message_of(site: Site, address: str) -> bytes:
    shown = site.search(f"(mail={address})", "userSMIMECertificate;binary")
    (found,) = re.findall(r"^userSMIMECertificate;binary:: (.*)$", shown, re.MULTILINE)
    return base64.b64decode(found)


@pytest.mark.parametrize(("template", "address"), [("generated", "gina@example.com"), ("curves", "curt@example.com")])
def test_a_key_that_est_generates_announces_itself(site: Site, est: EstSite, template: str, address: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Generated")])
    names = x509.SubjectAlternativeName([x509.RFC822Name(address)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).add_extension(names, critical=False)
    request = csr.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    (est.folder / "request").write_bytes(base64.b64encode(request))
    answer = est.curl(
        f"{template}/serverkeygen",
        *("-u", "me:a long password", "-H", "Content-Type: application/pkcs10"),
        *("-H", "Content-Transfer-Encoding: base64", "--data-binary", "@request"),
    )
    assert b"application/pkcs8" in answer
    site.settle()
    message = message_of(site, address)
    found = read_announcement(message)
    assert certificates_in(site.search(f"(mail={address})", "userCertificate;binary")) == [found.announced]
    assert found.signer == found.announced
    (site.folder / "message").write_bytes(message)
    root = site.engine.authorities.get("root").current.certificate.der
    (site.folder / "root.pem").write_text(
        x509.load_der_x509_certificate(root).public_bytes(serialization.Encoding.PEM).decode()
    )
    (site.folder / "nothing").write_bytes(b"")
    verify = ("openssl", "cms", "-verify", "-inform", "DER", "-in", "message", "-content", "nothing")
    site.run(*verify, "-CAfile", "root.pem", "-purpose", "smimesign", "-out", "out")
    printed = site.run("openssl", "cms", "-cmsout", "-print", "-noout", "-inform", "DER", "-in", "message")
    assert "S/MIME Capabilities" in printed
    assert "aes-256-cbc" in printed


def test_what_is_uploaded_is_checked(site: Site) -> None:
    issued = site.issue("Sven", "sven@example.com", kind="rsa")
    other = site.issue("Tom", "tom@example.com", kind="rsa")
    certificate, key = site.pem_pair(issued, "sven")
    chain = "".join(
        x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM).decode() for der in issued.chain
    )
    (site.folder / "chain.pem").write_text(chain)
    (site.folder / "empty").write_bytes(b"")
    sign = ("openssl", "cms", "-sign", "-binary", "-outform", "DER", "-in", "empty", "-md", "sha256")
    own = (*sign, "-signer", certificate, "-inkey", key, "-certfile", "chain.pem")

    def made(*command: str) -> bytes:
        site.run(*command, "-out", "made")
        return (site.folder / "made").read_bytes()

    writer = SmimeWriter(site.engine.database, site.engine.audit, site.engine.clock)

    def put(address: str, message: bytes) -> None:
        found = read_announcement(message)
        assert found.signer == found.announced == issued.der
        site.do(lambda: writer.put(address, message, found.signer, found.announced, by="test"))

    for message in (made(*own), made(*own, "-nodetach")):  # content absent, as recommended, or empty
        put("sven@example.com", message)
        site.settle()
        assert message_of(site, "sven@example.com") == message
    with pytest.raises(Rejected, match="is not for tom"):
        put("tom@example.com", message)
    with pytest.raises(Rejected, match="smimeCapabilities"):
        read_announcement(made(*own, "-nosmimecap"))
    with pytest.raises(Rejected, match="lacks the chain"):
        read_announcement(made(*sign, "-signer", certificate, "-inkey", key))
    with pytest.raises(Rejected, match="does not verify"):
        read_announcement(made(*own, "-nocerts"))
    for broken in (message[:-1] + bytes((message[-1] ^ 1,)), b"", b"\x30\x80", other.der):
        with pytest.raises(Rejected):
            read_announcement(broken)


def test_only_certificates_of_ours_in_force_are_announced(site: Site) -> None:
    issued = site.issue("Rita", "rita@example.com")
    private = site.keys[f"{issued.serial:x}"]
    message = announce(private, issued.der, issued.chain, site.engine.clock.now())
    found = read_announcement(message)
    writer = SmimeWriter(site.engine.database, site.engine.audit, site.engine.clock)
    site.do(lambda: writer.put("rita@example.com", message, found.signer, found.announced, by="test"))
    which = ByFingerprint(hashlib.sha256(issued.der).digest())
    order = Order(actor="test", approved_by=None, comment="")
    site.do(lambda: site.engine.status.revocations.revoke(which, RevocationReason.SUPERSEDED, order))
    with pytest.raises(Rejected, match="not valid"):
        site.do(lambda: writer.put("rita@example.com", message, found.signer, found.announced, by="test"))
    site.settle()
    assert "userSMIMECertificate" not in site.search("(mail=rita@example.com)")


def test_an_announcement_goes_with_its_signer(site: Site) -> None:
    able = site.issue("Dora", "dora@example.com")
    signing = site.issue("Dora", "dora@example.com", template="sign")
    private = site.keys[f"{signing.serial:x}"]
    message = announce(private, signing.der, (able.der, *signing.chain), site.engine.clock.now())
    found = read_announcement(message)
    assert (found.signer, found.announced) == (signing.der, able.der)
    writer = SmimeWriter(site.engine.database, site.engine.audit, site.engine.clock)
    site.do(lambda: writer.put("dora@example.com", message, found.signer, found.announced, by="test"))
    site.settle()
    assert message_of(site, "dora@example.com") == message
    which = ByFingerprint(hashlib.sha256(signing.der).digest())
    order = Order(actor="test", approved_by=None, comment="")
    site.do(lambda: site.engine.status.revocations.revoke(which, RevocationReason.SUPERSEDED, order))
    site.settle()
    shown = site.search("(mail=dora@example.com)")
    assert "userSMIMECertificate" not in shown
    assert certificates_in(shown) == [able.der]
