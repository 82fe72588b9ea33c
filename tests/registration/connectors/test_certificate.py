"""Client certificates of other authorities: chains, CRLs over HTTP and from files, what counts and what is mapped."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL.crypto import X509StoreContext
from twisted.internet import reactor as _reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.python.threadable import isInIOThread

from pkiserver.foundation.clock import SystemClock
from pkiserver.foundation.errors import Unavailable
from pkiserver.foundation.tomlfile import ConfigurationError
from pkiserver.registration.connectors.certificate import ForeignCertificates
from pkiserver.registration.connectors.settings import load_connector
from pkiserver.registration.connectors.values import Denied, Shown, Step
from tests.support.ocspresponder import OpensslResponder
from tests.support.ports import free_port
from tests.support.tlsfiles import TestCa

reactor: Any = _reactor
HARDWARE = x509.OtherName(
    x509.ObjectIdentifier("1.3.6.1.5.5.7.8.4"), bytes.fromhex("3011 06082b060104019a1e01 0405") + b"SN-77"
)
POLICY = x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("1.3.6.1.4.1.99999.7"), None)])
SUBJECT = x509.Name(
    [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Maker"),
        x509.NameAttribute(NameOID.SERIAL_NUMBER, "PID:router SN:4711"),
    ]
)
MAPS = """
[[certificate.attributes]]
name = "hardware"
from = "san.hardware"
[[certificate.attributes]]
name = "serial"
from = "subject.serial_number"
match = '.*SN:(\\d+)'
required = true
[[certificate.attributes]]
name = "maker"
from = "issuer.common_name"
[[certificate.attributes]]
name = "policy"
from = "policy"
"""


@pytest.fixture
def ca(tmp_path: Path) -> TestCa:
    made = TestCa(tmp_path, "Maker CA")
    (tmp_path / "crl.pem").write_bytes(made.crl())
    return made


def device(ca: TestCa, stem: str = "device", **more: object) -> x509.Certificate:
    extensions: tuple[x509.ExtensionType, ...] = (x509.SubjectAlternativeName([HARDWARE]), POLICY)
    chosen = {"subject": SUBJECT, "extensions": extensions, **more}
    certificate, _ = ca.issue(stem, **chosen)  # type: ignore[arg-type]
    return x509.load_pem_x509_certificate(certificate.read_bytes())


@pytest.fixture
def made(ca: TestCa, tmp_path: Path) -> Iterator[object]:
    opened: list[ForeignCertificates] = []

    def make(more: str = "", crls: str | None = None, tables: str = MAPS) -> ForeignCertificates:
        text = f"""
name = "factory"
kind = "connector"
[certificate]
anchors = '''{ca.pem}'''
name = "subject.serial_number"
crls = ["{crls or f"file:{tmp_path}/crl.pem"}"]
{more}
{tables}
"""
        settings = load_connector(text, "factory.toml").certificate
        assert settings is not None
        connector = ForeignCertificates("factory", settings, SystemClock())
        opened.append(connector)
        return connector

    yield make
    for one in opened:
        one.close()


async def test_a_factory_certificate_shows_its_device(ca: TestCa, made: object) -> None:
    connector = made()  # type: ignore[operator]
    shown = await connector.identify(device(ca), ())
    assert shown == Shown(
        "PID:router SN:4711",
        frozenset(),
        (
            ("hardware", "SN-77"),
            ("serial", "4711"),
            ("maker", "Maker CA"),
            ("policy", "1.3.6.1.4.1.99999.7"),
        ),
    )


async def test_who_does_not_count(ca: TestCa, made: object, tmp_path: Path) -> None:
    connector = made()  # type: ignore[operator]

    async def why(certificate: x509.Certificate, which: ForeignCertificates = connector) -> str:
        denied = await which.identify(certificate, ())
        assert isinstance(denied, Denied)
        return denied.text

    other = TestCa(tmp_path, "Another CA")
    impostor = TestCa(tmp_path / "x" if (tmp_path / "x").mkdir() is None else tmp_path, "Maker CA")
    assert "unable to get local issuer" in await why(device(other))
    assert await why(device(impostor))
    assert "expired" in await why(device(ca, days=-1))
    assert await why(ca.certificate) == "it is a CA's certificate"
    server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    assert "lacks clientAuth" in await why(device(ca, extensions=(server,)))
    nameless = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    assert "exactly one usable name" in await why(device(ca, subject=nameless))
    no_serial = x509.Name([x509.NameAttribute(NameOID.SERIAL_NUMBER, "none")])
    assert "subject.serial_number" in await why(device(ca, subject=no_serial))
    narrow = "subject = '.*O=Other.*'\n"
    assert "does not match" in await why(device(ca), made(narrow))  # type: ignore[operator]
    policy = 'policies = ["1.2.3.4"]\n'
    assert "none of the policies" in await why(device(ca), made(policy))  # type: ignore[operator]
    elsewhere = "issuer = 'CN=Other CA'\n"
    assert "the issuer 'CN=Maker CA' does not match" in await why(device(ca), made(elsewhere))  # type: ignore[operator]
    right = made('policies = ["1.2.3.4", "1.3.6.1.4.1.99999.7"]\nissuer = "CN=Maker CA"\n')  # type: ignore[operator]
    assert isinstance(await right.identify(device(ca), ()), Shown)


async def test_a_certificate_that_openssl_does_not_read_shows_nobody(ca: TestCa, made: object) -> None:
    odd = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "no such text")])
    der = device(ca, subject=odd).public_bytes(Encoding.DER).replace(b"no such text", b"\xff" * 12)
    broken = x509.load_der_x509_certificate(der)
    connector = made()  # type: ignore[operator]
    for certificate, chain in ((broken, ()), (device(ca), (broken,))):
        denied = await connector.identify(certificate, chain)
        assert isinstance(denied, Denied)
        assert "cannot be read" in denied.text


async def test_revocation_is_checked_and_missing_crls_are_nobody_s_yes(
    ca: TestCa, made: object, tmp_path: Path
) -> None:
    good, bad = device(ca, "good"), device(ca, "bad")
    (tmp_path / "crl.pem").write_bytes(ca.crl(bad))
    connector = made()  # type: ignore[operator]
    assert isinstance(await connector.identify(good, ()), Shown)
    denied = await connector.identify(bad, ())
    assert isinstance(denied, Denied)
    assert "revoked" in denied.text
    absent = made(crls=f"file:{tmp_path}/absent.crl")  # type: ignore[operator]
    with pytest.raises(Unavailable, match="no CRL in force"):
        await absent.identify(good, ())
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(Unavailable, match="no CRL in force"):
        await made(crls=f"file:{tmp_path}/junk").identify(good, ())  # type: ignore[operator]
    forged = TestCa(tmp_path, "Forged")
    forged.name = ca.name
    genuine = x509.load_pem_x509_crl(ca.crl()).public_bytes(Encoding.DER)
    for octets in (forged.crl(), genuine[:-1] + bytes((genuine[-1] ^ 1,))):
        (tmp_path / "forged").write_bytes(octets)
        with pytest.raises(Unavailable, match="no CRL in force"):
            await made(crls=f"file:{tmp_path}/forged").identify(good, ())  # type: ignore[operator]
    unchecked = made('revocation = "off"\n')  # type: ignore[operator]
    assert isinstance(await unchecked.identify(bad, ()), Shown)


async def test_every_certificate_of_the_chain_is_looked_up_unless_the_settings_say_the_first(
    ca: TestCa, made: object, tmp_path: Path
) -> None:
    below = TestCa(tmp_path, "Line CA")
    between = below.under(ca)
    one = device(below)
    (tmp_path / "line.pem").write_bytes(below.crl())
    here, there = f"file:{tmp_path}/crl.pem", f"file:{tmp_path}/line.pem"
    connector = made(crls=f'{here}", "{there}')  # type: ignore[operator]
    assert isinstance(await connector.identify(one, (between,)), Shown)
    without = await connector.identify(one, ())
    assert isinstance(without, Denied)
    assert "unable to get local issuer" in without.text
    with pytest.raises(Unavailable, match="no CRL in force says whether 'CN=Line CA' is revoked"):
        await made(crls=there).identify(one, (between,))  # type: ignore[operator]
    leaf = made('revocation = "leaf"\n', crls=there)  # type: ignore[operator]
    assert isinstance(await leaf.identify(one, (between,)), Shown)
    (tmp_path / "crl.pem").write_bytes(ca.crl(between))
    revoked = await made(crls=f'{here}", "{there}').identify(one, (between,))  # type: ignore[operator]
    assert isinstance(revoked, Denied)
    assert "'CN=Line CA': certificate revoked" in revoked.text


async def test_who_comes_while_the_settings_change_is_told_to_come_again(ca: TestCa, made: object) -> None:
    connector = made()  # type: ignore[operator]
    connector.close()
    with pytest.raises(Unavailable, match="settings have just changed"):
        await connector.identify(device(ca), ())


async def test_row_34_a_large_crl_is_looked_into_beside_the_reactor(
    ca: TestCa, made: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL sorts the entries of a CRL when it first looks for one: a quarter of a second for 100,000."""
    where: list[bool] = []
    inner = X509StoreContext.get_verified_chain

    def looked(context: X509StoreContext) -> object:
        where.append(isInIOThread())
        return inner(context)

    monkeypatch.setattr(X509StoreContext, "get_verified_chain", looked)
    assert isinstance(await made().identify(device(ca), ()), Shown)  # type: ignore[operator]
    assert where == [False]


async def test_crls_over_http_are_kept_and_read_again(ca: TestCa, made: object) -> None:
    state = {"crl": ca.crl(), "asked": 0}

    class Handler(Quiet):
        def do_GET(self) -> None:
            state["asked"] += 1  # type: ignore[operator]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(state["crl"])  # type: ignore[arg-type]

    server = serve(Handler)
    try:
        connector = made('refresh = "1s"\n', crls=f"http://127.0.0.1:{server.server_address[1]}/ca.crl")  # type: ignore[operator]
        one = device(ca)
        assert isinstance(await connector.identify(one, ()), Shown)
        assert isinstance(await connector.identify(one, ()), Shown)
        assert state["asked"] == 1
        state["crl"] = ca.crl(one)
        connector._clock = clock = Adjustable()
        clock.ahead = 60
        assert isinstance(await connector.identify(one, ()), Denied)
        assert state["asked"] == 2
    finally:
        server.shutdown()
        server.server_close()
    gone = made(crls=f"http://127.0.0.1:{free_port()}/ca.crl")  # type: ignore[operator]
    assert [found.step for found in await gone.check(None, None)] == [Step.CONNECT, Step.FINE]
    assert [found.step for found in await made().check(None, None)] == [Step.FINE, Step.FINE]  # type: ignore[operator]


async def test_nobody_waits_for_a_server_that_hangs_while_the_crls_are_in_force(ca: TestCa, made: object) -> None:
    one = device(ca)
    state = {"crl": ca.crl()}
    answered, asked = threading.Event(), threading.Event()
    answered.set()

    class Handler(Quiet):
        def do_GET(self) -> None:
            asked.set()
            answered.wait(60)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(state["crl"])

    server = serve(Handler)
    port = server.server_address[1]
    clock = Adjustable()
    connector = made('answer_timeout = "60s"\n', crls=f"http://127.0.0.1:{port}/ca.crl")  # type: ignore[operator]
    connector._clock = clock
    assert isinstance(await connector.identify(one, ()), Shown)
    server.shutdown()
    server.server_close()
    clock.ahead += 3601
    assert isinstance(await connector.identify(one, ()), Shown)  # nobody is there to be read from
    answered.clear()
    asked.clear()
    server = serve(Handler, port)
    try:
        clock.ahead += 11
        assert isinstance(await connector.identify(one, ()), Shown)
        assert await deferToThread(asked.wait, 60)
        assert isinstance(await connector.identify(one, ()), Shown)
        assert not answered.is_set(), "the server is silent still"
        state["crl"] = ca.crl(one)
        answered.set()
        while isinstance(await connector.identify(one, ()), Shown):
            await deferLater(reactor, 0.02)
    finally:
        answered.set()
        server.shutdown()
        server.server_close()


class Quiet(BaseHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


def serve(handler: type[Quiet], port: int = 0) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


class Adjustable(SystemClock):
    ahead = 0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


def test_settings_that_cannot_be_meant(made: object) -> None:
    for more, crls, what in (
        ("", "ldap://h/x", "no CRL"),
        ('policies = ["x"]\n', None, "policies"),
    ):
        with pytest.raises(ConfigurationError, match=what):
            made(more, crls)  # type: ignore[operator]
    with pytest.raises(ConfigurationError, match="names no field"):
        made(tables='[[certificate.attributes]]\nname = "x"\nfrom = "nothing"')  # type: ignore[operator]


OCSP_SIGNING = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING])


async def test_an_ocsp_responder_is_asked_about_every_certificate_of_the_chain_or_the_first(
    ca: TestCa, tmp_path: Path
) -> None:
    below = TestCa(tmp_path, "Line CA")
    between, one = below.under(ca), device(below)
    signers = [each.issue(f"responder-{number}", extensions=(OCSP_SIGNING,)) for number, each in enumerate((ca, below))]
    responder = OpensslResponder(tmp_path, (ca, signers[0]), (below, signers[1]))

    def connector(more: str = "") -> ForeignCertificates:
        table = f"[certificate]\nanchors = '''{ca.pem}'''\nname = \"subject.serial_number\"\n"
        text = f'name = "factory"\nkind = "connector"\n{table}ocsp = "http://127.0.0.1:{responder.port}/"\n{more}'
        settings = load_connector(text, "factory.toml").certificate
        assert settings is not None
        return ForeignCertificates("factory", settings, SystemClock())

    chain, leaf, late = connector(), connector('revocation = "leaf"\n'), connector()
    try:
        responder.knows((between, False), (one, False))
        assert isinstance(await chain.identify(one, (between,)), Shown)
        assert [found.step for found in await chain.check(None, None)] == [Step.FINE, Step.FINE]
        responder.knows((between, True), (one, False))
        denied = await late.identify(one, (between,))
        assert isinstance(denied, Denied)
        assert "'CN=Line CA' is revoked" in denied.text
        assert isinstance(await leaf.identify(one, (between,)), Shown)
    finally:
        responder.close()
        for each in (chain, leaf, late):
            each.close()


async def test_revocation_by_ocsp(ca: TestCa, tmp_path: Path) -> None:
    responder = OpensslResponder(tmp_path, (ca, ca.issue("responder", extensions=(OCSP_SIGNING,))))
    impostor = OpensslResponder(tmp_path, (ca, ca.issue("impostor")))
    good, bad, stranger = (device(ca, stem) for stem in ("good", "bad", "stranger"))

    def connector(port: int, more: str = "") -> ForeignCertificates:
        table = f"[certificate]\nanchors = '''{ca.pem}'''\nname = \"subject.serial_number\"\n"
        text = f'name = "factory"\nkind = "connector"\n{table}ocsp = "http://127.0.0.1:{port}/"\n{more}'
        settings = load_connector(text, "factory.toml").certificate
        assert settings is not None
        return ForeignCertificates("factory", settings, SystemClock())

    asking, besides = connector(responder.port), connector(responder.port, f'crls = ["file:{tmp_path}/crl.pem"]\n')
    deceived = connector(impostor.port)
    (tmp_path / "crl.pem").write_bytes(ca.crl(good))
    try:
        responder.knows((good, False), (bad, True))
        assert isinstance(await asking.identify(good, ()), Shown)
        for one, why in ((bad, "is revoked"), (stranger, "unknown to its responder")):
            denied = await asking.identify(one, ())
            assert isinstance(denied, Denied)
            assert why in denied.text
        by_list = await besides.identify(good, ())
        assert isinstance(by_list, Denied)  # OCSP is content, the CRL is not
        responder.works = False
        assert isinstance(await asking.identify(good, ()), Shown)  # the answer is still in force
        with pytest.raises(Unavailable):
            await asking.identify(device(ca, "new"), ())
        impostor.knows((good, False))
        with pytest.raises(Unavailable, match="not for OCSP"):
            await deceived.identify(good, ())
    finally:
        responder.close()
        impostor.close()
        for each in (asking, besides, deceived):
            each.close()
