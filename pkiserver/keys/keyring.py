"""The key ring: every registered key behind its doors, and the commands that make, test and delete keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
from twisted.internet.defer import DeferredLock

from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import PkiError, Refusal, Rejected
from pkiserver.foundation.secret import Secret
from pkiserver.keys import signers
from pkiserver.keys.algorithms import KeyType, PublicKey, SignatureScheme, load_spki, spki
from pkiserver.keys.doors import Door, format_doors
from pkiserver.keys.faults import FaultKind, KeyProblem, KeyUnavailable, naming
from pkiserver.keys.handle import KeyHandle
from pkiserver.keys.measure import BenchResult, KeyTest, bench
from pkiserver.keys.opener import EnvelopeOpener
from pkiserver.keys.pkcs11.token import TokenInfo
from pkiserver.keys.providers import Provider, Providers, executor_of
from pkiserver.keys.records import KeyInfo, KeyRecord, KeyRegistry, require_key_name
from pkiserver.keys.settings import ProviderSettings
from pkiserver.keys.software import load_pkcs8
from pkiserver.keys.structures import TST_INFO_OID
from pkiserver.keys.unregistered import Unregistered

if TYPE_CHECKING:
    from pkiserver.audit import AuditLog
    from pkiserver.store.database import Database

S = TypeVar("S")
_SYSTEM = "system"


@attrs.define
class _Entry:
    record: KeyRecord
    provider: Provider | None
    handle: KeyHandle | None
    problem: KeyProblem | None

    def trouble(self) -> KeyProblem | None:
        return self.problem if self.handle is None else self.handle.problem


class KeyRing:
    """Made by :meth:`open`. Opens with what works; :meth:`problems` names the rest, whose signers raise when used."""

    def __init__(self, providers: Providers, registry: KeyRegistry, clock: Clock) -> None:
        self._providers = providers
        self._registry = registry
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._making: set[str] = set()
        self._refreshing = DeferredLock()

    @classmethod
    async def open(
        cls,
        settings: Sequence[ProviderSettings],
        database: Database,
        audit: AuditLog,
        clock: Clock,
        *,
        reactor: Any = None,
    ) -> KeyRing:
        """Open every key store and every key that the database knows; raises as :meth:`open_with`."""
        from pkiserver.keys.registry import StoreRegistry

        return await cls.open_with(settings, StoreRegistry(database, audit), clock, reactor=reactor)

    @classmethod
    async def open_with(
        cls, settings: Sequence[ProviderSettings], registry: KeyRegistry, clock: Clock, *, reactor: Any = None
    ) -> KeyRing:
        """Open every key store and every registered key.

        Args:
            settings: The key stores of this node.
            registry: Where key records are.
            clock: For records.
            reactor: The running reactor; the installed one by default.

        Raises:
            Rejected: CONFIGURATION; two stores have one name. Nothing else is raised: see :meth:`problems`.
        """
        ring = cls(Providers(reactor), registry, clock)
        await ring._providers.open(settings)
        await ring.refresh()
        return ring

    async def close(self) -> None:
        """Close every store. Signers raise afterwards."""
        self._entries.clear()
        await self._providers.close()

    async def refresh(self) -> None:
        """Take up keys that another process registered, drop those it deleted, and look again for those at fault."""
        async with self._refreshing:
            await self._refresh()

    async def _refresh(self) -> None:
        records = {record.name: record for record in await self._registry.list()}
        for name in set(self._entries) - set(records):
            self._drop(name)
        for name, record in records.items():
            entry = self._entries.get(name)
            if name in self._making:
                continue
            if entry is None or entry.record != record or entry.handle is None:
                entry = self._entries[name] = await self._open(record)
            if entry.provider is not None and entry.handle is not None and entry.handle.problem is not None:
                await self._providers.look_again(entry.provider, name)

    async def _open(self, record: KeyRecord) -> _Entry:
        try:
            provider, handle = await self._providers.open_key(record.name, record.uri, record.spki)
        except KeyUnavailable as error:
            problem = KeyProblem(record.name, error.problem.kind, error.problem.text)
            return _Entry(record, None, None, problem)
        except PkiError as error:
            return _Entry(record, None, None, KeyProblem(record.name, FaultKind.KEY_UNUSABLE, str(error)))
        return _Entry(record, provider, handle, None)

    def _drop(self, name: str) -> None:
        self._entries.pop(name, None)
        self._providers.forget(name)

    # -- what is there -----------------------------------------------------------------------------------------------

    def problems(self) -> tuple[KeyProblem, ...]:
        """All that does not work: stores first, then keys, each by name."""
        found = list(self._providers.problems())
        for name, entry in sorted(self._entries.items()):
            trouble = entry.trouble()
            if trouble is not None:
                found.append(KeyProblem(name, trouble.kind, trouble.text))
        return tuple(found)

    def list(self) -> tuple[KeyInfo, ...]:
        """Every registered key, by name."""
        return tuple(self._info(entry) for _, entry in sorted(self._entries.items()))

    def show(self, name: str) -> KeyInfo:
        """One key; raises :class:`Rejected` (CONFIGURATION) where there is none."""
        return self._info(self._entry(name))

    def is_ready(self, name: str) -> bool:
        """Whether a key is known here and can be used now."""
        entry = self._entries.get(name)
        return entry is not None and entry.trouble() is None

    def require_ready(self, name: str) -> None:
        """Raise :class:`KeyUnavailable` while a key is known to be away; nothing is asked of its token."""
        trouble = self._entry(name).trouble()
        if trouble is not None:
            raise KeyUnavailable(trouble)

    def public_key(self, name: str) -> PublicKey:
        """A key's registered public half, also while its token is away."""
        return load_spki(self._entry(name).record.spki)

    @property
    def stores(self) -> tuple[str, ...]:
        """The names of the configured key stores."""
        return self._providers.names

    @property
    def unregistered(self) -> Unregistered:
        """The keys in the stores that no record names."""
        return Unregistered(self._providers, self._registry)

    async def tokens(self) -> tuple[TokenInfo, ...]:
        """Each configured token as it is now."""
        return await self._providers.tokens()

    # -- commands ----------------------------------------------------------------------------------------------------

    async def generate(
        self, name: str, key_type: KeyType, *, store: str, doors: Iterable[Door], actor: str = _SYSTEM
    ) -> KeyInfo:
        """Make a key in ``store`` (a store's name, or a location that means one) and bind it to its doors for good.

        Raises:
            Rejected: a bad or taken name, no such store, or a key type that the store does not have.
            KeyUnavailable: the store is away.
        """
        bound = self._check_new(name, doors)
        provider = self._providers.for_store(store)
        with self._reserved(name):
            uri, public = await executor_of(provider).run_aside(lambda: provider.generate(name, key_type, bound))
            record = KeyRecord(name, uri, spki(public), bound, self._clock.now())
            return await self._register(record, provider, actor, "generate")

    async def import_pkcs8(
        self,
        name: str,
        data: bytes,
        password: Secret | None,
        *,
        store: str,
        doors: Iterable[Door],
        actor: str = _SYSTEM,
    ) -> KeyInfo:
        """Put a private key from PKCS#8 (DER or PEM) into ``store``; raises as :meth:`generate`, and BAD_KEY."""
        bound = self._check_new(name, doors)
        private = load_pkcs8(data, password)
        self._require_unbound(spki(private.public_key()))
        provider = self._providers.for_store(store)
        with self._reserved(name):
            uri, public = await executor_of(provider).run_aside(lambda: provider.keep(name, private, bound))
            record = KeyRecord(name, uri, spki(public), bound, self._clock.now())
            return await self._register(record, provider, actor, "import")

    async def adopt(
        self, name: str, uri: str, doors: Iterable[Door], *, public_key: PublicKey | None = None, actor: str = _SYSTEM
    ) -> KeyInfo:
        """Register a key that is in a store already.

        Args:
            name: The key's name here.
            uri: Its location.
            doors: What it may be used for.
            public_key: From its certificate; compared. Without it the store's own public half is taken.
            actor: Who asked.

        Raises:
            Rejected: a bad or taken name; no store has the location, or one key there, which is the certificate's.
            KeyUnavailable: its token is away.
        """
        bound = self._check_new(name, doors)
        with naming(), self._reserved(name):
            provider = self._providers.for_uri(name, uri)
            if public_key is None:
                public_key = await executor_of(provider).run(lambda: provider.public_half(uri))
            self._require_unbound(spki(public_key))
            entry = await self._open(KeyRecord(name, uri, spki(public_key), bound, self._clock.now()))
            trouble = entry.trouble()
            try:
                if trouble is not None:
                    raise KeyUnavailable(trouble)
                return await self._add(entry, actor, "adopt")
            except BaseException:
                self._drop(name)
                raise

    def _require_unbound(self, public: bytes) -> None:
        """A key is bound to its doors for good: it gets no second name with others."""
        for name, entry in self._entries.items():
            if entry.record.spki == public:
                text = f"this key is registered already, as {name!r}: it is bound to its doors for good"
                raise Rejected.because(Refusal.CONFLICT, text)

    async def delete(self, name: str, *, keep_object: bool = False, actor: str = _SYSTEM) -> None:
        """Forget a key and (unless ``keep_object``) destroy it in its store. There is no way back.

        Raises:
            Rejected: there is no such key.
            KeyUnavailable: its store is away (with ``keep_object`` the key is forgotten nevertheless).
        """
        record = self._entry(name).record
        if not keep_object:
            provider = self._providers.for_uri(name, record.uri)
            await executor_of(provider).run(lambda: provider.destroy(record.uri))
        await self._registry.delete(name, actor=actor)
        self._drop(name)

    async def test(self, name: str, *, actor: str = _SYSTEM) -> KeyTest:
        """Have the key sign a known text, verify it with the registered public half, and measure.

        Raises:
            KeyUnavailable: the key is away, or is not the registered one.
        """
        handle = self._handle(name)
        try:
            seconds = await handle.call(handle.prove)
        except KeyUnavailable as error:
            await self._registry.note(name, actor=actor, operation="test", outcome="failed", detail=error.text)
            raise
        await self._registry.note(name, actor=actor, operation="test", outcome="ok", detail="")
        return KeyTest(name, handle.key_type, seconds, handle.fast)

    async def bench(self, name: str, seconds: float, *, scheme: SignatureScheme | None = None) -> BenchResult:
        """Have the key sign a known text over and over, one at a time, for ``seconds``, in its token's thread."""
        handle = self._handle(name)
        chosen = (scheme or SignatureScheme.default_for(handle.public_key)).require(handle.public_key)
        return await handle.executor.run_aside(lambda: bench(name, handle, chosen, seconds), deadline=seconds + 30)

    # -- the doors ---------------------------------------------------------------------------------------------------

    def certificate_signer(self, name: str) -> signers.CertificateSigner:
        """The door for certificates.

        Raises (as all doors do):
            Rejected: CONFIGURATION; no such key, or it is not bound to this door.
            KeyUnavailable: the key could not be opened at all. When its token vanishes later, signing raises.
        """
        return self._through(name, Door.CERTIFICATE, signers.CertificateSigner)

    def crl_signer(self, name: str) -> signers.CrlSigner:
        """The door for certificate revocation lists."""
        return self._through(name, Door.CRL, signers.CrlSigner)

    def ocsp_signer(self, name: str) -> signers.OcspSigner:
        """The door for OCSP responses."""
        return self._through(name, Door.OCSP, signers.OcspSigner)

    def timestamp_signer(self, name: str) -> signers.TimestampSigner:
        """The door for time-stamp tokens."""
        return self._through(name, Door.TIMESTAMP, signers.TimestampSigner)

    def cms_signer(self, name: str, content_type_oid: str) -> signers.CmsSigner:
        """The door for CMS SignedData of one content type; raises :class:`Rejected` for TSTInfo, which has its own."""
        if content_type_oid == TST_INFO_OID:
            raise Rejected.because(Refusal.CONFIGURATION, "time-stamp tokens are signed through their own door")
        return self._through(name, Door.CMS, lambda handle: signers.CmsSigner(handle, content_type_oid))

    def cmp_signer(self, name: str) -> signers.CmpSigner:
        """The door for CMP protection."""
        return self._through(name, Door.CMP, signers.CmpSigner)

    def checkpoint_signer(self, name: str) -> signers.CheckpointSigner:
        """The door for audit checkpoints."""
        return self._through(name, Door.CHECKPOINT, signers.CheckpointSigner)

    def envelope_opener(self, name: str) -> EnvelopeOpener:
        """The door for opening envelopes."""
        return self._through(name, Door.OPEN, EnvelopeOpener)

    def request_signer(self, name: str) -> signers.RequestSigner:
        """Proof of possession, which every key may give about itself."""
        return signers.RequestSigner(self._handle(name))

    def _through(self, name: str, door: Door, make: Callable[[KeyHandle], S]) -> S:
        bound = self._entry(name).record.doors
        if door not in bound:
            text = f"key {name} is bound to {format_doors(bound) or 'no door'}, not to {door}"
            raise Rejected.because(Refusal.CONFIGURATION, text)
        return make(self._handle(name))

    # -- inside ------------------------------------------------------------------------------------------------------

    def _entry(self, name: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is None:
            raise Rejected.because(Refusal.CONFIGURATION, f"there is no key {name!r}")
        return entry

    def _handle(self, name: str) -> KeyHandle:
        entry = self._entry(name)
        if entry.handle is None:
            assert entry.problem is not None
            raise KeyUnavailable(entry.problem)
        return entry.handle

    def _info(self, entry: _Entry) -> KeyInfo:
        handle, provider = entry.handle, entry.provider
        return KeyInfo(
            record=entry.record,
            key_type=KeyType.of(load_spki(entry.record.spki)),
            provider=provider.name if provider is not None else None,
            in_place=handle is not None and handle.fast,
            problem=entry.trouble(),
        )

    def _check_new(self, name: str, doors: Iterable[Door]) -> frozenset[Door]:
        bound = frozenset(doors)
        require_key_name(name)
        if name in self._entries or name in self._making:
            raise Rejected.because(Refusal.CONFLICT, f"there is a key {name!r} already")
        if not bound:
            raise Rejected.because(Refusal.CONFIGURATION, "a key needs at least one door")
        return bound

    @contextmanager
    def _reserved(self, name: str) -> Iterator[None]:
        self._making.add(name)
        try:
            yield
        finally:
            self._making.discard(name)

    async def _register(self, record: KeyRecord, provider: Provider, actor: str, operation: str) -> KeyInfo:
        entry = await self._open(record)
        try:
            return await self._add(entry, actor, operation)
        except BaseException:
            # A key that no record knows would be found by nobody; it has signed nothing yet.
            self._drop(record.name)
            await executor_of(provider).run(lambda: provider.destroy(record.uri))
            raise

    async def _add(self, entry: _Entry, actor: str, operation: str) -> KeyInfo:
        await self._registry.add(entry.record, actor=actor, operation=operation)
        self._entries[entry.record.name] = entry
        return self._info(entry)
