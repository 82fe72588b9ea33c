"""Keys in encrypted PKCS#8 files (RFC 5958): where no token can be had, and for what tokens lack (ML-DSA)."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, unquote

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, padding, rsa
from twisted.logger import Logger

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.foundation.secret import Secret
from pkiserver.keys.algorithms import CURVES, KeyFamily, KeyType, PrivateKey, PublicKey, SignatureScheme, spki
from pkiserver.keys.doors import Door
from pkiserver.keys.executor import Executor
from pkiserver.keys.faults import FaultKind, KeyProblem, KeyUnavailable
from pkiserver.keys.handle import KeyHandle
from pkiserver.keys.records import NO_RECORD, KeyObject, is_key_name
from pkiserver.keys.secrets_by_reference import SecretUnreadable, read_secret
from pkiserver.keys.settings import SoftwareStoreSettings

_log = Logger(namespace="pkiserver.keys.software")

_LARGEST_FILE = 64 * 1024


def file_uri(path: Path) -> str:
    """The ``file:`` location of a key file (RFC 8089, the minimal form)."""
    return "file:" + quote(str(path))


def file_path(uri: str) -> Path:
    """The path in a ``file:`` location; raises :class:`Rejected` (CONFIGURATION) when it is none or not absolute."""
    path = Path(unquote(uri.removeprefix("file:").removeprefix("//")))
    if not uri.startswith("file:") or not path.is_absolute():
        raise Rejected.because(Refusal.CONFIGURATION, f"{uri[:120]!r} is not file: with an absolute path")
    return path


def generate_private_key(key_type: KeyType) -> PrivateKey:
    """A new key in memory (RSA exponent 65537)."""
    if key_type.family is KeyFamily.RSA:
        return rsa.generate_private_key(public_exponent=65537, key_size=key_type.size)
    if key_type.family is KeyFamily.EC:
        return ec.generate_private_key(CURVES[key_type.size])
    if key_type.family is KeyFamily.ML_DSA:
        return _generate_ml_dsa(key_type.size)
    return ed25519.Ed25519PrivateKey.generate() if key_type.size == 25519 else ed448.Ed448PrivateKey.generate()


def _generate_ml_dsa(size: int) -> PrivateKey:
    if size == 44:
        return mldsa.MLDSA44PrivateKey.generate()
    return mldsa.MLDSA65PrivateKey.generate() if size == 65 else mldsa.MLDSA87PrivateKey.generate()


def is_encrypted(data: bytes) -> bool:
    """Whether a PKCS#8 private key (DER or PEM) cannot be read without a password."""
    reader = serialization.load_pem_private_key if b"-----BEGIN" in data[:200] else serialization.load_der_private_key
    try:
        reader(data, None)
    except TypeError:
        return True
    except ValueError:
        return False
    return False


def load_pkcs8(data: bytes, password: Secret | None) -> PrivateKey:
    """A supported private key from PKCS#8, DER or PEM, encrypted or not.

    Raises:
        Rejected: BAD_KEY; unreadable, wrong password, or an unsupported kind.
    """
    reader = serialization.load_pem_private_key if b"-----BEGIN" in data[:200] else serialization.load_der_private_key
    try:
        key = reader(data, password.reveal() if password else None)
    except (ValueError, TypeError) as error:
        raise Rejected.because(
            Refusal.BAD_KEY, "the private key cannot be read: damaged, or the password is wrong"
        ) from error
    KeyType.of(key.public_key())
    return key  # type: ignore[return-value]  # KeyType.of lets only these kinds pass


class SoftwareKey(KeyHandle):
    """A private key in this process's memory."""

    def __init__(self, name: str, private: PrivateKey, executor: Executor) -> None:
        super().__init__(name, private.public_key(), executor)
        self._private = private

    @property
    def problem(self) -> KeyProblem | None:
        """Always None: a key that is in memory works."""
        return None

    def sign(self, data: bytes, scheme: SignatureScheme) -> bytes:
        """Sign by ``scheme``, which must suit the key."""
        private = self._private
        if isinstance(private, ec.EllipticCurvePrivateKey):
            return private.sign(data, ec.ECDSA(_hash(scheme)))
        if isinstance(private, rsa.RSAPrivateKey):
            chosen = scheme.rsa_padding
            if chosen is None:
                raise ValueError(f"{scheme.name} is no RSA scheme")
            return private.sign(data, chosen, _hash(scheme))
        return private.sign(data)

    def _sign_if_free(self, data: bytes, scheme: SignatureScheme) -> bytes | None:
        return self.sign(data, scheme)

    def decrypt_pkcs1(self, ciphertext: bytes) -> bytes:
        """OpenSSL rejects implicitly: bad padding gives octets that depend on key and ciphertext only."""
        return self._rsa().decrypt(ciphertext, padding.PKCS1v15())

    def decrypt_oaep(self, ciphertext: bytes, digest: hashes.HashAlgorithm, label: bytes | None) -> bytes:
        """RSAES-OAEP with ``digest`` for label and mask."""
        return self._rsa().decrypt(ciphertext, padding.OAEP(padding.MGF1(digest), digest, label))

    def agree(self, peer: ec.EllipticCurvePublicKey) -> bytes:
        """The ECDH shared secret."""
        if not isinstance(self._private, ec.EllipticCurvePrivateKey):
            raise ValueError("not an elliptic-curve key")
        return self._private.exchange(ec.ECDH(), peer)

    def _rsa(self) -> rsa.RSAPrivateKey:
        if not isinstance(self._private, rsa.RSAPrivateKey):
            raise ValueError("not an RSA key")
        return self._private


def _hash(scheme: SignatureScheme) -> hashes.HashAlgorithm:
    if scheme.hash_algorithm is None:
        raise ValueError(f"{scheme.name} has no hash")
    return scheme.hash_algorithm


class SoftwareStore:
    """A directory of key files under one passphrase."""

    def __init__(self, settings: SoftwareStoreSettings) -> None:
        self.settings = settings
        self.name = settings.name
        self.executor = Executor(settings.name, threads=settings.threads, deadline=60.0)
        _log.warn(
            "keys of store {name} lie in files ({directory}), not in a token: whoever reads the file and the "
            "passphrase has the key",
            name=self.name, directory=str(settings.directory),
        )  # fmt: skip

    def check(self) -> KeyProblem | None:
        """Why no key of this store can be used; None when the passphrase and the directory are there. Blocking."""
        try:
            self._passphrase()
        except KeyUnavailable as error:
            return error.problem
        return None

    def serves(self, uri: str) -> bool:
        """Whether a key's location is a file in this store's directory."""
        return uri.startswith("file:") and file_path(uri).parent == self.settings.directory.absolute()

    def open(self, name: str, uri: str, expected_spki: bytes) -> SoftwareKey:
        """The key at ``uri``, decrypted, compared with its registered public half, tried and measured; blocking.

        Raises:
            KeyUnavailable: missing, unreadable, wrong passphrase, or another key.
        """
        key = SoftwareKey(name, self._load(name, file_path(uri)), self.executor)
        if spki(key.public_key) != expected_spki:
            text = f"the key in {file_path(uri)} is not the registered one (its public half differs)"
            raise KeyUnavailable.because(name, FaultKind.KEY_MISMATCH, text)
        key.measured(key.prove(), local=True)
        return key

    def public_half(self, uri: str) -> PublicKey:
        """The public key of the private key at ``uri``; blocking. Raises :class:`KeyUnavailable`."""
        return self._load(self.name, file_path(uri)).public_key()

    def generate(self, name: str, key_type: KeyType, doors: frozenset[Door]) -> tuple[str, PublicKey]:
        """A new key in a new file: its location and public half; blocking."""
        return self.keep(name, generate_private_key(key_type), doors)

    def keep(self, name: str, private: PrivateKey, _doors: frozenset[Door]) -> tuple[str, PublicKey]:
        """Write a private key to a new file of mode 0600, durably; blocking. A file cannot enforce doors; we do.

        Raises:
            Rejected: CONFLICT when the file exists.
        """
        directory = self.settings.directory.absolute()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        octets = private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(self._passphrase().reveal()),
        )
        path = directory / f"{name}.p8"
        draft = directory / f".{name}.{secrets.token_hex(6)}"
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as out:
            out.write(octets)
            out.flush()
            os.fsync(out.fileno())
        try:
            os.link(draft, path)  # unlike a rename this never replaces a key that is there
        except FileExistsError as error:
            raise Rejected.because(Refusal.CONFLICT, f"there is a key file {path} already{NO_RECORD}") from error
        finally:
            draft.unlink()
        folder = os.open(directory, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        return file_uri(path), private.public_key()

    def key_objects(self) -> tuple[KeyObject, ...]:
        """Every key file in the directory, by name; blocking."""
        try:
            files = sorted(self.settings.directory.absolute().glob("*.p8"))
        except OSError as error:
            text = f"{self.settings.directory} cannot be read: {error.strerror}"
            raise KeyUnavailable.because(self.name, FaultKind.KEY_UNUSABLE, text) from error
        return tuple(KeyObject(one.stem, file_uri(one), ("private",)) for one in files if is_key_name(one.stem))

    def besides(self, objects: Iterable[KeyObject], uris: Iterable[str]) -> list[KeyObject]:
        """Those that none of these locations means."""
        known = {file_path(uri) for uri in uris if self.serves(uri)}
        return [one for one in objects if file_path(one.location) not in known]

    def destroy(self, uri: str) -> None:
        """Delete the key file, if it is there; blocking."""
        file_path(uri).unlink(missing_ok=True)

    async def close(self) -> None:
        """Let the threads go."""
        await self.executor.close()

    def _load(self, name: str, path: Path) -> PrivateKey:
        try:
            with path.open("rb") as source:
                octets = source.read(_LARGEST_FILE)
        except FileNotFoundError as error:
            raise KeyUnavailable.because(name, FaultKind.KEY_MISSING, f"there is no key file {path}") from error
        except OSError as error:
            text = f"key file {path} cannot be read: {error.strerror}"
            raise KeyUnavailable.because(name, FaultKind.KEY_UNUSABLE, text) from error
        try:
            return load_pkcs8(octets, self._passphrase())
        except Rejected as error:
            where = self.settings.passphrase_source
            text = f"key file {path} does not open: the passphrase ({where}) is wrong, or the file damaged"
            raise KeyUnavailable.because(name, FaultKind.PASSPHRASE_WRONG, text) from error

    def _passphrase(self) -> Secret:
        try:
            return read_secret(self.settings.passphrase_source)
        except SecretUnreadable as error:
            text = f"the passphrase cannot be read: {error}"
            raise KeyUnavailable.because(self.name, FaultKind.PIN_UNREADABLE, text) from error
