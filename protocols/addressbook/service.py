"""What one operation does, from the decoded request to the octets of its answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs

from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import PkiError, Refusal, Rejected, Unavailable
from pkiserver.foundation.secret import Secret
from protocols.addressbook import ber, controls, extended, messages
from protocols.addressbook.callers import Abuse, Caller
from protocols.addressbook.controls import Pages, SearchControls
from protocols.addressbook.directory import Directory, Found
from protocols.addressbook.entries import Selection, selected, selection_of
from protocols.addressbook.errors import LdapError, ResultCode
from protocols.addressbook.limits import BookPolicy, LdapLimits
from protocols.addressbook.machine import Session
from protocols.addressbook.messages import (
    AddRequest,
    BindRequest,
    CompareRequest,
    Control,
    DeleteRequest,
    Envelope,
    ExtendedRequest,
    ModifyDnRequest,
    ModifyRequest,
    Request,
    SearchRequest,
)
from protocols.addressbook.metrics import LdapMetrics
from protocols.addressbook.names import normal, parse_dn
from protocols.addressbook.ports import Account, Contacts, Login
from protocols.addressbook.writing import Writing

Answer = bytes | Awaitable[bytes]


@attrs.frozen
class Conversation:
    """What the operations of one connection share."""

    session: Session
    pages: Pages
    cancel: Callable[[int], None]


class Service:
    """The operations of the directory, for all connections of a process."""

    def __init__(
        self,
        directory: Directory,
        login: Login,
        contacts: Contacts,
        *,
        abuse: Abuse,
        policy: BookPolicy,
        limits: LdapLimits,
        metrics: LdapMetrics,
        clock: Clock,
    ) -> None:
        self._directory = directory
        self._login = login
        self._writing = Writing(directory, contacts, policy)
        self._policy = policy
        self.abuse = abuse
        self.limits = limits
        self.metrics = metrics
        self.clock = clock

    def caller(self, address: str, key: str) -> Caller:
        """The anonymous caller at an address."""
        return Caller(key, trusted=self.abuse.is_trusted(address))

    def perform(self, request: Request, envelope: Envelope, conversation: Conversation) -> Answer:
        """The whole answer to a request; at once where that can be.

        Raises:
            LdapError: with the result.
        """
        match request:
            case SearchRequest():
                return self._search(request, envelope, conversation)
            case BindRequest():
                return self._bind(request, envelope, conversation.session)
            case CompareRequest():
                controls.unknown_critical(envelope.controls, ())
                return self._compare(request, envelope, conversation.session.caller)
            case ExtendedRequest():
                return self._extended(request, envelope, conversation)
            case AddRequest() | ModifyRequest() | DeleteRequest():
                controls.unknown_critical(envelope.controls, ())
                return self._write(request, envelope, conversation.session.caller)
            case ModifyDnRequest():
                raise LdapError(ResultCode.UNWILLING_TO_PERFORM, "entries cannot be renamed")
            case _:
                raise LdapError(ResultCode.PROTOCOL_ERROR)

    # Searching

    def _search(self, request: SearchRequest, envelope: Envelope, conversation: Conversation) -> Answer:
        caller = conversation.session.caller
        wanted = controls.read_controls(envelope.controls)
        self.abuse.searching(caller, self.clock.monotonic())
        refusal = wanted.refusal()
        if refusal is not None:
            nothing = Found((), ResultCode.UNAVAILABLE_CRITICAL_EXTENSION)
            return self._entries(request, envelope, nothing, (refusal,))
        if wanted.page is not None and wanted.page.cookie:
            page, code, control = conversation.pages.go_on(wanted.page)
            return self._entries(request, envelope, Found(tuple(page), code), (control,))
        found = self._directory.search(request, caller, conversation.session.mechanisms)
        if isinstance(found, Found):
            return self._found(request, envelope, found, wanted, conversation)
        return self._searched(request, envelope, found, wanted, conversation)

    async def _searched(
        self,
        request: SearchRequest,
        envelope: Envelope,
        found: Awaitable[Found],
        wanted: SearchControls,
        conversation: Conversation,
    ) -> bytes:
        return self._found(request, envelope, await found, wanted, conversation)

    def _found(
        self,
        request: SearchRequest,
        envelope: Envelope,
        found: Found,
        wanted: SearchControls,
        conversation: Conversation,
    ) -> bytes:
        self.metrics.people += found.people
        if found.people:
            self.abuse.gave(conversation.session.caller, found.people, self.clock.monotonic())
        if found.limit is not None:
            self.metrics.limit(found.limit)
        if wanted is controls.NO_CONTROLS:
            return self._entries(request, envelope, found, ())
        entries, said = controls.sort_entries(list(found.entries), wanted.sort)
        answers = [] if said is None else [said]
        code = found.code
        if wanted.view is not None:
            entries, view = controls.view_entries(entries, wanted.view, wanted.sort)
            answers.append(view)
        elif wanted.page is not None:
            entries, code, page = conversation.pages.first(entries, found.code, wanted.page)
            answers.append(page)
        return self._entries(request, envelope, attrs.evolve(found, entries=tuple(entries), code=code), tuple(answers))

    def _entries(self, request: SearchRequest, envelope: Envelope, found: Found, answers: tuple[Control, ...]) -> bytes:
        selection: Selection = selection_of(request.attributes)
        number = envelope.message_id
        self.metrics.entries += len(found.entries)
        parts = [
            messages.search_entry(number, one.dn, selected(one, selection, types_only=request.types_only))
            for one in found.entries
        ]
        done = messages.result(messages.SEARCH_DONE, found.code)
        parts.append(messages.message(number, done, answers))
        return b"".join(parts)

    async def _compare(self, request: CompareRequest, envelope: Envelope, caller: Caller) -> bytes:
        self.abuse.searching(caller, self.clock.monotonic())
        equal = await self._directory.compare(request)
        code = ResultCode.COMPARE_TRUE if equal else ResultCode.COMPARE_FALSE
        return messages.message(envelope.message_id, messages.result(messages.RESPONSES[messages.COMPARE], code))

    # Binding

    def _bind(self, request: BindRequest, envelope: Envelope, session: Session) -> Answer:
        session.check_bind(request)
        controls.unknown_critical(envelope.controls, ())
        if request.mechanism is None and not request.credentials:
            return self._bound(envelope)
        self.abuse.binding(session.anonymous.key, self.clock.monotonic())
        return self._authenticate(request, envelope, session)

    async def _authenticate(self, request: BindRequest, envelope: Envelope, session: Session) -> bytes:
        account = await self._account(request, session)
        if account is None or not _may_be(request, account):
            self.abuse.failed_bind(session.anonymous.key, self.clock.monotonic())
            raise LdapError(ResultCode.INVALID_CREDENTIALS)
        session.caller = Caller(
            f"account:{account.name}", account.name, account.groups, trusted=session.anonymous.trusted
        )
        return self._bound(envelope)

    async def _account(self, request: BindRequest, session: Session) -> Account | None:
        if request.mechanism is not None:
            assert session.certificate is not None
            return await self._login.certificate(session.certificate)
        name = self._account_name(request.name)
        return await self._login.password(name, Secret(request.credentials or b""))

    def _account_name(self, name: bytes) -> str:
        """The account that a bind name means: a DN below the suffix, by its first value, or the bare name."""
        text = name.decode("utf-8", "replace")
        if "=" not in text:
            return text
        try:
            dn = parse_dn(name)
        except LdapError:
            return text
        suffix = self._directory.suffix.dn
        if len(dn) <= len(suffix) or normal(dn)[-len(suffix) :] != suffix:
            return ""
        kind, value = dn[0][0]
        return value if kind in {"uid", "cn", "mail"} else ""

    @staticmethod
    def _bound(envelope: Envelope) -> bytes:
        return messages.message(envelope.message_id, messages.result(messages.BIND_RESPONSE, ResultCode.SUCCESS))

    # Extended operations

    def _extended(self, request: ExtendedRequest, envelope: Envelope, conversation: Conversation) -> bytes:
        session = conversation.session
        controls.unknown_critical(envelope.controls, ())
        match request.oid:
            case extended.START_TLS:
                session.may_start_tls(envelope.message_id)
                session.starting_tls = True
                response = messages.extended_response(ResultCode.SUCCESS, oid=extended.START_TLS.encode())
            case extended.WHO_AM_I:
                value = session.caller.authorization.encode()
                response = messages.extended_response(ResultCode.SUCCESS, value=value)
            case extended.CANCEL:
                response = self._cancel(request, conversation)
            case _:
                raise LdapError(ResultCode.PROTOCOL_ERROR, "an unknown extended operation")
        return messages.message(envelope.message_id, response)

    @staticmethod
    def _cancel(request: ExtendedRequest, conversation: Conversation) -> bytes:
        value = request.value or b""
        number = ber.Reader(value, 0, len(value)).inner(ber.SEQUENCE).integer()
        conversation.session.may_cancel(number)
        conversation.cancel(number)
        return messages.extended_response(ResultCode.SUCCESS)

    # Writing

    async def _write(
        self, request: AddRequest | ModifyRequest | DeleteRequest, envelope: Envelope, caller: Caller
    ) -> bytes:
        await self._writing.write(request, caller)
        tag = messages.RESPONSES[envelope.tag]
        return messages.message(envelope.message_id, messages.result(tag, ResultCode.SUCCESS))


def error_of(error: BaseException | None) -> LdapError | None:
    """The result that a failure of another room becomes; None for what is our own fault."""
    match error:
        case LdapError():
            return error
        case Unavailable():
            return LdapError(ResultCode.BUSY, error.shown)
        case Rejected():
            codes = {
                Refusal.CONFLICT: ResultCode.ENTRY_ALREADY_EXISTS,
                Refusal.UNKNOWN_REQUEST: ResultCode.NO_SUCH_OBJECT,
            }
            return LdapError(codes.get(error.reasons[0].code, ResultCode.CONSTRAINT_VIOLATION), str(error))
        case PkiError():
            return LdapError(ResultCode.OTHER, "internal error")
    return None


def _may_be(request: BindRequest, account: Account) -> bool:
    """EXTERNAL with an authorization identity: nobody but oneself (RFC 4513 section 5.2.3)."""
    if request.mechanism is None or not request.credentials:
        return True
    return request.credentials in {f"u:{account.name}".encode(), b"u:"}
