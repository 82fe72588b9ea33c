"""RFC 7512 ``pkcs11:`` URIs: a key by token and object, never with a PIN in it."""

from __future__ import annotations

import re
from urllib.parse import quote_from_bytes, unquote_to_bytes

import attrs

from pkiserver.foundation.errors import Refusal, Rejected

# Unreserved and the sub-delimiters that RFC 7512 section 2.3 leaves bare in path attributes.
_BARE_IN_PATH = ":[]@!$'()*+,=&"
_PATH_OCTETS = re.compile(r"(?:[A-Za-z0-9\-._~:\[\]@!$'()*+,=&]|%[0-9A-Fa-f]{2})*")
_QUERY_OCTETS = re.compile(r"(?:[A-Za-z0-9\-._~:\[\]@!$'()*+,=/?|]|%[0-9A-Fa-f]{2})*")
_TEXT = {"token", "manufacturer", "serial", "model", "library-manufacturer", "library-description", "library-version",
         "object", "type", "slot-description", "slot-manufacturer", "slot-id"}  # fmt: skip
_TYPES = ("public", "private", "cert", "secret-key", "data")
_LONGEST = 2048


@attrs.frozen
class Pkcs11Uri:
    """The attributes of a ``pkcs11:`` URI that choose a token and an object. ``id`` is CKA_ID octets."""

    token: str | None = None
    serial: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    slot_id: int | None = None
    object: str | None = None
    id: bytes | None = None
    type: str | None = None
    module_path: str | None = None
    module_name: str | None = None
    pin_source: str | None = None

    @classmethod
    def parse(cls, text: str) -> Pkcs11Uri:
        """Read a URI.

        Raises:
            Rejected: CONFIGURATION; not RFC 7512, an attribute twice, or a ``pin-value`` (PINs come by reference).
        """
        if not text.lower().startswith("pkcs11:") or len(text) > _LONGEST:
            raise _bad(text, "it does not begin with pkcs11:" if len(text) <= _LONGEST else "it is too long")
        path, question, query = text[7:].partition("?")
        values: dict[str, bytes] = {}
        for part in path.split(";") if path else []:
            _add(values, part, _PATH_OCTETS, text)
        for part in query.split("&") if question and query else []:
            _add(values, part, _QUERY_OCTETS, text)
        if "pin-value" in values:
            raise _bad("pkcs11:...", "pin-value is not accepted: name the PIN by pin-source")
        known = _TEXT | {"id", "module-path", "module-name", "pin-source"}
        unknown = [name for name in values if name not in known and not name.startswith("x-")]
        if unknown:
            raise _bad(text, f"unknown attributes {', '.join(unknown)}")
        return cls._from_values(text, values)

    @classmethod
    def _from_values(cls, text: str, values: dict[str, bytes]) -> Pkcs11Uri:
        try:
            words = {name: value.decode() for name, value in values.items() if name != "id"}
            slot = int(words["slot-id"]) if "slot-id" in words else None
        except ValueError as error:
            raise _bad(text, "an attribute is not UTF-8, or slot-id is no number") from error
        if words.get("type", "private") not in _TYPES:
            raise _bad(text, f"type must be one of {', '.join(_TYPES)}")
        return cls(
            token=words.get("token"), serial=words.get("serial"), manufacturer=words.get("manufacturer"),
            model=words.get("model"), slot_id=slot, object=words.get("object"), id=values.get("id"),
            type=words.get("type"), module_path=words.get("module-path"), module_name=words.get("module-name"),
            pin_source=words.get("pin-source"),
        )  # fmt: skip

    def __str__(self) -> str:
        path = [
            *_texts(("token", self.token), ("manufacturer", self.manufacturer), ("serial", self.serial)),
            *_texts(("model", self.model), ("slot-id", None if self.slot_id is None else str(self.slot_id))),
            *([] if self.id is None else ["id=" + "".join(f"%{octet:02x}" for octet in self.id)]),
            *_texts(("object", self.object), ("type", self.type)),
        ]
        query = _texts(
            ("pin-source", self.pin_source), ("module-name", self.module_name), ("module-path", self.module_path),
            bare=":[]@!$'()*+,=/?|",
        )  # fmt: skip
        return "pkcs11:" + ";".join(path) + ("?" + "&".join(query) if query else "")


def _add(values: dict[str, bytes], part: str, allowed: re.Pattern[str], text: str) -> None:
    name, equals, value = part.partition("=")
    if not equals or not name:
        raise _bad(text, "an attribute has no name or no value")
    if name in values:
        raise _bad(text, f"attribute {name} stands twice")
    if not allowed.fullmatch(value):
        raise _bad(
            text if name != "pin-value" else "pkcs11:...", f"attribute {name} holds a character that must be escaped"
        )
    values[name] = unquote_to_bytes(value)


def _texts(*pairs: tuple[str, str | None], bare: str = _BARE_IN_PATH) -> list[str]:
    return [f"{name}={quote_from_bytes(value.encode(), safe=bare)}" for name, value in pairs if value is not None]


def _bad(text: str, why: str) -> Rejected:
    return Rejected.because(Refusal.CONFIGURATION, f"{text[:120]!r} is not a usable key location: {why}")
