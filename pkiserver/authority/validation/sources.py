"""One source of status from two: our own authorities, and those whose lists are fed in."""

from __future__ import annotations

from collections.abc import Sequence

from pkiserver.authority.status.source import ServedIssuer, Statuses, StatusSource


class BothSources:
    """Our own records answer where one of ours can sign; for the rest (a root that is offline) fed lists may.

    What was never issued by an issuer that both know is so decided by the one whose responder signs.
    """

    def __init__(self, own: StatusSource, foreign: StatusSource) -> None:
        self._own = own
        self._foreign = foreign

    def _of(self, issuer: ServedIssuer) -> StatusSource:
        return self._own if issuer.standing is None else self._foreign

    def issuer_now(self, hash_name: str, name_hash: bytes, key_hash: bytes) -> ServedIssuer | None:
        """The issuer, from memory."""
        found = self._own.issuer_now(hash_name, name_hash, key_hash)
        return found or self._foreign.issuer_now(hash_name, name_hash, key_hash)

    def statuses_now(self, issuer: ServedIssuer, serials: Sequence[int]) -> Statuses | None:
        """The statuses, from memory."""
        return self._of(issuer).statuses_now(issuer, serials)

    def state_now(self) -> object | None:
        """The states of both."""
        own, foreign = self._own.state_now(), self._foreign.state_now()
        return None if own is None or foreign is None else (own, foreign)

    async def issuer(self, hash_name: str, name_hash: bytes, key_hash: bytes) -> ServedIssuer | None:
        """The issuer with these hashes."""
        own = await self._own.issuer(hash_name, name_hash, key_hash)
        if own is not None and own.signer is not None:
            return own
        return await self._foreign.issuer(hash_name, name_hash, key_hash) or own

    async def statuses(self, issuer: ServedIssuer, serials: Sequence[int]) -> Statuses:
        """The status of each serial number."""
        return await self._of(issuer).statuses(issuer, serials)
