"""Which key signs by which algorithm: the client's wish where it can be met (RFC 6960 section 4.4.7)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from pkiserver.authority.status.source import AnswerSigner, ServedIssuer
from pkiserver.foundation.errors import Unavailable
from protocols.ocsp.messages import Preference

_NULL = b"\x05\x00"


def signer_for(preferences: tuple[Preference, ...], served: ServedIssuer, now: datetime) -> AnswerSigner:
    """The signer that the client likes best; the issuer's usual one where it likes none that there is.

    Raises:
        Unavailable: Nobody can sign for this issuer now.
    """
    usual = served.signer
    if usual is None or usual.not_after <= now:
        raise Unavailable(f"authority {served.authority} has no OCSP signer at the moment")
    if not preferences:
        return usual
    able = [usual, *(one for one in served.others if one.not_after > now)]
    return next(_meeting(preferences, able), usual)


def _meeting(preferences: Iterable[Preference], able: list[AnswerSigner]) -> Iterator[AnswerSigner]:
    for wish in preferences:
        for signer in able:
            if _same(wish.algorithm, signer.algorithm) and (
                wish.key_algorithm is None or _same(wish.key_algorithm, signer.key_algorithm)
            ):
                yield signer


def _same(wanted: bytes, ours: bytes) -> bool:
    # Some clients leave out the NULL that RFC 4055 wants beside RSA's algorithms; short lengths only, so two octets
    # of header in both.
    return wanted == ours or (ours.endswith(_NULL) and wanted[2:] == ours[2:-2])
