"""Looking for key objects in a token."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Any

from pkcs11 import Attribute, ObjectClass
from pkcs11 import exceptions as p11

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.keys.algorithms import PublicKey
from pkiserver.keys.faults import FaultKind, KeyUnavailable
from pkiserver.keys.pkcs11 import publichalf
from pkiserver.keys.pkcs11.library import start_lock
from pkiserver.keys.pkcs11.login import TokenLogin
from pkiserver.keys.pkcs11.module import LOSSES, Lane, Module
from pkiserver.keys.uri import Pkcs11Uri

_UNSETTLED = (p11.ObjectHandleInvalid, p11.GeneralError)
"""What a listing can meet once while another process makes keys; it is tried again."""


class TokenSearch:
    """Finds the objects of keys in one token of a module."""

    def __init__(self, module: Module, login: TokenLogin) -> None:
        self.module = module
        self.login = login

    def private(self, lane: Lane, uri: str, name: str) -> Any:
        """The one private-key object at ``uri``, on the lane's session, for the key ``name``. In the module.

        Raises:
            KeyUnavailable: KEY_MISSING, KEY_AMBIGUOUS, or a fault of the token.
        """
        if self.login.problem is not None:
            raise KeyUnavailable(self.login.problem)
        found = self._objects(lane, terms_of(uri, ObjectClass.PRIVATE_KEY))
        if not found:
            text = f"there is no private key at {uri} in token {self.login.name}"
            raise KeyUnavailable.because(name, FaultKind.KEY_MISSING, text)
        if len(found) > 1:
            text = f"{len(found)} private keys are at {uri} in token {self.login.name}: name one by its id as well"
            raise KeyUnavailable.because(name, FaultKind.KEY_AMBIGUOUS, text)
        return found[0]

    def publics(self, lane: Lane, uri: str, private: Any) -> list[PublicKey]:
        """The readable public halves of a private-key object: its own, else those beside it. In the module."""
        own = publichalf.read_public(private)
        if own is not None:
            return [own]
        terms = {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.TOKEN: True, Attribute.ID: private[Attribute.ID]}
        beside = self._objects(lane, terms if terms[Attribute.ID] else terms_of(uri, ObjectClass.PUBLIC_KEY))
        return [key for key in map(publichalf.read_public, beside) if key is not None]

    def keys(self, lane: Lane) -> dict[tuple[str, bytes], tuple[str, ...]]:
        """Label and CKA_ID of every key in the token, and which halves are there. In the module.

        Raises:
            KeyUnavailable: a fault of the token.
        """
        if self.login.problem is not None:
            raise KeyUnavailable(self.login.problem)
        found: dict[tuple[str, bytes], tuple[str, ...]] = {}
        for part, kind in (("private", ObjectClass.PRIVATE_KEY), ("public", ObjectClass.PUBLIC_KEY)):
            for thing in self._objects(lane, {Attribute.CLASS: kind, Attribute.TOKEN: True}):
                try:
                    key = (str(thing[Attribute.LABEL]), bytes(thing[Attribute.ID]))
                except p11.ObjectHandleInvalid:
                    continue  # another process deleted it at this moment
                except LOSSES:
                    raise
                except (p11.PKCS11Error, UnicodeDecodeError):
                    continue  # it has no label (of UTF-8) or no ID, as keys that are made here have
                found[key] = tuple(dict.fromkeys((*found.get(key, ()), part)))
        return found

    def alone(self) -> AbstractContextManager[None]:
        """Hold back this server's other processes while keys are made, deleted or looked for.

        SoftHSM reads its folder while it looks for an object, each file once. A process that looks while another one
        is still writing takes the half-written object for what it is, and does not find that key until it ends.
        """
        return start_lock(self.module.settings)

    def _objects(self, lane: Lane, terms: dict[Attribute, Any]) -> list[Any]:
        session = self.module.session(lane, self.login)
        with self.alone():
            for _ in range(4):
                try:
                    return list(session.get_objects(terms))
                except _UNSETTLED:
                    time.sleep(0.02)
            return list(session.get_objects(terms))


def terms_of(uri: str, kind: ObjectClass) -> dict[Attribute, Any]:
    """What objects of one kind at ``uri`` have in common.

    Raises:
        Rejected: CONFIGURATION, the location names no key.
    """
    wanted = Pkcs11Uri.parse(uri)
    if wanted.object is None and wanted.id is None:
        raise Rejected.because(Refusal.CONFIGURATION, f"{uri} names no key: object or id must be given")
    terms: dict[Attribute, Any] = {Attribute.CLASS: kind, Attribute.TOKEN: True}
    if wanted.object is not None:
        terms[Attribute.LABEL] = wanted.object
    if wanted.id is not None:
        terms[Attribute.ID] = wanted.id
    return terms
