"""What an OCSP responder needs to know: who answers for an issuer, and what the status of a certificate is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

import attrs

from pkiserver.authority.status.policy import OcspPolicy
from pkiserver.store.authority.crls import CrlKind
from pkiserver.store.certificates.values import CertificateStatus


@attrs.frozen
class AnswerSigner:
    """A key that may sign OCSP answers for one key of an issuer.

    Attributes:
        key_hash: SHA-1 of its subjectPublicKey bits (RFC 6960 section 4.2.1, KeyHash).
        name: Its certificate's subject, DER.
        certificate: Its certificate, DER; None where the authority's own key signs.
        not_after: Until when it may be relied upon, aware UTC.
        algorithm: The AlgorithmIdentifier of its signatures, DER.
        key_algorithm: The AlgorithmIdentifier of its public key, DER.
        sign: ResponseData DER, and the DER certificates to go with it, to BasicOCSPResponse DER; raises Unavailable
            when the key is away.
        sign_now: The same without waiting; None where that cannot be.
    """

    key_hash: bytes
    name: bytes
    certificate: bytes | None = attrs.field(repr=False)
    not_after: datetime
    algorithm: bytes
    key_algorithm: bytes
    sign: Callable[[bytes, tuple[bytes, ...]], Awaitable[bytes]] = attrs.field(repr=False, eq=False)
    sign_now: Callable[[bytes, tuple[bytes, ...]], bytes | None] = attrs.field(repr=False, eq=False)


@attrs.frozen
class CrlReference:
    """A CRL that certificates are found on (RFC 6960 section 4.4.2); ``url`` is empty where it has none."""

    url: str
    number: int
    this_update: datetime


@attrs.frozen
class Standing:
    """How far records can be relied upon that come from lists of another CA; both aware UTC.

    Attributes:
        this_update: The latest time at which all of them are known to be right.
        until: From then on they say nothing any more.
        lists: The digests of the lists. Of two parts one may have changed, and changed back, where the times stay.
    """

    this_update: datetime
    until: datetime
    lists: frozenset[bytes] = frozenset()


@attrs.frozen
class ServedIssuer:
    """One key of an issuer whose certificates' status is answered here.

    Attributes:
        authority: The authority's name, for logs.
        issuer_id: Serial numbers are unique over it.
        generations: The database numbers of the key generations that have this key (more than one after a renewal).
        policy: How it answers.
        signer: Who signs; None while nobody can.
        others: Who can sign as well, and by which other algorithms, for clients that prefer these.
        crl: Its newest complete list, where answers name it.
        standing: How far the records reach; None where they are this server's own.
    """

    authority: str
    issuer_id: int
    generations: frozenset[int]
    policy: OcspPolicy
    signer: AnswerSigner | None
    others: tuple[AnswerSigner, ...] = ()
    crl: CrlReference | None = None
    standing: Standing | None = None


Statuses = tuple[CertificateStatus | None, ...]


class StatusSource(Protocol):
    """Where a responder looks things up."""

    def issuer_now(self, hash_name: str, name_hash: bytes, key_hash: bytes) -> ServedIssuer | None:
        """As :meth:`issuer`, from memory; None also where it must be looked for."""

    def statuses_now(self, issuer: ServedIssuer, serials: Sequence[int]) -> Statuses | None:
        """As :meth:`statuses`, from memory; None where the records must be read."""

    def state_now(self) -> object | None:
        """A value that stays equal while no record that was told of, and no issuer, changes; None: that is not known.

        It says nothing of certificates that are issued meanwhile, and nothing of what time alone changes.
        """

    async def issuer(self, hash_name: str, name_hash: bytes, key_hash: bytes) -> ServedIssuer | None:
        """The issuer with these hashes of its DER name and subjectPublicKey bits; None when it is not served here."""

    async def statuses(self, issuer: ServedIssuer, serials: Sequence[int]) -> Statuses:
        """The status of each serial number under this issuer's key; None for what it never issued (burnt included).

        Raises:
            Unavailable: The records cannot be read now.
        """


@attrs.frozen
class PublishedCrl:
    """A CRL as it is served: its DER and what caches need to know.

    ``digest`` is its SHA-256 in hexadecimal; ``max_age`` is the longest a cache may keep it; ``dated`` says that its
    ``this_update`` is later than that of every list before it.
    """

    der: bytes = attrs.field(repr=False)
    digest: str
    number: int
    this_update: datetime
    next_update: datetime
    max_age: timedelta
    dated: bool = True


@attrs.frozen
class PublishedCertificates:
    """A CA certificate, or with its chain several, DER; ``modified`` says since when."""

    certificates: tuple[bytes, ...] = attrs.field(repr=False)
    modified: datetime


class PublicationSource(Protocol):
    """Where the CRL server looks things up.

    Paths are those of key generations (``crl_path``), as in certificates; those of lists may go on below them.
    """

    async def crl(self, path: str, kind: CrlKind = CrlKind.COMPLETE) -> PublishedCrl | None:
        """The newest CRL of a distribution point; None when there is none."""

    async def numbered_crl(self, path: str, number: int, kind: CrlKind = CrlKind.COMPLETE) -> PublishedCrl | None:
        """An earlier CRL that is still kept."""

    async def ca_certificate(self, path: str) -> PublishedCertificates | None:
        """The certificate of a key generation; None when there is none."""

    async def chain(self, authority: str) -> PublishedCertificates | None:
        """The current certificate of an authority, its issuers and its link certificates."""
