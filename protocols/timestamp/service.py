"""From a request's octets to a signed token: what is refused, what time it is, which serial number, who signs."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Protocol

from pkiserver.foundation.errors import PkiError
from pkiserver.timestamping.archive import Issued
from pkiserver.timestamping.clockwatch import ClockWatch
from pkiserver.timestamping.serials import Serials
from pkiserver.timestamping.unit import Archive, Chain
from protocols.timestamp.directory import Active
from protocols.timestamp.errors import refused
from protocols.timestamp.messages import Failure, Refused, TimestampRequest, decode_request, encode_granted

GRANTED = "granted"


class TokenArchive(Protocol):
    """Where tokens are noted."""

    def add(self, issued: Issued, *, keep_token: bool) -> None:
        """Note one soon; raises :class:`Unavailable` when too many wait already."""

    async def keep(self, issued: Issued, *, keep_token: bool) -> None:
        """Note one and wait until that is durable; raises :class:`Unavailable`."""


class Ordering(Protocol):
    """Gives the genTime of a unit whose tokens are ordered."""

    def next(self, unit: str, moment: datetime) -> datetime:
        """A moment later than all before; raises :class:`TimeNotAvailable` when it is another process's turn."""


class TimestampService:
    """Makes tokens for the units that a directory holds."""

    def __init__(self, watch: ClockWatch, serials: Serials, archive: TokenArchive, ordering: Ordering) -> None:
        self._watch = watch
        self._serials = serials
        self._archive = archive
        self._ordering = ordering
        self.counts: Counter[tuple[str, str]] = Counter()
        """Answers by unit and outcome: ``granted`` or the failure's name in lower case."""

    async def answer(self, active: Active, data: bytes) -> bytes:
        """A granted TimeStampResp for a DER request.

        Raises:
            Refused: with the failInfo and text for the client.
        """
        name = active.unit.name
        try:
            token = await self._issue(active, decode_request(data))
        except (Refused, PkiError) as error:
            told = refused(error)
            self.counts[name, told.failure.name.lower()] += 1
            if told is error:
                raise
            raise told from error
        self.counts[name, GRANTED] += 1
        return encode_granted(token)

    async def _issue(self, active: Active, request: TimestampRequest) -> bytes:
        unit = active.unit
        policy = _check(active, request)
        moment = self.moment(active)
        serial = self._serials.take(unit.serial_octets)
        imprint = request.imprint
        signable = active.template.signable(policy, imprint.encoded, serial, moment, request.nonce)
        signature = await active.signer.sign_attributes(signable.attributes, active.profile.scheme)
        token = active.template.token(signable, signature, certificates=request.certificates)
        if unit.archive is not Archive.OFF:
            issued = Issued(unit.name, moment, serial, imprint.hash, imprint.digest, token)
            keep_token = unit.archive is Archive.TOKENS
            if unit.archive_strict:
                await self._archive.keep(issued, keep_token=keep_token)
            else:
                self._archive.add(issued, keep_token=keep_token)
        return token

    def moment(self, active: Active) -> datetime:
        """The time that a token of this unit would have now.

        Raises:
            TimeNotAvailable: it cannot be told with the unit's accuracy.
            Refused: the unit's key may not sign at that time.
        """
        unit = active.unit
        moment = self._watch.stamp(unit.clock_error)
        if unit.ordering:
            moment = self._ordering.next(unit.name, moment)
        if not active.credential.signs(moment):
            raise Refused(Failure.SYSTEM_FAILURE, "the unit has no key that may sign at this time")
        return moment


def _check(active: Active, request: TimestampRequest) -> str:
    """The policy that applies; raises :class:`Refused` for what the unit does not do."""
    unit = active.unit
    if request.imprint.hash not in active.hashes:
        raise Refused(Failure.BAD_ALG, f"{request.imprint.hash} imprints are not accepted by this unit")
    policy = request.policy
    if policy is None:
        policy = unit.policies[0]
    elif policy not in unit.policies:
        raise Refused(Failure.UNACCEPTED_POLICY, "the requested policy is not one of this unit's")
    if request.certificates and unit.certificates is Chain.NEVER:
        raise Refused(Failure.ADD_INFO_NOT_AVAILABLE, "this unit does not send its certificates")
    return policy
