"""Result codes of RFC 4511 section 4.1.9, and how failures become them."""

from __future__ import annotations

import enum


class ResultCode(enum.IntEnum):
    """The result codes that this server gives, with their numbers."""

    SUCCESS = 0
    OPERATIONS_ERROR = 1
    PROTOCOL_ERROR = 2
    TIME_LIMIT_EXCEEDED = 3
    SIZE_LIMIT_EXCEEDED = 4
    COMPARE_FALSE = 5
    COMPARE_TRUE = 6
    AUTH_METHOD_NOT_SUPPORTED = 7
    ADMIN_LIMIT_EXCEEDED = 11
    UNAVAILABLE_CRITICAL_EXTENSION = 12
    CONFIDENTIALITY_REQUIRED = 13
    NO_SUCH_ATTRIBUTE = 16
    UNDEFINED_ATTRIBUTE_TYPE = 17
    INAPPROPRIATE_MATCHING = 18
    CONSTRAINT_VIOLATION = 19
    INVALID_ATTRIBUTE_SYNTAX = 21
    NO_SUCH_OBJECT = 32
    INVALID_DN_SYNTAX = 34
    INAPPROPRIATE_AUTHENTICATION = 48
    INVALID_CREDENTIALS = 49
    INSUFFICIENT_ACCESS_RIGHTS = 50
    BUSY = 51
    UNAVAILABLE = 52
    UNWILLING_TO_PERFORM = 53
    SORT_CONTROL_MISSING = 60
    OBJECT_CLASS_VIOLATION = 65
    ENTRY_ALREADY_EXISTS = 68
    OTHER = 80
    CANCELED = 118
    NO_SUCH_OPERATION = 119
    TOO_LATE = 120
    CANNOT_CANCEL = 121


class LimitHit(enum.StrEnum):
    """What the directory refuses or cuts, for metrics and log lines."""

    CONNECTIONS = "connections"
    CONNECTIONS_PER_ADDRESS = "connections_per_address"
    MESSAGE_SIZE = "message_size"
    MESSAGE_TIME = "message_time"
    MALFORMED = "malformed"
    FILTER = "filter"
    IDLE = "idle"
    LIFETIME = "lifetime"
    HANDSHAKE = "handshake"
    WRITE_STALL = "write_stall"
    OPERATIONS = "operations"
    SEARCH_RATE = "search_rate"
    RESULT_RATE = "result_rate"
    BIND_RATE = "bind_rate"
    NOT_ALLOWED = "not_allowed"
    STARTTLS_INJECTION = "starttls_injection"


class LdapError(Exception):
    """An operation is answered with this result; the connection goes on."""

    def __init__(self, code: ResultCode, text: str = "", *, limit: LimitHit | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.limit = limit


class Disconnect(Exception):  # an order, like the notice of RFC 4511 section 4.4.1 that it sends
    """The connection ends, with a notice of disconnection (RFC 4511 section 4.4.1)."""

    def __init__(self, text: str, limit: LimitHit, code: ResultCode = ResultCode.PROTOCOL_ERROR) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.limit = limit
