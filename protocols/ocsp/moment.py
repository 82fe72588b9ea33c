"""What all answers of one signer have in common that are made within one second."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import attrs

from pkiserver.authority.status.policy import NeverIssued, OcspPolicy, ResponderIdentity
from pkiserver.authority.status.source import AnswerSigner, ServedIssuer
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Unavailable
from protocols.ocsp import messages, preference
from protocols.ocsp.messages import Preference

_SECOND = timedelta(seconds=1)
_KEPT = 256
"""Moments kept; there is one for each issuer that is asked about within a second."""


@attrs.frozen(eq=False)
class Period:
    """For how long an answer holds.

    Attributes:
        this_update: When the records said so.
        next_update: When to ask again.
        octets: Both, as an answer has them.
    """

    this_update: datetime
    next_update: datetime
    octets: bytes


@attrs.frozen(eq=False)
class Moment:
    """A second of one issuer and one signer.

    Attributes:
        served: The issuer asked about.
        signer: Who signs.
        now: The second, UTC.
        opening: What the answers begin with.
        certificates: What the answers show of the signer, DER.
        extensions: The answers' extensions beside the nonce.
        oldest: Certificates that expired before are past their archive time.
        settled: The period of answers about certificates that there are.
        unsettled: The period of answers that say of one that there is none: it may be issued the next moment.
    """

    served: ServedIssuer
    signer: AnswerSigner
    now: datetime
    opening: bytes
    certificates: tuple[bytes, ...]
    extensions: tuple[bytes, ...]
    oldest: datetime
    settled: Period
    unsettled: Period

    @classmethod
    def of(cls, served: ServedIssuer, signer: AnswerSigner, now: datetime) -> Moment:
        """The moment ``now``, a whole second.

        Raises:
            Unavailable: The lists that the issuer's records come from are out of date.
        """
        if served.standing is not None and served.standing.until <= now:
            raise Unavailable(f"the lists of {served.authority} are out of date")
        policy = served.policy
        # The extension says what this responder does, not what this answer holds: it is in all or in none.
        extended = policy.never_issued is NeverIssued.REVOKED
        return cls(
            served=served,
            signer=signer,
            now=now,
            opening=messages.opening(_name(signer, policy), now),
            certificates=(signer.certificate,) if signer.certificate and policy.include_certificate else (),
            extensions=(messages.EXTENDED_REVOKE_EXTENSION,) if extended else (),
            oldest=now - policy.archive,
            settled=_period(served, signer, now, policy.validity),
            unsettled=_period(served, signer, now, min(policy.validity, policy.unknown_validity)),
        )


def _name(signer: AnswerSigner, policy: OcspPolicy) -> bytes:
    if policy.identity is ResponderIdentity.NAME:
        return messages.by_name(signer.name)
    return messages.by_key(signer.key_hash)


def _period(served: ServedIssuer, signer: AnswerSigner, now: datetime, validity: timedelta) -> Period:
    this_update, next_update = now, min(now + validity, signer.not_after)
    if served.standing is not None:
        this_update = min(served.standing.this_update, now)
        next_update = min(next_update, served.standing.until)
    return Period(this_update, next_update, messages.times(this_update, next_update))


class Moments:
    """The present second's moments."""

    def __init__(self, clock: Clock) -> None:
        self._now: Callable[[], datetime] = clock.now
        self._second = self._end = clock.now().replace(microsecond=0)
        self._known: dict[int, Moment] = {}

    def of(self, served: ServedIssuer, preferences: tuple[Preference, ...]) -> Moment:
        """The present moment of an issuer, with the signer that the client likes best.

        Raises:
            Unavailable: Nobody can sign for it now, or its lists are out of date.
        """
        now = self._now()
        if not self._second <= now < self._end:
            self._second = now.replace(microsecond=0)
            self._end = self._second + _SECOND
            self._known.clear()
        found = self._known.get(id(served))
        if found is not None and found.served is served and not preferences:
            return found
        moment = Moment.of(served, preference.signer_for(preferences, served, self._second), self._second)
        if moment.signer is served.signer and len(self._known) < _KEPT:
            self._known[id(served)] = moment
        return moment
