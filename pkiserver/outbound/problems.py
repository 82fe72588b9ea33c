"""What can go wrong on the way to another server, told apart so that an administrator knows what to repair."""

from __future__ import annotations

import enum


class Trouble(enum.StrEnum):
    """How far a connection came."""

    SETTINGS = "settings"
    RESOLVE = "cannot resolve"
    CONNECT = "cannot connect"
    TLS = "TLS not trusted"
    SILENT = "no answer"
    ANSWER = "bad answer"
    BIND = "bind refused"


class OutboundError(Exception):
    """The other server cannot be talked to. ``text`` says why in one line; ``server`` is ``host:port`` or a URL."""

    def __init__(self, trouble: Trouble, server: str, text: str) -> None:
        super().__init__(f"{server}: {trouble}: {text}")
        self.trouble = trouble
        self.server = server
        self.text = text


class AllServersFailed(OutboundError):
    """None of several servers could be talked to; ``errors`` has one error for each, in their order."""

    def __init__(self, errors: tuple[OutboundError, ...]) -> None:
        last = errors[-1]
        super().__init__(last.trouble, last.server, last.text)
        self.errors = errors
        self.args = ("; ".join(str(error) for error in errors),)
