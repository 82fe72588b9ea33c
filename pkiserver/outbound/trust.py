"""TLS to other servers: own trust anchors, service identity (RFC 9525), and a word on why a server is not trusted."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from pathlib import Path

import attrs
from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import X509
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import extract_patterns
from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from pkiserver.foundation.extensionvalue import extension_value
from pkiserver.foundation.tomlfile import Invalid
from pkiserver.outbound.pem import PemCertificates
from pkiserver.outbound.problems import OutboundError, Trouble

# X509_V_ERR values of OpenSSL's x509_vfy.h.
_NO_ISSUER = frozenset({2, 18, 19, 20, 21})
_REASONS = {
    7: "has a bad signature",
    9: "is not valid yet",
    10: "has expired",
    23: "is revoked",
    24: "is used as a CA and is none",
    25: "is below a CA that may not have another below it",
    26: "is not for this purpose",
    66: "has a key that is too weak",
    67: "is signed by a key that is too weak",
    68: "is signed with a digest that is too weak",
}


@attrs.define
class PeerCheck:
    """What came of checking one server's certificate; ``problem`` is one line, None as long as nothing is wrong."""

    server: str
    problem: str | None = None


@attrs.frozen
class ClientIdentity:
    """The certificate and key with which this server shows itself: PEM files, the key not encrypted."""

    certificate: Path
    key: Path


@lru_cache(maxsize=1024)
def _for_openssl(certificate: x509.Certificate) -> X509:
    """A certificate as OpenSSL wants it. The machine's list of public authorities takes 12 ms, at each connection."""
    return X509.from_cryptography(certificate)


def unusable(server: str, error: Invalid | OSError | SSL.Error) -> OutboundError:
    """What :meth:`TlsTrust.creator` raised, as the connection to ``server`` says it."""
    if isinstance(error, OSError):
        why = f"{error.filename}: {error.strerror}"
    elif isinstance(error, Invalid):
        why = str(error)
    else:
        why = ", ".join(str(part[-1]) for part in (error.args[0] if error.args else []) if part) or "no reason given"
    return OutboundError(Trouble.SETTINGS, server, f"the trust anchors, certificate or key cannot be used: {why}")


@attrs.frozen
class TlsTrust:
    """Whom to trust. There is no default: the machine's own list of public CAs does not count."""

    anchors: PemCertificates
    identity: ClientIdentity | None = None
    alpn: tuple[bytes, ...] = ()

    def creator(self, host: str) -> TlsClient:
        """What Twisted needs to speak TLS with ``host`` (a DNS name or an IP address).

        Raises:
            Invalid: the anchors cannot be read.
            OSError, OpenSSL.SSL.Error: the client's certificate or key cannot be read.
        """
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        store = context.get_cert_store()
        assert store is not None
        for anchor in self.anchors.load():
            store.add_cert(_for_openssl(anchor))
        if self.identity is not None:
            for path in (self.identity.certificate, self.identity.key):
                path.open("rb").close()  # OpenSSL's own error does not name the file
            context.use_certificate_chain_file(str(self.identity.certificate))
            context.use_privatekey_file(str(self.identity.key))
            context.check_privatekey()
        if self.alpn:
            context.set_alpn_protos(list(self.alpn))
        check = PeerCheck(host)

        def verify(_connection: SSL.Connection, peer: X509, error: int, depth: int, fine: int) -> bool:
            certificate = peer.to_cryptography()
            problem = _chain_problem(certificate, error) if not fine else None
            if problem is None and depth == 0:
                problem = _name_problem(certificate, host)
            check.problem = check.problem or problem
            return problem is None

        context.set_verify(SSL.VERIFY_PEER, verify)
        return TlsClient(context, host, check)


@implementer(IOpenSSLClientConnectionCreator)
class TlsClient:
    """Makes the TLS connections of one host; ``check`` says afterwards why the last one was refused."""

    def __init__(self, context: SSL.Context, host: str, check: PeerCheck) -> None:
        self._context = context
        self._host = host
        self.check = check

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:  # noqa: ARG002, N802, N803
        """A connection that sends the host name and verifies the answer (Twisted's interface)."""
        connection = SSL.Connection(self._context, None)
        if not _is_address(self._host):
            connection.set_tlsext_host_name(self._host.encode("idna"))
        return connection


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _chain_problem(certificate: x509.Certificate, error: int) -> str:
    subject, issuer = certificate.subject.rfc4514_string(), certificate.issuer.rfc4514_string()
    if error in _NO_ISSUER:
        return f"the certificate {subject!r} was issued by {issuer!r}, which is not among the trust anchors"
    why = _REASONS.get(error, f"does not verify (OpenSSL's X509_V_ERR {error})")
    return f"the certificate {subject!r} (issued by {issuer!r}) {why}"


def _name_problem(certificate: x509.Certificate, host: str) -> str | None:
    wanted = IPAddress_ID(host) if _is_address(host) else DNS_ID(host)
    try:
        verify_service_identity(extract_patterns(certificate), obligatory_ids=[wanted], optional_ids=[])
    except (VerificationError, CertificateError):
        issuer = certificate.issuer.rfc4514_string()
        return f"the certificate is for {_names(certificate)}, not for {host} (issued by {issuer!r})"
    return None


def _names(certificate: x509.Certificate) -> str:
    names = extension_value(certificate, x509.SubjectAlternativeName)
    if names is None:
        return f"no name (its subject is {certificate.subject.rfc4514_string()!r})"
    listed = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    return ", ".join(listed) or "no host"
