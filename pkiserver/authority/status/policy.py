"""How an authority tells certificate status: settings of its revocation lists and of its OCSP responders."""

from __future__ import annotations

import enum
from datetime import timedelta

import attrs

from pkiserver.authority.status.points import Bounded, DeltaPolicy, Point, check_points
from pkiserver.foundation.bounds import lasting
from pkiserver.foundation.tomlfile import Invalid, format_duration
from pkiserver.keys.algorithms import KeyType

CLOCK_STEP = timedelta(minutes=1)
"""So far a clock may be set back without a list being older than the one before: it keeps that one's thisUpdate."""
_SECOND = timedelta(seconds=1)


class NoncePolicy(enum.StrEnum):
    """What is done with the nonce of an OCSP request (RFC 9654)."""

    ANSWER = "answer"
    """A nonce that was sent is echoed; a request without one is answered too."""
    IGNORE = "ignore"
    """No answer carries a nonce, so that answers can be cached."""
    REQUIRE = "require"
    """A request without a nonce is refused as malformed."""


class ResponderIdentity(enum.StrEnum):
    """How an answer names its signer (RFC 6960 section 4.2.1, ResponderID)."""

    KEY = "key"
    NAME = "name"


class NeverIssued(enum.StrEnum):
    """What is said of a serial number that was never issued (RFC 6960 section 2.2)."""

    UNKNOWN = "unknown"
    REVOKED = "revoked"
    """On hold since 1970, with the extended-revoke extension (RFC 6960 section 4.4.8)."""


class OcspSigning(enum.StrEnum):
    """Which key signs OCSP answers (RFC 6960 section 4.2.2.2)."""

    DELEGATED = "delegated"
    """A responder certificate of its own; until one exists there is no answer (``tryLater``)."""
    AUTHORITY = "authority"
    """The authority's own key, always."""
    DELEGATED_OR_AUTHORITY = "delegated-or-authority"
    """A responder certificate of its own; the authority's key while none exists."""


def _key_type(instance: object, attribute: attrs.Attribute[str], value: str) -> None:
    del instance, attribute
    if value:
        KeyType.parse(value)


_of_a_signature = lasting(_SECOND, timedelta(days=3650))
_of_a_record = lasting(timedelta(0), timedelta(days=365_000))


@attrs.frozen
class CrlPolicy:
    """Which CRLs an authority issues, when, and how long they may be relied upon.

    Attributes:
        enabled: Whether the authority issues CRLs at all.
        interval: From one scheduled CRL to the next.
        validity: From thisUpdate to nextUpdate; longer than ``interval``, because some clients treat nextUpdate as a
            hard end.
        on_revocation: Whether a change of status brings a CRL before its schedule.
        gather: How long changes of status are gathered before such a CRL.
        max_age: The longest time an HTTP cache may keep a CRL without asking again.
        keep: How long a CRL is kept after its nextUpdate.
        keep_expired: Whether revoked certificates stay on the lists after they expired, which the lists then say.
        bounded: Which complete lists are bounded to the certificates of the key that signs them.
        delta: Whether and when deltas are issued between complete lists.
        points: The distribution points.
    """

    enabled: bool = True
    interval: timedelta = attrs.field(default=timedelta(hours=1), validator=_of_a_signature)
    validity: timedelta = attrs.field(default=timedelta(hours=24), validator=_of_a_signature)
    on_revocation: bool = True
    gather: timedelta = attrs.field(default=timedelta(seconds=10), validator=lasting(timedelta(0), timedelta(days=1)))
    max_age: timedelta = attrs.field(default=timedelta(minutes=5), validator=_of_a_record)
    keep: timedelta = attrs.field(default=timedelta(days=30), validator=_of_a_record)
    keep_expired: bool = False
    bounded: Bounded = Bounded.LATER_KEYS
    delta: DeltaPolicy | None = None
    points: tuple[Point, ...] = (Point(),)

    def __attrs_post_init__(self) -> None:
        check_points(self.points)
        if self.delta is not None and self.bounded is Bounded.NEVER:
            # RFC 5280 section 5.2.4: a delta is signed by the key of every complete list that it can update.
            text = 'deltas need lists that are bounded to their key: bounded = "never" does not go with them'
            raise Invalid(text, key="bounded", allowed='"later-keys", "always", or no delta')
        if self.delta is not None and self.delta.interval >= self.interval:
            text = "deltas that are not issued more often than complete lists are of no use"
            allowed = f"an interval of less than crl.interval, {format_duration(self.interval)}"
            raise Invalid(text, key="delta", allowed=allowed)
        if self.validity <= self.interval:
            text = "validity must be longer than interval, or the list is out of date before the next one"
            raise Invalid(text, key="validity", allowed=f"more than {format_duration(self.interval)}")
        if self.enabled and not self.points:
            text = "without a distribution point no list is issued"
            raise Invalid(text, key="points", allowed="one or more, or enabled = false")


@attrs.frozen
class OcspPolicy:
    """How an authority's OCSP responder answers.

    Attributes:
        enabled: Whether status is answered at all; requests are ``unauthorized`` if not.
        signing: Which key signs.
        key_type: The type of the delegated responder's key, for instance ``ec-p256``; the type of the authority's key
            where it is empty.
        further_key_types: Types of further responder keys, for clients that prefer their signatures (RFC 6960 section
            4.4.7).
        certificate_validity: How long a responder certificate lives. Nobody checks it for revocation: keep it short.
        renew_before: How long before its end its successor signs.
        validity: From thisUpdate to nextUpdate of an answer.
        unknown_validity: The same for the status unknown: a certificate may be issued the next moment.
        nonce: What is done with a nonce.
        identity: How an answer names its signer.
        include_certificate: Whether a delegated responder's certificate is in its answers.
        archive: How long an expired certificate keeps its last status; afterwards ``unauthorized``.
        archive_cutoff: Whether answers say how far back that is (RFC 6960 section 4.4.4).
        invalidity_date: Whether answers about revoked certificates carry their invalidity date (section 4.4.5).
        crl_reference: Whether answers about revoked certificates name the list that they are on (section 4.4.2).
        never_issued: What is said of a serial number that was never issued.
    """

    enabled: bool = True
    signing: OcspSigning = OcspSigning.DELEGATED_OR_AUTHORITY
    key_type: str = attrs.field(default="", validator=_key_type)
    further_key_types: tuple[str, ...] = attrs.field(
        default=(), validator=attrs.validators.deep_iterable(member_validator=_key_type)
    )
    certificate_validity: timedelta = attrs.field(default=timedelta(days=30), validator=_of_a_signature)
    renew_before: timedelta = timedelta(days=10)
    validity: timedelta = attrs.field(default=timedelta(hours=1), validator=_of_a_signature)
    unknown_validity: timedelta = attrs.field(default=timedelta(minutes=5), validator=_of_a_signature)
    nonce: NoncePolicy = NoncePolicy.ANSWER
    identity: ResponderIdentity = ResponderIdentity.KEY
    include_certificate: bool = True
    archive: timedelta = attrs.field(default=timedelta(days=365), validator=_of_a_record)
    archive_cutoff: bool = False
    invalidity_date: bool = True
    crl_reference: bool = False
    never_issued: NeverIssued = NeverIssued.UNKNOWN

    def __attrs_post_init__(self) -> None:
        if not timedelta(0) <= self.renew_before < self.certificate_validity:
            allowed = f"0s to less than certificate_validity, {format_duration(self.certificate_validity)}"
            raise Invalid("renew_before must lie within certificate_validity", key="renew_before", allowed=allowed)
        for name in ("validity", "unknown_validity"):
            if self.renew_before < (lasts := getattr(self, name)):
                text = f"renew_before must not be shorter than {name}: an answer must not outlive its signer"
                raise Invalid(text, key="renew_before", allowed=f"{format_duration(lasts)} and more")
