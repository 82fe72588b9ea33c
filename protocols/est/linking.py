"""Linking of identity and proof of possession (RFC 7030 section 3.5): is this CSR for this very TLS connection?

TLS 1.2: tls-unique (RFC 5929), the client's Finished of a handshake that is neither resumed nor renegotiated. TLS 1.3:
no RFC defines it for EST; the RFC 9266 exporter is taken by convention (see docs/protocols/est.md).
"""

from __future__ import annotations

import base64
import binascii
import hmac

from pkiserver.foundation.errors import Refusal, Rejected

_MAX_CHALLENGE = 255


def verify_link(challenge: bytes | None, binding: bytes | None, *, required: bool) -> bool:
    """Compare the challengePassword with the channel binding of the connection, in constant time.

    Args:
        challenge: the text of the attribute; None where the CSR has none. An empty one, which RFC 2985 does not know
            and some clients write, claims nothing.
        binding: tls-unique or exporter octets of the connection; None where it has none.
        required: whether the template insists on a link.

    Returns:
        Whether the request is linked.

    Raises:
        Rejected: a link is there and wrong, or required and missing (``Refusal.BAD_PROOF``).
    """
    challenge = challenge or b""
    claim = b"".join(challenge.split())
    if not claim:
        if required:
            raise Rejected.because(
                Refusal.BAD_PROOF,
                "linking of identity and proof of possession is required: put the base64 of the TLS channel binding "
                "(TLS 1.2: tls-unique; TLS 1.3: EXPORTER-Channel-Binding) into challengePassword",
            )
        return False
    try:
        claimed = base64.b64decode(claim, validate=True)
    except binascii.Error:
        claimed = b""
    if not binding or len(challenge) > _MAX_CHALLENGE or not hmac.compare_digest(claimed, binding):
        raise Rejected.because(
            Refusal.BAD_PROOF,
            "the challengePassword is not the channel binding of this TLS connection (enrolment codes and passwords "
            "belong into HTTP Basic)",
        )
    return True
