"""Keys behind the OCSP door, as signers of answers."""

from __future__ import annotations

import hashlib

from cryptography import x509

from pkiserver.authority import certparts
from pkiserver.authority.requests import spki_der
from pkiserver.authority.status.source import AnswerSigner
from pkiserver.foundation import der
from pkiserver.foundation.errors import PkiError
from pkiserver.keys.algorithms import SignatureScheme
from pkiserver.keys.keyring import KeyRing
from pkiserver.keys.signers import OcspSigner


def answer_signers(keys: KeyRing, key_name: str, certificate: bytes, *, delegated: bool) -> tuple[AnswerSigner, ...]:
    """A key with its certificate (DER) as a signer by each scheme that suits it, the default first.

    Nothing where the key is away or not bound to this door; readiness names it.
    """
    try:
        door = keys.ocsp_signer(key_name)
    except PkiError:
        return ()
    schemes = SignatureScheme.suited_to(door.public_key)
    return tuple(_signer(door, scheme, certificate, delegated=delegated) for scheme in schemes)


def _signer(door: OcspSigner, scheme: SignatureScheme, certificate: bytes, *, delegated: bool) -> AnswerSigner:
    parsed = x509.load_der_x509_certificate(certificate)
    spki = spki_der(parsed.public_key())
    algorithm = der.children(spki, der.element(spki))[0]
    return AnswerSigner(
        key_hash=hashlib.sha1(certparts.subject_public_key(spki), usedforsecurity=False).digest(),
        name=certparts.subject_octets(certificate),
        certificate=certificate if delegated else None,
        not_after=parsed.not_valid_after_utc,
        algorithm=scheme.algorithm_identifier(),
        key_algorithm=spki[algorithm.start : algorithm.end],
        sign=lambda octets, certificates: door.sign(octets, scheme, certificates),
        sign_now=lambda octets, certificates: door.sign_now(octets, scheme, certificates),
    )
