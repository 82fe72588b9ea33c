"""The state of one connection: who is bound, what is under way, what may come next. No I/O.

RFC 4511 sections 4.2.1 (nothing while a bind is under way), 4.14 (StartTLS with nothing under way), 4.11 (abandon);
RFC 3909 (cancel).
"""

from __future__ import annotations

import enum

from protocols.addressbook.callers import Caller
from protocols.addressbook.errors import Disconnect, LdapError, LimitHit, ResultCode
from protocols.addressbook.messages import ABANDON, BIND, SEARCH, UNBIND, BindRequest

_CANCELLABLE = frozenset({SEARCH})


class Admission(enum.Enum):
    """What is to be done with a message."""

    WORK = "work"
    WORK_ALONE = "alone"
    """A bind: what was under way is abandoned first, and nothing else is taken until it is done."""


class Session:
    """One connection's conversation.

    Attributes:
        caller: Who is bound.
        secure: Whether there is TLS.
        certificate: The client's certificate (DER) where it showed one.
    """

    def __init__(self, caller: Caller, *, secure: bool) -> None:
        self.anonymous = caller
        self.caller = caller
        self.secure = secure
        self.certificate: bytes | None = None
        self.starting_tls = False
        self._under_way: dict[int, int] = {}
        self._binding = False

    @property
    def busy(self) -> int:
        """Operations under way."""
        return len(self._under_way)

    @property
    def blocked(self) -> bool:
        """Whether no further message may be taken now."""
        return self._binding or self.starting_tls

    def admit(self, message_id: int, tag: int) -> Admission:
        """Take note of a request.

        Raises:
            Disconnect: its number is 0 or under way (RFC 4511 section 4.1.1.1), so that nothing can be told about it.
        """
        if tag in {UNBIND, ABANDON}:
            return Admission.WORK
        if not message_id or message_id in self._under_way:
            raise Disconnect("a message number that is in use or 0", LimitHit.MALFORMED)
        self._under_way[message_id] = tag
        if tag == BIND:
            self._binding = True
            return Admission.WORK_ALONE
        return Admission.WORK

    def done(self, message_id: int) -> bool:
        """An operation has ended; whether it still was under way."""
        tag = self._under_way.pop(message_id, None)
        if tag == BIND:
            self._binding = False
        return tag is not None

    def others(self, message_id: int) -> tuple[int, ...]:
        """What is under way beside a message."""
        return tuple(one for one in self._under_way if one != message_id)

    def may_abandon(self, message_id: int) -> bool:
        """Whether an operation can be given up without an answer."""
        return self._under_way.get(message_id) in _CANCELLABLE

    def may_cancel(self, message_id: int) -> None:
        """Whether an operation can be cancelled (RFC 3909 section 3).

        Raises:
            LdapError: NO_SUCH_OPERATION or CANNOT_CANCEL.
        """
        tag = self._under_way.get(message_id)
        if tag is None:
            raise LdapError(ResultCode.NO_SUCH_OPERATION)
        if tag not in _CANCELLABLE:
            raise LdapError(ResultCode.CANNOT_CANCEL)

    def may_start_tls(self, message_id: int) -> None:
        """Whether TLS can be started now (RFC 4511 section 4.14.1).

        Raises:
            LdapError: there is TLS already, or something is under way.
        """
        if self.secure or self.others(message_id):
            raise LdapError(ResultCode.OPERATIONS_ERROR, "TLS is there already, or operations are under way")

    def check_bind(self, request: BindRequest) -> None:
        """Whether a bind may be tried (RFC 4513 sections 5.1.2, 5.1.3). Whoever tries is anonymous from then on.

        Raises:
            LdapError: not this way.
        """
        self.caller = self.anonymous
        if request.version != 3:
            raise LdapError(ResultCode.PROTOCOL_ERROR, "LDAP version 3 only")
        if request.mechanism is None:
            self._check_simple(request)
        elif request.mechanism != "EXTERNAL":
            raise LdapError(ResultCode.AUTH_METHOD_NOT_SUPPORTED, "simple and SASL EXTERNAL only")
        elif self.certificate is None:
            raise LdapError(ResultCode.INAPPROPRIATE_AUTHENTICATION, "EXTERNAL needs a TLS client certificate")

    def _check_simple(self, request: BindRequest) -> None:
        if request.name and not request.credentials:
            raise LdapError(ResultCode.UNWILLING_TO_PERFORM, "a name without a password proves nothing")
        if request.credentials and not self.secure:
            raise LdapError(ResultCode.CONFIDENTIALITY_REQUIRED, "passwords are taken over TLS only")

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """SASL mechanisms that would work on this connection."""
        return ("EXTERNAL",) if self.certificate is not None else ()
