"""TLS as clients meet it: what routes learn of the peer, what is refused, and identities exchanged while serving."""

from __future__ import annotations

import socket
import ssl
import subprocess
import warnings

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from OpenSSL import SSL

from pkiserver.foundation.errors import Rejected
from protocols.web.tls import (
    CERTIFICATE_OCTETS,
    ClientCertificates,
    TlsIdentity,
    TlsOptions,
    TlsServer,
    TlsVersion,
    server_context,
)
from protocols.web.values import Method, Response, Route
from tests.protocols.web.conftest import certificate, trusting

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
REQUEST = TlsOptions(client_certificates=ClientCertificates.REQUEST)


def der(identity):
    return x509.load_pem_x509_certificate(identity.chain_pem).public_bytes(Encoding.DER)


@pytest.fixture
def seen(serve):
    """A listener whose route keeps the peers that it was shown."""
    peers = []

    def keep(request):
        peers.append(request.peer)
        return Response(200)

    def start(**options):
        return serve(
            Route("keep", "/a", {Method.GET}, keep), tls=certificate("localhost"), options=TlsOptions(**options)
        )

    return start, peers


def client_context(tmp_path, identity=None, *, extra=b"", version=None):
    context = trusting()
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if identity is not None:
        (tmp_path / "c.pem").write_bytes(identity.chain_pem + extra + identity.key_pem)
        context.load_cert_chain(tmp_path / "c.pem")
    return context


def test_plain_connection_has_no_tls_peer(serve):
    peers = []
    server = serve(Route("keep", "/a", {Method.GET}, lambda r: peers.append(r.peer) or Response(200)))
    with server.connect() as client:
        client.send(GET)
        client.answer()
        assert (peers[0].address, peers[0].port) == client.sock.getsockname()
    assert peers[0].tls is None


def test_tls_1_2_gives_tls_unique(seen, tmp_path):
    start, peers = seen
    server = start(client_certificates=ClientCertificates.REQUEST)
    with server.connect(context=client_context(tmp_path, version=ssl.TLSVersion.TLSv1_2)) as client:
        client.send(GET)
        assert client.answer()[0] == 200
        tls = peers[0].tls
        assert tls.version == "TLSv1.2"
        assert tls.finished == client.sock.get_channel_binding("tls-unique")
        assert tls.exporter is None
        assert tls.certificate_der is None
        assert tls.server_name == "localhost"


def test_tls_1_3_gives_the_exporter(seen):
    """The same value as an independent client computes with `openssl s_client -keymatexport` (RFC 9266)."""
    start, peers = seen
    server = start()
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    with socket.create_connection(("127.0.0.1", server.number)) as raw:
        connection = SSL.Connection(context, raw)
        connection.set_connect_state()
        connection.do_handshake()
        connection.sendall(GET)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        expected = connection.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")
        connection.shutdown()
    tls = peers[0].tls
    assert (tls.version, tls.finished, tls.server_name) == ("TLSv1.3", None, None)
    assert len(tls.exporter) == 32
    assert tls.exporter == expected


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_any_client_certificate_is_shown_not_judged(seen, tmp_path, version):
    """Self-signed, unknown, with certificates that do not belong: the gate decides, not the handshake."""
    start, peers = seen
    server = start(client_certificates=ClientCertificates.REQUEST)
    own, other = certificate("device-1"), certificate("some-ca")
    with server.connect(context=client_context(tmp_path, own, extra=other.chain_pem, version=version)) as client:
        client.send(GET + GET)
        assert client.answer()[0] == 200
        assert client.answer()[0] == 200
    assert peers[0].tls.certificate_der == der(own)
    assert peers[0].tls.chain == (der(other),)
    assert peers[0] is peers[1]


def test_client_certificate_is_not_asked_for_where_none_is_wanted(seen, tmp_path):
    start, peers = seen
    server = start()
    with server.connect(context=client_context(tmp_path, certificate("device-1"))) as client:
        client.send(GET)
        assert client.answer()[0] == 200
    assert peers[0].tls.certificate_der is None


def test_required_client_certificate(seen, tmp_path):
    start, _ = seen
    server = start(client_certificates=ClientCertificates.REQUIRE)
    with server.connect(context=client_context(tmp_path, certificate("device-1"))) as client:
        client.send(GET)
        assert client.answer()[0] == 200
    with pytest.raises((ssl.SSLError, ConnectionError)):
        server.connect(context=client_context(tmp_path, version=ssl.TLSVersion.TLSv1_2))


def test_absurd_client_certificates_are_refused(seen, tmp_path):
    start, peers = seen
    server = start(client_certificates=ClientCertificates.REQUEST)
    huge = certificate("x", padding=CERTIFICATE_OCTETS)
    with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):  # noqa: PT012, SIM117
        with server.connect(context=client_context(tmp_path, huge)) as client:
            client.send(GET)
            client.answer()
    assert not peers


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_nothing_is_resumed(seen, tmp_path, version):
    start, _ = seen
    server = start()
    context = client_context(tmp_path, version=version)
    with server.connect(context=context) as client:
        client.send(GET)
        client.answer()
        session = client.sock.session
    raw = socket.create_connection(("127.0.0.1", server.number))
    with context.wrap_socket(raw, server_hostname="localhost", session=session) as second:
        second.sendall(GET)
        assert second.recv(1000).startswith(b"HTTP/1.1 200")
        assert not second.session_reused


def test_renegotiation_is_refused(seen):
    start, _ = seen
    server = start()
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.number}", "-tls1_2", "-legacy_renegotiation"]
    run = subprocess.run(command, input=b"R\n", capture_output=True, timeout=20, check=False)
    assert b"no renegotiation" in run.stderr + run.stdout


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
def test_old_versions_are_refused(seen, tmp_path, version):
    start, _ = seen
    server = start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context = client_context(tmp_path, version=ssl.TLSVersion[version])
        context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        server.connect(context=context)


def test_tls_below_the_minimum_version_is_refused(seen, tmp_path):
    start, _ = seen
    server = start(minimum=TlsVersion.TLS_1_3)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        server.connect(context=client_context(tmp_path, version=ssl.TLSVersion.TLSv1_2))


@pytest.mark.parametrize(
    ("offer", "chosen"), [(["h2", "http/1.1"], "http/1.1"), (["http/1.0"], "http/1.0"), ([], None), (["h2"], "refused")]
)
def test_alpn_chooses_http_1_1_or_refuses_the_handshake(seen, tmp_path, offer, chosen):
    start, _ = seen
    server = start()
    context = client_context(tmp_path)
    if offer:
        context.set_alpn_protocols(offer)
    if chosen == "refused":
        with pytest.raises((ssl.SSLError, ConnectionError)):
            server.connect(context=context)
        return
    with server.connect(context=context) as client:
        assert client.sock.selected_alpn_protocol() == chosen


def test_identity_is_exchanged_while_serving(seen, tmp_path, on_reactor):
    start, _ = seen
    server = start()
    context = client_context(tmp_path)
    second = certificate("localhost")

    async def replace():
        server.tls.replace(second)

    async def spoil():
        with pytest.raises(Rejected):
            server.tls.replace(TlsIdentity(second.chain_pem, certificate("x").key_pem))

    with server.connect(context=context) as old:
        on_reactor(replace)
        on_reactor(spoil)  # an unusable identity changes nothing
        old.send(GET)
        assert old.answer()[0] == 200
        with server.connect(context=context) as new:
            assert new.sock.getpeercert(binary_form=True) == der(second)
        assert old.sock.getpeercert(binary_form=True) != der(second)


def test_unusable_identities():
    good = certificate("localhost")
    encrypted = TlsIdentity(
        good.chain_pem, b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"
    )
    for identity, text in (
        (TlsIdentity(b"nothing", good.key_pem), "not PEM certificates"),
        (TlsIdentity(good.chain_pem, b"nothing"), "not an unencrypted PEM private key"),
        (encrypted, "not an unencrypted PEM private key"),
        (TlsIdentity(good.chain_pem, certificate("y").key_pem), "does not belong"),
    ):
        with pytest.raises(Rejected, match=text):
            TlsServer(identity, TlsOptions())
    with pytest.raises(Rejected, match="cipher"):
        server_context(good, TlsOptions(ciphers="no-such-cipher"))
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert "BEGIN" not in repr(TlsIdentity(good.chain_pem, key))
