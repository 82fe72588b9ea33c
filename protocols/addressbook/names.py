"""Distinguished names as LDAP writes them (RFC 4514), read without recursion, compared folded."""

from __future__ import annotations

import re

from pkiserver.store.names import folded
from protocols.addressbook.errors import LdapError, ResultCode

Rdn = tuple[tuple[str, str], ...]
Dn = tuple[Rdn, ...]
"""Relative names from the entry up to the root: attribute types lower case, values as written."""

MOST_OCTETS = 4096
_TYPE = re.compile(r"\s*([A-Za-z][A-Za-z0-9-]*|[0-9]+(?:\.[0-9]+)*)\s*=\s*")
_SPECIAL = frozenset('"+,;<>\\ #=')
_ALIASES = {
    "0.9.2342.19200300.100.1.1": "uid",
    "0.9.2342.19200300.100.1.3": "mail",
    "0.9.2342.19200300.100.1.25": "dc",
    "2.5.4.3": "cn",
    "2.5.4.10": "o",
    "2.5.4.11": "ou",
    "userid": "uid",
    "rfc822mailbox": "mail",
    "email": "mail",
    "e": "mail",
    "domaincomponent": "dc",
    "commonname": "cn",
    "organizationname": "o",
    "organizationalunitname": "ou",
}


def _invalid() -> LdapError:
    return LdapError(ResultCode.INVALID_DN_SYNTAX, "not a distinguished name")


def parse_dn(octets: bytes) -> Dn:
    """A distinguished name; empty for the root.

    Raises:
        LdapError: INVALID_DN_SYNTAX.
    """
    if len(octets) > MOST_OCTETS:
        raise _invalid()
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        raise _invalid() from None
    if not text.strip():
        return ()
    found: list[Rdn] = []
    parts: list[tuple[str, str]] = []
    position = 0
    while True:
        match = _TYPE.match(text, position)
        if match is None:
            raise _invalid()
        kind = match[1].lower()
        value, position = _value(text, match.end())
        parts.append((_ALIASES.get(kind, kind), value))
        end = position >= len(text)
        if end or text[position] in ",;":
            found.append(tuple(sorted(parts)))
            parts = []
        if end:
            return tuple(found)
        position += 1


def _value(text: str, position: int) -> tuple[str, int]:
    """The value that begins there, and where its delimiter stands."""
    if text[position : position + 1] == '"':
        return _quoted(text, position + 1)
    octets = bytearray()
    kept = 0  # up to here trailing spaces are escaped ones
    while position < len(text) and text[position] not in ",;+":
        character = text[position]
        if character == "\\":
            octet, position = _escaped(text, position + 1)
            octets += octet
            kept = len(octets)
            continue
        octets += character.encode("utf-8", "surrogatepass")
        if character != " ":
            kept = len(octets)
        position += 1
    return _text(octets[:kept]), position


def _quoted(text: str, position: int) -> tuple[str, int]:
    """The old quoted form of RFC 2253, which some clients still send."""
    octets = bytearray()
    while position < len(text) and text[position] != '"':
        if text[position] == "\\":
            octet, position = _escaped(text, position + 1)
            octets += octet
            continue
        octets += text[position].encode("utf-8", "surrogatepass")
        position += 1
    position += 1
    while position < len(text) and text[position] == " ":
        position += 1
    if position > len(text) or (position < len(text) and text[position] not in ",;+"):
        raise _invalid()
    return _text(octets), position


def _escaped(text: str, position: int) -> tuple[bytes, int]:
    pair = text[position : position + 2]
    if len(pair) == 2 and all(one in "0123456789abcdefABCDEF" for one in pair):
        return bytes.fromhex(pair), position + 2
    if pair and pair[0] in _SPECIAL:
        return pair[0].encode(), position + 1
    raise _invalid()


def _text(octets: bytes | bytearray) -> str:
    try:
        return bytes(octets).decode()
    except UnicodeDecodeError:
        raise _invalid() from None


def normal(dn: Dn) -> Dn:
    """The form in which names are compared."""
    return tuple(tuple((kind, folded(value)) for kind, value in rdn) for rdn in dn)


def escape(value: str) -> str:
    """A value as it stands in a distinguished name (RFC 4514 section 2.4)."""
    text = "".join(f"\\{c}" if c in '"+,;<>\\' else c for c in value).replace("\0", "\\00")
    if text[:1] in {" ", "#"}:
        text = "\\" + text
    if text.endswith(" ") and not text.endswith("\\ "):
        text = text[:-1] + "\\ "
    return text
