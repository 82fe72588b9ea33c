"""The authorities that are not ours as a source of status: lists in memory, followed in the database."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import attrs
from sqlalchemy import Connection
from twisted.internet.defer import DeferredLock

from pkiserver.authority.status.directory import HASH_NAMES, issuer_hashes
from pkiserver.authority.status.source import ServedIssuer, Statuses
from pkiserver.authority.status.turns import StatusProblem
from pkiserver.authority.validation.importing import ISSUED
from pkiserver.authority.validation.index import Index
from pkiserver.authority.validation.serving import Serving, usable
from pkiserver.authority.validation.settings import KIND, ForeignCa, Unlisted, load_foreign
from pkiserver.authority.validation.standing import ForeignRecords, LoadedList
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Refusal, Rejected, Unavailable
from pkiserver.keys.keyring import KeyRing
from pkiserver.store.authority import foreign
from pkiserver.store.authority import templates as object_rows
from pkiserver.store.authority.foreign import InstalledResponder, SourceState
from pkiserver.store.database import Database

_Key = tuple[str, bytes, bytes]


@attrs.frozen
class _Rows:
    """What the database has, without any part of a list."""

    cas: tuple[tuple[str, str], ...]
    states: tuple[SourceState, ...]
    responders: tuple[InstalledResponder, ...]


def _rows(connection: Connection) -> _Rows:
    cas = tuple((row.name, row.toml) for row in object_rows.list_all(connection, kind=KIND))
    if not cas:
        return _Rows((), (), ())
    return _Rows(cas, foreign.states(connection), foreign.responders(connection))


def number_of(name: str) -> int:
    """What stands for an authority where those of ours have their database number: negative, so never one of them."""
    return -1 - int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")


class ForeignAuthorities:
    """A :class:`~pkiserver.authority.status.source.StatusSource`; :meth:`refresh` follows the database."""

    def __init__(self, database: Database, keys: KeyRing, clock: Clock) -> None:
        self._database = database
        self._keys = keys
        self._clock = clock
        self._cas: dict[str, ForeignCa] = {}
        self._states: dict[tuple[str, str], SourceState] = {}
        self._lists: dict[tuple[str, str, int], LoadedList] = {}
        self._by_number: Mapping[int, Serving] = {}
        self._served: Mapping[_Key, Serving] = {}
        self._problems: dict[str, tuple[str, ...]] = {}
        self._changes = 0
        self._reading = DeferredLock()
        self._seen: tuple[_Rows, tuple[str, ...]] | None = None

    def list(self) -> tuple[ForeignCa, ...]:
        """Every authority, by name."""
        return tuple(self._cas[name] for name in sorted(self._cas))

    def get(self, name: str) -> ForeignCa:
        """The authority of that name; raises :class:`Rejected` (UNKNOWN_AUTHORITY)."""
        found = self._cas.get(name)
        if found is None:
            raise Rejected.because(Refusal.UNKNOWN_AUTHORITY, f"there is no foreign CA {name!r}: pkiserver apply one")
        return found

    def state(self, name: str, source: str) -> SourceState | None:
        """How a source stood at the last :meth:`refresh`."""
        return self._states.get((name, source))

    def served(self, name: str) -> ServedIssuer:
        """How an authority is served now; raises as :meth:`get`."""
        self.get(name)
        return self._by_number[number_of(name)].issuer(self._clock.now())

    def problems(self) -> tuple[StatusProblem, ...]:
        """Why some authorities' status cannot be told, or not for long any more."""
        now = self._clock.now()
        found = [StatusProblem(name, text) for name, texts in sorted(self._problems.items()) for text in texts]
        for served in self._by_number.values():
            if served.issuer(now).signer is None:
                text = "there is no valid responder certificate: pkiserver responder csr | install"
                found.append(StatusProblem(served.ca.name, text))
            elif (end := served.ends_soon(now)) is not None:
                text = f"the last responder certificate ends at {end:%Y-%m-%d %H:%M:%SZ}"
                text = f"{text}: pkiserver responder csr | install"
                found.append(StatusProblem(served.ca.name, text))
            standing = served.records.standing
            if not served.records.problems and standing.until <= now:
                found.append(StatusProblem(served.ca.name, "its lists are out of date"))
        return tuple(found)

    async def refresh(self) -> None:
        """Take up what changed in the database; reads long lists only where they are new.

        Raises:
            Unavailable: the database is away; what was known goes on being served, as long as its lists are valid.
        """
        # One after the other: an earlier look that ended later would bring back lists that have been overtaken.
        async with self._reading:
            await self._refresh()

    async def _refresh(self) -> None:
        rows = await self._database.read(_rows)
        keys = tuple(key.name for key in self._keys.list() if key.problem is None)
        if (rows, keys) == self._seen:
            return
        cas: dict[str, ForeignCa] = {}
        problems: dict[str, tuple[str, ...]] = {}
        for name, text in rows.cas:
            try:
                ca = load_foreign(text, f"foreign-ca {name}")
            except Rejected as error:
                problems[name] = (str(error),)
                continue
            if ca.enabled:
                cas[name] = ca
        lists = [await self._load(one) for one in rows.states if one.authority in cas and one.head is not None]
        # From here on nothing is waited for: who asks meanwhile sees the old or the new.
        self._cas, self._problems = cas, problems
        self._states = {(one.authority, one.source): one for one in rows.states}
        before = {key[:2]: (key, one) for key, one in self._lists.items()}
        loaded = [(key, one) if one is not None else before.get(key[:2]) for key, one in lists]
        self._lists = dict(pair for pair in loaded if pair is not None)
        self._serve(rows.responders)
        self._seen = None if any(one is None for _, one in lists) else (rows, keys)

    async def _load(self, state: SourceState) -> tuple[tuple[str, str, int], LoadedList | None]:
        assert state.head is not None
        key = (state.authority, state.source, state.revision)
        known = self._lists.get(key)
        if known is not None:
            return key, known
        parts = await self._database.read(lambda connection: foreign.parts(connection, *key))
        index = Index(parts)
        # Two newer lists may have come in meanwhile, and these parts be gone: the next look finds the newest.
        return key, LoadedList(state.source, state.head, index) if len(index) == state.head.entries else None

    def _serve(self, responders: Sequence[InstalledResponder]) -> None:
        by_number: dict[int, Serving] = {}
        served: dict[_Key, Serving] = {}
        for ca in self._cas.values():
            records = ForeignRecords(ca, [one for (name, _, _), one in self._lists.items() if name == ca.name])
            told = [state.problem for (name, _), state in self._states.items() if name == ca.name and state.problem]
            if ca.unlisted is Unlisted.ALLOW_LIST and self._states.get((ca.name, ISSUED)) is None:
                told.append("there is no list of issued serial numbers: pkiserver responder issued")
            self._problems[ca.name] = (*records.problems, *told)
            number = number_of(ca.name)
            installed = [one for one in responders if one.authority == ca.name]
            by_number[number] = serving = Serving(ca, number, records, tuple(usable(self._keys, ca.ca(), installed)))
            for hash_name in HASH_NAMES:
                served[(hash_name, *issuer_hashes(ca.ca(), hash_name))] = serving
        self._by_number, self._served = by_number, served
        self._changes += 1

    def issuer_now(self, hash_name: str, name_hash: bytes, key_hash: bytes) -> ServedIssuer | None:
        """The issuer with these hashes, with who may sign for it now."""
        found = self._served.get((hash_name, name_hash, key_hash))
        return None if found is None else found.issuer(self._clock.now())

    def statuses_now(self, issuer: ServedIssuer, serials: Sequence[int]) -> Statuses | None:
        """What the lists say; None for an issuer that is not known here."""
        served = self._by_number.get(issuer.issuer_id)
        if served is None:
            return None
        return tuple(served.records.status(serial, issuer.issuer_id) for serial in serials)

    def state_now(self) -> object:
        """How often lists or issuers changed."""
        return self._changes

    async def issuer(self, hash_name: str, name_hash: bytes, key_hash: bytes) -> ServedIssuer | None:
        """As :meth:`issuer_now`.

        Raises:
            Unavailable: nothing has been read yet since the start: whose issuer it is is not known.
        """
        if not self._changes:
            raise Unavailable("the authorities that are not ours have not been read yet", retry_after=5)
        return self.issuer_now(hash_name, name_hash, key_hash)

    async def statuses(self, issuer: ServedIssuer, serials: Sequence[int]) -> Statuses:
        """As :meth:`statuses_now`."""
        return self.statuses_now(issuer, serials) or (None,) * len(serials)
