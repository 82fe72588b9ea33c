"""The access log: allow-listed fields only, each of a kind that cannot break a line."""

from __future__ import annotations

import re

from twisted.logger import Logger
from twisted.python.failure import Failure

from protocols.web.errors import LimitHit
from protocols.web.limits import AccessLog
from protocols.web.metrics import NO_ROUTE
from protocols.web.values import Route

_log = Logger(namespace="pkiserver.http")
_SAFE_PATH = re.compile(r"[^A-Za-z0-9/._~%+=:@-]")
_PATH_CHARACTERS = 96


def safe_path(path: str) -> str:
    """A raw path as it may stand in a log line: shortened, anything unusual replaced by a question mark."""
    return _SAFE_PATH.sub("?", path[:_PATH_CHARACTERS])


class AccessLogger:
    """One line an answer. Query strings, header values and bodies are never logged."""

    def __init__(self, kind: AccessLog) -> None:
        self._all = kind is AccessLog.ALL

    def wants(self, route: Route | None, status: int) -> bool:
        """Whether an answer gets a line."""
        return status >= 400 or (self._all and (route is None or not route.quiet))

    def answered(
        self,
        *,
        route: Route | None,
        method: str,
        path: str,
        status: int,
        sent: int,
        seconds: float,
        peer: str,
        request_id: str,
        limit: LimitHit | None = None,
        reason: str = "",
    ) -> None:
        """The line for one answer. ``reason`` is text of ours, never a client's."""
        emit = _log.info if status < 400 else _log.warn
        emit(
            "{peer} {method} {path} {status} {route} {sent}B {milliseconds}ms {request_id} {limit} {reason}",
            method=method,
            path=safe_path(path),
            route=NO_ROUTE if route is None else route.name,
            status=status,
            sent=sent,
            milliseconds=round(seconds * 1000, 2),
            peer=peer,
            request_id=request_id,
            limit="" if limit is None else limit.value,
            reason=reason,
        )

    def cut(self, *, peer: str, limit: LimitHit) -> None:
        """The line for a connection that a limit ended without an answer."""
        _log.warn("{peer} connection closed: {limit}", peer=peer, limit=limit.value)

    def failed(self, failure: Failure, *, route: str, request_id: str, peer: str) -> None:
        """A handler raised what no client may see: the traceback goes to the log and nowhere else."""
        _log.failure(
            "handler of route {route} failed for {peer}, request {request_id}",
            failure=failure,
            route=route,
            request_id=request_id,
            peer=peer,
        )
