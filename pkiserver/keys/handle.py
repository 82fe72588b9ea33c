"""One interface over a private key, wherever it lives. Nothing outside this room holds one: doors stand before it."""

from __future__ import annotations

import abc
import time
from collections.abc import Callable
from typing import TypeVar

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from pkiserver.keys.algorithms import KeyType, PublicKey, SignatureScheme
from pkiserver.keys.executor import Executor
from pkiserver.keys.faults import FaultKind, KeyProblem, KeyUnavailable

T = TypeVar("T")
FAST_SECONDS = 0.0002
"""A key that signs faster than this, and lives in this process, signs on the reactor's thread."""
SLOW_SECONDS = 0.005
"""What the reactor may be kept for; a key that takes it three times running loses the right to sign in place."""
PROMOTION = 64
"""Signatures made in the thread after which a local key signs in place, if a quarter of them was fast.

More are not to be hoped for where the reactor is busy: the thread waits for it before and after each signature.
"""
PROOF = b"pkiserver key check: this text begins with no ASN.1 structure that a door lets through\n"


class KeyHandle(abc.ABC):
    """A private key. The blocking methods may be called from any thread; one operation at a time reaches the module."""

    def __init__(self, name: str, public_key: PublicKey, executor: Executor) -> None:
        self.name = name
        self.public_key = public_key
        self.key_type = KeyType.of(public_key)
        self.executor = executor
        self.fast = False
        self._local = False
        self._strikes = 0
        self._threaded = self._quick = 0

    @property
    @abc.abstractmethod
    def problem(self) -> KeyProblem | None:
        """Why the key cannot be used now; None when it can."""

    @abc.abstractmethod
    def sign(self, data: bytes, scheme: SignatureScheme) -> bytes:
        """Sign, waiting for the token. The signature as X.509 has it (ECDSA: Ecdsa-Sig-Value DER)."""

    @abc.abstractmethod
    def decrypt_pkcs1(self, ciphertext: bytes) -> bytes:
        """RSAES-PKCS1-v1_5 decryption; any failure of the ciphertext raises :class:`ValueError`."""

    @abc.abstractmethod
    def decrypt_oaep(self, ciphertext: bytes, digest: hashes.HashAlgorithm, label: bytes | None) -> bytes:
        """RSAES-OAEP decryption (MGF1 with the same hash); any failure of the ciphertext raises :class:`ValueError`."""

    @abc.abstractmethod
    def agree(self, peer: ec.EllipticCurvePublicKey) -> bytes:
        """The ECDH shared secret Z with a peer on the same curve; raises :class:`ValueError`."""

    def sign_now(self, data: bytes, scheme: SignatureScheme) -> bytes | None:
        """Sign without waiting; None when the key is slow, or another thread is in its module."""
        if not self.fast:
            return None
        before = time.perf_counter()
        signature = self._sign_if_free(data, scheme)
        if time.perf_counter() - before < SLOW_SECONDS:
            self._strikes = 0
        else:
            self._strikes += 1
            self.fast = self._strikes < 3
        return signature

    @abc.abstractmethod
    def _sign_if_free(self, data: bytes, scheme: SignatureScheme) -> bytes | None: ...

    async def sign_async(self, data: bytes, scheme: SignatureScheme) -> bytes:
        """Sign in place where that is fast, in the token's thread where it is not."""
        signature = self.sign_now(data, scheme)
        if signature is None:
            self.require()
            signature = await self.executor.run(lambda: self._timed(data, scheme))
        return signature

    def measured(self, seconds: float, *, local: bool) -> None:
        """Note how long a signature takes, and whether the key is ``local``: a candidate for signing in place."""
        self._local = local
        self._strikes = self._threaded = self._quick = 0
        self.fast = local and seconds < FAST_SECONDS

    def _timed(self, data: bytes, scheme: SignatureScheme) -> bytes:
        before = time.perf_counter()
        signature = self.sign(data, scheme)
        # A busy moment at the start must not make a fast key slow for good.
        self._threaded += 1
        self._quick += time.perf_counter() - before < FAST_SECONDS
        if self._threaded >= PROMOTION:
            if self._local and 4 * self._quick >= self._threaded:
                self._strikes = 0
                self.fast = True
            self._threaded = self._quick = 0
        return signature

    async def call(self, work: Callable[[], T]) -> T:
        """Run blocking work with this key in the token's thread."""
        self.require()
        return await self.executor.run(work)

    def require(self) -> None:
        """Raise :class:`KeyUnavailable` when the key cannot be used now."""
        if self.problem is not None:
            raise KeyUnavailable(self.problem)

    def prove(self, *, rounds: int = 9) -> float:
        """Sign a known text, verify it with the registered public half, and measure; blocking.

        Returns:
            Seconds that a third of the signatures took at most (the first opens sessions, ML-DSA's vary by chance, and
            the machine may be busy).

        Raises:
            KeyUnavailable: KEY_MISMATCH when the signature is another key's.
        """
        scheme = SignatureScheme.default_for(self.public_key)
        times: list[float] = []
        for _ in range(rounds):
            before = time.perf_counter()
            signature = self.sign(PROOF, scheme)
            times.append(time.perf_counter() - before)
            if len(times) > 1 and min(times) > SLOW_SECONDS:
                break
        if not scheme.verify(self.public_key, signature, PROOF):
            text = "the private key does not belong to the registered public key: a test signature does not verify"
            raise KeyUnavailable.because(self.name, FaultKind.KEY_MISMATCH, text)
        return sorted(times)[len(times) // 3]
