"""Doing what was agreed on: the last approval revokes or releases an authority, or changes a template, at once.

Exports of secrets, recoveries of keys and changes of administrators are carried out by whoever does them, with the
consent that the approval gives (:meth:`DualControlDesk.consent`). An approval is spent in the transaction of its deed:
a process that ends between the two has done neither.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from pkiserver.authority.authorities import Authorities
from pkiserver.authority.certparts import issuer_octets, subject_octets
from pkiserver.authority.configuration import Configuration, Plan
from pkiserver.authority.consent import Consent
from pkiserver.authority.documents import Document, Kind, read_documents
from pkiserver.authority.revocation import ByFingerprint, Order, Revocations
from pkiserver.authority.status.values import parse_reason, reason_name
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.registration.operations import TOML, Operation, OperationKind, Operations, Wish, digest_of
from pkiserver.registration.votes import Person
from pkiserver.store.authority.authorities import GenerationState
from pkiserver.store.certificates import Certificate, CertificateState, RevocationReason
from pkiserver.store.registration.operations import OperationState

FINGERPRINT, REASON, REVISION, DETAIL = "fingerprint", "reason", "revision", "detail"
_WANTED = {
    OperationKind.REVOKE_AUTHORITY: {FINGERPRINT, REASON},
    OperationKind.RELEASE_AUTHORITY: {FINGERPRINT},
    OperationKind.CHANGE_TEMPLATE: {TOML},
    OperationKind.CHANGE_ADMINISTRATOR: {DETAIL},
    OperationKind.EXPORT_SECRET: {DETAIL},
    OperationKind.RECOVER_KEY: {DETAIL},
}
_DONE_HERE = frozenset({OperationKind.REVOKE_AUTHORITY, OperationKind.RELEASE_AUTHORITY, OperationKind.CHANGE_TEMPLATE})
"""What the last approval carries out; everything else is done by whoever asked."""


@attrs.frozen
class DualControlDesk:
    """Where operations are asked for, voted on and carried out."""

    operations: Operations
    revocations: Revocations
    configuration: Configuration
    authorities: Authorities

    async def ask(
        self, kind: OperationKind, what: str, particulars: dict[str, str], *, reason: str, by: Person
    ) -> Operation:
        """Ask for an operation, whose particulars are checked now.

        Raises:
            Rejected: the particulars are not those of the kind, or it could not be carried out as things are.
        """
        wish = await self._checked(kind, what, particulars)
        [made] = await self.operations.ask_all([wish], reason=reason, by=by)
        return made

    async def _checked(self, kind: OperationKind, what: str, particulars: dict[str, str]) -> Wish:
        wanted = _WANTED[kind]
        if set(particulars) != wanted:
            text = f"{kind} takes the particulars {', '.join(sorted(wanted))}"
            raise Rejected.because(Refusal.MALFORMED, text)
        if kind is OperationKind.CHANGE_TEMPLATE:
            plan = await self._plan(what, particulars[TOML])
            particulars = {**particulars, REVISION: _revision(plan)}
        elif kind is OperationKind.REVOKE_AUTHORITY:
            _require_new(await self._own_certificate(what, particulars), _reason(particulars))
        elif kind is OperationKind.RELEASE_AUTHORITY:
            found = await self._own_certificate(what, particulars)
            if found.state is not CertificateState.HELD:
                raise Rejected.because(Refusal.CONFLICT, f"the certificate of authority {what} is not on hold")
        return kind, what, particulars

    async def ask_to_revoke(
        self, authority: str, certificate: Certificate, reason: str, *, why: str, by: Person
    ) -> Operation:
        """Ask that an authority's own certificate be revoked.

        Args:
            authority: Whose it is.
            certificate: Which.
            reason: In the CRL (RFC 5280 section 5.3.1).
            why: For those who vote.
            by: Who asks.

        Raises:
            Rejected: ``why`` is missing, or nobody would learn of it: a self-signed certificate.
        """
        particulars = {FINGERPRINT: _fingerprint(certificate), REASON: reason}
        return await self.ask(OperationKind.REVOKE_AUTHORITY, authority, particulars, reason=why, by=by)

    async def ask_to_release(self, authority: str, certificate: Certificate, *, why: str, by: Person) -> Operation:
        """Ask that the hold of an authority's own certificate end; raises as :meth:`ask_to_revoke`."""
        particulars = {FINGERPRINT: _fingerprint(certificate)}
        return await self.ask(OperationKind.RELEASE_AUTHORITY, authority, particulars, reason=why, by=by)

    async def ask_to_change(self, plan: Plan, *, why: str, by: Person) -> tuple[Operation, ...]:
        """Ask for every template that a plan adds or changes, an operation for each; for all of them or for none.

        Raises:
            Rejected: ``why`` is missing, or the plan has more than that: it is all or nothing, and operations are not.
        """
        wanted = [change for change in plan.changes if change.key.kind is Kind.TEMPLATE and change.after is not None]
        if len(wanted) != len(plan.changes):
            text = "templates change by operations here ([approvals.dual_control]): apply other changes by themselves"
            more = "; templates are not removed, but switched off (enabled = false)"
            raise Rejected.because(Refusal.NOT_AUTHORISED, text + more)
        kind = OperationKind.CHANGE_TEMPLATE
        wishes = [await self._checked(kind, change.key.name, {TOML: str(change.after)}) for change in wanted]
        return await self.operations.ask_all(wishes, reason=why, by=by)

    def authority_of(self, certificate: Certificate) -> str | None:
        """The authority whose own certificate in service it is."""
        for authority in self.authorities.list():
            for generation in authority.generations:
                own = generation.ca
                serves = generation.state is not GenerationState.RETIRED
                if own is not None and serves and own.der == certificate.der:
                    return authority.name
        return None

    async def decide(self, number: int, *, approved: bool, by: Person, reason: str = "") -> Operation:
        """Vote, and carry out what is approved now; the operation as it is then.

        Whoever approves once more what was approved and not carried out, since the process ended in between, has it
        carried out.

        Raises:
            Rejected: as :meth:`Operations.decide` does.
        """
        voted = await self._left_undone(number, by) if approved else None
        if voted is None:
            voted = await self.operations.decide(number, approved=approved, by=by, reason=reason)
        if voted.row.state is OperationState.APPROVED and voted.kind in _DONE_HERE:
            await self._carry_out(voted, by)
        return await self.operations.get(number)

    async def _left_undone(self, number: int, by: Person) -> Operation | None:
        """The operation, where this very person has approved it, it is approved, and nothing came of it yet."""
        found = await self.operations.get(number)
        if found.row.state is not OperationState.APPROVED or found.kind not in _DONE_HERE:
            return None
        votes = await self.operations.votes_on(number)
        return found if any(vote.approved and vote.actor == by.actor for vote in votes) else None

    async def consent(self, number: int, kind: OperationKind, what: str, particulars: Mapping[str, str]) -> Consent:
        """An approval, as it stands, for the deed to use up in its own transaction.

        Raises:
            Rejected: it is not approved, was used, is over, or approves something else.
        """
        digest = digest_of(kind, what, particulars)
        await self.operations.check(number, kind, digest)
        spend = self.operations.spend
        return Consent(lambda connection: spend(connection, number, kind, digest), via=f"operation {number}")

    async def difference(self, operation: Operation) -> str | None:
        """What a template's change would change now; None for other kinds and where nothing would."""
        if operation.kind is not OperationKind.CHANGE_TEMPLATE:
            return None
        plan = await self._plan(operation.object, operation.particulars[TOML])
        return "\n".join(change.difference() for change in plan.changes) or None

    async def _carry_out(self, operation: Operation, by: Person) -> None:
        consent = await self.consent(operation.number, operation.kind, operation.object, operation.particulars)
        try:
            if operation.kind is OperationKind.CHANGE_TEMPLATE:
                await self._change(operation, consent)
            else:
                await self._change_status(operation, by, consent)
        except Rejected as error:
            # What cannot be done is asked for anew, as things are then. Where the database is away nothing is said of
            # it: whoever approves again has it carried out.
            await self.operations.failed(operation.number, str(error), by=by)

    async def _change_status(self, operation: Operation, by: Person, consent: Consent) -> None:
        found = await self._certificate(operation.particulars)
        assert found.fingerprint is not None
        order = Order(
            actor=operation.row.requested_by,
            approved_by=by.actor,
            request_id=consent.via,
            comment=operation.row.reason,
            consent=consent,
        )
        if operation.kind is OperationKind.RELEASE_AUTHORITY:
            await self.revocations.release(ByFingerprint(found.fingerprint), order)
        else:
            await self.revocations.revoke(ByFingerprint(found.fingerprint), _reason(operation.particulars), order)

    async def _change(self, operation: Operation, consent: Consent) -> None:
        plan = await self._plan(operation.object, operation.particulars[TOML])
        if _revision(plan) != operation.particulars[REVISION]:
            raise Rejected.because(Refusal.CONFLICT, f"template {operation.object} was changed meanwhile")
        await self.configuration.apply(plan, by=operation.row.requested_by, consent=consent)

    async def _plan(self, name: str, text: str) -> Plan:
        [document] = read_documents([(f"template {name}", text)])
        if document.kind is not Kind.TEMPLATE or document.name != name:
            raise Rejected.because(Refusal.CONFIGURATION, f"the document does not describe template {name}")
        return await self.configuration.plan([_with_file(document)])

    async def _own_certificate(self, authority: str, particulars: Mapping[str, str]) -> Certificate:
        """The certificate; raises :class:`Rejected` unless it is of that authority, and its issuer can tell of the end.

        Votes and scopes go by the authority's name.
        """
        keys = self.authorities.get(authority).generations
        found = await self._certificate(particulars)
        if not any(one.ca is not None and one.ca.der == found.der for one in keys):
            raise Rejected.because(Refusal.UNKNOWN_CERTIFICATE, f"it is no certificate of authority {authority}")
        if found.der is not None and issuer_octets(found.der) == subject_octets(found.der):
            text = f"it is the self-signed certificate of authority {authority}: nobody would learn of it"
            raise Rejected.because(Refusal.CONFLICT, text)
        return found

    async def _certificate(self, particulars: Mapping[str, str]) -> Certificate:
        try:
            fingerprint = bytes.fromhex(particulars[FINGERPRINT])
        except ValueError as error:
            raise Rejected.because(Refusal.MALFORMED, f"fingerprint: {error}") from error
        return await self.revocations.find(ByFingerprint(fingerprint))


def _fingerprint(certificate: Certificate) -> str:
    if certificate.der is None or certificate.fingerprint is None:
        raise Rejected.because(Refusal.UNKNOWN_CERTIFICATE, "no signed certificate is known")
    return certificate.fingerprint.hex()


def _reason(particulars: Mapping[str, str]) -> RevocationReason:
    try:
        return parse_reason(particulars[REASON])
    except ValueError as error:
        raise Rejected.because(Refusal.MALFORMED, f"reason: {error}") from error


def _require_new(found: Certificate, reason: RevocationReason) -> None:
    """Raise :class:`Rejected` where nobody need vote: it is revoked, or on hold, for that reason already."""
    if reason is RevocationReason.REMOVE_FROM_CRL:
        text = "removeFromCRL is what a delta CRL says of a released certificate: ask to release it"
        raise Rejected.because(Refusal.UNSUPPORTED, text)
    if found.revocation is not None and found.revocation.reason is reason:
        since = f"{found.state} since {found.revocation.at:%Y-%m-%d %H:%M:%SZ}"
        raise Rejected.because(Refusal.CONFLICT, f"it is {since} ({reason_name(reason)})")


def _with_file(document: Document) -> Document:
    return attrs.evolve(document, file="the operation")


def _revision(plan: Plan) -> str:
    """What the template's revision was: another one means that somebody changed it."""
    if not plan.changes:
        raise Rejected.because(Refusal.CONFLICT, "the template says that already")
    return str(plan.changes[0].revision or 0)
