"""What a service is to be told of its challenge later: kept with the request, queued when the request has ended.

The service wants the whole PKCS#10 request back, and the challenge stands in it: it is kept sealed (AES-256-GCM, under
a key that the database keeps), so that it is readable neither to officers nor in what is exported or logged.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping
from datetime import datetime

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection

from pkiserver.authority.requests import ChallengeEvidence, EnrollmentRequest, IssuedCertificate
from pkiserver.foundation.framing import framed
from pkiserver.foundation.secret import Secret
from pkiserver.store import secrets as server_secrets
from pkiserver.store.publication import outward
from pkiserver.store.publication.outward import connector_key

KEY_NAME = "challenge-questions"
_NONCE = 12
Kept = Mapping[str, str]
"""A question as it stands in the database: connector, template, transaction, the sealed request, who asked it when."""


def keep(connection: Connection, request: EnrollmentRequest, *, now: datetime) -> Kept | None:
    """The question behind a request whose challenge a service took that wants to be told; None where there is none."""
    found = (one for one in request.evidence if isinstance(one, ChallengeEvidence) and one.tells)
    piece = next(found, None)
    if piece is None or piece.csr is None:
        return None
    about = {"connector": piece.tells, "template": request.template, "transaction": request.transaction_id or ""}
    key = server_secrets.get_or_put(connection, KEY_NAME, Secret(secrets.token_bytes(32)), now=now)
    nonce = secrets.token_bytes(_NONCE)
    sealed = nonce + AESGCM(key.reveal()).encrypt(nonce, piece.csr, _bound(about))
    return {**about, "sealed": base64.b64encode(sealed).decode(), "asked": now.isoformat()}


def open_request(connection: Connection, kept: Kept) -> bytes | None:
    """The PKCS#10 request (DER) of a question; None where it was not sealed here for this question."""
    key = server_secrets.get(connection, KEY_NAME)
    try:
        sealed = base64.b64decode(kept["sealed"])
        if key is None:
            return None
        return AESGCM(key.reveal()).decrypt(sealed[:_NONCE], sealed[_NONCE:], _bound(kept))
    except (InvalidTag, KeyError, ValueError):
        return None


def tell_issued(connection: Connection, kept: Kept, issued: IssuedCertificate) -> None:
    """Queue the success, in the transaction that stores the certificate."""
    result = {"certificate": issued.certificate_id, "authority": issued.authority}
    _enqueue(connection, kept, f"issued {issued.certificate_id}", result)


def tell_refused(connection: Connection, kept: Kept, why: str) -> None:
    """Queue the failure, in the transaction that makes it final where there is one."""
    _enqueue(connection, kept, f"refused {kept['template']} {kept['transaction']}", {"why": why})


def _enqueue(connection: Connection, kept: Kept, subject: str, result: Mapping[str, object]) -> None:
    outward.enqueue(connection, [connector_key(kept["connector"])], [subject], json.dumps({**kept, **result}))


def _bound(about: Kept) -> bytes:
    """What the seal is bound to: no request can be put into another question."""
    return framed(about[name].encode() for name in ("connector", "template", "transaction"))


def told_to(request: EnrollmentRequest, connector: str) -> EnrollmentRequest:
    """The request, noting that this connector took its challenge and wants to be told what comes of it."""
    evidence = tuple(
        attrs.evolve(one, tells=connector, csr=one.csr or request.csr) if isinstance(one, ChallengeEvidence) else one
        for one in request.evidence
    )
    return attrs.evolve(request, evidence=evidence)
