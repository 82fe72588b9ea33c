"""TLS for the listeners: TLS 1.2 and 1.3, client certificates shown but not judged, identities exchanged while serving.

Who a client certificate identifies is for the registration gate to say; the handshake proves that the client has its
key, nothing more. Nothing is resumed and nothing renegotiated, so that each connection has a full handshake whose
Finished (TLS 1.2) or exporter (TLS 1.3) binds a request to it, and a ticket cannot outlive what it was issued under.
"""

from __future__ import annotations

import enum
from functools import partial

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from zope.interface import implementer

from pkiserver.foundation.errors import Refusal, Rejected
from protocols.web.factory import ALPN_PROTOCOLS, HttpServerFactory

DEFAULT_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""TLS 1.2: forward secrecy and authenticated encryption only. TLS 1.3 has nothing else."""
CHAIN_DEPTH = 8
"""Certificates above its own that a client may show."""
CERTIFICATE_OCTETS = 32 * 1024
"""Of one client certificate; one with an ML-DSA-87 key and signature takes about 8 KiB."""


class ClientCertificates(enum.Enum):
    """Whether a client is asked for a certificate. None of them verifies it."""

    NONE = "none"
    REQUEST = "request"
    REQUIRE = "require"


class TlsVersion(enum.Enum):
    """The oldest version that is spoken."""

    TLS_1_2 = "1.2"
    TLS_1_3 = "1.3"


_VERSIONS = {TlsVersion.TLS_1_2: SSL.TLS1_2_VERSION, TlsVersion.TLS_1_3: SSL.TLS1_3_VERSION}
_VERIFY = {
    ClientCertificates.NONE: SSL.VERIFY_NONE,
    ClientCertificates.REQUEST: SSL.VERIFY_PEER,
    ClientCertificates.REQUIRE: SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT,
}
_OPTIONS = (
    SSL.OP_NO_RENEGOTIATION
    | SSL.OP_NO_TICKET
    | SSL.OP_NO_COMPRESSION
    | SSL.OP_CIPHER_SERVER_PREFERENCE
    | SSL.OP_SINGLE_ECDH_USE
)


@attrs.frozen
class TlsIdentity:
    """What the server shows. Nothing of the key is in the ``repr``."""

    chain_pem: bytes = attrs.field(repr=False)
    """The server's certificate and, after it, those between it and the root."""
    key_pem: bytes = attrs.field(repr=False)
    """Its private key, not encrypted."""


@attrs.frozen
class TlsOptions:
    """How a TLS listener speaks."""

    minimum: TlsVersion = TlsVersion.TLS_1_2
    ciphers: str = DEFAULT_CIPHERS
    """OpenSSL's notation; TLS 1.2 only."""
    client_certificates: ClientCertificates = ClientCertificates.NONE
    protocols: tuple[bytes, ...] = ALPN_PROTOCOLS
    """What is chosen from by ALPN (RFC 7301), the best first."""


def server_context(identity: TlsIdentity, options: TlsOptions) -> SSL.Context:
    """An OpenSSL context for ``identity``.

    Raises:
        Rejected: CONFIGURATION, with what is wrong with certificate, key or cipher list.
    """
    certificates, key = _read(identity)
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(_VERSIONS[options.minimum])
    context.set_options(_OPTIONS)
    # Idle connections give their buffers back: several kilobytes each.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(b"pkiserver")
    context.set_verify(_VERIFY[options.client_certificates], _within_bounds)
    context.set_verify_depth(CHAIN_DEPTH + 1)
    context.set_alpn_select_callback(partial(_choose_protocol, options.protocols))
    try:
        context.set_cipher_list(options.ciphers.encode("ascii"))
        context.use_certificate(certificates[0])
        for certificate in certificates[1:]:
            context.add_extra_chain_cert(certificate)
        context.use_privatekey(key)  # type: ignore[arg-type]  # OpenSSL says which kinds it takes
        context.check_privatekey()
    except (SSL.Error, TypeError, UnicodeEncodeError) as error:
        raise _unusable(f"TLS certificate, key and ciphers do not work together: {_openssl_text(error)}") from error
    return context


def _read(identity: TlsIdentity) -> tuple[list[x509.Certificate], PrivateKeyTypes]:
    try:
        certificates = x509.load_pem_x509_certificates(identity.chain_pem)
    except ValueError as error:
        raise _unusable(f"the TLS certificate file is not PEM certificates: {error}") from error
    try:
        key = load_pem_private_key(identity.key_pem, password=None)
    except (ValueError, TypeError) as error:
        # The text of the error may quote what was read; a key file is not quoted.
        raise _unusable("the TLS key file is not an unencrypted PEM private key") from error
    if certificates[0].public_key() != key.public_key():
        raise _unusable("the TLS key does not belong to the first certificate of the TLS certificate file")
    return certificates, key


def _unusable(text: str) -> Rejected:
    return Rejected.because(Refusal.CONFIGURATION, text)


def _openssl_text(error: Exception) -> str:
    if isinstance(error, SSL.Error) and error.args and isinstance(error.args[0], list):
        return "; ".join(str(entry[-1]) for entry in error.args[0]) or "OpenSSL gives no reason"
    return str(error)


def _within_bounds(_connection: SSL.Connection, certificate: crypto.X509, _error: int, depth: int, _ok: int) -> bool:
    """Accept every certificate that is not absurd: whom it identifies is judged where the request is."""
    return (
        depth <= CHAIN_DEPTH and len(crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)) <= CERTIFICATE_OCTETS
    )


def _choose_protocol(ours: tuple[bytes, ...], _connection: SSL.Connection, offered: list[bytes]) -> bytes:
    # RFC 7301 section 3.2: a client that offers protocols, but none of ours, is turned away (ALPACA).
    return next((protocol for protocol in ours if protocol in offered), b"")


@implementer(IOpenSSLServerConnectionCreator)
class TlsServer:
    """Makes the TLS connections of a listener. :meth:`replace` changes what later connections are shown.

    Raises:
        Rejected: as :func:`server_context`.
    """

    def __init__(self, identity: TlsIdentity, options: TlsOptions) -> None:
        self._options = options
        self._context = server_context(identity, options)

    def replace(self, identity: TlsIdentity) -> None:
        """Show ``identity`` to new connections; open ones go on. When it is unusable, everything stays as it was.

        Raises:
            Rejected: as :func:`server_context`.
        """
        self._context = server_context(identity, self._options)

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:  # noqa: ARG002, N802
        """Called by Twisted for each accepted connection."""
        return SSL.Connection(self._context, None)


def over_tls(http: HttpServerFactory, server: TlsServer) -> TLSMemoryBIOFactory:
    """``http`` behind TLS: the factory to listen with."""
    factory = TLSMemoryBIOFactory(server, False, http)
    # An answer is one write. Twisted's own choice gathers small writes until the next turn of the reactor.
    factory.protocol = TLSMemoryBIOProtocol
    return factory
