"""External contacts written over LDAP by members of certain groups; everything else is refused."""

from __future__ import annotations

import attrs

from protocols.addressbook.callers import Caller
from protocols.addressbook.directory import Directory
from protocols.addressbook.entries import Entry
from protocols.addressbook.errors import LdapError, ResultCode
from protocols.addressbook.filters import description
from protocols.addressbook.limits import BookPolicy
from protocols.addressbook.messages import AddRequest, Change, ChangeKind, DeleteRequest, ModifyRequest
from protocols.addressbook.ports import ContactDraft, Contacts
from protocols.addressbook.schema import AttributeType, find_attribute
from protocols.addressbook.tree import Area

_CERTIFICATE = "userCertificate"
_ALLOWED = frozenset(
    {
        "objectClass", "uid", "mail", "cn", "sn", "givenName", "displayName", "o", "ou", "l", "c", "title",
        "telephoneNumber", "description", _CERTIFICATE,
    }
)  # fmt: skip
_GIVEN = frozenset({"objectClass", "uid"})
"""What follows from where the entry stands."""


@attrs.frozen
class Writing:
    """Add, modify and delete."""

    directory: Directory
    contacts: Contacts
    policy: BookPolicy

    async def write(self, request: AddRequest | ModifyRequest | DeleteRequest, caller: Caller) -> None:
        """Do it.

        Raises:
            LdapError: nobody may; this caller may not; it is not a contact; or it will not do.
            Rejected: the contact will not do.
        """
        if not self.policy.writers:
            raise LdapError(ResultCode.UNWILLING_TO_PERFORM, "this directory is read only")
        if caller.name is None or not caller.groups & self.policy.writers:
            raise LdapError(ResultCode.INSUFFICIENT_ACCESS_RIGHTS)
        place = self.directory.suffix.place(request.entry)
        if place.area is not Area.CONTACT:
            raise LdapError(ResultCode.UNWILLING_TO_PERFORM, "only contacts can be written")
        by = f"ldap:{caller.name}"
        match request:
            case AddRequest():
                values = _collect([(name, held) for name, held in request.attributes])
                await self.contacts.put(_draft(place.key, values), replace=False, by=by)
            case ModifyRequest():
                values = _present(await self.directory.entry(place))
                for change in request.changes:
                    _apply(values, change)
                await self.contacts.put(_draft(place.key, values), replace=True, by=by)
            case DeleteRequest():
                await self.contacts.delete(place.key, by=by)


_Values = dict[str, list[bytes]]


def _kind(name: bytes) -> AttributeType:
    kind = find_attribute(description(name))
    if kind is None:
        raise LdapError(ResultCode.UNDEFINED_ATTRIBUTE_TYPE)
    if kind.names[0] not in _ALLOWED:
        raise LdapError(ResultCode.OBJECT_CLASS_VIOLATION, f"{kind.names[0]} cannot be set")
    return kind


def _collect(attributes: list[tuple[bytes, tuple[bytes, ...]]]) -> _Values:
    values: _Values = {}
    for name, held in attributes:
        values.setdefault(_kind(name).names[0], []).extend(held)
    return values


def _present(entry: Entry) -> _Values:
    return {
        kind.names[0]: list(values)
        for name, values in entry.attributes().items()
        if (kind := find_attribute(description(name))) is not None and kind.names[0] in _ALLOWED
    }


def _apply(values: _Values, change: Change) -> None:
    name = _kind(change.attribute).names[0]
    held = values.setdefault(name, [])
    match change.kind:
        case ChangeKind.ADD:
            held.extend(one for one in change.values if one not in held)
        case ChangeKind.REPLACE:
            held[:] = change.values
        case ChangeKind.DELETE:
            if not held or any(one not in held for one in change.values):
                raise LdapError(ResultCode.NO_SUCH_ATTRIBUTE)
            held[:] = [one for one in held if one not in change.values] if change.values else []


def _draft(address: str, values: _Values) -> ContactDraft:
    certificates = tuple(values.pop(_CERTIFICATE, ()))
    texts = []
    for name, held in values.items():
        if name in _GIVEN or not held:
            continue
        try:
            texts.append((name, tuple(one.decode() for one in held)))
        except UnicodeDecodeError:
            raise LdapError(ResultCode.INVALID_ATTRIBUTE_SYNTAX, f"{name} is not UTF-8") from None
    return ContactDraft(address, tuple(texts), certificates)
