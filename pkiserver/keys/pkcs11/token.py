"""A token as a place for keys: finding, making, keeping and deleting them there."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any

import attrs
from pkcs11 import Attribute, ObjectClass
from pkcs11 import exceptions as p11

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.keys.algorithms import KeyFamily, KeyType, PrivateKey, PublicKey, load_spki, spki
from pkiserver.keys.doors import Door
from pkiserver.keys.faults import FaultKind, KeyProblem, KeyUnavailable
from pkiserver.keys.pkcs11 import publichalf
from pkiserver.keys.pkcs11.key import TokenKey
from pkiserver.keys.pkcs11.login import TokenLogin
from pkiserver.keys.pkcs11.module import LOSSES, Module
from pkiserver.keys.pkcs11.search import TokenSearch, terms_of
from pkiserver.keys.records import NO_RECORD, KeyObject, is_key_name
from pkiserver.keys.settings import InPlace, TokenSettings
from pkiserver.keys.uri import Pkcs11Uri

ID_OCTETS = 16
"""Of the CKA_ID of a key that is made or imported here: random octets."""


class Token:
    """One configured token: its login, its keys, and the module it shares with others."""

    def __init__(self, settings: TokenSettings, module: Module) -> None:
        self.settings = settings
        self.name = settings.name
        self.module = module
        self.login = TokenLogin(settings)
        self.keys: dict[str, TokenKey] = {}
        self._search = TokenSearch(module, self.login)
        module.tokens.append(self.login)

    def serves(self, uri: str) -> bool:
        """Whether a key's location means this token, as far as the settings tell."""
        if not uri.lower().startswith("pkcs11:"):
            return False
        wanted = Pkcs11Uri.parse(uri)
        label, serial = self.settings.token_label, self.settings.token_serial
        if wanted.module_path is not None and wanted.module_path != str(self.settings.module):
            return False
        return (wanted.token is None or label is None or wanted.token == label) and (
            wanted.serial is None or serial is None or wanted.serial == serial
        )

    def open(self, name: str, uri: str, expected_spki: bytes) -> TokenKey:
        """The registered key; what is wrong with it stands in its ``problem``. Blocking."""
        key = self.keys[name] = TokenKey(name, uri, load_spki(expected_spki), self._search)
        self.attach(key)
        return key

    def forget(self, name: str) -> None:
        """The key was deleted: signers that still hold it get a clear answer, and the token is not asked."""
        key = self.keys.pop(name, None)
        if key is not None:
            key.measured(float("inf"), local=False)
            key.fault = KeyProblem(name, FaultKind.KEY_MISSING, "the key was deleted")

    def attach(self, key: TokenKey) -> None:
        """Find the key (again), compare its public half, try it, and measure. Blocking.

        What was wrong with it stands until it is found: while it is looked for, others ask whether it can be used.
        """
        key.reset()
        key.measured(float("inf"), local=False)
        problem = key.problem
        if problem is not None and problem is not key.fault:  # its token is away, which says nothing of the key
            key.fault = None
            return
        try:
            self._compare(key)
            key.fault = None
            usual = key.prove()
        except KeyUnavailable as error:
            key.fault = error.problem
        except Rejected as error:
            key.fault = KeyProblem(key.name, FaultKind.KEY_UNUSABLE, str(error))
        else:
            key.measured(usual, local=self._in_this_process())

    def _in_this_process(self) -> bool:
        # p11-kit's client asks another process, which may stop answering; the reactor must not wait for it.
        return self.settings.in_place is InPlace.AUTO and "p11-kit-client" not in self.settings.module.name

    def public_half(self, uri: str) -> PublicKey:
        """The public key that stands beside the private key at ``uri``; blocking.

        Raises:
            KeyUnavailable: the token is away, the key is missing or ambiguous, or has no readable public half.
        """
        with self.module.entered() as lane:
            private = self._search.private(lane, uri, self.name)
            found = self._search.publics(lane, uri, private)
        if len({spki(key) for key in found}) != 1:
            text = f"beside {uri} there is no readable public key (or several)"
            raise KeyUnavailable.because(self.name, FaultKind.KEY_MISSING, text)
        return found[0]

    def generate(self, label: str, key_type: KeyType, doors: frozenset[Door]) -> tuple[str, PublicKey]:
        """A key pair born in the token, sensitive and not extractable: its location and public half; blocking.

        Raises:
            Rejected: CONFLICT where the label is taken; UNSUPPORTED where the token has no such keys.
        """
        if key_type.family is KeyFamily.ML_DSA:
            raise Rejected.because(
                Refusal.UNSUPPORTED, f"{key_type} keys are kept by the software store, not by tokens"
            )
        with self.module.entered(), self._search.alone():
            session = self._writable()
            try:
                self._require_free(session, label)
                key_id = secrets.token_bytes(ID_OCTETS)
                public, private = publichalf.generate(session, key_type, label, key_id, doors)
                return self._born(public, private, label, key_id)
            except LOSSES:
                raise
            except p11.PKCS11Error as error:
                text = f"token {self.name} does not make a key of type {key_type} ({type(error).__name__})"
                raise Rejected.because(Refusal.UNSUPPORTED, text) from error
            finally:
                session.close()

    def _born(self, public: Any, private: Any, label: str, key_id: bytes) -> tuple[str, PublicKey]:
        key = publichalf.read_public(public)
        sealed = private[Attribute.SENSITIVE] and not private[Attribute.EXTRACTABLE]
        if key is None or not sealed:
            private.destroy()
            public.destroy()
            why = "gives no readable public key" if key is None else "makes keys that can be taken out of it"
            raise Rejected.because(Refusal.UNSUPPORTED, f"token {self.name} {why}")
        return self._location(label, key_id), key

    def keep(self, label: str, private: PrivateKey, doors: frozenset[Door]) -> tuple[str, PublicKey]:
        """Put a key made elsewhere into the token: its location and public half; blocking. Raises :class:`Rejected`."""
        key_id = secrets.token_bytes(ID_OCTETS)
        try:
            public_template, private_template = publichalf.import_templates(private, label, key_id, doors)
        except ValueError as error:
            raise Rejected.because(Refusal.UNSUPPORTED, str(error)) from error
        with self.module.entered(), self._search.alone():
            session = self._writable()
            try:
                self._require_free(session, label)
                session.create_object(private_template)
                session.create_object(public_template)
            except LOSSES:
                raise
            except p11.PKCS11Error as error:
                text = f"token {self.name} does not take the key ({type(error).__name__})"
                raise Rejected.because(Refusal.UNSUPPORTED, text) from error
            finally:
                session.close()
        return self._location(label, key_id), private.public_key()

    def key_objects(self) -> tuple[KeyObject, ...]:
        """Every key in the token of the form of those that are made here, by name; blocking.

        Raises:
            KeyUnavailable: the token is away.
        """
        with self.module.entered() as lane:
            found = self._search.keys(lane)
        ours = (key for key in found if is_key_name(key[0]) and len(key[1]) == ID_OCTETS)
        return tuple(
            KeyObject(label, self._location(label, key_id), found[label, key_id]) for label, key_id in sorted(ours)
        )

    def besides(self, objects: Iterable[KeyObject], uris: Iterable[str]) -> list[KeyObject]:
        """Those that none of these locations means."""
        wanted = [Pkcs11Uri.parse(uri) for uri in uris if self.serves(uri)]
        known = {(one.object, one.id) for one in wanted}

        def is_known(thing: KeyObject) -> bool:
            at = Pkcs11Uri.parse(thing.location)
            return not known.isdisjoint({(at.object, at.id), (at.object, None), (None, at.id)})

        return [one for one in objects if not is_known(one)]

    def destroy(self, uri: str) -> None:
        """Delete the objects at ``uri``, private and public; blocking. Nothing there is no error."""
        with self.module.entered(), self._search.alone():
            session = self._writable()
            try:
                for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
                    for thing in list(session.get_objects(terms_of(uri, kind))):
                        thing.destroy()
            finally:
                session.close()

    def _compare(self, key: TokenKey) -> None:
        with self.module.entered() as lane:
            if (held := lane.keys.pop(key, None)) is not None:
                held.drop()
            private = self._search.private(lane, key.uri, key.name)
            publics = self._search.publics(lane, key.uri, private)
        # A public half that cannot be read proves nothing; the test signature that follows does.
        if publics and all(spki(found) != spki(key.public_key) for found in publics):
            text = f"the key at {key.uri} is not the registered one: its public half in the token differs"
            raise KeyUnavailable.because(key.name, FaultKind.KEY_MISMATCH, text)

    def _require_free(self, session: Any, label: str) -> None:
        for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
            if list(session.get_objects({Attribute.CLASS: kind, Attribute.TOKEN: True, Attribute.LABEL: label})):
                text = f"token {self.name} has a key with the label {label!r} already{NO_RECORD}"
                raise Rejected.because(Refusal.CONFLICT, text)

    def _writable(self) -> Any:
        if self.login.problem is not None:
            raise KeyUnavailable(self.login.problem)
        return self.login.session(writable=True)

    def _location(self, label: str, key_id: bytes) -> str:
        token = self.login.token
        return str(Pkcs11Uri(token=token.label, object=label, id=key_id, type="private"))


@attrs.frozen
class TokenInfo:
    """A token as ``hsm info`` shows it."""

    name: str
    module: str
    library: str
    label: str
    serial: str
    model: str
    manufacturer: str
    mechanisms: tuple[str, ...]
    threads: int
    keys: int
    losses: int
    problem: KeyProblem | None
