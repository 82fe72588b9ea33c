"""Who is at the other end, read from the transport once a connection."""

from __future__ import annotations

from OpenSSL import SSL, crypto
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.protocols.tls import TLSMemoryBIOProtocol

from protocols.web.values import Peer, TlsPeer
from protocols.web.wire import Wire

EXPORTER_LABEL = b"EXPORTER-Channel-Binding"
"""RFC 9266 section 4.2."""
EXPORTER_OCTETS = 32


def peer_of(transport: Wire) -> Peer:
    """The peer of a connected transport; for TLS to be called only when the handshake is done."""
    address = transport.getPeer()
    handle = transport.getHandle() if isinstance(transport, TLSMemoryBIOProtocol) else None  # type: ignore[no-untyped-call]
    tls = None if handle is None else tls_peer(handle)
    if isinstance(address, (IPv4Address, IPv6Address)):
        return Peer(address.host, address.port, tls)
    return Peer("local", 0, tls)


def tls_peer(connection: SSL.Connection) -> TlsPeer:
    """What a finished handshake says about the client."""
    version = connection.get_protocol_version_name()
    certificate = connection.get_peer_certificate()
    # On the server side OpenSSL's list leaves the peer's own certificate out.
    chain = connection.get_peer_cert_chain() or []
    own = None if certificate is None else _der(certificate)
    name = connection.get_servername()
    modern = version == "TLSv1.3"
    return TlsPeer(
        version=version,
        certificate_der=own,
        chain=tuple(der for der in map(_der, chain) if der != own),
        finished=None if modern else connection.get_peer_finished(),
        exporter=connection.export_keying_material(EXPORTER_LABEL, EXPORTER_OCTETS, b"") if modern else None,
        server_name=None if name is None else name.decode("ascii", "replace"),
    )


def _der(certificate: crypto.X509) -> bytes:
    return crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)
