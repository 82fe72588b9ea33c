"""A private key in a token."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import MGF, Attribute, Mechanism
from pkcs11 import KeyType as TokenKeyType
from pkcs11 import exceptions as p11

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.keys.algorithms import PublicKey, SignatureScheme
from pkiserver.keys.faults import FaultKind, KeyProblem, KeyUnavailable
from pkiserver.keys.handle import KeyHandle
from pkiserver.keys.pkcs11.mechanisms import Signer, signer_for
from pkiserver.keys.pkcs11.module import LOSSES, Lane, State
from pkiserver.keys.pkcs11.search import TokenSearch
from pkiserver.keys.pkcs11.sessioncopy import HeldKey

_OAEP = {
    "sha1": (Mechanism.SHA_1, MGF.SHA1), "sha256": (Mechanism.SHA256, MGF.SHA256),
    "sha384": (Mechanism.SHA384, MGF.SHA384), "sha512": (Mechanism.SHA512, MGF.SHA512),
}  # fmt: skip


_SENDERS_FAULT = (p11.GeneralError, p11.FunctionFailed, p11.HostMemory, p11.DeviceMemory)
"""What tokens also answer to ciphertexts and points that are not right, as SoftHSM does. A sender of bad envelopes must
not be able to have the module initialised again; one that is really lost says so at its next signature."""


class TokenKey(KeyHandle):
    """A key found by its location; after its token came back, found again."""

    def __init__(self, name: str, uri: str, public_key: PublicKey, search: TokenSearch) -> None:
        super().__init__(name, public_key, search.module.executor)
        self.uri = uri
        self.fault: KeyProblem | None = None
        self._module = search.module
        self._login = search.login
        self._search = search
        self._signers: dict[SignatureScheme, Signer] = {}

    @property
    def problem(self) -> KeyProblem | None:
        """The key's own fault, its token's, or its module's."""
        if self._module.state is not State.READY:
            return self._module.loss or self._login.problem
        return self._login.problem or self.fault

    def reset(self) -> None:
        """Forget what was learned of a token that may have been another one."""
        self._signers.clear()

    def sign(self, data: bytes, scheme: SignatureScheme) -> bytes:
        """Sign in the token; raises :class:`KeyUnavailable`, or :class:`Rejected` where the token lacks the scheme."""
        signer = self._signers.get(scheme) or self._signer(scheme)
        with self._module.entered() as lane:
            self.require()
            try:
                return signer(self._object(lane), data)
            except LOSSES:
                raise
            except p11.PKCS11Error as error:
                raise self._refused(error) from error

    def _sign_if_free(self, data: bytes, scheme: SignatureScheme) -> bytes | None:
        signer = self._signers.get(scheme) or self._signer(scheme)
        module = self._module
        lane = module.try_enter()
        if lane is None:
            return None
        try:
            held = lane.keys.get(self)
            # To find it may take waiting for other processes, which the reactor does not do.
            return None if held is None else signer(held.object, data)
        except LOSSES as error:
            raise module.lost(error) from error
        except p11.PKCS11Error as error:
            raise self._refused(error) from error
        finally:
            module.leave(lane)

    def decrypt_pkcs1(self, ciphertext: bytes) -> bytes:
        """CKM_RSA_PKCS decryption."""
        return self._decrypt(ciphertext, Mechanism.RSA_PKCS, None)

    def decrypt_oaep(self, ciphertext: bytes, digest: hashes.HashAlgorithm, label: bytes | None) -> bytes:
        """CKM_RSA_PKCS_OAEP decryption; SoftHSM knows SHA-1 only."""
        if digest.name not in _OAEP:
            raise ValueError(f"no OAEP with {digest.name}")
        return self._decrypt(ciphertext, Mechanism.RSA_PKCS_OAEP, (*_OAEP[digest.name], label))

    def agree(self, peer: ec.EllipticCurvePublicKey) -> bytes:
        """CKM_ECDH1_DERIVE without a KDF: Z leaves the token, the private key does not."""
        own = self.public_key
        if not isinstance(own, ec.EllipticCurvePublicKey) or own.curve.name != peer.curve.name:
            raise ValueError("the peer's key is on another curve")
        point = peer.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        octets = (peer.key_size + 7) // 8
        readable = {Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True, Attribute.TOKEN: False}
        from pkcs11 import KDF

        with self._module.entered() as lane:
            try:
                shared = self._object(lane).derive_key(
                    TokenKeyType.GENERIC_SECRET, octets * 8,
                    mechanism=Mechanism.ECDH1_DERIVE, mechanism_param=(KDF.NULL, None, point), template=readable,
                )  # fmt: skip
                value = bytes(shared[Attribute.VALUE])
                shared.destroy()
            except _SENDERS_FAULT as error:
                raise ValueError("the token does not derive") from error
            except LOSSES:
                raise
            except p11.PKCS11Error as error:
                raise ValueError("the token does not derive") from error
        return value.rjust(octets, b"\x00")

    def _decrypt(self, ciphertext: bytes, mechanism: Mechanism, parameter: Any) -> bytes:
        with self._module.entered() as lane:
            try:
                return bytes(self._object(lane).decrypt(ciphertext, mechanism=mechanism, mechanism_param=parameter))
            except _SENDERS_FAULT as error:
                raise ValueError("the token does not decrypt") from error
            except LOSSES:
                raise
            except p11.PKCS11Error as error:
                raise ValueError("the token does not decrypt") from error

    def _signer(self, scheme: SignatureScheme) -> Signer:
        self.require()
        scheme.require(self.public_key)
        signer = self._signers[scheme] = signer_for(scheme, self.key_type, self._login.mechanisms)
        return signer

    def _object(self, lane: Lane) -> Any:
        held = lane.keys.get(self)
        if held is None:
            own = self._search.private(lane, self.uri, self.name)
            held = lane.keys[self] = HeldKey(own, copied=self._login.reads_files)
        return held.object

    def _refused(self, error: p11.PKCS11Error) -> Exception:
        what = type(error).__name__
        if isinstance(error, p11.MechanismInvalid | p11.MechanismParamInvalid):
            return Rejected.because(
                Refusal.UNSUPPORTED, f"the token refuses the mechanism for key {self.name} ({what})"
            )
        return KeyUnavailable.because(self.name, FaultKind.KEY_UNUSABLE, f"the token refuses to sign ({what})")
