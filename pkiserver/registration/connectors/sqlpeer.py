"""Why a database's certificate is not trusted: its drivers say that it is not, and neither for which name nor by whom.

The first octets of PostgreSQL's and MySQL's protocols lead up to TLS, and nothing further; no password is sent. Blocks.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from OpenSSL import SSL

from pkiserver.foundation.tomlfile import Invalid
from pkiserver.outbound.pem import PemCertificates
from pkiserver.outbound.trust import TlsTrust

_CHUNK = 16 * 1024
_POSTGRESQL, _MYSQL = 5432, 3306
_SSL_REQUEST = struct.pack("!II", 8, 80877103)
_PROTOCOL_41, _SSL = 0x200, 0x800
_LARGEST_GREETING = 4096


def peer_problem(url: str, trust: Path, seconds: float) -> str | None:
    """What is wrong with the certificate of the database of a URL, in one line; None where that cannot be said."""
    parts = urlsplit(url)
    host = parts.hostname or "localhost"
    ready, usual = (_postgresql, _POSTGRESQL) if parts.scheme == "postgresql" else (_mysql, _MYSQL)
    try:
        client = TlsTrust(PemCertificates(f"file:{trust}")).creator(host)
    except Invalid:
        return None
    try:
        with socket.create_connection((host, parts.port or usual), seconds) as connection:
            if ready(connection):
                # the argument is Twisted's protocol, which this client does not look at
                _shake(client.clientConnectionForTLS(cast("Any", None)), connection)
    except SSL.Error:
        return client.check.problem
    except OSError:
        return None
    return None


def _postgresql(connection: socket.socket) -> bool:
    """SSLRequest (PostgreSQL's manual, section 55.7)."""
    connection.sendall(_SSL_REQUEST)
    return connection.recv(1) == b"S"


def _mysql(connection: socket.socket) -> bool:
    """The server's greeting, then SSLRequest (MySQL's internals manual, connection phase)."""
    head = _exactly(connection, 4)
    size = int.from_bytes(head[:3], "little")
    if not 0 < size <= _LARGEST_GREETING or _exactly(connection, size)[0] != 10:
        return False
    body = struct.pack("<IIB23x", _PROTOCOL_41 | _SSL, 1 << 24, 45)
    connection.sendall(len(body).to_bytes(3, "little") + bytes((head[3] + 1,)) + body)
    return True


def _exactly(connection: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        if not (more := connection.recv(count - len(found))):
            raise ConnectionError("the server ended the conversation")
        found += more
    return found


def _shake(tls: SSL.Connection, connection: socket.socket) -> None:
    """The handshake, its records carried by hand; raises :class:`OpenSSL.SSL.Error` where it fails."""
    tls.set_connect_state()
    while True:
        try:
            tls.do_handshake()
        except SSL.WantReadError:
            _send(tls, connection)
            if not (records := connection.recv(_CHUNK)):
                raise ConnectionError("the server ended the handshake") from None
            tls.bio_write(records)
        else:
            return


def _send(tls: SSL.Connection, connection: socket.socket) -> None:
    try:
        while True:
            connection.sendall(tls.bio_read(_CHUNK))
    except SSL.WantReadError:
        return
