"""A TLS identity in PEM files: read at start, read again on SIGHUP; a bad file changes nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.runtime.config import TlsSettings
from protocols.web.factory import ALPN_PROTOCOLS
from protocols.web.tls import DEFAULT_CIPHERS, ClientCertificates, TlsIdentity, TlsOptions, TlsServer, TlsVersion


def read_identity(settings: TlsSettings) -> TlsIdentity:
    """Read both files.

    Raises:
        Rejected: CONFIGURATION, naming each file that cannot be read.
    """
    reasons = []
    octets = []
    for path in (settings.certificate, settings.key):
        try:
            octets.append(path.read_bytes())
        except OSError as error:
            reasons.append(_unreadable(path, error))
    if reasons:
        raise Rejected(reason for rejected in reasons for reason in rejected.reasons)
    return TlsIdentity(chain_pem=octets[0], key_pem=octets[1])


def _unreadable(path: Path, error: OSError) -> Rejected:
    return Rejected.because(Refusal.CONFIGURATION, f"{path}: cannot be read: {error.strerror}")


class TlsFiles:
    """The TLS server of one listener and the files that it came from; ``protocols`` are those of ALPN.

    Raises:
        Rejected: CONFIGURATION, with everything that is wrong with the files.
    """

    def __init__(
        self, settings: TlsSettings, client_certificates: str, protocols: tuple[bytes, ...] = ALPN_PROTOCOLS
    ) -> None:
        identity = read_identity(settings)
        options = TlsOptions(
            minimum=TlsVersion(settings.minimum_version),
            ciphers=settings.ciphers or DEFAULT_CIPHERS,
            client_certificates=ClientCertificates(client_certificates),
            protocols=protocols,
        )
        self.server = TlsServer(identity, options)
        self._fingerprint = _fingerprint(identity)

    def reload(self, settings: TlsSettings) -> str | None:
        """Read the files that the settings name now and show them to new connections.

        Returns:
            What changed, in words; None when the files are the same as before.

        Raises:
            Rejected: they do not do; the old identity stays.
        """
        identity = read_identity(settings)
        fingerprint = _fingerprint(identity)
        if fingerprint == self._fingerprint:
            return None
        self.server.replace(identity)
        self._fingerprint = fingerprint
        return f"TLS certificate {settings.certificate}"


def _fingerprint(identity: TlsIdentity) -> bytes:
    return hashlib.sha256(identity.chain_pem + b"\0" + identity.key_pem).digest()
