"""The road's first half: from an authorised request to a prepared certificate whose serial and intent are durable.

Nothing is signed here with a key that matters. Every check that fails is told, not only the first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterator
from functools import cached_property, partial
from typing import TYPE_CHECKING, Protocol

import attrs
from cryptography import x509
from sqlalchemy import Connection
from twisted.internet.defer import CancelledError

from pkiserver.authority import duplicates
from pkiserver.authority.authorities import Authorities
from pkiserver.authority.checkpoints import Checkpoint, Step, go_on
from pkiserver.authority.checks.keycheck import check_key
from pkiserver.authority.checks.nameconstraints import limits_along
from pkiserver.authority.distribution import DistributionPoint
from pkiserver.authority.issuerstanding import IssuerStanding
from pkiserver.authority.model import Authority
from pkiserver.authority.order import Order
from pkiserver.authority.requests import Authorised, Claim, PreparedCertificate, spki_der
from pkiserver.authority.tbs import Draft, RandomPool, build_draft, random_serial
from pkiserver.authority.templates.build import CertificateContent, IssuerView, build_content
from pkiserver.authority.templates.model import Template
from pkiserver.authority.turns import Turns
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Reason, Refusal, Rejected, Unavailable
from pkiserver.foundation.extensionvalue import value_among
from pkiserver.store import certificates
from pkiserver.store.authority import crls
from pkiserver.store.certificates import NewIntent
from pkiserver.store.database import Database
from pkiserver.store.failures import OutcomeUnknown
from pkiserver.store.names import sans_of

if TYPE_CHECKING:
    from pkiserver.authority.checks.lint import Linter

Extensions = tuple[x509.Extension[x509.ExtensionType], ...]


class Templates(Protocol):
    """Where the road finds the template in force."""

    def get(self, name: str) -> Template:
        """The template of that name; raises :class:`Rejected` (UNKNOWN_TEMPLATE)."""


class Asked(Protocol):
    """Who signs what was asked for with its intent."""

    def require_key(self, key_name: str) -> None:
        """Raises :class:`Unavailable` where the key cannot be used now."""

    def expect(self, certificate_id: int) -> None:
        """What is to be signed under this number is asked for already."""

    async def take_back(self, intent: NewIntent, claims: tuple[Claim, ...], *, late: bool) -> None:
        """Give up what was prepared, if it became durable, or becomes so ``late``; ``claims`` can be used again."""


@attrs.frozen
class _Admission:
    """What the store says about an order: reasons against it, and which certificates it takes the place of."""

    reasons: tuple[Reason, ...]
    supersedes: tuple[int, ...]
    replaces: int | None


class Preparer:
    """Makes prepared certificates.

    ``rng`` gives as many random octets as it is asked for; ``living`` sees to it that others know this process for
    alive, who would otherwise settle what it has under way.
    """

    def __init__(
        self,
        *,
        database: Database,
        authorities: Authorities,
        templates: Templates,
        clock: Clock,
        holder: str,
        living: Callable[[], Awaitable[None]],
        issuer: Asked,
        rng: Callable[[int], bytes] | None = None,
        checkpoint: Checkpoint = go_on,
    ) -> None:
        self._database = database
        self._authorities = authorities
        self._templates = templates
        self._clock = clock
        self._holder = holder
        self._living = living
        self._issuer = issuer
        self._rng = rng or RandomPool()
        self._checkpoint = checkpoint
        self._turns = Turns()
        self._announced: set[DistributionPoint] = set()

    @cached_property
    def _linter(self) -> Linter:
        # imported when the first certificate is made: most commands make none and should not wait for it
        from pkiserver.authority.checks.lint import Linter

        return Linter()

    def warm_up(self) -> None:
        """Load what the first certificate would otherwise wait for; a server calls it before it listens."""
        _ = self._linter

    async def prepare(self, authorised: Authorised, *, ask: bool = False) -> PreparedCertificate:
        """Template and record decide; the result is durable but unsigned.

        Args:
            authorised: What the gate said yes to.
            ask: Make it durable in the same write that the signature is asked for: who issues next spares the disk
                a wait. Where the process ends before the signature, the serial is revoked instead of burnt.

        Raises:
            Rejected: with every reason.
            Unavailable: the database is away; with ``ask``, also the issuer's key.
        """
        await self._turns.wait()
        request = authorised.request
        template = self._templates.get(request.template)
        key_reasons = check_key(request.public_key)
        try:
            order = self._order(template, authorised)
        except Rejected as error:
            blocked = await self._database.read(
                lambda connection: duplicates.key_reasons(connection, spki_der(request.public_key))
            )
            raise Rejected((*error.reasons, *key_reasons, *blocked)) from None
        standing = IssuerStanding(order.issuing.authority, order.issuing.chain)
        return await self._prepare(order, key_reasons, (standing, *authorised.claims), ask=ask)

    async def prepare_order(self, order: Order, *claims: Claim) -> PreparedCertificate:
        """The same for contents that are decided already: CA certificates, a responder's certificate."""
        await self._turns.wait()
        return await self._prepare(order, check_key(order.public_key), claims)

    def content(self, authorised: Authorised) -> CertificateContent:
        """What a request would get, without any trace; raises :class:`Rejected` with the template's reasons."""
        template = self._templates.get(authorised.request.template)
        authority = self._authorities.get(template.issuer)
        view = self._view(template, authority)
        return build_content(template, authorised, view, self._clock.now())

    def _view(self, template: Template, authority: Authority) -> IssuerView:
        return self._authorities.view(authority, authority.current, template=template.name, ca=template.ca is not None)

    def _order(self, template: Template, authorised: Authorised) -> Order:
        request = authorised.request
        authority = self._authorities.get(template.issuer)
        issuing = self._authorities.issuing_by(authority, authority.current)
        view = self._view(template, authority)
        content = build_content(template, authorised, view, self._clock.now())
        return Order(
            issuing=issuing,
            subject=content.subject,
            public_key=request.public_key,
            not_before=content.not_before,
            not_after=content.not_after,
            extensions=content.extensions,
            template=template.name,
            requester=authorised.record.name,
            protocol=request.protocol,
            request_id=request.request_id,
            lint=template.lint,
            duplicates=template.duplicates,
            renewal_of=request.renewal_of,
            revoke_renewed=template.renewal.revoke_old,
            warnings=content.ignored,
            decided_by=authorised.decided_by,
        )

    async def _prepare(
        self, order: Order, reasons: tuple[Reason, ...], claims: tuple[Claim, ...] = (), *, ask: bool = False
    ) -> PreparedCertificate:
        draft = self._draft(order)
        refused, warnings = self._linter.check(draft.sample, order.lint)
        if not _is_self_issued(order):
            refused = (*refused, *limits_along(order.issuing.chain).reasons(order.subject, order.sans))
        points = self._authorities.points_named(_crl_urls(order.extensions))
        intent = self._intent(order, draft, points, asked=ask)
        if reasons or refused:
            admission = await self._database.read(lambda connection: self._admit(connection, order, intent, 0))
            raise Rejected((*reasons, *refused, *admission.reasons))
        if ask:  # a key that is away costs no serial
            self._issuer.require_key(order.issuing.key_name)
        self._checkpoint(Step.BUILT)
        await self._living()
        number, admission = await self._write(order, intent, claims, points)
        self._announced.update(points)
        if ask:
            self._issuer.expect(number)
        self._checkpoint(Step.ASKED if ask else Step.PREPARED)
        issuing = order.issuing
        return PreparedCertificate(
            certificate_id=number,
            authority=issuing.authority,
            generation_id=issuing.generation_id,
            key_name=issuing.key_name,
            scheme=issuing.scheme.name,
            serial=draft.serial,
            tbs=draft.tbs,
            issuer_key=issuing.public_key,
            chain=issuing.chain,
            template=order.template,
            requester=order.requester,
            protocol=order.protocol,
            request_id=order.request_id,
            subject=intent.subject,
            warnings=(*order.warnings, *warnings),
            supersedes=admission.supersedes,
            replaces=admission.replaces,
            decided_by=order.decided_by,
            claims=claims,
            is_rivalled=partial(
                duplicates.is_rivalled_by_key, order=order, intent=intent, number=number, renewed=admission.replaces
            ),
        )

    def _draft(self, order: Order) -> Draft:
        return build_draft(
            issuer_der=order.issuing.name_der,
            subject=order.subject,
            subject_der=order.subject_der,
            public_key=order.public_key,
            serial=random_serial(self._rng),
            not_before=order.not_before,
            not_after=order.not_after,
            extensions=order.extensions,
            scheme=order.issuing.scheme,
        )

    def _intent(self, order: Order, draft: Draft, points: tuple[DistributionPoint, ...], *, asked: bool) -> NewIntent:
        try:
            sans = sans_of(order.sans)
        except ValueError as error:
            raise Rejected.because(Refusal.BAD_NAME, str(error)) from error
        return NewIntent(
            issuer_id=order.issuing.issuer_id,
            generation_id=order.issuing.generation_id,
            serial=draft.serial,
            tbs=draft.tbs,
            subject=order.subject.rfc4514_string(),
            sans=sans,
            not_before=order.not_before,
            not_after=order.not_after,
            template=order.template,
            requester=order.requester,
            protocol=order.protocol,
            request_id=order.request_id,
            spki_sha256=hashlib.sha256(spki_der(order.public_key)).digest(),
            holder=self._holder,
            created=self._clock.now(),
            ca=_is_ca(order.extensions),
            crl_shard=next((point.cover.shard for point in points if point.cover.shard is not None), None),
            asked=asked,
        )

    async def _write(
        self, order: Order, intent: NewIntent, claims: tuple[Claim, ...], points: tuple[DistributionPoint, ...]
    ) -> tuple[int, _Admission]:
        """Make it durable; where nobody learns that it is, it is taken back."""
        waits = True

        def work(connection: Connection) -> tuple[int, _Admission]:
            if not waits:
                raise Unavailable("whoever asked has left")
            return self._make_durable(connection, order, intent, claims, points)

        try:
            return await self._database.write(work)
        except (CancelledError, OutcomeUnknown) as error:
            waits = False
            await self._issuer.take_back(intent, claims, late=isinstance(error, OutcomeUnknown))
            raise

    def _make_durable(
        self,
        connection: Connection,
        order: Order,
        intent: NewIntent,
        claims: tuple[Claim, ...],
        points: tuple[DistributionPoint, ...],
    ) -> tuple[int, _Admission]:
        # A list that a certificate names must be issued for as long as the key that signed it serves.
        for point in points:
            if point not in self._announced:
                crls.define_scope(
                    connection, point.issuer_id, point.generation_id, point.scope, point.cover, announced=True
                )
        number = certificates.insert_prepared(connection, intent)
        duplicates.take_turn(connection, order, intent, number)
        admission = self._admit(connection, order, intent, number)
        if admission.reasons:
            raise Rejected(admission.reasons)
        for claim in claims:
            claim.take(connection, number)
        return number, admission

    def _admit(self, connection: Connection, order: Order, intent: NewIntent, number: int) -> _Admission:
        fresh = certificates.key_is_new(connection, intent.spki_sha256, besides=number)
        reasons = [] if order.own_key or fresh else duplicates.blocked_reasons(connection, intent.spki_sha256)
        if self._authorities.is_own_key(intent.spki_sha256) and not order.own_key:
            reasons.append(Reason(Refusal.BAD_KEY, "the key is a certification authority's own"))
        renewed = duplicates.renewed_by(connection, order)
        same_subject, supersedes = duplicates.same_subject(connection, order, intent, number, renewed)
        same_key = [] if fresh else duplicates.same_key(connection, order, intent, number, renewed)
        if renewed is not None and order.revoke_renewed:
            supersedes = (*supersedes, renewed)
        return _Admission((*reasons, *same_subject, *same_key), supersedes, renewed)


def _crl_urls(extensions: Extensions) -> Iterator[str]:
    for point in value_among(extensions, x509.CRLDistributionPoints) or ():
        names = point.full_name or ()
        yield from (name.value for name in names if isinstance(name, x509.UniformResourceIdentifier))


def _is_self_issued(order: Order) -> bool:
    """An authority's certificate about itself: name constraints do not hold for it (RFC 5280 section 4.2.1.10)."""
    return order.subject == order.issuing.name and _is_ca(order.extensions)


def _is_ca(extensions: Extensions) -> bool:
    constraints = value_among(extensions, x509.BasicConstraints)
    return constraints is not None and constraints.ca
