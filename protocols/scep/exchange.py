"""One message and its answer: checked, opened, sealed, signed. What it asks for is the service's."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import attrs
from cryptography.hazmat.primitives.asymmetric import rsa
from twisted.logger import Logger

from pkiserver.authority.csrproof import OldDigest
from pkiserver.authority.requests import spki_der
from pkiserver.authority.templates.model import LegacyAlgorithm, Template
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.foundation.secret import Secret
from pkiserver.keys.algorithms import SignatureScheme
from protocols.cms import oids, signing
from protocols.cms.algorithms import LegacyDigests
from protocols.cms.ciphers import ContentCipher
from protocols.cms.enveloped import seal
from protocols.cms.opening import Envelope, is_for, open_with_key, parse_envelope
from protocols.cms.recipients import PasswordRecipient, Recipient, RsaRecipient
from protocols.cms.signing import SignedContent, SignerProfile
from protocols.cms.verification import verify
from protocols.scep.errors import BadMessage
from protocols.scep.messages import LIMITS, NONCE_OCTETS, PkiMessage, Reply
from protocols.scep.metrics import ScepMetrics
from protocols.scep.ports import Answerer

_log = Logger(namespace="pkiserver.scep")

_LEGACY_CIPHERS = {ContentCipher.DES_CBC: LegacyAlgorithm.DES, ContentCipher.DES_EDE3_CBC: LegacyAlgorithm.DES3}
_LEGACY_DIGESTS = {oids.MD5: LegacyAlgorithm.MD5, oids.SHA1: LegacyAlgorithm.SHA1}
_ANSWERING = {oids.SHA384: "rsa-sha384", oids.SHA512: "rsa-sha512"}
"""Answers are signed with the digest of the request, or SHA-256: never with MD5 or SHA-1."""
_OAEP = LegacyDigests(sha1=True)
"""SHA-1 inside OAEP is as good as another, and the only one that some tokens have."""

InThread = Callable[[Callable[[], bytes]], Awaitable[bytes]]


@attrs.frozen
class Origin:
    """Where a message came from."""

    address: str
    request_id: str


@attrs.define
class Exchange:
    """A message being answered. ``answerer`` becomes the one that its envelope was made for."""

    template: Template
    message: PkiMessage
    origin: Origin
    answerers: tuple[Answerer, ...]
    metrics: ScepMetrics
    answerer: Answerer = attrs.field(init=False)
    envelope: Envelope | None = attrs.field(init=False, default=None)
    _allowed: set[LegacyAlgorithm] = attrs.field(init=False, factory=set)

    def __attrs_post_init__(self) -> None:
        self.answerer = self.answerers[0]

    def check(self) -> None:
        """Everything public: type, nonce, signature, algorithms. Raises :class:`Rejected`."""
        message = self.message
        if message.kind is None:
            text = f"messages of type {message.kind_text or 'none'} are not accepted (RFC 8894 section 3.2.1.2)"
            raise Rejected.because(Refusal.UNSUPPORTED, text)
        if message.nonce is None or len(message.nonce) != NONCE_OCTETS:
            raise Rejected.because(Refusal.MALFORMED, f"a senderNonce of {NONCE_OCTETS} octets is needed")
        self._check_signature()
        if message.envelope is not None:
            self.envelope = parse_envelope(message.envelope, LIMITS)
            self._allow(_LEGACY_CIPHERS.get(self.envelope.cipher(allow_legacy=True)))

    def find_answerer(self) -> bool:
        """Find whom the envelope is for; whether there is somebody who can answer, as where there is none."""
        if self.envelope is None:
            return True
        for one in self.answerers:
            if is_for(self.envelope, one.opening):
                self.answerer = one
                return True
        return False

    def require_answerer(self) -> None:
        """As :meth:`find_answerer`; raises :class:`Rejected` where the envelope is for nobody here."""
        if not self.find_answerer():
            text = "the message is encrypted for another certificate than those that GetCACert gives out"
            raise BadMessage.saying(text, Refusal.MALFORMED)

    def _check_signature(self) -> None:
        message = self.message
        if message.public_key is None:
            raise BadMessage.saying("the signer's certificate is not in the message (RFC 8894 section 2.3)")
        self._allow(_LEGACY_DIGESTS.get(message.signer.digest))
        legacy = self.template.scep.legacy
        allowed = LegacyDigests(md5=LegacyAlgorithm.MD5 in legacy, sha1=LegacyAlgorithm.SHA1 in legacy)
        try:
            verify(message.signed, message.signer, message.public_key, legacy=allowed)
        except Rejected as error:
            if error.has(Refusal.BAD_ALGORITHM):
                raise
            raise BadMessage(error.reasons) from error

    def allow_in_request(self, digest: OldDigest | None) -> None:
        """The same for what the request inside is signed over: devices that know no other digest use it there too."""
        self._allow(None if digest is None else LegacyAlgorithm(digest.value))

    def _allow(self, algorithm: LegacyAlgorithm | None) -> None:
        """Refuse an old algorithm that the template has not switched on; log and count one that it has, once."""
        if algorithm is None or algorithm in self._allowed:
            return
        refusal = self.template.refusal_of(algorithm)
        if refusal is not None:
            raise Rejected((refusal,))
        name = self.template.name
        self._allowed.add(algorithm)
        self.metrics.legacy(name, algorithm)
        _log.warn(
            "SCEP {request_id} from {address}: {algorithm} used, which template {template} allows",
            request_id=self.origin.request_id,
            address=self.origin.address,
            algorithm=algorithm.value,
            template=name,
        )

    async def open(self) -> bytes:
        """What is in the envelope: random octets where anything about key or padding was wrong.

        Raises:
            Rejected: there is no envelope, or an algorithm is not accepted.
            Unavailable: the key is away.
        """
        if self.envelope is None:
            raise BadMessage.saying("the message has no envelope (RFC 8894 section 3.2.2)", Refusal.MALFORMED)
        answerer = self.answerer
        return await open_with_key(
            self.envelope, answerer.opening, answerer.opener, allow_legacy=True, legacy_digests=_OAEP
        )

    @property
    def signer_spki(self) -> bytes:
        """The DER SubjectPublicKeyInfo of whoever signed the message."""
        assert self.message.public_key is not None  # check() saw to it
        return spki_der(self.message.public_key)

    def recipient(self, challenge: Secret | None) -> Recipient:
        """Who is to open the answer (RFC 8894 section 3.1). Raises :class:`Rejected` where nobody could."""
        message = self.message
        if isinstance(message.public_key, rsa.RSAPublicKey):
            assert message.certificate is not None
            return RsaRecipient(message.certificate, issuer=message.issuer)
        if not self.template.scep.password_recipient:
            text = f"the answer cannot be encrypted for a key that is not RSA; template {self.template.name} does not "
            raise Rejected.because(Refusal.BAD_KEY, text + "allow answers under the challengePassword")
        if not challenge:
            text = "the answer cannot be encrypted for a key that is not RSA without a challengePassword: send the "
            raise Rejected.because(Refusal.BAD_KEY, text + "request again, with it")
        return PasswordRecipient(challenge)

    async def seal(self, content: bytes, recipient: Recipient, in_thread: InThread) -> bytes:
        """The pkcsPKIEnvelope of an answer, DER, in the cipher of the request.

        Raises:
            Rejected: BAD_KEY, nothing can be encrypted for the signer's key.
        """
        cipher = ContentCipher.AES128_CBC
        if self.envelope is not None:
            cipher = self.envelope.cipher(allow_legacy=True)
        if isinstance(recipient, PasswordRecipient):
            return await in_thread(lambda: seal(content, (recipient,), cipher=cipher))
        try:
            return seal(content, (recipient,), cipher=cipher)
        except ValueError as error:
            raise Rejected.because(Refusal.BAD_KEY, "the answer cannot be encrypted for the signer's key") from error

    async def sign(self, reply: Reply, envelope: bytes | None) -> bytes:
        """The CertRep, DER. Raises :class:`Unavailable` when the key is away."""
        answerer = self.answerer
        scheme = SignatureScheme.parse(_ANSWERING.get(self.message.signer.digest, "rsa-sha256"))
        # rsaEncryption instead of sha256WithRSAEncryption: some clients want it and all take it.
        profile = SignerProfile(answerer.signing, scheme, plain_rsa=True)
        # Without an envelope there is nothing to sign (section 3.2), said by an OCTET STRING that is empty: OpenSSL's
        # PKCS7_verify, and clients over it, take content that is absent for content that they should have been given.
        content = SignedContent(oids.DATA, envelope or b"")
        return await signing.sign(
            content,
            profile,
            answerer.signer,
            attributes=reply.attributes(),
            certificates=answerer.certificates[:1],
        )


def fresh_nonce() -> bytes:
    """A senderNonce of our own, for each answer another."""
    return os.urandom(NONCE_OCTETS)
