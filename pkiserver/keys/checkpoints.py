"""What the audit log needs of keys: a signature over a checkpoint, and the check of one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from pkiserver.audit.log import CheckpointSignature
from pkiserver.foundation.errors import Rejected
from pkiserver.keys.algorithms import PublicKey, SignatureScheme

if TYPE_CHECKING:
    from pkiserver.keys.keyring import KeyRing
    from pkiserver.store.audit import CheckpointRow


def checkpoint_sign(ring: KeyRing, name: str) -> Callable[[bytes], Awaitable[CheckpointSignature]]:
    """Signs checkpoints with a key bound to that door, for :meth:`pkiserver.audit.AuditLog.checkpoint`."""

    async def sign(octets: bytes) -> CheckpointSignature:
        signer = ring.checkpoint_signer(name)
        scheme = signer.default_scheme
        return CheckpointSignature(name, scheme.name, await signer.sign(octets, scheme))

    return sign


def checkpoint_verify(public_key: Callable[[str], PublicKey | None]) -> Callable[[CheckpointRow, bytes], bool]:
    """Checks checkpoints with the public keys that ``public_key`` finds by name; False for what is not known."""

    def verify(row: CheckpointRow, octets: bytes) -> bool:
        try:
            key = public_key(row.key_name)
            return key is not None and SignatureScheme.parse(row.scheme).verify(key, row.signature, octets)
        except Rejected:
            return False

    return verify
